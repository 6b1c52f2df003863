//! What changes in the kernel when Services, peers or addresses change. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::nat::{Family, NodeShare, NodeTable, PortRules, ServiceRules, ServiceSnapshot, Slot, Transport};
use headwater_model::origin::NamespacedName;
use headwater_model::tunnel::Peers;
use headwater_nft::{Element, Field, Mark};

use crate::elements::{Context, Past, Placed, PortState, is_kept, pool, render};
use crate::fabric::Fabric;
use crate::mark;
use crate::ruleset::{Pick, Pool};
use crate::sets::Id;

/// Elements to take away and to add, as one batch; the chains come first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Chains that no plan before needed.
    pub(crate) picks: Vec<(Family, Pick)>,
    pub(crate) delete: Vec<Placed>,
    pub(crate) add: Vec<Placed>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.picks.is_empty() && self.delete.is_empty() && self.add.is_empty()
    }

    pub(crate) fn elements(&self) -> usize {
        self.delete.len() + self.add.len()
    }

    /// From one state of some elements to another. An element with other data is deleted and added.
    fn between(mut before: Vec<Placed>, mut after: Vec<Placed>) -> Self {
        before.sort_unstable();
        after.sort_unstable();
        let (mut delete, mut add) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => old.cmp(new),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => break,
            };
            match order {
                std::cmp::Ordering::Less => delete.extend(old.next()),
                std::cmp::Ordering::Greater => add.extend(new.next()),
                std::cmp::Ordering::Equal => {
                    old.next();
                    new.next();
                }
            }
        }
        Self { picks: Vec::new(), delete, add }
    }
}

/// Owner of what is wanted in the kernel.
#[derive(Debug)]
pub(crate) struct Planner {
    fabric: Fabric,
    /// What the fabric was made of.
    peers: Arc<Peers>,
    /// Of peers, to let their packets in.
    vteps: BTreeSet<IpAddr>,
    node_port_addresses: Vec<IpAddr>,
    services: BTreeMap<NamespacedName, Held>,
    /// Endpoints of this node, and how many ports have them.
    hairpin: HashMap<IpAddr, u32>,
    tables: Tables,
    picks: BTreeSet<(Family, Pick)>,
}

#[derive(Debug)]
struct Held {
    rules: Arc<ServiceRules>,
    states: Vec<PortState>,
}

/// Tables of nodes: ports whose endpoints are spread alike share one.
#[derive(Debug, Default)]
struct Tables {
    by_shares: HashMap<(Family, Arc<[NodeShare]>), SharedTable>,
    /// Numbers that are free below `next`.
    free: Vec<u32>,
    next: u32,
}

/// Number, users, and what it is.
type SharedTable = (u32, usize, Arc<NodeTable>);

impl Tables {
    /// Its number, and whether it is new.
    fn hold(&mut self, family: Family, table: &Arc<NodeTable>) -> (u32, bool) {
        let key = (family, table.nodes.clone());
        if let Some((id, users, _)) = self.by_shares.get_mut(&key) {
            *users += 1;
            return (*id, false);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.by_shares.insert(key, (id, 1, table.clone()));
        (id, true)
    }

    /// The number that it had, when nobody uses it any more.
    fn release(&mut self, family: Family, table: &Arc<NodeTable>) -> Option<u32> {
        let key = (family, table.nodes.clone());
        let (id, users, _) = self.by_shares.get_mut(&key)?;
        let id = *id;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.by_shares.remove(&key);
        self.free.push(id);
        Some(id)
    }
}

fn places(family: Family, id: u32, table: &NodeTable, fabric: &Fabric, out: &mut Vec<Placed>) {
    let values = fabric.values(table);
    for (place, node) in (0_u32..).zip(&table.places) {
        let value = values.get(usize::from(*node)).copied().unwrap_or(mark::PLACE_FAR);
        let element = Element::fields([Field::from(Mark(id)), Mark(place).into()], [Field::from(Mark(value))]);
        out.push(Placed { family, set: Id::Places, element });
    }
}

fn member(address: IpAddr, set: Id) -> Placed {
    Placed { family: Family::of(address), set, element: Element::member([Field::from(address)]) }
}

fn hairpin(address: IpAddr) -> Placed {
    let element = Element::member([Field::from(address), address.into()]);
    Placed { family: Family::of(address), set: Id::Hairpin, element }
}

impl Planner {
    pub(crate) fn new(node: Arc<str>) -> Self {
        Self {
            fabric: Fabric::new(node),
            peers: Arc::default(),
            vteps: BTreeSet::new(),
            node_port_addresses: Vec::new(),
            services: BTreeMap::new(),
            hairpin: HashMap::new(),
            tables: Tables::default(),
            picks: BTreeSet::new(),
        }
    }

