//! Intent, endpoints and claims of one Service -> its rules. What has not changed is the same pointer as before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ahash::AHashMap;
use headwater_model::finding::Finding;
use headwater_model::nat::{
    Family, Frontend, FrontendAddress, HealthCheck, KeepClient, Masquerade, NatEndpoint, NodeShare, NodeTable,
    PortRules, ServiceRules, Set, Slot, Transport, Verdict,
};

use crate::claims::Claims;
use crate::conflict::{lost_health_check, owner, report_lost};
use crate::endpoints::{Candidate, Members, choose, limit};
use crate::intent::{Intent, PortIntent, Wanted};
use crate::node_table::node_table;
use crate::options::Options;
use crate::slots;

/// One port of a Service in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub port: u16,
    pub protocol: Transport,
    pub family: Family,
}

impl PortKey {
    pub fn of(rules: &PortRules) -> Self {
        Self { port: rules.port, protocol: rules.protocol, family: rules.family }
    }
}

/// Slots of before a restart.
pub(crate) type Seeds = BTreeMap<PortKey, Vec<(SocketAddr, Slot)>>;

pub(crate) struct Build<'a> {
    pub(crate) intent: &'a Intent,
    pub(crate) members: &'a Members<'a>,
    pub(crate) claims: &'a Claims,
    pub(crate) options: &'a Options,
    pub(crate) old: Option<&'a Arc<ServiceRules>>,
    pub(crate) seeds: Seeds,
}

impl Build<'_> {
    /// Adds to `findings` what others own, and what is too much.
    pub(crate) fn rules(&self, findings: &mut Vec<Finding>) -> Arc<ServiceRules> {
        let old_ports = self.old.map(|old| &old.ports[..]).unwrap_or_default();
        let old_by_key: AHashMap<PortKey, &Arc<PortRules>> =
            old_ports.iter().map(|rules| (PortKey::of(rules), rules)).collect();
        let mut tables = Tables::of(old_ports);
        let mut ports = Vec::with_capacity(self.intent.ports.len() * self.intent.cluster_ips.len());
        for port in &self.intent.ports {
            report_lost(self.intent, port, self.claims, findings);
            for ip in &self.intent.cluster_ips {
                let key = PortKey { port: port.port, protocol: port.protocol, family: Family::of(*ip) };
                let old = old_by_key.get(&key).copied();
                let rules = self.port_rules(port, key, old, &mut tables, findings);
                ports.push(match old {
                    Some(old) if **old == rules => old.clone(),
                    _ => Arc::new(rules),
                });
            }
        }
        let lost = lost_health_check(self.intent, self.claims);
        let health = self.intent.health.filter(|_| lost.is_none()).map(|port| {
            let (v4, v6) = (self.members.local_ready(Family::V4), self.members.local_ready(Family::V6));
            HealthCheck { port, local_v4: v4, local_v6: v6 }
        });
        findings.extend(lost);
        let unchanged =
            old_ports.len() == ports.len() && old_ports.iter().zip(&ports).all(|(old, new)| Arc::ptr_eq(old, new));
        let rules = ServiceRules {
            origin: self.intent.origin.clone(),
            cluster_ips: match self.old {
                Some(old) if *old.cluster_ips == *self.intent.cluster_ips => old.cluster_ips.clone(),
                _ => self.intent.cluster_ips.as_slice().into(),
            },
            ports: match self.old {
                Some(old) if unchanged => old.ports.clone(),
                _ => ports.into(),
            },
            health,
        };
        match self.old {
            Some(old) if unchanged && **old == rules => old.clone(),
            _ => Arc::new(rules),
        }
    }

    fn port_rules(
        &self,
        port: &PortIntent,
        key: PortKey,
        old: Option<&Arc<PortRules>>,
        tables: &mut Tables,
        findings: &mut Vec<Finding>,
    ) -> PortRules {
        let mut candidates = self.members.of_port(&port.name, port.protocol, key.family);
        limit(&mut candidates, self.intent, port.index, findings);
        let chosen = choose(&candidates);
        let slots = self.slots(&candidates, key, old);
        let set = |chosen: &[usize]| -> Arc<[Slot]> {
            let mut set: Vec<Slot> = chosen.iter().map(|at| slots[*at]).collect();
            set.sort();
            set.into()
        };
        let (cluster, local) = (set(&chosen.cluster), set(&chosen.local));
        let policies = Policies { any: !cluster.is_empty(), here: !local.is_empty(), build: self };
        let frontends: Arc<[Frontend]> = port
            .frontends
            .iter()
            .filter(|wanted| wanted.family == key.family && owner(self.intent, port, wanted, self.claims).is_none())
            .map(|wanted| policies.frontend(wanted))
            .collect();
        let keeps = |verdict| matches!(verdict, Verdict::Forward { masquerade: Masquerade::UnlessKept, .. });
        let nodes =
            frontends.iter().any(|frontend| keeps(frontend.remote)).then(|| tables.table(&candidates, &chosen.cluster));
        let mut endpoints: Vec<NatEndpoint> = candidates
            .into_iter()
            .zip(&slots)
            .map(|(c, slot)| NatEndpoint {
                slot: *slot,
                address: c.address,
                node: c.node,
                local: c.local,
                state: c.state,
                serving: c.serving,
            })
            .collect();
        endpoints.sort_by_key(|endpoint| endpoint.slot);
        PortRules {
            name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
            family: key.family,
            endpoints: endpoints.into(),
            cluster,
            local,
            frontends,
            affinity: self.intent.affinity,
            keep: self.intent.keep,
            nodes: nodes.flatten(),
        }
    }

    fn slots(&self, candidates: &[Candidate], key: PortKey, old: Option<&Arc<PortRules>>) -> Vec<Slot> {
        let before: AHashMap<SocketAddr, Slot> = match old {
            Some(old) => old.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.slot)).collect(),
            None => self.seeds.get(&key).into_iter().flatten().copied().collect(),
        };
        let addresses: Vec<SocketAddr> = candidates.iter().map(|candidate| candidate.address).collect();
        slots::assign(&addresses, &before)
    }
}

