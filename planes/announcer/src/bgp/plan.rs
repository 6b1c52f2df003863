//! What this node tells which peer, of what may be announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use headwater_model::announce::Announcements;
use headwater_model::cluster::Cluster;
use headwater_model::fnv::fnv1a_32;
use headwater_model::metallb::community::{CommunityRef, CommunityValue};
use headwater_model::metallb::peer::{BfdProfileSpec, BgpPeerSpec};
use headwater_model::object::INTERNAL_IP;
use headwater_model::origin::NamespacedName;
use ipnet::IpNet;

use super::objects::{Offer, PeerRefusal, PrefixRefusal, peer, routes};
use super::speaker::{Peer, PeerPlan, Plan, Routes};
use super::unnumbered::Heard;

/// Secrets with passwords have this type.
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// Everything about routers that a node needs, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Routers {
    /// Those that this node speaks with, and the passwords of those that keep it in a Secret.
    peers: BTreeMap<Arc<str>, (BgpPeerSpec, Option<Secret>)>,
    profiles: BTreeMap<Arc<str>, BfdProfileSpec>,
    communities: BTreeMap<String, CommunityValue>,
    router_id: Ipv4Addr,
}

impl Default for Routers {
    fn default() -> Self {
        let (peers, profiles, communities) = Default::default();
        Self { peers, profiles, communities, router_id: Ipv4Addr::UNSPECIFIED }
    }
}

/// Text of a Secret; nothing prints it.
#[derive(Clone, PartialEq)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(redacted)")
    }
}

impl Routers {
    /// Those of the objects in `namespace` that concern this node.
    pub fn of(cluster: &Cluster, namespace: &str, node: &str) -> Self {
        let here = |id: &NamespacedName| &*id.namespace == namespace;
        let object = cluster.nodes.values().find(|object| &*object.metadata.name == node);
        let empty = BTreeMap::new();
        let labels = object.map_or(&empty, |object| &object.metadata.labels);
        let peers = cluster.bgp_peers.iter().filter(|(id, _)| here(id)).filter_map(|(id, object)| {
            let selectors = &object.spec.node_selectors;
            let chosen = selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels));
            chosen.then(|| (id.name.clone(), (object.spec.clone(), password(cluster, namespace, &object.spec))))
        });
        let profiles = cluster.bfd_profiles.iter().filter(|(id, _)| here(id));
        let aliases =
            cluster.communities.iter().filter(|(id, _)| here(id)).flat_map(|(_, object)| &object.spec.communities);
        let addresses = object.into_iter().flat_map(|object| &object.status.addresses);
        let own = addresses.filter(|address| address.address_type == INTERNAL_IP);
        Self {
            peers: peers.collect(),
            profiles: profiles.map(|(id, object)| (id.name.clone(), object.spec)).collect(),
            communities: aliases.filter_map(|alias| Some((alias.name.clone(), alias.value?))).collect(),
            router_id: own.filter_map(|address| address.address.parse().ok()).next().unwrap_or_else(|| id_of(node)),
        }
    }
}

fn password(cluster: &Cluster, namespace: &str, spec: &BgpPeerSpec) -> Option<Secret> {
    let (name, elsewhere) = spec.secret()?;
    let secret = cluster.secrets.get(&NamespacedName::new(elsewhere.unwrap_or(namespace), name))?;
    let bytes = secret.bytes("password").filter(|_| secret.secret_type == BASIC_AUTH)?;
    String::from_utf8(bytes.to_vec()).ok().map(Secret)
}

/// An identifier for a node without address of IPv4: a hash of its name, and never 0.0.0.0.
fn id_of(node: &str) -> Ipv4Addr {
    Ipv4Addr::from(fnv1a_32(node.bytes()).max(1))
}

/// What was planned last: what cannot be read any more stays as it was.
#[derive(Debug, Default)]
pub struct Memory {
    peers: BTreeMap<Arc<str>, Peer>,
    routes: BTreeMap<Arc<str>, Arc<Routes>>,
    /// Of unnumbered peers.
    interfaces: BTreeMap<Arc<str>, Arc<str>>,
}

impl Memory {
    /// Of each peer; of unnumbered ones the interface, since others may have the same address elsewhere.
    pub(super) fn addresses(&self) -> BTreeMap<Arc<str>, String> {
        let text = |name: &Arc<str>, peer: &Peer| match self.interfaces.get(name) {
            Some(interface) => interface.to_string(),
            None => peer.session.transport.address.to_string(),
        };
        self.peers.iter().map(|(name, peer)| (name.clone(), text(name, peer))).collect()
    }
}

