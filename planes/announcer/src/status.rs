//! What operators see of it: an object for each Service that a node announces, and Events.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_kube_io::{ApiError, ApiServer, EventNote};
use headwater_model::fnv::fnv1a_64;
use headwater_model::metallb::status::{NODE_LABEL, SERVICE_NAME_LABEL, SERVICE_NAMESPACE_LABEL};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout};

/// Objects of a kind are looked at again this often: others may have left some.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// How long taking everything back may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is written about Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// ServiceL2Status: one for each Service, of the node that announces it.
    L2,
    /// ServiceBGPStatus: one for each Service and node.
    Bgp,
}

impl Written {
    fn kind(self) -> Kind {
        match self {
            Self::L2 => Kind::ServiceL2Status,
            Self::Bgp => Kind::ServiceBgpStatus,
        }
    }

    /// The name of the object, which begins as MetalLB's do.
    fn name(self, service: &NamespacedName, node: &str) -> String {
        match self {
            // Whichever node announces it.
            Self::L2 => format!("l2-{:016x}", fnv1a_64(service.to_string().bytes())),
            Self::Bgp => format!("bgp-{:016x}", fnv1a_64(format!("{service}/{node}").bytes())),
        }
    }
}

/// Where to write.
pub(crate) struct Desk {
    pub(crate) server: ApiServer,
    /// Of the objects of MetalLB's kinds.
    pub(crate) namespace: String,
    pub(crate) node: Arc<str>,
    pub(crate) written: Written,
}

impl Desk {
    /// Keeps the objects as they shall be, until there is nobody to say so; then takes back what this node wrote.
    pub(crate) async fn keep(self, mut announced: watch::Receiver<BTreeMap<NamespacedName, Value>>) {
        let mut written: BTreeMap<NamespacedName, (Value, String)> = BTreeMap::new();
        let mut look = Instant::now();
        let mut complained = false;
        loop {
            let wanted = announced.borrow_and_update().clone();
            let mut result = Ok(());
            if Instant::now() >= look {
                result = self.tidy(&wanted).await;
                look = Instant::now() + LOOK_AGAIN;
            }
            if result.is_ok() {
                result = self.write(&wanted, &mut written).await;
            }
            let wake = match result {
                Ok(()) => {
                    complained = false;
                    look
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!("{error}; it is tried again");
                    }
                    look = Instant::now() + RETRY;
                    look
                }
            };
            tokio::select! {
                changed = announced.changed() => if changed.is_err() { break },
                () = sleep_until(wake) => {}
            }
        }
        // Others take over what they announce now; what they took has another version.
        let _ = timeout(LAST_WORDS, self.write(&BTreeMap::new(), &mut written)).await;
    }

    async fn write(
        &self,
        wanted: &BTreeMap<NamespacedName, Value>,
        written: &mut BTreeMap<NamespacedName, (Value, String)>,
    ) -> Result<(), ApiError> {
        let kind = self.written.kind();
        let gone: Vec<NamespacedName> =
            written.keys().filter(|service| !wanted.contains_key(*service)).cloned().collect();
        for service in gone {
            let Some((_, version)) = written.get(&service) else { continue };
            match self.server.delete_announced(kind, &self.namespace, &self.name(&service), version).await {
                Ok(()) | Err(ApiError::Conflict { .. }) => drop(written.remove(&service)),
                Err(error) => return Err(error),
            }
        }
        for (service, status) in wanted {
            if written.get(service).is_some_and(|(known, _)| known == status) {
                continue;
            }
            let labels = self.labels(service);
            match self.server.write_announced(kind, &self.namespace, &self.name(service), &labels, status).await {
                Ok(version) => drop(written.insert(service.clone(), (status.clone(), version))),
                // The kind is not installed.
                Err(ApiError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn name(&self, service: &NamespacedName) -> String {
        self.written.name(service, &self.node)
    }

    fn labels(&self, service: &NamespacedName) -> BTreeMap<String, String> {
        [(NODE_LABEL, &self.node), (SERVICE_NAME_LABEL, &service.name), (SERVICE_NAMESPACE_LABEL, &service.namespace)]
            .map(|(label, value)| (label.to_owned(), value.to_string()))
            .into()
    }

    /// Deletes what says that this node announces what it does not, and what others said of what it alone announces now.
    async fn tidy(&self, wanted: &BTreeMap<NamespacedName, Value>) -> Result<(), ApiError> {
        let kind = self.written.kind();
        for object in self.server.announced(kind, &self.namespace, NODE_LABEL).await? {
            let label = |label: &str| object.labels.get(label).map(String::as_str).unwrap_or_default();
            let service = NamespacedName::new(label(SERVICE_NAMESPACE_LABEL), label(SERVICE_NAME_LABEL));
            let (of_this_node, is_ours) = (label(NODE_LABEL) == &*self.node, object.name == self.name(&service));
            let is_stale = match (self.written, wanted.contains_key(&service)) {
                (Written::L2, true) => !is_ours,
                (Written::Bgp, true) => of_this_node && !is_ours,
                (_, false) => of_this_node,
            };
            if is_stale {
                match self.server.delete_announced(kind, &self.namespace, &object.name, &object.version).await {
                    Ok(()) | Err(ApiError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Writes an Event about a Service.
pub(crate) async fn record(
    server: &ApiServer,
    node: &str,
    service: NamespacedName,
    warning: bool,
    reason: &str,
    note: String,
) {
    let about = ObjectKey { kind: Kind::Service, id: service };
    let uid = server.uid(&about).await.ok().flatten().map(Arc::from);
    let note = EventNote { about, uid, warning, reason: reason.to_owned(), action: "Announce", note };
    if let Err(error) = server.record_event(&note, node, true).await {
        tracing::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_for_each_service_on_layer_2_and_for_each_node_by_bgp() {
        let service = NamespacedName::new("n", "web");
        let name = |written: Written, node| written.name(&service, node);
        assert_eq!(name(Written::L2, "a"), name(Written::L2, "b"));
        assert_ne!(name(Written::Bgp, "a"), name(Written::Bgp, "b"));
        assert!(name(Written::L2, "a").starts_with("l2-") && name(Written::Bgp, "a").starts_with("bgp-"));
    }
}
