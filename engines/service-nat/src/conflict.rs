//! What a Service wants and another one has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::nat::{FrontendAddress, Transport};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use crate::claims::{Claim, Claims, Holder};
use crate::intent::{self, Intent, PortIntent, Wanted};
use crate::options::Options;

/// Services that want what another one has: the same address and port, or the same NodePort.
///
/// For whoever tells users of it once for the whole cluster; a node's [`ServiceNat`](crate::ServiceNat) tells the same
/// among its findings. Endpoints are not read.
#[derive(Debug, Default)]
pub struct Conflicts {
    started: bool,
    options: Options,
    intents: BTreeMap<NamespacedName, Intent>,
    claims: Claims,
    findings: BTreeMap<NamespacedName, Vec<Finding>>,
    all: Arc<[Finding]>,
}

impl Conflicts {
    /// Looks at `cluster`, in which exactly the objects named by `changes` were set or removed since the last call; the
    /// first one looks at all of it. Returns everything that conflicts now, by names of Services; the same pointer as
    /// before when nothing changed.
    pub fn apply(&mut self, cluster: &Cluster, changes: &[ObjectKey]) -> Arc<[Finding]> {
        let mut affected: BTreeSet<NamespacedName> = if std::mem::replace(&mut self.started, true) {
            changes.iter().filter(|key| key.kind == Kind::Service).map(|key| key.id.clone()).collect()
        } else {
            cluster.services.keys().cloned().collect()
        };
        for id in affected.clone() {
            let new = cluster.services.get(&id).and_then(|service| intent::read(service, &self.options));
            self.claims.replace_intent(&id, new, &mut self.intents, |other| {
                affected.insert(other.clone());
            });
        }
        let mut changed = false;
        for id in affected {
            let mut findings = Vec::new();
            if let Some(intent) = self.intents.get(&id) {
                intent.ports.iter().for_each(|port| report_lost(intent, port, &self.claims, &mut findings));
                findings.extend(lost_health_check(intent, &self.claims));
            }
            let before = match findings.is_empty() {
                true => self.findings.remove(&id),
                false => self.findings.insert(id.clone(), findings),
            };
            changed |= before.as_ref() != self.findings.get(&id);
        }
        if changed {
            self.all = self.findings.values().flatten().cloned().collect();
        }
        self.all.clone()
    }
}

/// Another one that has what a port wants.
pub(crate) fn owner<'a>(intent: &Intent, port: &PortIntent, wanted: &Wanted, claims: &'a Claims) -> Option<&'a Holder> {
    let own = intent.holder(port.index, !matches!(wanted.address, FrontendAddress::ClusterIp(_)));
    claims.winner(wanted.claim(port.protocol)).filter(|winner| **winner != own)
}

/// Tells of everything that a port wants and another one has.
pub(crate) fn report_lost(intent: &Intent, port: &PortIntent, claims: &Claims, findings: &mut Vec<Finding>) {
    let mut told_of_node_port = false;
    for wanted in &port.frontends {
        let Some(winner) = owner(intent, port, wanted, claims) else { continue };
        let protocol = port.protocol.as_str();
        let (field, what) = match wanted.address {
            FrontendAddress::ClusterIp(address) => ("spec.clusterIPs".to_owned(), format!("{address}/{protocol}")),
            FrontendAddress::LoadBalancer(address) => {
                ("status.loadBalancer.ingress".to_owned(), format!("{address}/{protocol}"))
            }
            FrontendAddress::ExternalIp(address) => ("spec.externalIPs".to_owned(), format!("{address}/{protocol}")),
            // One claim for both families.
            FrontendAddress::NodePort(_) if std::mem::replace(&mut told_of_node_port, true) => continue,
            FrontendAddress::NodePort(number) => {
                (format!("spec.ports[{}].nodePort", port.index), format!("node port {number}/{protocol}"))
            }
        };
        findings.push(lost(intent, &field, &what, winner));
    }
}

/// The same of the port for health checks.
pub(crate) fn lost_health_check(intent: &Intent, claims: &Claims) -> Option<Finding> {
    let port = intent.health?;
    let own = intent.holder(u32::MAX, true);
    let winner = claims.winner(Claim::Node(port, Transport::Tcp)).filter(|winner| **winner != own)?;
    Some(lost(intent, "spec.healthCheckNodePort", &format!("node port {port}/TCP"), winner))
}

fn lost(intent: &Intent, field: &str, what: &str, winner: &Holder) -> Finding {
    let by = match winner {
        winner if winner.id == intent.origin.key.id => "an earlier port of the same Service".to_owned(),
        Holder { written: false, id, .. } => format!("Service {id}, whose cluster IP it is"),
        Holder { id, .. } => format!("Service {id}, which is older"),
    };
    let message = format!("{what} belongs to {by}; it is not served for this one");
    Finding::warning("Conflict", intent.origin.key.clone(), message).at(field).mend("give one of the two another")
}
