//! Rules of one Service -> the elements that hold them in the kernel. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::nat::{
    Family, Frontend, FrontendAddress, KeepClient, Masquerade, PortRules, ServiceRules, Set as EndpointSet, Slot,
    SourceRanges, Transport, Verdict,
};
use headwater_nft::{self as nft, Element, Field, Key, Mark, Name, Port, Proto, Tuple};
use ipnet::IpNet;

use crate::fabric::Fabric;
use crate::mark;
use crate::ruleset::{Door, Pick, Pool};
use crate::sets::Id;

/// An element and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Placed {
    pub(crate) family: Family,
    pub(crate) set: Id,
    pub(crate) element: Element,
}

/// What one port has besides its rules: what only a history gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortState {
    /// Order of the endpoints of each of [`Pool::ALL`], so that a change moves one of them.
    pub(crate) orders: [Vec<Slot>; 3],
    /// Its table of nodes in the kernel.
    pub(crate) table: Option<u32>,
    pub(crate) past: Past,
}

/// Nodes that had places of this node before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Number of places that the keys are out of.
    pub(crate) size: u32,
    pub(crate) nodes: BTreeMap<u16, Arc<str>>,
}

/// What holds for all Services.
pub(crate) struct Context<'a> {
    pub(crate) fabric: &'a Fabric,
}

/// Elements and chains of one Service; of the sets that Services share (hairpin, places) none.
pub(crate) struct Rendered {
    pub(crate) elements: Vec<Placed>,
    pub(crate) picks: Vec<(Family, Pick)>,
}

pub(crate) fn proto(transport: Transport) -> Proto {
    match transport {
        Transport::Tcp => Proto::TCP,
        Transport::Udp => Proto::UDP,
        Transport::Sctp => Proto::SCTP,
    }
}

fn goto(chain: &str) -> nft::Verdict {
    nft::Verdict::Goto(Name::new(chain).expect("names of chains are short and plain"))
}

/// Whether the clients of a port are kept by the tunnel.
pub(crate) fn is_kept(rules: &PortRules, fabric: &Fabric) -> bool {
    rules.nodes.is_some() && fabric.ready()
}

/// The endpoints of a pool, in order of their slots.
pub(crate) fn pool(rules: &PortRules, fabric: &Fabric, pool: Pool) -> Vec<Slot> {
    match pool {
        Pool::Any => rules.cluster.to_vec(),
        Pool::Here => rules.local.to_vec(),
        Pool::Far if is_kept(rules, fabric) => {
            let far =
                |slot: &&Slot| rules.endpoint(**slot).is_some_and(|endpoint| !fabric.reaches(endpoint.node.as_ref()));
            rules.cluster.iter().filter(far).copied().collect()
        }
        Pool::Far => Vec::new(),
    }
}

/// Slot of an endpoint as a key of `svc_to`, beside positions.
fn slot_key(pool: Pool, slot: Slot) -> u32 {
    0x8000_0000 | pool.offset() | u32::from(slot.0)
}

pub(crate) fn render(rules: &ServiceRules, states: &[PortState], context: &Context<'_>) -> Rendered {
    let mut out = Rendered { elements: Vec::new(), picks: Vec::new() };
    for ip in rules.cluster_ips.iter() {
        let element = Element::member([Field::from(*ip)]);
        out.elements.push(Placed { family: Family::of(*ip), set: Id::ClusterIps, element });
    }
    for (port, state) in rules.ports.iter().zip(states) {
        for frontend in port.frontends.iter() {
            Frontdoor { port, state, frontend, context, out: &mut out }.render();
        }
    }
    out
}

struct Frontdoor<'a, 'b> {
    port: &'a PortRules,
    state: &'a PortState,
    frontend: &'a Frontend,
    context: &'a Context<'b>,
    out: &'a mut Rendered,
}

impl Frontdoor<'_, '_> {
    fn address(&self) -> Option<SocketAddr> {
        match self.frontend.address {
            FrontendAddress::ClusterIp(address)
            | FrontendAddress::LoadBalancer(address)
            | FrontendAddress::ExternalIp(address) => Some(address),
            FrontendAddress::NodePort(_) => None,
        }
    }

    fn door(&self) -> Door {
        if self.address().is_some() { Door::Address } else { Door::NodePort }
    }

    fn at(&self, address: SocketAddr) -> [Field; 3] {
        [address.ip().into(), proto(self.port.protocol).into(), Port(address.port()).into()]
    }

    fn key(&self, more: impl IntoIterator<Item = Field>) -> Tuple {
        let proto = proto(self.port.protocol).into();
        let [address, number] = match self.frontend.address {
            FrontendAddress::NodePort(port) => [None, Some(Port(port).into())],
            _ => {
                let address = self.address().expect("all but NodePorts have an address");
                [Some(address.ip().into()), Some(Port(address.port()).into())]
            }
        };
        address.into_iter().chain([proto]).chain(number).chain(more).collect()
    }

    fn push(&mut self, set: Id, element: Element) {
        self.out.elements.push(Placed { family: self.port.family, set, element });
    }

    fn verdict(&mut self, set: fn(Door) -> Id, verdict: nft::Verdict) {
        let element = Element::verdict(self.key([]), verdict);
        self.push(set(self.door()), element);
    }

