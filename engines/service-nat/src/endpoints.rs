//! EndpointSlices of a Service -> endpoints of its ports, and which of them packets may go to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use headwater_model::finding::Finding;
use headwater_model::nat::{EndpointState, Family, Transport};
use headwater_model::object::{AddressType, EndpointSlice, HintFor, SliceEndpoint};
use headwater_model::origin::{NamespacedName, ObjectKey};

use crate::address::{clip, special};
use crate::intent::{Intent, MAX_FINDINGS};
use crate::options::Options;
use crate::slots::MAX_ENDPOINTS;

/// Names of nodes, each held once.
#[derive(Debug, Default)]
pub(crate) struct Names(AHashSet<Arc<str>>);

impl Names {
    /// With more, all are forgotten, and shared anew.
    const MOST: usize = 20_000;

    fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

/// Whether an endpoint should be used from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hint {
    Absent,
    Here,
    Elsewhere,
}

/// One entry of a slice.
#[derive(Debug, Clone)]
struct Member {
    ip: IpAddr,
    node: Option<Arc<str>>,
    local: bool,
    state: EndpointState,
    serving: bool,
    node_hint: Hint,
    zone_hint: Hint,
}

/// One endpoint of one port.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) local: bool,
    pub(crate) state: EndpointState,
    pub(crate) serving: bool,
    pub(crate) node_hint: Hint,
    pub(crate) zone_hint: Hint,
}

/// All slices of one Service, read once for all its ports.
#[derive(Debug, Default)]
pub(crate) struct Members<'a> {
    slices: Vec<SliceMembers<'a>>,
    pub(crate) findings: Vec<Finding>,
}

#[derive(Debug)]
struct SliceMembers<'a> {
    family: Family,
    numbers: AHashMap<(&'a str, Transport), u16>,
    members: Vec<Member>,
}

impl<'a> Members<'a> {
    /// `slices` in an order that does not depend on the order of changes.
    pub(crate) fn read(slices: impl Iterator<Item = &'a EndpointSlice>, options: &Options, names: &mut Names) -> Self {
        let mut all = Self::default();
        let mut refused = 0_usize;
        for slice in slices {
            let family = match slice.address_type {
                AddressType::IPv4 => Family::V4,
                AddressType::IPv6 => Family::V6,
                AddressType::FQDN => continue,
            };
            let mut numbers = AHashMap::new();
            for port in &slice.ports {
                let (Some(number), Some(protocol)) = (port.port, Transport::parse(port.protocol.as_deref())) else {
                    continue;
                };
                if number != 0 {
                    numbers.entry((port.name.as_deref().unwrap_or_default(), protocol)).or_insert(number);
                }
            }
            let mut members = Vec::with_capacity(slice.endpoints.len());
            for endpoint in &slice.endpoints {
                match address(endpoint, family, options) {
                    Ok(ip) => members.push(member(ip, endpoint, options, names)),
                    Err(message) => {
                        refused += 1;
                        if refused <= MAX_FINDINGS {
                            let finding = Finding::warning("InvalidEndpoint", slice.key(), message).at("endpoints");
                            all.findings.push(finding.mend("give the endpoint the address of its pod or host"));
                        }
                    }
                }
            }
            all.slices.push(SliceMembers { family, numbers, members });
        }
        all
    }

    /// Endpoints of one port in one family, each address once, in order of addresses.
    pub(crate) fn of_port(&self, name: &str, protocol: Transport, family: Family) -> Vec<Candidate> {
        let mut found = Vec::new();
        for slice in self.slices.iter().filter(|slice| slice.family == family) {
            let Some(number) = slice.numbers.get(&(name, protocol)) else { continue };
            found.extend(slice.members.iter().map(|member| Candidate {
                address: SocketAddr::new(member.ip, *number),
                node: member.node.clone(),
                local: member.local,
                state: member.state,
                serving: member.serving,
                node_hint: member.node_hint,
                zone_hint: member.zone_hint,
            }));
        }
        // While an endpoint moves from one slice to another it is in both: the better word counts.
        found.sort_by(|a, b| {
            let rank = |c: &Candidate| (c.address, c.state, !c.local, !c.serving, c.node_hint, c.zone_hint);
            rank(a).cmp(&rank(b)).then_with(|| a.node.cmp(&b.node))
        });
        found.dedup_by(|next, kept| next.address == kept.address);
        found
    }

    /// Addresses of ready endpoints on this node.
    pub(crate) fn local_ready(&self, family: Family) -> u32 {
        let slices = self.slices.iter().filter(|slice| slice.family == family && !slice.numbers.is_empty());
        let members = slices.flat_map(|slice| &slice.members);
        let ready = members.filter(|member| member.local && member.state == EndpointState::Ready);
        u32::try_from(ready.map(|member| member.ip).collect::<AHashSet<_>>().len()).unwrap_or(u32::MAX)
    }
}

