//! The cases of MetalLB's internal/config/config_test.go and validation_test.go, as far as they are about what users
//! write: those of its native speaker, of Secrets and of names that API servers keep unique are elsewhere, or cannot be.

use serde_json::{Value, json};

use super::tests::read;
use super::*;
use crate::finding::Severity;
use crate::metallb::NAMESPACE;

enum Verdict {
    Fine,
    /// A warning: it may come yet.
    Later(&'static str),
    Refused(&'static str),
}

use Verdict::{Fine, Later, Refused};

type Row = (&'static str, Vec<(&'static str, &'static str, Value)>, Verdict);

fn pool(name: &'static str, addresses: &[&str]) -> (&'static str, &'static str, Value) {
    ("pool", name, json!({"addresses": addresses}))
}

fn peer(name: &'static str, more: Value) -> (&'static str, &'static str, Value) {
    let mut spec = json!({"myASN": 42, "peerASN": 142, "peerAddress": "1.2.3.4"});
    for (field, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(spec.as_object_mut().unwrap().remove(field)),
            value => spec[field] = value.clone(),
        }
    }
    ("peer", name, spec)
}

fn check(rows: Vec<Row>) {
    for (name, objects, verdict) in rows {
        let told = read(&objects).map(|cluster| judge(&cluster, NAMESPACE));
        let of = |severity: Severity| -> Vec<String> {
            match &told {
                Ok(told) => told.iter().filter(|one| one.severity == severity).map(ToString::to_string).collect(),
                Err(error) => {
                    if severity == Severity::Error {
                        vec![error.clone()]
                    } else {
                        Vec::new()
                    }
                }
            }
        };
        let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
        let is_so = match verdict {
            Fine => errors.is_empty() && warnings.is_empty(),
            Later(words) => errors.is_empty() && warnings.iter().any(|text| text.contains(words)),
            Refused(words) => errors.iter().any(|text| text.contains(words)),
        };
        assert!(is_so, "{name}: {errors:?} {warnings:?}");
    }
}

#[test]
fn pools() {
    let of =
        |allocation: Value| vec![("pool", "p", json!({"addresses": ["30.0.0.0/8"], "serviceAllocation": allocation}))];
    let label = || json!({"matchLabels": {"foo": "bar"}});
    let term = || json!({"matchExpressions": [{"key": "bar", "operator": "In", "values": ["quux"]}]});
    check(vec![
        ("empty config", vec![], Fine),
        ("several ranges", vec![pool("a", &["10.20.0.0/16", "10.50.0.0/24"]), pool("b", &["30.0.0.0/8"])], Fine),
        ("a range, and IPv6", vec![pool("a", &["40.0.0.0-40.0.0.255", "2001:db8::/64"])], Fine),
        (
            "namespace selection",
            of(json!({"priority": 1, "namespaces": ["a", "b"], "namespaceSelectors": [label()]})),
            Fine,
        ),
        ("duplicate namespaces", of(json!({"namespaces": ["a", "a"]})), Refused("duplicate namespace")),
        ("duplicate namespace selectors", of(json!({"namespaceSelectors": [label(), label()]})), Refused("already")),
        ("service selection", of(json!({"serviceSelectors": [term(), label()]})), Fine),
        ("duplicate service selection", of(json!({"serviceSelectors": [term(), term()]})), Refused("already")),
        ("both", of(json!({"namespaces": ["a"], "serviceSelectors": [label()]})), Fine),
        ("only priority", of(json!({"priority": 1})), Fine),
        ("no address", vec![pool("a", &[])], Refused("pool has no prefixes defined")),
        ("invalid CIDR", vec![pool("a", &["100.200.300.400/24"])], Refused("invalid CIDR")),
        ("invalid CIDR prefix length", vec![pool("a", &["1.2.3.0/33"])], Refused("invalid CIDR")),
        ("the first after the second", vec![pool("a", &["1.2.3.10-1.2.3.1"])], Refused("is after the end IP")),
        ("an end that is none", vec![pool("a", &["1.2.3.10-1.2.3."])], Refused("invalid IP range")),
        ("two families", vec![pool("a", &["1.2.3.10-fc00::1"])], Refused("two families")),
        (
            "duplicate CIDRs",
            vec![pool("a", &["10.0.0.0/8"]), pool("b", &["10.0.0.0/8"])],
            Refused("overlaps with already"),
        ),
        (
            "overlapping CIDRs",
            vec![pool("a", &["10.0.0.0/8"]), pool("b", &["10.0.0.0/16"])],
            Refused("overlaps with already"),
        ),
        ("overlapping in one pool", vec![pool("a", &["10.0.0.0/8", "10.1.0.0/16"])], Refused("overlaps with already")),
    ]);
}

#[test]
fn routers() {
    let selected = |selector: Value| vec![peer("a", json!({"nodeSelectors": [selector]}))];
    let term = |term: Value| selected(json!({"matchLabels": {"foo": "bar"}, "matchExpressions": [term]}));
    check(vec![
        ("peer-only", vec![peer("a", json!({}))], Fine),
        ("invalid peer-address", vec![peer("a", json!({"peerAddress": "1.2.3.400"}))], Refused("1.2.3.400")),
        ("invalid my-asn", vec![peer("a", json!({"myASN": null}))], Refused("missing local ASN")),
        ("invalid peer-asn", vec![peer("a", json!({"peerASN": null}))], Refused("missing peer ASN")),
        (
            "invalid ebgp-multihop",
            vec![peer("a", json!({"peerASN": 42, "ebgpMultiHop": true}))],
            Refused("invalid ebgp-multihop"),
        ),
        (
            "keepalive above hold",
            vec![peer("a", json!({"holdTime": "30s", "keepaliveTime": "90s"}))],
            Refused("invalid keepaliveTime"),
        ),
        ("hold time too short", vec![peer("a", json!({"holdTime": "1s"}))], Refused("invalid hold time")),
        ("holdtime only", vec![peer("a", json!({"holdTime": "180s"}))], Fine),
        ("keepalive only", vec![peer("a", json!({"keepaliveTime": "60s"}))], Fine),
        ("zero timers", vec![peer("a", json!({"holdTime": "0s", "keepaliveTime": "0s"}))], Fine),
        ("invalid RouterID", vec![peer("a", json!({"routerID": "oh god how do I BGP"}))], Refused("oh god")),
        ("invalid source", vec![peer("a", json!({"sourceAddress": "1.2"}))], Refused("1.2")),
        ("empty node selector", selected(json!({})), Fine),
        ("missing key", term(json!({"operator": "In", "values": ["quux"]})), Refused("key")),
        ("missing operator", term(json!({"key": "bar", "values": ["quux"]})), Refused("operator")),
        (
            "invalid operator",
            term(json!({"key": "bar", "operator": "surrounds", "values": ["quux"]})),
            Refused("surrounds"),
        ),
        (
            "duplicate values",
            term(json!({"key": "bar", "operator": "In", "values": ["quux", "quux"]})),
            Refused("duplicate match expression value"),
        ),
        (
            "password and secret",
            vec![peer("a", json!({"password": "nopass", "passwordSecret": {"name": "s"}}))],
            Refused("exclude each other"),
        ),
        ("a secret", vec![peer("a", json!({"passwordSecret": {"name": "s", "namespace": NAMESPACE}}))], Fine),
        ("dynamic asn", vec![peer("a", json!({"peerASN": null, "dynamicASN": "internal"}))], Fine),
        ("neither asn", vec![peer("a", json!({"peerASN": 0}))], Refused("missing peer ASN")),
        ("both asn", vec![peer("a", json!({"dynamicASN": "internal"}))], Refused("exclude each other")),
        ("an unknown dynamic asn", vec![peer("a", json!({"peerASN": null, "dynamicASN": "some"}))], Refused("some")),
        ("unnumbered", vec![peer("a", json!({"peerAddress": null, "interface": "eth0"}))], Fine),
        (
            "neither address nor interface",
            vec![peer("a", json!({"peerAddress": null}))],
            Refused("missing peer address"),
        ),
        ("address and interface", vec![peer("a", json!({"interface": "eth0"}))], Refused("exclude each other")),
        ("disableMP", vec![peer("a", json!({"disableMP": true}))], Fine),
    ]);
}

#[test]
fn routers_of_one_node() {
    let two = |one: Value, other: Value| vec![peer("a", one), peer("b", other)];
    let at = |address: &str, more: Value| {
        let mut spec = more;
        spec["peerAddress"] = address.into();
        spec
    };
    let other = |more: Value| at("1.2.3.5", more);
    let on = |zone: &str| json!({"nodeSelectors": [{"matchLabels": {"zone": zone}}]});
    let node = |zone: &str| json!({"labels": {"zone": zone}});
    let behind = |interface: &str| json!({"peerAddress": null, "interface": interface});
    check(vec![
        ("routerid", two(json!({"routerID": "1.1.1.1"}), other(json!({"routerID": "1.1.1.1"}))), Fine),
        (
            "routerid, one different",
            two(json!({"routerID": "1.1.1.1"}), other(json!({"routerID": "1.1.1.2"}))),
            Refused("routerID 1.1.1.2 is different"),
        ),
        (
            "routerid, one not set",
            two(json!({"routerID": "1.1.1.1"}), other(json!({}))),
            Refused("routerID none is different"),
        ),
        ("myAsn all equal", two(json!({}), other(json!({}))), Fine),
        ("myAsn one different", two(json!({}), other(json!({"myASN": 43}))), Refused("myASN 43 is different")),
        ("myAsn one different, another vrf", two(json!({}), other(json!({"myASN": 43, "vrf": "red"}))), Fine),
        (
            "myAsn two different, one vrf",
            two(json!({"vrf": "red"}), other(json!({"myASN": 43, "vrf": "red"}))),
            Refused("for the same VRF"),
        ),
        ("duplicate address", two(json!({}), json!({})), Refused("peer 1.2.3.4 already exists")),
        ("duplicate address, different vrfs", two(json!({"vrf": "red"}), json!({"vrf": "green"})), Fine),
        ("duplicate address, same vrf", two(json!({"vrf": "red"}), json!({"vrf": "red"})), Refused("already exists")),
        ("two interfaces", two(behind("eth0"), behind("eth1")), Fine),
        ("one interface", two(behind("eth0"), behind("eth0")), Refused("interface eth0 already exists")),
        ("other nodes by their labels", two(on("a"), on("b")), Fine),
        ("the same nodes by their labels", two(on("a"), on("a")), Refused("already exists")),
        (
            "other nodes, which are known",
            [two(on("a"), on("b")), vec![("node", "n", node("a")), ("node", "m", node("b"))]].concat(),
            Fine,
        ),
        (
            "one node, which is known",
            [
                two(on("a"), json!({"nodeSelectors": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]})),
                vec![("node", "n", node("a"))],
            ]
            .concat(),
            Refused("already exists"),
        ),
    ]);
}

#[test]
fn advertisements() {
    let bgp = |spec: Value| ("bgp", "ad", spec);
    let first = || pool("pool1", &["10.20.30.40/24"]);
    let two = |one: Value, other: Value| vec![first(), ("bgp", "a", one), ("bgp", "b", other)];
    let test = |more: &str| json!({"matchLabels": {"test": more}});
    let node = |name: &str| json!([{"matchLabels": {"node": name}}]);
    check(vec![
        ("simple", vec![first(), bgp(json!({})), ("l2", "ad", json!({}))], Fine),
        ("too long", vec![first(), bgp(json!({"aggregationLength": 34}))], Refused("34")),
        ("too short", vec![first(), bgp(json!({"aggregationLengthV6": 0}))], Refused("0")),
        (
            "incompatible with CIDR",
            vec![pool("p", &["10.20.30.40/24", "1.2.3.0/28"]), bgp(json!({"aggregationLength": 26}))],
            Refused("prefix 28 in this pool is more specific"),
        ),
        (
            "preferences, same peers and nodes",
            two(json!({"localPref": 100}), json!({"localPref": 200})),
            Refused("invalid local preference"),
        ),
        (
            "preferences, another length",
            two(json!({"localPref": 100, "aggregationLength": 24}), json!({"localPref": 200})),
            Fine,
        ),
        (
            "preferences, other nodes",
            two(
                json!({"localPref": 100, "nodeSelectors": node("a")}),
                json!({"localPref": 200, "nodeSelectors": node("b")}),
            ),
            Fine,
        ),
        (
            "preferences, other peers",
            [
                two(json!({"localPref": 100, "peers": ["peer1"]}), json!({"localPref": 200, "peers": ["peer2"]})),
                vec![peer("peer1", json!({})), peer("peer2", json!({"peerAddress": "1.2.3.5"}))],
            ]
            .concat(),
            Fine,
        ),
        ("length by range", vec![pool("p", &["3.3.3.2-3.3.3.254"]), bgp(json!({"aggregationLength": 26}))], Fine),
        (
            "length by range, too wide",
            vec![pool("p", &["3.3.3.2-3.3.3.254"]), bgp(json!({"aggregationLength": 24}))],
            Refused("more specific"),
        ),
        (
            "duplicate pools in L2",
            vec![first(), ("l2", "a", json!({"ipAddressPools": ["pool1", "pool1"]}))],
            Refused("duplicate"),
        ),
        (
            "duplicate pools in BGP",
            vec![first(), bgp(json!({"ipAddressPools": ["pool1", "pool1"]}))],
            Refused("duplicate"),
        ),
        (
            "duplicate peers in BGP",
            vec![first(), peer("r", json!({})), bgp(json!({"peers": ["r", "r"]}))],
            Refused("duplicate"),
        ),
        (
            "duplicate labels in pool selectors",
            vec![first(), bgp(json!({"ipAddressPoolSelectors": [test("a"), test("a")]}))],
            Refused("already"),
        ),
        (
            "duplicate values in a pool selector",
            vec![
                first(),
                bgp(
                    json!({"ipAddressPoolSelectors": [{"matchExpressions": [{"key": "test", "operator": "In", "values": ["a", "a"]}]}]}),
                ),
            ],
            Refused("duplicate match expression value"),
        ),
        (
            "duplicate pool selectors in L2",
            vec![first(), ("l2", "a", json!({"ipAddressPoolSelectors": [test("a"), test("a")]}))],
            Refused("already"),
        ),
        ("a label that no pool has", vec![first(), bgp(json!({"ipAddressPoolSelectors": [test("a")]}))], Fine),
        (
            "duplicate labels in node selectors",
            vec![first(), bgp(json!({"nodeSelectors": [test("a"), test("a")]}))],
            Refused("already"),
        ),
        (
            "duplicate node selectors in L2",
            vec![first(), ("l2", "a", json!({"nodeSelectors": [test("a"), test("a")]}))],
            Refused("already"),
        ),
        ("interfaces", vec![first(), ("l2", "a", json!({"interfaces": ["eth0", "eth1"]}))], Fine),
        (
            "a pool that is not there",
            vec![("l2", "a", json!({"ipAddressPools": ["none"]}))],
            Later("there is no IPAddressPool"),
        ),
        ("a peer that is not there", vec![bgp(json!({"peers": ["none"]}))], Later("there is no BGPPeer")),
    ]);
}

#[test]
fn communities_and_profiles() {
    let literal = |text: &str| vec![pool("p", &["1.2.3.0/24"]), ("bgp", "ad", json!({"communities": [text]}))];
    let alias = |name: &str, value: &str| json!({"communities": [{"name": name, "value": value}]});
    let profile = |spec: Value| vec![("bfd", "f", spec), peer("r", json!({"bfdProfile": "f"}))];
    let echo = |addresses: &str, of: Value| {
        let ad = ("bgp", "ad", of);
        [
            profile(json!({"echoMode": true})),
            vec![pool("p", &[addresses]), ad, peer("other", json!({"peerAddress": "1.2.3.9"}))],
        ]
        .concat()
    };
    check(vec![
        ("a literal", literal("1234:2345"), Fine),
        ("a large one", literal("large:123:456:7890"), Fine),
        ("a wrong format", literal("1234"), Later("there is no community")),
        ("the first does not fit", literal("99999999:1"), Refused("99999999")),
        ("the second does not fit", literal("1:99999999"), Refused("99999999")),
        ("an unknown name", literal("flarb"), Later("there is no community")),
        (
            "a literal twice",
            vec![pool("p", &["1.2.3.0/24"]), ("bgp", "ad", json!({"communities": ["1234:5678", "1234:5678"]}))],
            Refused("duplicate"),
        ),
        ("a wrong format in a Community", vec![("community", "c", alias("flarb", "1234"))], Refused("1234")),
        ("too large in a Community", vec![("community", "c", alias("flarb", "99999999:1"))], Refused("99999999")),
        ("too large behind", vec![("community", "c", alias("flarb", "1:99999999"))], Refused("99999999")),
        (
            "twice in two",
            vec![("community", "c", alias("flarb", "1:2")), ("community", "d", alias("flarb", "1:3"))],
            Refused("duplicate definition of community"),
        ),
        (
            "twice in one",
            vec![(
                "community",
                "c",
                json!({"communities": [{"name": "flarb", "value": "1:2"}, {"name": "flarb", "value": "1:3"}]}),
            )],
            Refused("flarb"),
        ),
        ("default profile", profile(json!({})), Fine),
        (
            "a profile of its own",
            profile(
                json!({"receiveInterval": 50, "transmitInterval": 51, "detectMultiplier": 52, "echoInterval": 54, "echoMode": false, "passiveMode": true, "minimumTtl": 55}),
            ),
            Fine,
        ),
        ("no profile", vec![peer("r", json!({"bfdProfile": "f"}))], Later("there is no BFDProfile")),
        ("receive interval too low", profile(json!({"receiveInterval": 2})), Refused("receiveInterval")),
        ("receive interval too high", profile(json!({"receiveInterval": 90_000})), Refused("receiveInterval")),
        (
            "echo and IPv6",
            echo("fc00:f853:ccd:e793::/64", json!({})),
            Refused("has BFD echo enabled, which is not possible"),
        ),
        ("echo and IPv6 of another peer", echo("fc00:f853:ccd:e793::/64", json!({"peers": ["other"]})), Fine),
        ("echo and IPv4", echo("10.20.0.0/16", json!({})), Fine),
    ]);
}

#[test]
fn what_is_elsewhere_and_what_is_in_use() {
    let cluster =
        read(&[("bfd", "f", json!({})), peer("r", json!({"bfdProfile": "f"})), pool("p", &["10.0.0.0/24"])]).unwrap();
    let told: Vec<String> = judge(&cluster, "other").iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|text| text.contains("resource must be created in other namespace")), "{told:?}");
    let in_use = |name: &str| in_use(&cluster, &ObjectKey::new(Kind::BfdProfile, NAMESPACE, name));
    assert_eq!(in_use("f").unwrap().message, "failed to delete BFDProfile f, used by BGPPeer r");
    assert_eq!(in_use("g"), None);
}
