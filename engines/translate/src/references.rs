//! Who depends on whom: Ingresses on Services and Secrets, Services on EndpointSlices.

use std::collections::BTreeSet;

use ahash::AHashMap as HashMap;
use headwater_model::cluster::Cluster;
use headwater_model::object::{EndpointSlice, SERVICE_NAME_LABEL};
use headwater_model::origin::{NamespacedName, ObjectKey};

#[derive(Debug, Default)]
pub(crate) struct References {
    /// Ingresses by the Service they name, with the number of entries that name it.
    services: HashMap<NamespacedName, HashMap<NamespacedName, usize>>,
    /// Ingresses by the Secret they name.
    secrets: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// Ingresses by the Secret or ConfigMap that their auth names, and the other way round.
    auth: HashMap<ObjectKey, BTreeSet<NamespacedName>>,
    auth_of: HashMap<NamespacedName, BTreeSet<ObjectKey>>,
    /// Whether other Secrets, or ConfigMaps, are named than at the last look.
    secrets_changed: bool,
    slices: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    service_of_slice: HashMap<NamespacedName, NamespacedName>,
}

impl References {
    pub(crate) fn add_service(&mut self, service: &NamespacedName, ingress: &NamespacedName) {
        let users = self.services.entry(service.clone()).or_default();
        *users.entry(ingress.clone()).or_default() += 1;
    }

    pub(crate) fn remove_service(&mut self, service: &NamespacedName, ingress: &NamespacedName) {
        let Some(users) = self.services.get_mut(service) else { return };
        if let Some(count) = users.get_mut(ingress) {
            *count -= 1;
            if *count == 0 {
                users.remove(ingress);
            }
        }
        if users.is_empty() {
            self.services.remove(service);
        }
    }

    pub(crate) fn users_of_service(&self, service: &NamespacedName) -> impl Iterator<Item = &NamespacedName> {
        self.services.get(service).into_iter().flat_map(|users| users.keys())
    }

    pub(crate) fn add_secret(&mut self, secret: &NamespacedName, ingress: &NamespacedName) {
        self.secrets_changed |= !self.secrets.contains_key(secret);
        self.secrets.entry(secret.clone()).or_default().insert(ingress.clone());
    }

    /// Whether nobody names the Secret any more.
    pub(crate) fn remove_secret(&mut self, secret: &NamespacedName, ingress: &NamespacedName) -> bool {
        let Some(users) = self.secrets.get_mut(secret) else { return true };
        users.remove(ingress);
        let unused = users.is_empty();
        if unused {
            self.secrets_changed = true;
            self.secrets.remove(secret);
        }
        unused
    }

    /// The auth of an Ingress names these now.
    pub(crate) fn set_auth(&mut self, ingress: &NamespacedName, keys: BTreeSet<ObjectKey>) {
        let before = match keys.is_empty() {
            true => self.auth_of.remove(ingress),
            false => self.auth_of.insert(ingress.clone(), keys.clone()),
        };
        let before = before.unwrap_or_default();
        for key in before.difference(&keys) {
            if let Some(users) = self.auth.get_mut(key) {
                users.remove(ingress);
                if users.is_empty() {
                    self.secrets_changed = true;
                    self.auth.remove(key);
                }
            }
        }
        for key in keys.difference(&before) {
            self.secrets_changed |= !self.auth.contains_key(key);
            self.auth.entry(key.clone()).or_default().insert(ingress.clone());
        }
    }

    /// Secrets and ConfigMaps that auth names.
    pub(crate) fn auth(&self) -> impl Iterator<Item = &ObjectKey> {
        self.auth.keys()
    }

    pub(crate) fn users_of_auth(&self, key: &ObjectKey) -> impl Iterator<Item = &NamespacedName> {
        self.auth.get(key).into_iter().flatten()
    }

    /// Whether other Secrets, or ConfigMaps, are named than when this was last asked.
    pub(crate) fn take_secrets_changed(&mut self) -> bool {
        std::mem::take(&mut self.secrets_changed)
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &NamespacedName> {
        self.secrets.keys()
    }

    pub(crate) fn users_of_secret(&self, secret: &NamespacedName) -> impl Iterator<Item = &NamespacedName> {
        self.secrets.get(secret).into_iter().flatten()
    }

    /// Takes note of a slice as it is now. Returns the Services it belonged and belongs to.
    pub(crate) fn update_slice(&mut self, id: &NamespacedName, cluster: &Cluster) -> [Option<NamespacedName>; 2] {
        let before = self.service_of_slice.remove(id);
        if let Some(slices) = before.as_ref().and_then(|service| self.slices.get_mut(service)) {
            slices.remove(id);
        }
        if let Some(service) =
            before.as_ref().filter(|service| self.slices.get(service).is_some_and(BTreeSet::is_empty))
        {
            self.slices.remove(service);
        }
        let slice = cluster.endpoint_slices.get(id);
        let after = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME_LABEL)).map(|name| {
            let service = NamespacedName::new(id.namespace.clone(), name.as_str());
            self.slices.entry(service.clone()).or_default().insert(id.clone());
            self.service_of_slice.insert(id.clone(), service.clone());
            service
        });
        [before, after]
    }

    pub(crate) fn slices_of<'a>(
        &'a self,
        service: &NamespacedName,
        cluster: &'a Cluster,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let ids = self.slices.get(service).into_iter().flatten();
        ids.filter_map(|id| cluster.endpoint_slices.get(id)).map(|slice| &**slice)
    }
}