/// Ports of one Service mostly have the same endpoints' nodes: they share their tables.
struct Tables(BTreeMap<Arc<[NodeShare]>, Arc<NodeTable>>);

impl Tables {
    fn of(old: &[Arc<PortRules>]) -> Self {
        Self(old.iter().filter_map(|rules| rules.nodes.clone()).map(|table| (table.nodes.clone(), table)).collect())
    }

    fn table(&mut self, candidates: &[Candidate], chosen: &[usize]) -> Option<Arc<NodeTable>> {
        let mut weights: BTreeMap<Option<&Arc<str>>, u32> = BTreeMap::new();
        for at in chosen {
            *weights.entry(candidates[*at].node.as_ref()).or_default() += 1;
        }
        let shares: Vec<NodeShare> =
            weights.into_iter().map(|(node, weight)| NodeShare { node: node.cloned(), weight }).collect();
        if let Some(known) = self.0.get(&shares[..]) {
            return Some(known.clone());
        }
        let table = Arc::new(node_table(shares)?);
        self.0.insert(table.nodes.clone(), table.clone());
        Some(table)
    }
}

/// What the policies make of the sets of one port.
struct Policies<'a> {
    /// Whether a usable endpoint is anywhere.
    any: bool,
    /// Whether one is on this node.
    here: bool,
    build: &'a Build<'a>,
}

impl Policies<'_> {
    fn cluster(&self, masquerade: Masquerade) -> Verdict {
        if self.any { Verdict::Forward { set: Set::Cluster, masquerade } } else { Verdict::Reject }
    }

    fn local(&self, masquerade: Masquerade) -> Verdict {
        match (self.here, self.any) {
            (true, _) => Verdict::Forward { set: Set::Local, masquerade },
            (false, true) => Verdict::Drop,
            (false, false) => Verdict::Reject,
        }
    }

    fn frontend(&self, wanted: &Wanted) -> Frontend {
        let Wanted { address, sources, .. } = wanted;
        let intent = self.build.intent;
        let [remote, pods, node] = match address {
            FrontendAddress::ClusterIp(_) => {
                let options = self.build.options;
                let masquerade = match (options.masquerade_all, options.cluster_cidrs.is_empty()) {
                    (true, _) => Masquerade::Always,
                    (false, false) => Masquerade::OffCluster,
                    (false, true) => Masquerade::HairpinOnly,
                };
                [if intent.internal_local { self.local(masquerade) } else { self.cluster(masquerade) }; 3]
            }
            // Who is on this node is not sent away for want of a local endpoint.
            _ if intent.external_local => [
                self.local(Masquerade::HairpinOnly),
                self.cluster(Masquerade::HairpinOnly),
                self.cluster(Masquerade::Always),
            ],
            _ if intent.keep == KeepClient::Masquerade => [self.cluster(Masquerade::Always); 3],
            // Replies to a pod of this node pass here whatever its source is.
            _ => [
                self.cluster(Masquerade::UnlessKept),
                self.cluster(Masquerade::HairpinOnly),
                self.cluster(Masquerade::Always),
            ],
        };
        Frontend { address: *address, remote, pods, node, sources: sources.clone() }
    }
}
