//! Endpoints that are names (Service type ExternalName): looked up again and again, last good answer kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::gateway::{EndpointAddress, GatewaySnapshot};

/// Time between two lookups. The system's resolver does not tell for how long an answer holds.
pub(crate) const REFRESH: Duration = Duration::from_secs(10);
/// A resolver that answers later than this is left alone until the next time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses by name and port.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<(Arc<str>, u16), Vec<SocketAddr>>);

impl Names {
    pub(crate) fn addresses(&self, name: &str, port: u16) -> impl Iterator<Item = SocketAddr> + use<'_> {
        self.0.get(&(Arc::from(name), port)).into_iter().flatten().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks up every name of the snapshot, or only those not known yet; forgets the others. True if anything changed.
    pub(crate) async fn refresh(&mut self, snapshot: &GatewaySnapshot, only_new: bool) -> bool {
        let wanted: BTreeSet<(Arc<str>, u16)> = snapshot
            .pools
            .0
            .iter()
            .flatten()
            .flat_map(|pool| &pool.endpoints)
            .filter_map(|endpoint| match &endpoint.address {
                EndpointAddress::Dns(name, port) => Some((name.clone(), *port)),
                EndpointAddress::Ip(_) => None,
            })
            .collect();
        let before = self.0.len();
        self.0.retain(|name, _| wanted.contains(name));
        let mut changed = before != self.0.len();
        let lookups = wanted.into_iter().filter(|name| !only_new || !self.0.contains_key(name)).map(|key| async {
            let lookup = headwater_net_io::resolve::resolve(&key.0, key.1);
            let answer = tokio::time::timeout(PATIENCE, lookup).await;
            (key, answer)
        });
        for ((name, port), answer) in futures_util::future::join_all(lookups).await {
            match answer {
                Ok(Ok(mut addresses)) if !addresses.is_empty() => {
                    addresses.sort();
                    addresses.dedup();
                    changed |= self.0.insert((name, port), addresses.clone()).as_ref() != Some(&addresses);
                }
                Ok(Ok(_)) => tracing::warn!(%name, "name has no addresses; the last known ones stay"),
                Ok(Err(error)) => tracing::warn!(%name, %error, "name is not resolved; the last known addresses stay"),
                Err(_) => tracing::warn!(%name, "name is not resolved in time; the last known addresses stay"),
            }
        }
        changed
    }
}