    pub(crate) fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// What was planned last for a Service.
    pub(crate) fn rules(&self, id: &NamespacedName) -> Option<Arc<ServiceRules>> {
        self.services.get(id).map(|held| held.rules.clone())
    }

    /// Every chain that was ever needed.
    pub(crate) fn picks(&self, family: Family) -> Vec<Pick> {
        self.picks.iter().filter(|(of, _)| *of == family).map(|(_, pick)| *pick).collect()
    }

    /// Other Services, those named.
    pub(crate) fn services(&mut self, snapshot: &ServiceSnapshot, changed: &[NamespacedName]) -> Plan {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut picks = Vec::new();
        for id in changed {
            let rules = snapshot.get(id).cloned();
            self.service(id, rules, &mut before, &mut after, &mut picks);
        }
        self.finish(before, after, picks)
    }

    fn finish(&mut self, before: Vec<Placed>, after: Vec<Placed>, picks: Vec<(Family, Pick)>) -> Plan {
        let mut plan = Plan::between(before, after);
        plan.picks = picks.into_iter().filter(|pick| self.picks.insert(*pick)).collect();
        plan
    }

    /// Other peers, another state of the tunnel, or other addresses of this node.
    pub(crate) fn surroundings(&mut self, peers: &Arc<Peers>, ready: bool, node_port_addresses: &[IpAddr]) -> Plan {
        // Asked with every change of a Service: the peers are looked at only when they are others.
        let same = Arc::ptr_eq(peers, &self.peers) && ready == self.fabric.ready();
        if same && *self.node_port_addresses == *node_port_addresses {
            return Plan::default();
        }
        self.peers = peers.clone();
        let fabric = self.fabric.with(peers, ready);
        let vteps: BTreeSet<IpAddr> = fabric.peers().map(|(_, _, end)| end.address).collect();
        let same = fabric == self.fabric && vteps == self.vteps && *self.node_port_addresses == *node_port_addresses;
        if same {
            return Plan::default();
        }
        let mut before = self.shared();
        let kept: Vec<NamespacedName> = self
            .services
            .iter()
            .filter(|(_, held)| held.rules.ports.iter().any(|port| port.nodes.is_some()))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &kept {
            before.extend(self.rendered(&self.services[id]).elements);
        }
        self.fabric = fabric;
        self.vteps = vteps;
        self.node_port_addresses = node_port_addresses.to_vec();
        let (mut after, mut picks) = (Vec::new(), Vec::new());
        for id in &kept {
            let Some(mut held) = self.services.remove(id) else { continue };
            for (state, rules) in held.states.iter_mut().zip(held.rules.ports.iter()) {
                self.settle(state, rules, None);
            }
            let rendered = self.rendered(&held);
            after.extend(rendered.elements);
            picks.extend(rendered.picks);
            self.services.insert(id.clone(), held);
        }
        after.extend(self.shared());
        self.finish(before, after, picks)
    }

    /// Everything that is wanted, and every chain that this needs.
    pub(crate) fn everything(&self) -> Vec<Placed> {
        let mut all = self.shared();
        for held in self.services.values() {
            all.extend(self.rendered(held).elements);
        }
        all.extend(self.hairpin.keys().map(|address| hairpin(*address)));
        all
    }

    /// What Services share, but for hairpins.
    fn shared(&self) -> Vec<Placed> {
        let mut out: Vec<Placed> = Vec::new();
        out.extend(self.node_port_addresses.iter().map(|address| member(*address, Id::NodeAddresses)));
        out.extend(self.vteps.iter().map(|address| member(*address, Id::Vteps)));
        for (_, index, end) in self.fabric.peers() {
            let mac = Field::Ether(end.mac.0);
            let of = |kind| Field::from(Mark(mark::of_peer(index, kind)));
            for family in [Family::V4, Family::V6] {
                let element = Element::fields([mac], [of(mark::KIND_REPLY)]);
                out.push(Placed { family, set: Id::Via, element });
                let element = Element::member([mac, of(mark::KIND_SECOND)]);
                out.push(Placed { family, set: Id::SamePeer, element });
            }
            for kind in mark::KINDS {
                let element = Element::fields([of(kind)], [mac]);
                out.push(Placed { family: Family::V4, set: Id::Macs, element });
            }
        }
        for ((family, _), (id, _, table)) in &self.tables.by_shares {
            places(*family, *id, table, &self.fabric, &mut out);
        }
        out
    }