fn address(endpoint: &SliceEndpoint, family: Family, options: &Options) -> Result<IpAddr, String> {
    let Some(text) = endpoint.addresses.first() else { return Err("an endpoint has no address".to_owned()) };
    let Ok(ip) = text.parse::<IpAddr>() else { return Err(format!("\"{}\" is not an IP address", clip(text))) };
    if Family::of(ip) != family {
        return Err(format!("{ip} is not of the slice's addressType"));
    }
    match special(ip) {
        Some(what) => Err(format!("{ip} is {what}; nothing is sent there")),
        None if options.service_cidrs.iter().any(|range| range.contains(&ip)) => {
            Err(format!("{ip} is in the range of Services' addresses; nothing is sent there"))
        }
        None => Ok(ip),
    }
}

fn member(ip: IpAddr, endpoint: &SliceEndpoint, options: &Options, names: &mut Names) -> Member {
    let conditions = endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    let hints = endpoint.hints.as_deref();
    let here = |list: Option<&Vec<HintFor>>, own: Option<&str>| match list {
        None => Hint::Absent,
        Some(list) if list.is_empty() => Hint::Absent,
        Some(list) if own.is_some_and(|own| list.iter().any(|hint| hint.name == own)) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    };
    let node = endpoint.node_name.as_deref().filter(|name| !name.is_empty());
    Member {
        ip,
        local: node == Some(&*options.node.name),
        node: node.map(|name| names.share(name)),
        state: match () {
            () if ready => EndpointState::Ready,
            () if serving && terminating => EndpointState::Draining,
            () => EndpointState::Idle,
        },
        serving,
        node_hint: here(hints.map(|hints| &hints.for_nodes), Some(&options.node.name)),
        zone_hint: here(hints.map(|hints| &hints.for_zones), options.node.zone.as_deref()),
    }
}

/// Cuts a port's endpoints to what is supported, and says so.
pub(crate) fn limit(candidates: &mut Vec<Candidate>, intent: &Intent, index: u32, findings: &mut Vec<Finding>) {
    if candidates.len() > MAX_ENDPOINTS {
        let message = format!("{} endpoints; the first {MAX_ENDPOINTS} by address are used", candidates.len());
        let finding = Finding::warning("TooManyEndpoints", intent.origin.key.clone(), message);
        findings.push(finding.at(format!("spec.ports[{index}]")).mend("split the Service"));
        candidates.truncate(MAX_ENDPOINTS);
    }
}

/// Which endpoints may take packets: indices, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Empty: there is no usable endpoint anywhere.
    pub(crate) cluster: Vec<usize>,
    pub(crate) local: Vec<usize>,
}

/// The Cluster set: ready ones, those only that hints name for here, where hints are whole; or if none is ready, those
/// that serve while they terminate. The Local set: the same on this node, without hints.
///
/// Source: Kubernetes `CategorizeEndpoints`; KEP-1669, KEP-2433, KEP-3015.
pub(crate) fn choose(candidates: &[Candidate]) -> Chosen {
    let of = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..candidates.len()).filter(|at| wanted(&candidates[*at])).collect()
    };
    let first = |ready: Vec<usize>, draining: &dyn Fn(&Candidate) -> bool| match ready.is_empty() {
        true => of(&|c| c.state == EndpointState::Draining && draining(c)),
        false => ready,
    };
    let is_ready = |c: &Candidate| c.state == EndpointState::Ready;
    // A hint counts when every ready endpoint has one of its kind, and at least one is for here.
    let whole = |hint: fn(&Candidate) -> Hint| {
        let mut ready = candidates.iter().filter(|c| is_ready(c)).map(hint);
        let mut here = false;
        ready.all(|hint| {
            here |= hint == Hint::Here;
            hint != Hint::Absent
        }) && here
    };
    let ready = if whole(|c| c.node_hint) {
        of(&|c| is_ready(c) && c.node_hint == Hint::Here)
    } else if whole(|c| c.zone_hint) {
        of(&|c| is_ready(c) && c.zone_hint == Hint::Here)
    } else {
        of(&is_ready)
    };
    Chosen { cluster: first(ready, &|_| true), local: first(of(&|c| is_ready(c) && c.local), &|c| c.local) }
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let ObjectKey { id, .. } = slice.key();
    let name =
        slice.metadata.labels.get(headwater_model::object::SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some(NamespacedName::new(id.namespace, name.as_str()))
}
