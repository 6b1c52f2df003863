//! UDP flows that the kernel still sends to endpoints that serve no longer, or to none.
//!
//! The kernel chooses an endpoint for a flow's first packet and keeps to it while packets come. A UDP client that goes on
//! sending from one port would never be sent elsewhere: its entry is deleted, and the next packet is its first again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::nat::{Family, FrontendAddress, NodeRules, PortRules, ServiceRules};
use headwater_model::origin::NamespacedName;
use headwater_netlink::{self as netlink, Conntrack, Flow, NetlinkError};
use headwater_service_nat::{PortKey, ServingEndpoints};

use crate::mark;

/// IANA's number.
const UDP: u8 = 17;

/// A Service before and after a change.
pub(crate) type Pair = (Option<Arc<ServiceRules>>, Option<Arc<ServiceRules>>);

/// Forgets flows.
pub(crate) struct Sweeper {
    /// `None` after an error: opened again for the next sweep.
    kernel: Option<Kernel>,
    /// Ports that must be looked at still: more than none only after an error.
    owed: Owed,
}

/// Two sockets, so that flows are deleted while they are walked over, and none is kept.
struct Kernel {
    walk: Conntrack,
    delete: Conntrack,
}

impl Kernel {
    fn open() -> Result<Self, NetlinkError> {
        Ok(Self { walk: Conntrack::open()?, delete: Conntrack::open()? })
    }
}

impl Sweeper {
    /// For the network namespace of this thread.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel has no conntrack, or no descriptor is left.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { kernel: Some(Kernel::open()?), owed: Owed::default() })
    }

    /// Forgets the UDP flows to the Services' frontends whose endpoint serves no longer; returns how many. Call it when
    /// the kernel has the new rules: with the old ones the next packet would make the same entry.
    ///
    /// A family's flows are walked over once if a changed port may have such flows, else not at all.
    ///
    /// # Errors
    /// [`NetlinkError`]. What was not done is done by the next call.
    pub(crate) fn sweep(&mut self, changes: &[Pair], node: &NodeRules) -> Result<usize, NetlinkError> {
        for change in changes {
            self.owed.note(change);
        }
        if self.owed.0.is_empty() {
            return Ok(0);
        }
        let index = Index::new(self.owed.0.values().flatten(), node);
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open()?,
        };
        let mut deleted = 0;
        for family in netlink::Family::ALL.into_iter().filter(|family| index.families.contains(family)) {
            let mut refused = None;
            kernel.walk.dump(family, Some(UDP), |flow| {
                if refused.is_none() && index.is_stale(flow) {
                    match kernel.delete.delete(flow) {
                        Ok(there) => deleted += usize::from(there),
                        Err(error) => refused = Some(error),
                    }
                }
            })?;
            if let Some(error) = refused {
                return Err(error);
            }
        }
        self.owed.0.clear();
        self.kernel = Some(kernel);
        Ok(deleted)
    }
}

/// Ports of which flows may be stale, by Service.
#[derive(Debug, Default)]
struct Owed(BTreeMap<NamespacedName, Vec<Arc<PortRules>>>);

impl Owed {
    fn note(&mut self, (old, new): &Pair) {
        let Some(id) = new.as_ref().or(old.as_ref()).map(|rules| &rules.origin.key.id) else { return };
        let before = self.0.remove(id).unwrap_or_default();
        // A Service that is gone sends nobody elsewhere.
        let Some(new) = new else { return };
        let old_ports = old.as_ref().map(|old| &old.ports);
        if before.is_empty() && old_ports.is_some_and(|old| Arc::ptr_eq(old, &new.ports)) {
            return;
        }
        let by_key: HashMap<PortKey, &Arc<PortRules>> =
            old_ports.into_iter().flat_map(|ports| ports.iter()).map(|port| (PortKey::of(port), port)).collect();
        let owed: HashSet<PortKey> = before.iter().map(|port| PortKey::of(port)).collect();
        let ports: Vec<Arc<PortRules>> = new
            .ports
            .iter()
            .filter(|port| {
                let key = PortKey::of(port);
                owed.contains(&key) || may_have_stale_flows(by_key.get(&key).copied(), port)
            })
            .cloned()
            .collect();
        if !ports.is_empty() {
            self.0.insert(id.clone(), ports);
        }
    }
}

/// Whether an endpoint ceased to serve, the first one came (flows of before are not translated), or a frontend came.
fn may_have_stale_flows(old: Option<&Arc<PortRules>>, new: &Arc<PortRules>) -> bool {
    let Some(serving) = ServingEndpoints::of(new) else { return false };
    if new.frontends.is_empty() {
        return false;
    }
    let Some(old) = old else { return true };
    if Arc::ptr_eq(old, new) {
        return false;
    }
    let mut served = old.endpoints.iter().filter(|known| known.serving).peekable();
    if served.peek().is_none() || served.any(|known| serving.is_stale(known.address)) {
        return true;
    }
    let known: HashSet<FrontendAddress> = old.frontends.iter().map(|frontend| frontend.address).collect();
    new.frontends.iter().any(|frontend| !known.contains(&frontend.address))
}

/// Frontends by what the original destination of a flow says.
struct Index {
    serving: Vec<ServingEndpoints>,
    /// Positions in `serving`.
    by_address: HashMap<SocketAddr, usize>,
    by_node_port: HashMap<(Family, u16), usize>,
    node_addresses: HashSet<IpAddr>,
    families: HashSet<netlink::Family>,
}

impl Index {
    fn new<'a>(ports: impl Iterator<Item = &'a Arc<PortRules>>, node: &NodeRules) -> Self {
        let mut index = Self {
            serving: Vec::new(),
            by_address: HashMap::new(),
            by_node_port: HashMap::new(),
            node_addresses: node.node_port_addresses.iter().copied().collect(),
            families: HashSet::new(),
        };
        for port in ports {
            let Some(serving) = ServingEndpoints::of(port) else { continue };
            let at = index.serving.len();
            index.serving.push(serving);
            index.families.insert(match port.family {
                Family::V4 => netlink::Family::V4,
                Family::V6 => netlink::Family::V6,
            });
            for frontend in port.frontends.iter() {
                match frontend.address {
                    FrontendAddress::ClusterIp(address)
                    | FrontendAddress::LoadBalancer(address)
                    | FrontendAddress::ExternalIp(address) => index.by_address.insert(address, at),
                    FrontendAddress::NodePort(number) => index.by_node_port.insert((port.family, number), at),
                };
            }
        }
        index
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let destination = SocketAddr::new(flow.original.dst, flow.original.dport);
        let at = self.by_address.get(&destination).or_else(|| {
            // What came by the tunnel was sent to the address of the node that took it.
            let by_tunnel = flow.mark & mark::OURS == mark::MAGIC;
            let here = by_tunnel || self.node_addresses.contains(&destination.ip());
            let key = (Family::of(destination.ip()), destination.port());
            self.by_node_port.get(&key).filter(|_| here)
        });
        let endpoint = SocketAddr::new(flow.reply.src, flow.reply.sport);
        at.and_then(|at| self.serving.get(*at)).is_some_and(|serving| serving.is_stale(endpoint))
    }
}

#[cfg(test)]
mod tests;
