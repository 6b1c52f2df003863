//! What annotations of auth name: Secrets with users, ConfigMaps with headers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::gateway::{Users, UsersError};
use headwater_model::origin::{NamespacedName, ObjectKey};
use thiserror::Error;

/// The objects of a cluster, as one Ingress may read them.
pub(crate) struct Sources<'a> {
    cluster: &'a Cluster,
    /// The Ingress, ALB2, Frontend or Rule that names them.
    pub(super) key: &'a ObjectKey,
    /// Whether they can be read; see `Options::reads_secrets`.
    pub(super) reads: bool,
    /// Lists that were read for another path of the Ingress.
    known: RefCell<Vec<Known>>,
}

/// A Secret, whether it is read as a map, and what it has.
type Known = (NamespacedName, bool, Result<Arc<Users>, SecretError>);

/// Why a Secret has no users. Nothing of it is quoted.
#[derive(Debug, Clone, Error)]
pub(super) enum SecretError {
    #[error("does not exist")]
    Missing,
    #[error("has no key auth")]
    NoKey,
    #[error(transparent)]
    Users(#[from] UsersError),
}

impl SecretError {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

impl<'a> Sources<'a> {
    pub(crate) fn new(cluster: &'a Cluster, key: &'a ObjectKey, reads: bool) -> Self {
        Self { cluster, key, reads, known: RefCell::default() }
    }

    /// The namespace of the object that names them.
    pub(crate) fn namespace(&self) -> &'a str {
        &self.key.id.namespace
    }

    /// The users of a Secret: each key is one (`map`), or the key `auth` has a line for each.
    pub(super) fn users(&self, id: &NamespacedName, map: bool) -> Result<Arc<Users>, SecretError> {
        if !self.reads {
            // Nobody is let in by it, and nothing is served by who cannot read.
            return Ok(Arc::default());
        }
        let mut known = self.known.borrow_mut();
        if let Some((.., users)) = known.iter().find(|(known, kind, _)| known == id && *kind == map) {
            return users.clone();
        }
        let users = self.read_users(id, map).map(Arc::new);
        known.push((id.clone(), map, users.clone()));
        users
    }

    fn read_users(&self, id: &NamespacedName, map: bool) -> Result<Users, SecretError> {
        let secret = self.cluster.secrets.get(id).ok_or(SecretError::Missing)?;
        Ok(match map {
            true => Users::parse_entries(secret.entries())?,
            false => Users::parse_lines(secret.bytes("auth").ok_or(SecretError::NoKey)?)?,
        })
    }

    /// The lines of a ConfigMap.
    pub(super) fn config_map(&self, id: &NamespacedName) -> Option<&'a BTreeMap<String, String>> {
        self.cluster.config_maps.get(id).map(|map| &map.data)
    }
}