/// What comes of it.
#[derive(Debug, Default)]
pub struct Planned {
    pub plan: Plan,
    /// Peers that are not as their objects say, and why.
    pub refused: BTreeMap<Arc<str>, PeerRefusal>,
    /// Prefixes that are not announced, though an advertisement wants them to be.
    pub silent: Vec<PrefixRefusal>,
    /// Names of communities that no Community defines; their advertisements are not followed.
    pub unknown: BTreeSet<String>,
    /// Which peers hear of a Service.
    pub services: BTreeMap<NamespacedName, BTreeSet<Arc<str>>>,
    /// Interfaces behind which peers are to be found.
    pub interfaces: BTreeSet<Arc<str>>,
}

/// Plans for a node. `heard`: routers behind interfaces.
pub fn plan(
    announcements: &Announcements,
    routers: &Routers,
    heard: &Heard,
    node: &str,
    memory: &mut Memory,
) -> Planned {
    let mut planned = Planned::default();
    let mut peers = BTreeMap::new();
    let unnumbered = |spec: &BgpPeerSpec| spec.interface.as_deref().filter(|_| spec.faults().is_empty()).map(Arc::from);
    memory.interfaces = routers
        .peers
        .iter()
        .filter_map(|(name, (spec, _))| unnumbered(spec).map(|interface: Arc<str>| (name.clone(), interface)))
        .collect();
    planned.interfaces = memory.interfaces.values().cloned().collect();
    for (name, (spec, password)) in &routers.peers {
        let profile = spec.bfd_profile.as_ref().and_then(|profile| routers.profiles.get(profile.as_str()));
        let password = password.as_ref().map(|secret| &*secret.0);
        match peer(spec, password, profile, routers.router_id, heard) {
            Ok(peer) => drop(peers.insert(name.clone(), peer)),
            Err(why) => {
                if let Some(known) = memory.peers.get(name).filter(|_| why.is_transient()) {
                    peers.insert(name.clone(), known.clone());
                }
                planned.refused.insert(name.clone(), why);
            }
        }
    }
    let mut offers: BTreeMap<Arc<str>, Vec<Offer>> = BTreeMap::new();
    let mut told: Vec<(NamespacedName, IpNet, Arc<str>)> = Vec::new();
    for vip in &announcements.vips {
        for offer in announcements.bgp_of(vip, node).unwrap_or_default() {
            let Some(communities) = resolve(&offer.communities, routers, &mut planned.unknown) else { continue };
            let hears = |name: &Arc<str>| offer.peers.is_empty() || offer.peers.iter().any(|wanted| **wanted == **name);
            for name in peers.keys().filter(|name| hears(name)) {
                let communities = communities.clone();
                let local_preference = offer.local_preference;
                offers.entry(name.clone()).or_default().push(Offer {
                    prefix: offer.prefix,
                    local_preference,
                    communities,
                });
                told.push((vip.origin.key.id.clone(), offer.prefix, name.clone()));
            }
        }
    }
    for (name, peer) in &peers {
        let before = memory.routes.get(name).cloned().unwrap_or_default();
        let (routes, refusals) = routes(offers.remove(name).unwrap_or_default(), &before);
        planned
            .silent
            .extend(refusals.into_iter().filter(|refusal| !planned.silent.contains(refusal)).collect::<Vec<_>>());
        planned.plan.peers.insert(name.clone(), PeerPlan { peer: peer.clone(), routes });
    }
    for (service, prefix, name) in told {
        if planned.plan.peers.get(&name).is_some_and(|peer| peer.routes.contains_key(&prefix.trunc())) {
            planned.services.entry(service).or_default().insert(name);
        }
    }
    memory.routes = planned.plan.peers.iter().map(|(name, peer)| (name.clone(), peer.routes.clone())).collect();
    memory.peers = peers;
    planned
}

fn resolve(
    communities: &[CommunityRef],
    routers: &Routers,
    unknown: &mut BTreeSet<String>,
) -> Option<Vec<CommunityValue>> {
    let mut values = Vec::new();
    let mut all = true;
    for community in communities {
        match community {
            CommunityRef::Value(value) => values.push(*value),
            CommunityRef::Alias(name) => match routers.communities.get(name) {
                Some(value) => values.push(*value),
                None => {
                    unknown.insert(name.clone());
                    all = false;
                }
            },
        }
    }
    all.then_some(values)
}