    fn context(&self) -> Context<'_> {
        Context { fabric: &self.fabric }
    }

    fn rendered(&self, held: &Held) -> crate::elements::Rendered {
        render(&held.rules, &held.states, &self.context())
    }

    fn service(
        &mut self,
        id: &NamespacedName,
        rules: Option<Arc<ServiceRules>>,
        before: &mut Vec<Placed>,
        after: &mut Vec<Placed>,
        picks: &mut Vec<(Family, Pick)>,
    ) {
        let old = self.services.remove(id);
        if let Some(old) = &old {
            before.extend(self.rendered(old).elements);
        }
        let mut states: HashMap<(u16, Transport, Family), (Arc<PortRules>, PortState)> = HashMap::new();
        if let Some(old) = old {
            for (port, state) in old.rules.ports.iter().zip(old.states) {
                states.insert((port.port, port.protocol, port.family), (port.clone(), state));
            }
        }
        if let Some(rules) = rules {
            let mut next = Vec::with_capacity(rules.ports.len());
            for port in rules.ports.iter() {
                let old = states.remove(&(port.port, port.protocol, port.family));
                let (old_rules, mut state) = match old {
                    Some((rules, state)) => (Some(rules), state),
                    None => (None, PortState::default()),
                };
                self.hold(port, &mut state, after);
                self.settle(&mut state, port, old_rules.as_deref());
                if let Some(old_rules) = old_rules {
                    self.release(&old_rules, before);
                }
                next.push(state);
            }
            let held = Held { rules, states: next };
            let rendered = self.rendered(&held);
            after.extend(rendered.elements);
            picks.extend(rendered.picks);
            self.services.insert(id.clone(), held);
        }
        for (port, _) in states.into_values() {
            self.release(&port, before);
        }
    }

    /// Counts what a port shares with others; what is new goes to `after`.
    fn hold(&mut self, port: &PortRules, state: &mut PortState, after: &mut Vec<Placed>) {
        for endpoint in port.endpoints.iter().filter(|endpoint| endpoint.local) {
            let users = self.hairpin.entry(endpoint.address.ip()).or_default();
            *users += 1;
            if *users == 1 {
                after.push(hairpin(endpoint.address.ip()));
            }
        }
        state.table = port.nodes.as_ref().map(|nodes| {
            let (id, new) = self.tables.hold(port.family, nodes);
            if new {
                places(port.family, id, nodes, &self.fabric, after);
            }
            id
        });
    }

    /// The opposite; what nobody uses any more goes to `before`.
    fn release(&mut self, port: &PortRules, before: &mut Vec<Placed>) {
        for endpoint in port.endpoints.iter().filter(|endpoint| endpoint.local) {
            let ip = endpoint.address.ip();
            let Some(users) = self.hairpin.get_mut(&ip) else { continue };
            *users -= 1;
            if *users == 0 {
                self.hairpin.remove(&ip);
                before.push(hairpin(ip));
            }
        }
        if let Some(nodes) = &port.nodes
            && let Some(id) = self.tables.release(port.family, nodes)
        {
            places(port.family, id, nodes, &self.fabric, before);
        }
    }

    /// Orders of endpoints, and where places were.
    fn settle(&self, state: &mut PortState, port: &PortRules, old: Option<&PortRules>) {
        for of in Pool::ALL {
            reorder(&mut state.orders[of as usize], &pool(port, &self.fabric, of));
        }
        if !is_kept(port, &self.fabric) {
            state.past = Past::default();
            return;
        }
        if let (Some(Some(old)), Some(new)) = (old.map(|old| &old.nodes), &port.nodes)
            && !Arc::ptr_eq(old, new)
        {
            moved(&mut state.past, old, new, &self.fabric);
        }
    }
}

/// Brings an order to a set of slots; each that comes or goes moves one other at most.
fn reorder(order: &mut Vec<Slot>, wanted: &[Slot]) {
    debug_assert!(wanted.is_sorted());
    let mut at = 0;
    while at < order.len() {
        if wanted.binary_search(&order[at]).is_ok() {
            at += 1;
        } else {
            order.swap_remove(at);
        }
    }
    if order.len() == wanted.len() {
        return;
    }
    let known: BTreeSet<Slot> = order.iter().copied().collect();
    order.extend(wanted.iter().filter(|slot| !known.contains(slot)));
}

