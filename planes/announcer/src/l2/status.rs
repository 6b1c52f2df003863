//! What is told of it: statuses and Events.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_kube_io::ApiServer;
use headwater_model::metallb::status::{InterfaceName, L2Announcement};
use headwater_model::origin::NamespacedName;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::status::record;

/// Status of each Service that this node announces.
pub(super) type AnnouncedServices = BTreeMap<NamespacedName, Value>;

/// `interfaces`: none where it is announced on all.
pub(super) fn status(node: &str, service: &NamespacedName, interfaces: &[Arc<str>]) -> Value {
    let status = L2Announcement {
        node: node.to_owned(),
        service_name: service.name.to_string(),
        service_namespace: service.namespace.to_string(),
        interfaces: interfaces.iter().map(|name| InterfaceName { name: name.to_string() }).collect(),
    };
    serde_json::to_value(status).expect("names are JSON")
}

/// Something worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Announced { service: NamespacedName, address: IpAddr },
    Refused { service: NamespacedName, address: IpAddr, why: String },
}

/// Writes Events about Services until there is nobody to tell any.
pub(super) async fn tell(server: ApiServer, node: Arc<str>, mut news: mpsc::Receiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Announced { service, .. } => {
                let note = format!("announcing from node \"{node}\" with protocol \"layer2\"");
                record(&server, &node, service, false, "nodeAssigned", note).await;
            }
            News::Refused { service, address, why } => {
                let note = format!("node \"{node}\" does not announce {address}: {why}");
                record(&server, &node, service, true, "addressConflict", note).await;
            }
        }
    }
}
