//! Resources of MetalLB together: which pools count, and what is wrong with what.

mod peers;
#[cfg(test)]
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::community::CommunityRef;
use super::{AddressRange, BgpAdvertisement, Fault, IpAddressPool, WRITTEN_KINDS};
use crate::cluster::Cluster;
use crate::finding::Finding;
use crate::nat::Family;
use crate::object::Metadata;
use crate::origin::{Kind, ObjectKey};
use crate::selector::LabelSelector;

pub use self::peers::in_use;

/// Reason of findings about an object that says what it may not.
pub const INVALID: &str = "InvalidLoadBalancer";

/// Reason of findings about pools that have an address or a name in common.
pub const OVERLAP: &str = "Overlap";

/// The pools that make sense, oldest first, and what is wrong with the others.
///
/// Of two pools with an address in common, or with one name, the older counts; of two of the same second, the first by
/// name.
pub fn judge_pools<'a>(
    objects: impl IntoIterator<Item = &'a Arc<IpAddressPool>>,
) -> (Vec<&'a Arc<IpAddressPool>>, Vec<Finding>) {
    let mut objects: Vec<&Arc<IpAddressPool>> = objects.into_iter().collect();
    objects.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
    let mut findings = Vec::new();
    let mut names: BTreeMap<&str, &IpAddressPool> = BTreeMap::new();
    let mut taken: BTreeMap<(Family, IpAddr), (AddressRange, &str)> = BTreeMap::new();
    let mut pools = Vec::with_capacity(objects.len());
    for object in objects {
        let name = &*object.metadata.name;
        let before = findings.len();
        findings.extend(object.spec.faults().into_iter().map(|fault| finding(object.key(), fault)));
        if let Some(other) = names.get(name) {
            let message = format!("duplicate definition of pool \"{name}\": {} has this name already", other.id());
            findings.push(Finding::error(OVERLAP, object.key(), message).mend("rename or delete one of them"));
        }
        for (index, range) in object.spec.addresses.iter().enumerate() {
            // Those taken have no address in common, so that the last one to begin before its end is the only one to ask.
            let nearest = taken.range(..=(range.family(), range.last())).next_back().map(|(_, nearest)| nearest);
            if let Some((other, pool)) = nearest.filter(|(other, _)| other.overlaps(range)) {
                let message = format!(
                    "CIDR \"{range}\" in pool \"{name}\" overlaps with already defined CIDR \"{other}\" of pool \"{pool}\""
                );
                let finding = Finding::error(OVERLAP, object.key(), message);
                findings.push(finding.at(format!("spec.addresses[{index}]")).mend("take it out of one of them"));
            }
        }
        if findings.len() > before {
            continue;
        }
        for range in &object.spec.addresses {
            taken.insert((range.family(), range.first()), (*range, name));
        }
        names.insert(name, object);
        pools.push(object);
    }
    (pools, findings)
}

fn age(metadata: &Metadata) -> impl Ord + '_ {
    let created = metadata.creation_timestamp;
    (created.is_none(), created, &metadata.name, &metadata.namespace)
}

fn finding(key: ObjectKey, fault: Fault) -> Finding {
    Finding::error(INVALID, key, fault.message).at(fault.field)
}

/// Whether a change to an object of the kind may change what [`judge`] says.
pub fn is_judged(kind: Kind) -> bool {
    WRITTEN_KINDS.contains(&kind)
}

/// Everything that is wrong with pools, advertisements, peers, profiles and communities.
///
/// `namespace`: where they have to be; what is elsewhere does not count.
pub fn judge(cluster: &Cluster, namespace: &str) -> Vec<Finding> {
    let pools = cluster.ip_address_pools.values().filter(|pool| *pool.metadata.namespace == *namespace);
    let (pools, mut findings) = judge_pools(pools);
    let mut of = |key: ObjectKey, faults: Vec<Fault>| {
        if *key.id.namespace != *namespace {
            let message = format!("resource must be created in {namespace} namespace");
            findings.push(Finding::error(INVALID, key.clone(), message).at("metadata.namespace"));
        }
        findings.extend(faults.into_iter().map(|fault| finding(key.clone(), fault)));
    };
    let elsewhere = cluster.ip_address_pools.values().filter(|pool| *pool.metadata.namespace != *namespace);
    elsewhere.for_each(|object| of(object.key(), object.spec.faults()));
    cluster.l2_advertisements.values().for_each(|object| of(object.key(), object.spec.faults()));
    cluster.bgp_advertisements.values().for_each(|object| of(object.key(), object.spec.faults()));
    cluster.bgp_peers.values().for_each(|object| of(object.key(), object.spec.faults()));
    cluster.bfd_profiles.values().for_each(|object| of(object.key(), object.spec.faults()));
    cluster.communities.values().for_each(|object| of(object.key(), object.spec.faults()));
    references(cluster, &mut findings);
    aggregation(cluster, &pools, &mut findings);
    preferences(cluster, &mut findings);
    peers::peers(cluster, &mut findings);
    peers::echoes(cluster, &pools, &mut findings);
    findings
}

