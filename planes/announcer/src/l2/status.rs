//! What operators see of it: a ServiceL2Status for each Service that this node announces, and Events.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_kube_io::{ApiError, ApiServer, EventNote};
use headwater_model::metallb::status::{
    InterfaceName, L2Announcement, NODE_LABEL, SERVICE_NAME_LABEL, SERVICE_NAMESPACE_LABEL,
};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until, timeout};

/// Services that this node announces, with the interfaces if not on all.
pub(super) type AnnouncedServices = BTreeMap<NamespacedName, Vec<Arc<str>>>;

/// Objects of this kind are looked at again this often: others may have left some.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// How long taking everything back may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Something worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Announced { service: NamespacedName, address: IpAddr },
    Refused { service: NamespacedName, address: IpAddr, why: String },
}

/// Where to write.
pub(super) struct Desk {
    pub(super) server: ApiServer,
    /// Of the objects of MetalLB's kinds.
    pub(super) namespace: String,
    pub(super) node: Arc<str>,
}

impl Desk {
    /// Keeps the objects as they shall be, until there is nobody to say so; then takes back what this node wrote.
    pub(super) async fn keep(self, mut announced: watch::Receiver<AnnouncedServices>) {
        let mut written: BTreeMap<NamespacedName, (Vec<Arc<str>>, String)> = BTreeMap::new();
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
        let _ = timeout(LAST_WORDS, self.write(&AnnouncedServices::new(), &mut written)).await;
    }

    async fn write(
        &self,
        wanted: &AnnouncedServices,
        written: &mut BTreeMap<NamespacedName, (Vec<Arc<str>>, String)>,
    ) -> Result<(), ApiError> {
        let gone: Vec<NamespacedName> =
            written.keys().filter(|service| !wanted.contains_key(*service)).cloned().collect();
        for service in gone {
            let Some((_, version)) = written.get(&service) else { continue };
            match self.server.delete_announced(Kind::ServiceL2Status, &self.namespace, &name(&service), version).await {
                Ok(()) | Err(ApiError::Conflict { .. }) => drop(written.remove(&service)),
                Err(error) => return Err(error),
            }
        }
        for (service, interfaces) in wanted {
            if written.get(service).is_some_and(|(known, _)| known == interfaces) {
                continue;
            }
            let status = L2Announcement {
                node: self.node.to_string(),
                service_name: service.name.to_string(),
                service_namespace: service.namespace.to_string(),
                interfaces: interfaces.iter().map(|name| InterfaceName { name: name.to_string() }).collect(),
            };
            let status = serde_json::to_value(status).expect("names are JSON");
            let labels = self.labels(service);
            let kind = Kind::ServiceL2Status;
            match self.server.write_announced(kind, &self.namespace, &name(service), &labels, &status).await {
                Ok(version) => drop(written.insert(service.clone(), (interfaces.clone(), version))),
                // The kind is not installed.
                Err(ApiError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn labels(&self, service: &NamespacedName) -> BTreeMap<String, String> {
        [(NODE_LABEL, &self.node), (SERVICE_NAME_LABEL, &service.name), (SERVICE_NAMESPACE_LABEL, &service.namespace)]
            .map(|(label, value)| (label.to_owned(), value.to_string()))
            .into()
    }

    /// Deletes what says that this node announces what it does not, and what others said of what it announces now.
    async fn tidy(&self, wanted: &AnnouncedServices) -> Result<(), ApiError> {
        for object in self.server.announced(Kind::ServiceL2Status, &self.namespace, NODE_LABEL).await? {
            let label = |label: &str| object.labels.get(label).map(String::as_str).unwrap_or_default();
            let service = NamespacedName::new(label(SERVICE_NAMESPACE_LABEL), label(SERVICE_NAME_LABEL));
            let is_announced = wanted.contains_key(&service);
            let is_ours = object.name == name(&service);
            let is_stale = if is_announced { !is_ours } else { label(NODE_LABEL) == &*self.node };
            if is_stale {
                let deleted =
                    self.server.delete_announced(Kind::ServiceL2Status, &self.namespace, &object.name, &object.version);
                match deleted.await {
                    Ok(()) | Err(ApiError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Writes Events about Services until there is nobody to tell any.
    pub(super) async fn tell(server: ApiServer, node: Arc<str>, mut news: mpsc::Receiver<News>) {
        while let Some(news) = news.recv().await {
            let (service, warning, reason, note) = match news {
                News::Announced { service, .. } => {
                    let note = format!("announcing from node \"{node}\" with protocol \"layer2\"");
                    (service, false, "nodeAssigned", note)
                }
                News::Refused { service, address, why } => {
                    let note = format!("node \"{node}\" does not announce {address}: {why}");
                    (service, true, "addressConflict", note)
                }
            };
            let about = ObjectKey { kind: Kind::Service, id: service };
            let uid = server.uid(&about).await.ok().flatten().map(Arc::from);
            let note = EventNote { about, uid, warning, reason: reason.to_owned(), action: "Announce", note };
            if let Err(error) = server.record_event(&note, &node, true).await {
                tracing::debug!("{error}");
            }
        }
    }
}

/// One name for each Service, whichever node announces it: it begins as MetalLB's do.
fn name(service: &NamespacedName) -> String {
    // FNV-1a, 64 bit: the same in every process and version.
    let text = service.to_string();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("l2-{hash:016x}")
}