/// Remembers whose the places were that came to this node.
fn moved(past: &mut Past, old: &NodeTable, new: &NodeTable, fabric: &Fabric) {
    let size = old.places.len().max(new.places.len()).max(past.size as usize);
    let known = past.size as usize;
    if (1..size).contains(&known) {
        let times = size / known;
        let nodes = std::mem::take(&mut past.nodes);
        for (place, node) in nodes {
            let first = usize::from(place) * times;
            let all = (first..first + times).filter_map(|place| u16::try_from(place).ok());
            past.nodes.extend(all.map(|place| (place, node.clone())));
        }
    }
    past.size = u32::try_from(size).unwrap_or(u32::MAX);
    let owner = |table: &NodeTable, place: usize| {
        let node = *table.places.get(place / (size / table.places.len()))?;
        table.nodes.get(usize::from(node))?.node.clone()
    };
    for place in 0..size {
        let (was, is) = (owner(old, place), owner(new, place));
        if fabric.is_own(is.as_ref())
            && !fabric.is_own(was.as_ref())
            && let (Some(was), Ok(place)) = (was, u16::try_from(place))
        {
            past.nodes.insert(place, was);
        }
    }
}

/// The difference between what is wanted and what a dump of one set says.
pub(crate) fn difference(family: Family, set: Id, wanted: Vec<Element>, found: Vec<Element>) -> Plan {
    let place = |element| Placed { family, set, element };
    Plan::between(found.into_iter().map(place).collect(), wanted.into_iter().map(place).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use headwater_model::nat::{
        EndpointState, Frontend, FrontendAddress, KeepClient, Masquerade, NatEndpoint, Set, Verdict,
    };
    use headwater_model::origin::{Kind, ObjectKey, Origin};
    use headwater_model::tunnel::{Peer, TunnelEnd};
    use headwater_service_nat::node_table;
    use proptest::prelude::*;

    use super::*;

    /// What may become of one of a few Services, or of the nodes.
    #[derive(Debug, Clone)]
    enum Step {
        /// Endpoints by node, 0 is this one; 9 has no tunnel, 10 is no node.
        Service {
            which: u8,
            endpoints: Vec<u8>,
            kept: bool,
            sticky: bool,
        },
        Remove(u8),
        Peers {
            names: Vec<u8>,
            ready: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let service = (0_u8..3, prop::collection::vec(0_u8..11, 0..7), any::<bool>(), any::<bool>())
            .prop_map(|(which, endpoints, kept, sticky)| Step::Service { which, endpoints, kept, sticky });
        let peers = (prop::collection::vec(1_u8..9, 0..6), any::<bool>())
            .prop_map(|(names, ready)| Step::Peers { names, ready });
        prop::collection::vec(prop_oneof![4 => service, 1 => (0_u8..3).prop_map(Step::Remove), 2 => peers], 1..24)
    }

    fn name(node: u8) -> Option<Arc<str>> {
        (node != 10).then(|| format!("node-{node}").into())
    }

    fn id(which: u8) -> NamespacedName {
        NamespacedName::new("shop", format!("web-{which}"))
    }

    fn rules(which: u8, nodes: &[u8], kept: bool, sticky: bool) -> Arc<ServiceRules> {
        let endpoints: Arc<[NatEndpoint]> = (1_u16..)
            .zip(nodes)
            .map(|(slot, node)| NatEndpoint {
                slot: Slot(slot),
                address: SocketAddr::new([10, 244, *node, slot as u8].into(), 8080),
                node: name(*node),
                local: *node == 0,
                state: EndpointState::Ready,
                serving: true,
            })
            .collect();
        let mut weights: BTreeMap<Option<Arc<str>>, u32> = BTreeMap::new();
        nodes.iter().for_each(|node| *weights.entry(name(*node)).or_default() += 1);
        let shares = weights.into_iter().map(|(node, weight)| NodeShare { node, weight }).collect();
        let forward = |masquerade| {
            if nodes.is_empty() { Verdict::Reject } else { Verdict::Forward { set: Set::Cluster, masquerade } }
        };
        let frontend = |address, remote| Frontend {
            address,
            remote: forward(remote),
            pods: forward(Masquerade::HairpinOnly),
            node: forward(Masquerade::Always),
            sources: None,
        };
        let how = if kept { Masquerade::UnlessKept } else { Masquerade::Always };
        let vip = SocketAddr::new([203, 0, 113, which].into(), 80);
        let frontends = vec![
            frontend(
                FrontendAddress::ClusterIp(SocketAddr::new([10, 96, 0, which].into(), 80)),
                Masquerade::OffCluster,
            ),
            frontend(FrontendAddress::LoadBalancer(vip), how),
            frontend(FrontendAddress::NodePort(30_000 + u16::from(which)), how),
        ];
        let slots = |only_local: bool| -> Arc<[Slot]> {
            endpoints.iter().filter(|e| e.local || !only_local).map(|e| e.slot).collect()
        };
        let port = PortRules {
            name: "".into(),
            port: 80,
            protocol: Transport::Tcp,
            family: Family::V4,
            cluster: slots(false),
            local: slots(true),
            endpoints: endpoints.clone(),
            frontends: frontends.into(),
            affinity: sticky.then_some(60),
            keep: KeepClient::ViaIngress,
            nodes: kept.then(|| node_table(shares)).flatten().map(Arc::new),
        };
        Arc::new(ServiceRules {
            origin: Origin { key: ObjectKey::new(Kind::Service, "shop", format!("web-{which}")), generation: 1 },
            cluster_ips: [IpAddr::from([10, 96, 0, which])].into(),
            ports: [Arc::new(port)].into(),
            health: None,
        })
    }

    fn peers_of(names: &[u8]) -> Peers {
        let all = names.iter().map(|node| {
            let name = name(*node).expect("a node");
            let tunnel = Some(TunnelEnd::of_node(&name, [192, 0, 2, *node].into(), 8474));
            (name.clone(), Peer { name, tunnel, ..Peer::default() })
        });
        Peers { own: None, by_name: all.collect() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// A kernel that only ever gets differences has what one would have that gets everything at once; nothing is
        /// deleted that is not there, and no key is added twice.
        #[test]
        fn differences_add_up_to_everything(steps in steps()) {
            let mut planner = Planner::new("node-0".into());
            let mut snapshot = ServiceSnapshot::default();
            let mut kernel: BTreeMap<(Family, Id, headwater_nft::Key), Placed> = BTreeMap::new();
            let key = |placed: &Placed| (placed.family, placed.set, placed.element.key.clone());
            for step in steps {
                let plan = match step {
                    Step::Service { which, endpoints, kept, sticky } => {
                        snapshot.set(&id(which), Some(rules(which, &endpoints, kept, sticky)));
                        planner.services(&snapshot, &[id(which)])
                    }
                    Step::Remove(which) => {
                        snapshot.set(&id(which), None);
                        planner.services(&snapshot, &[id(which)])
                    }
                    Step::Peers { names, ready } => {
                        planner.surroundings(&Arc::new(peers_of(&names)), ready, &[[192, 0, 2, 100].into()])
                    }
                };
                for placed in &plan.delete {
                    let there = kernel.remove(&key(placed));
                    prop_assert_eq!(there.as_ref(), Some(placed));
                }
                for placed in &plan.add {
                    prop_assert!(kernel.insert(key(placed), placed.clone()).is_none(), "{:?} twice", placed);
                }
                let mut wanted = planner.everything();
                wanted.sort();
                let mut there: Vec<Placed> = kernel.values().cloned().collect();
                there.sort();
                prop_assert_eq!(there, wanted);
            }
        }
    }

    #[test]
    fn one_endpoint_that_goes_moves_one_other() {
        let nodes = [3; 200];
        let mut planner = Planner::new("node-0".into());
        let mut snapshot = ServiceSnapshot::default();
        snapshot.set(&id(0), Some(rules(0, &nodes, false, false)));
        planner.services(&snapshot, &[id(0)]);
        snapshot.set(&id(0), Some(rules(0, &nodes[..199], false, false)));
        let plan = planner.services(&snapshot, &[id(0)]);
        // For each of three frontends: one position, and the number of endpoints.
        assert!(plan.elements() <= 3 * (1 + 2), "{plan:?}");
    }

    #[test]
    fn places_that_came_here_remember_whose_they_were() {
        let mut planner = Planner::new("node-0".into());
        planner.surroundings(&Arc::new(peers_of(&[1, 2])), true, &[]);
        let mut snapshot = ServiceSnapshot::default();
        for (nodes, past) in [(&[1][..], 0), (&[1, 0], 512), (&[0, 0], 1024), (&[1], 1024), (&[0], 1024)] {
            snapshot.set(&id(0), Some(rules(0, nodes, true, false)));
            planner.services(&snapshot, &[id(0)]);
            let known = planner.services[&id(0)].states[0].past.nodes.len();
            assert!(known.abs_diff(past) < 8, "{nodes:?}: {known}");
        }
        let states = &planner.services[&id(0)].states[0];
        assert!(states.past.nodes.values().all(|node| **node == *"node-1"));
    }
}