/// Names that lead nowhere: of pools, peers, profiles, communities. They may come later.
fn references(cluster: &Cluster, findings: &mut Vec<Finding>) {
    let missing = |key: ObjectKey, field: String, what: &str, name: &str| {
        let message = format!("there is no {what} \"{name}\"");
        Finding::warning("MissingReference", key, message).at(field).mend("create it, or correct the name")
    };
    let has = |namespace: &Arc<str>, name: &str, kind: Kind| {
        cluster.get(&ObjectKey::new(kind, namespace.clone(), name)).is_some()
    };
    let pools = |key: ObjectKey, names: &[String], findings: &mut Vec<Finding>| {
        for (index, name) in names.iter().enumerate() {
            if !has(&key.id.namespace, name, Kind::IpAddressPool) {
                findings.push(missing(key.clone(), format!("spec.ipAddressPools[{index}]"), "IPAddressPool", name));
            }
        }
    };
    for object in cluster.l2_advertisements.values() {
        pools(object.key(), &object.spec.ip_address_pools, findings);
    }
    let mut aliases: BTreeMap<&str, ObjectKey> = BTreeMap::new();
    for object in cluster.communities.values() {
        for (index, alias) in object.spec.communities.iter().enumerate() {
            let first = aliases.entry(&alias.name).or_insert_with(|| object.key());
            if *first != object.key() {
                let message =
                    format!("duplicate definition of community \"{}\": {first} defines it already", alias.name);
                let finding = Finding::error(INVALID, object.key(), message);
                findings.push(finding.at(format!("spec.communities[{index}].name")));
            }
        }
    }
    for object in cluster.bgp_advertisements.values() {
        let (key, spec) = (object.key(), &object.spec);
        pools(key.clone(), &spec.ip_address_pools, findings);
        for (index, name) in spec.peers.iter().enumerate() {
            if !has(&key.id.namespace, name, Kind::BgpPeer) {
                findings.push(missing(key.clone(), format!("spec.peers[{index}]"), "BGPPeer", name));
            }
        }
        for (index, community) in spec.communities.iter().enumerate() {
            if let CommunityRef::Alias(name) = community
                && !aliases.contains_key(&**name)
            {
                let field = format!("spec.communities[{index}]");
                // As many parts as a community has: meant as one, and no name that may come.
                if matches!(name.split(':').count(), 2 | 4) {
                    let message = format!("invalid community \"{name}\" (try \"64512:7\" or \"large:64512:7:9\")");
                    findings.push(Finding::error(INVALID, key.clone(), message).at(field));
                } else {
                    findings.push(missing(key.clone(), field, "community", name));
                }
            }
        }
    }
    for object in cluster.bgp_peers.values() {
        if let Some(name) = &object.spec.bfd_profile
            && !has(&object.metadata.namespace, name, Kind::BfdProfile)
        {
            findings.push(missing(object.key(), "spec.bfdProfile".to_owned(), "BFDProfile", name));
        }
    }
}

/// Whether an advertisement is about a pool.
pub fn selects(names: &[String], selectors: &[LabelSelector], pool: &IpAddressPool) -> bool {
    (names.is_empty() && selectors.is_empty())
        || names.iter().any(|name| **name == *pool.metadata.name)
        || selectors.iter().any(|selector| selector.matches(&pool.metadata.labels))
}