    fn render(&mut self) {
        let Frontend { remote, pods, node, .. } = *self.frontend;
        let prefix = self.door().prefix();
        let mut pools: Vec<Pool> = Vec::new();
        let mut pool_of = |verdict: Verdict| {
            if let Verdict::Forward { set, .. } = verdict {
                pools.push(if set == EndpointSet::Local { Pool::Here } else { Pool::Any });
            }
        };
        [remote, pods, node].into_iter().for_each(&mut pool_of);
        let kept = matches!(remote, Verdict::Forward { masquerade: Masquerade::UnlessKept, .. });
        let keeps = kept && is_kept(self.port, self.context.fabric);
        let policy = if remote == pods && pods == node {
            match remote {
                Verdict::Forward { set, masquerade } => {
                    let pool = if set == EndpointSet::Local { "here" } else { "any" };
                    let how = match masquerade {
                        Masquerade::HairpinOnly => "",
                        Masquerade::OffCluster => "_off_cluster",
                        Masquerade::UnlessKept | Masquerade::Always => "_masquerade",
                    };
                    Some(format!("{prefix}_to_{pool}{how}"))
                }
                Verdict::Reject | Verdict::Drop => None,
            }
        } else if keeps {
            Some(format!("{prefix}_kept"))
        } else if kept {
            Some(format!("{prefix}_masqueraded"))
        } else if matches!(pods, Verdict::Forward { .. }) {
            Some(format!("{prefix}_local"))
        } else {
            None
        };
        if let Some(policy) = policy {
            self.verdict(Id::Policy, goto(&policy));
        }
        match remote {
            Verdict::Forward { .. } => {}
            Verdict::Reject => self.verdict(Id::Refused, goto("reject_it")),
            Verdict::Drop => self.verdict(Id::Refused, nft::Verdict::Drop),
        }
        if keeps {
            self.keep();
            pools.extend([Pool::Here, Pool::Far]);
        }
        for pool in Pool::ALL {
            if pools.contains(&pool) {
                self.pool(pool);
            }
        }
        if let Some(sources) = self.frontend.sources.clone() {
            self.ranges(&sources);
        }
    }

    fn pool(&mut self, pool: Pool) {
        let state = self.state;
        let order = &state.orders[pool as usize];
        let Ok(endpoints) = u32::try_from(order.len()) else { return };
        if endpoints == 0 {
            return;
        }
        let door = self.door();
        let pick = match self.port.affinity {
            None => Pick::Random { door, pool, endpoints },
            Some(seconds) => Pick::Sticky { door, pool, endpoints, seconds },
        };
        self.out.picks.extend(pick.with_needs().map(|pick| (self.port.family, pick)));
        let set = match pool {
            Pool::Any => Id::PickAny,
            Pool::Here => Id::PickHere,
            Pool::Far => Id::PickFar,
        };
        self.verdict(set, goto(&pick.chain()));
        for (position, slot) in (pool.offset()..).zip(order) {
            let Some(endpoint) = self.port.endpoint(*slot) else { continue };
            let to = [Field::from(endpoint.address.ip()), Port(endpoint.address.port()).into()];
            let at = Field::from(Mark(position));
            let element = Element::fields(self.key([at]), to);
            self.push(Id::To(door), element);
            if self.port.affinity.is_some() {
                let slot = Field::from(Mark(slot_key(pool, *slot)));
                let element = Element::fields(self.key([at]), [slot]);
                self.push(Id::Slot(door), element);
                let element = Element::fields(self.key([slot]), to);
                self.push(Id::To(door), element);
            }
        }
    }

    fn keep(&mut self) {
        let (Some(nodes), Some(table)) = (&self.port.nodes, self.state.table) else { return };
        let (door, prefix) = (self.door(), self.door().prefix());
        let sticky = if self.port.affinity.is_some() { "_sticky" } else { "" };
        let size = nodes.places.len();
        self.verdict(Id::Keep, goto(&format!("{prefix}_keep_{size}{sticky}")));
        let table = Field::from(Mark(table));
        let element = Element::fields(self.key([]), [table]);
        self.push(Id::Table(door), element);
        // An answer from a NodePort has the address of the node that was asked: no other may send it.
        let direct = self.port.keep == KeepClient::Direct && door == Door::Address;
        let back = if direct { "back_direct" } else { "back_via" };
        self.verdict(Id::Back, goto(back));
        // At the node's own addresses conntrack knows what an ICMP error is about.
        if let Some(address) = self.address() {
            let key = self.at(address);
            self.push(Id::IcmpKeep, Element::verdict(key, goto(&format!("icmp_keep_{size}{sticky}"))));
            self.push(Id::IcmpTable, Element::fields(key, [table]));
        }
        let past = &self.state.past;
        let mut any = false;
        for (place, node) in &past.nodes {
            let Some(peer) = self.context.fabric.index(node) else { continue };
            let mark = Field::from(Mark(mark::of_peer(peer, mark::KIND_SECOND)));
            let element = Element::fields(self.key([Mark(u32::from(*place)).into()]), [mark]);
            self.push(Id::Past(door), element);
            any = true;
        }
        if any {
            self.verdict(Id::PastBy, goto(&format!("{prefix}_past_{}{sticky}", past.size)));
        }
    }

    fn ranges(&mut self, sources: &SourceRanges) {
        let Some(address) = self.address() else { return };
        let at = self.at(address);
        self.push(Id::Ranged, Element::member(at));
        let own = IpNet::from(address.ip());
        let own = sources.itself.then_some(own);
        for range in IpNet::aggregate(&sources.allowed.iter().copied().chain(own).collect()) {
            let ends = |end: IpAddr| -> Tuple { at.into_iter().chain([end.into()]).collect() };
            let key = Key::range(ends(range.network()), ends(range.broadcast()));
            self.push(Id::Ranges, Element::member(key));
        }
    }
}
