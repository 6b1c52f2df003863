//! What is told of it: statuses, Events, and what operators see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use headwater_kube_io::ApiServer;
use headwater_model::metallb::status::BgpAnnouncement;
use headwater_model::origin::NamespacedName;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use super::run::BgpState;
use super::speaker::PeerStatus;
use crate::status::record;

/// How it stands with BGP, as `/status` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpReport {
    pub peers: BTreeMap<Arc<str>, PeerReport>,
    /// Peers with a session that hear of a Service, by `NAMESPACE/NAME` of the Service.
    pub services: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// What is not as objects say, and why.
    pub refused: BTreeSet<String>,
}

/// How it stands with one router.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    pub address: Option<String>,
    /// `Idle`, `Active`, `Connect`, `OpenSent`, `OpenConfirm`, `Established`.
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub established_seconds: Option<u64>,
    /// Prefixes that the peer was told.
    pub announced: usize,
    /// Changes that it was not told yet.
    pub pending: usize,
    /// `AdminDown`, `Down`, `Init`, `Up`; absent where BFD does not watch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// Why the last connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_down: Option<String>,
}

impl BgpState {
    /// What operators see of it.
    pub fn report(&self, now: Instant) -> BgpReport {
        let peer = |(name, status): (&Arc<str>, &PeerStatus)| {
            let report = PeerReport {
                address: self.addresses.get(name).cloned(),
                state: format!("{:?}", status.session.state),
                established_seconds: status.since.map(|since| now.saturating_duration_since(since).as_secs()),
                announced: status.session.announced,
                pending: status.session.pending,
                bfd: status.bfd.map(|bfd| format!("{:?}", bfd.state)),
                last_down: status.session.last_down.clone(),
            };
            (name.clone(), report)
        };
        BgpReport {
            peers: self.peers.iter().map(peer).collect(),
            services: self.services.iter().map(|(service, peers)| (service.to_string(), peers.clone())).collect(),
            refused: self.refused.clone(),
        }
    }
}

/// The ServiceBGPStatus of each Service that any peer hears of from this node.
pub(super) fn statuses(node: &str, state: &BgpState) -> BTreeMap<NamespacedName, Value> {
    let status = |(service, peers): (&NamespacedName, &BTreeSet<Arc<str>>)| {
        let status = BgpAnnouncement {
            node: node.to_owned(),
            service_name: service.name.to_string(),
            service_namespace: service.namespace.to_string(),
            peers: peers.iter().map(ToString::to_string).collect(),
        };
        (service.clone(), serde_json::to_value(status).expect("names are JSON"))
    };
    state.services.iter().map(status).collect()
}

/// Writes an Event about each Service that peers begin to hear of, until there is nobody to say so.
pub(super) async fn tell_events(server: ApiServer, node: Arc<str>, mut state: watch::Receiver<Arc<BgpState>>) {
    let mut known: BTreeSet<NamespacedName> = BTreeSet::new();
    loop {
        let now: BTreeSet<NamespacedName> = state.borrow_and_update().services.keys().cloned().collect();
        for service in now.difference(&known) {
            let note = format!("announcing from node \"{node}\" with protocol \"bgp\"");
            record(&server, &node, service.clone(), false, "nodeAssigned", note).await;
        }
        known = now;
        if state.changed().await.is_err() {
            return;
        }
    }
}