/// A prefix that is announced for a range must not reach beyond it.
fn aggregation(cluster: &Cluster, pools: &[&Arc<IpAddressPool>], findings: &mut Vec<Finding>) {
    for object in cluster.bgp_advertisements.values() {
        let spec = &object.spec;
        let about = pools.iter().filter(|pool| selects(&spec.ip_address_pools, &spec.ip_address_pool_selectors, pool));
        for pool in about {
            for range in &pool.spec.addresses {
                let (length, whole, field) = match range.family() {
                    Family::V4 => (spec.length_v4(), 32, "spec.aggregationLength"),
                    Family::V6 => (spec.length_v6(), 128, "spec.aggregationLengthV6"),
                };
                if length == whole {
                    continue;
                }
                // A range is several networks: one that the prefixes fit into is enough, as for MetalLB.
                let shortest = range.networks().iter().map(|network| network.prefix_len()).min().unwrap_or(whole);
                if shortest <= length {
                    continue;
                }
                let message = format!(
                    "invalid aggregation length {length}: prefix {shortest} in this pool is more specific than the \
                     aggregation length for addresses {range} of pool \"{}\"",
                    pool.metadata.name
                );
                findings.push(Finding::error(INVALID, object.key(), message).at(field));
            }
        }
    }
}

/// Two advertisements of one pool to the same peers by the same nodes in the same lengths have one preference.
fn preferences(cluster: &Cluster, findings: &mut Vec<Finding>) {
    type Reach<'a> = (BTreeSet<&'a String>, BTreeSet<&'a LabelSelector>, [u8; 2]);
    fn reach(object: &BgpAdvertisement) -> Reach<'_> {
        let spec = &object.spec;
        let lengths = [spec.length_v4(), spec.length_v6()];
        (spec.peers.iter().collect(), spec.node_selectors.iter().collect(), lengths)
    }
    let mut groups: BTreeMap<Reach<'_>, Vec<&Arc<BgpAdvertisement>>> = BTreeMap::new();
    for object in cluster.bgp_advertisements.values() {
        groups.entry(reach(object)).or_default().push(object);
    }
    for group in groups.values() {
        for (index, object) in group.iter().enumerate() {
            let spec = &object.spec;
            let pools = |object: &BgpAdvertisement, pool: &IpAddressPool| {
                selects(&object.spec.ip_address_pools, &object.spec.ip_address_pool_selectors, pool)
            };
            let clash = group[..index].iter().find(|other| {
                other.spec.local_preference() != spec.local_preference()
                    && other.spec.service_selectors == spec.service_selectors
                    && cluster.ip_address_pools.values().any(|pool| pools(other, pool) && pools(object, pool))
            });
            if let Some(other) = clash {
                let word = |preference: Option<u32>| preference.map_or("none".to_owned(), |number| number.to_string());
                let message = format!(
                    "invalid local preference {}: {} announces the same pool to the same peers with {}",
                    word(spec.local_preference()),
                    other.key(),
                    word(other.spec.local_preference())
                );
                findings.push(Finding::error(INVALID, object.key(), message).at("spec.localPref"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::NAMESPACE;
    use super::*;
    use crate::cluster::{Change, Object};

    /// Objects by kind, name and spec; or what cannot be read of them.
    pub(super) fn read(objects: &[(&str, &str, Value)]) -> Result<Cluster, String> {
        let mut cluster = Cluster::default();
        for (kind, name, spec) in objects {
            let mut value = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
            if let Value::Object(labels) = &spec["labels"] {
                value["metadata"]["labels"] = labels.clone().into();
                value["spec"].as_object_mut().unwrap().remove("labels");
            }
            let text = value.to_string();
            macro_rules! read {
                ($variant:ident) => {
                    Object::$variant(Arc::new(serde_json::from_str(&text).map_err(|error| error.to_string())?))
                };
            }
            let object = match *kind {
                "pool" => read!(IpAddressPool),
                "l2" => read!(L2Advertisement),
                "bgp" => read!(BgpAdvertisement),
                "peer" => read!(BgpPeer),
                "bfd" => read!(BfdProfile),
                "community" => read!(Community),
                "node" => read!(Node),
                other => panic!("{other}"),
            };
            cluster.apply(&Change::Set(object));
        }
        Ok(cluster)
    }

    fn cluster(objects: &[(&str, &str, Value)]) -> Cluster {
        read(objects).unwrap()
    }

    fn told(objects: &[(&str, &str, Value)]) -> Vec<String> {
        judge(&cluster(objects), NAMESPACE).iter().map(ToString::to_string).collect()
    }

    fn pool() -> (&'static str, &'static str, Value) {
        ("pool", "p", json!({"addresses": ["10.0.0.0/24", "fc00::/120"]}))
    }

    #[test]
    fn what_makes_sense_together_is_not_told() {
        let peer = json!({"myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "bfdProfile": "f"});
        let bgp = json!({"ipAddressPools": ["p"], "communities": ["vpn", "1:2"], "peers": ["r"], "aggregationLength": 24,
            "aggregationLengthV6": 120, "localPref": 100});
        let other = json!({"ipAddressPools": ["p"], "localPref": 200, "peers": ["r"]});
        assert_eq!(
            told(&[
                pool(),
                ("l2", "l", json!({"ipAddressPools": ["p"]})),
                ("bgp", "b", bgp),
                ("bgp", "c", other),
                ("peer", "r", peer),
                ("bfd", "f", json!({})),
                ("community", "n", json!({"communities": [{"name": "vpn", "value": "1:1"}]})),
            ]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_makes_no_sense_together_is_told_once_with_its_field() {
        let alias = || json!({"communities": [{"name": "vpn", "value": "1:1"}]});
        for (objects, start) in [
            (
                vec![("l2", "l", json!({"ipAddressPools": ["q"]}))],
                "L2Advertisement metallb-system/l: spec.ipAddressPools[0]: there is no IPAddressPool \"q\"",
            ),
            (
                vec![("bgp", "b", json!({"peers": ["r"]}))],
                "BGPAdvertisement metallb-system/b: spec.peers[0]: there is no BGPPeer \"r\"",
            ),
            (
                vec![("bgp", "b", json!({"communities": ["vpn"]}))],
                "BGPAdvertisement metallb-system/b: spec.communities[0]: there is no community \"vpn\"",
            ),
            (
                vec![("community", "a", alias()), ("community", "b", alias())],
                "Community metallb-system/b: spec.communities[0].name: duplicate definition of community \"vpn\"",
            ),
            (
                vec![("peer", "r", json!({"myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "bfdProfile": "f"}))],
                "BGPPeer metallb-system/r: spec.bfdProfile: there is no BFDProfile \"f\"",
            ),
            (
                vec![pool(), ("bgp", "b", json!({"aggregationLength": 20}))],
                "BGPAdvertisement metallb-system/b: spec.aggregationLength: invalid aggregation length 20: prefix 24 in this pool",
            ),
            (
                vec![pool(), ("bgp", "b", json!({"aggregationLengthV6": 64}))],
                "BGPAdvertisement metallb-system/b: spec.aggregationLengthV6: invalid aggregation length 64: prefix 120",
            ),
            (
                vec![
                    ("pool", "q", json!({"addresses": ["10.0.0.10-10.0.0.20"]})),
                    ("bgp", "b", json!({"aggregationLength": 29})),
                ],
                "BGPAdvertisement metallb-system/b: spec.aggregationLength: invalid aggregation length 29: prefix 30",
            ),
            (
                vec![
                    pool(),
                    ("bgp", "b", json!({"localPref": 100})),
                    ("bgp", "c", json!({"localPref": 200, "ipAddressPools": ["p"]})),
                ],
                "BGPAdvertisement metallb-system/c: spec.localPref: invalid local preference 200: BGPAdvertisement metallb-system/b",
            ),
            (
                vec![("bfd", "f", json!({"detectMultiplier": 1}))],
                "BFDProfile metallb-system/f: spec.detectMultiplier: 1",
            ),
            (
                vec![
                    ("pool", "a", json!({"addresses": ["10.0.0.0/24"]})),
                    ("pool", "b", json!({"addresses": ["10.0.0.7-10.0.1.3"]})),
                ],
                "IPAddressPool metallb-system/b: spec.addresses[0]: CIDR \"10.0.0.7-10.0.1.3\" in pool \"b\" overlaps with \
                 already defined CIDR \"10.0.0.0/24\" of pool \"a\"",
            ),
        ] {
            let findings = told(&objects);
            let [finding] = &findings[..] else { panic!("{start}: {findings:?}") };
            assert!(finding.starts_with(start), "{finding}");
        }
    }
}
