//! The explanation agrees with `decide`, whatever the objects; and every question has an answer.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use headwater_explain::{Action, Path, Place, Question, Target, VerdictKind, World};
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::nat::{Masquerade, ServiceSnapshot, Transport};
use headwater_service_nat::{Decision, Packet, Place as From, ServiceNat, decide, facts};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use support::{NODES, checked, cluster, options};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Few, so that Services collide.
const ADDRESSES: [&str; 4] = ["10.96.0.1", "10.96.0.2", "203.0.113.1", "203.0.113.2"];
const PORTS: [u16; 3] = [80, 81, 30080];

fn service() -> impl Strategy<Value = Value> {
    let policy = || select(vec!["Cluster", "Local"]);
    (
        select(&NAMES[..]),
        select(&ADDRESSES[..2]),
        vec(select(&ADDRESSES[..]), 0..3),
        vec(select(&ADDRESSES[..]), 0..2),
        (policy(), policy()),
        option::of(select(vec!["preserve", "preserve-direct", "masquerade"])),
        vec((select(&PORTS[..2]), option::of(select(vec![30080_u16, 30081])), select(vec!["TCP", "UDP"])), 1..3),
        option::of(select(vec!["198.51.100.0/24", "203.0.113.0/24"])),
        option::of(Just(30080_u16)),
    )
        .prop_map(|(name, cluster_ip, external, ingress, (inside, outside), keep, ports, ranges, health)| {
            let ports: Vec<Value> = ports
                .iter()
                .enumerate()
                .map(|(at, (port, node_port, protocol))| {
                    json!({"name": format!("p{at}"), "port": port, "nodePort": node_port, "protocol": protocol})
                })
                .collect();
            let annotations = keep.map(|keep| json!({"headwater.dev/source-ip": keep})).unwrap_or_else(|| json!({}));
            json!({
                "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
                "spec": {
                    "type": "LoadBalancer", "clusterIP": cluster_ip, "externalIPs": external, "ports": ports,
                    "internalTrafficPolicy": inside, "externalTrafficPolicy": outside,
                    "loadBalancerSourceRanges": ranges.into_iter().collect::<Vec<_>>(),
                    "healthCheckNodePort": health,
                },
                "status": {"loadBalancer": {"ingress": ingress.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}},
            })
        })
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint =
        (1_u8..4, 2_u8..5, any::<bool>(), option::of(select(vec![1, 2, 3]))).prop_map(|(node, last, ready, on)| {
            json!({
                "addresses": [format!("10.244.{node}.{last}")],
                "conditions": {"ready": ready},
                "nodeName": on.map(|on| format!("node-{on}")),
            })
        });
    (select(&NAMES[..]), vec(endpoint, 0..5)).prop_map(|(name, endpoints)| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 8081, "protocol": "UDP"}],
            "endpoints": endpoints,
        })
    })
}

fn some_cluster() -> impl Strategy<Value = Cluster> {
    (vec(service(), 0..4), vec(slice(), 0..4)).prop_map(|(services, slices)| {
        let mut all = cluster(NODES);
        for value in services {
            all.apply(&Change::Set(Object::Service(
                serde_json::from_value::<_>(value).map(std::sync::Arc::new).unwrap(),
            )));
        }
        for value in slices {
            let slice = serde_json::from_value::<_>(value).map(std::sync::Arc::new).unwrap();
            all.apply(&Change::Set(Object::EndpointSlice(slice)));
        }
        all
    })
}

fn some_question() -> impl Strategy<Value = Question> {
    let from = select(vec!["198.51.100.7", "10.244.1.9", "10.244.1.2", "192.0.2.11", "192.0.2.13", "203.0.113.1"]);
    let to =
        select(vec!["10.96.0.1", "10.96.0.2", "10.96.0.3", "203.0.113.1", "203.0.113.2", "192.0.2.11", "192.0.2.12"]);
    (
        from,
        select(vec!["tcp", "udp", "http"]),
        to,
        select(vec![80_u16, 81, 30080, 30081]),
        select(vec!["node-1", "node-2", "node-3"]),
    )
        .prop_map(|(from, scheme, to, port, node)| {
            let target: Target = format!("{scheme}://{to}:{port}").parse().unwrap();
            let mut question = Question::new(from.parse().unwrap(), target);
            question.node = Some(node.into());
            question
        })
}

/// Of the whole cluster, as the node makes it.
fn snapshot(cluster: &Cluster, node: &str) -> std::sync::Arc<ServiceSnapshot> {
    let mut options = options().services;
    options.node = facts(cluster, node, Vec::new()).unwrap();
    options.node.addresses = options.node.primary.clone();
    ServiceNat::new(options).apply(cluster, &[]).snapshot
}

fn place(snapshot: &ServiceSnapshot, source: IpAddr) -> From {
    match () {
        () if snapshot.node.is_local_pod(source) => From::Pod,
        () if snapshot.node.node_port_addresses.contains(&source) => From::Node,
        () => From::Remote,
    }
}

fn agrees(decision: Decision<'_>, paths: &[Path], source: IpAddr) -> Result<(), TestCaseError> {
    let first: BTreeSet<Action> = paths.iter().map(|path| path.hops[0].action).collect();
    let endpoints: Vec<SocketAddr> = paths.iter().flat_map(|path| path.endpoints.iter().copied()).collect();
    let distinct: BTreeSet<SocketAddr> = endpoints.iter().copied().collect();
    prop_assert_eq!(distinct.len(), endpoints.len(), "each endpoint has one way");
    match decision {
        Decision::Reject(_) => prop_assert_eq!(first, BTreeSet::from([Action::Refuse])),
        Decision::Drop(_) => prop_assert_eq!(first, BTreeSet::from([Action::Drop])),
        Decision::Pass => {
            prop_assert!(first.is_subset(&BTreeSet::from([Action::Route, Action::Answer])), "{:?}", first)
        }
        Decision::Forward { rules, slots, masquerade, .. } => {
            let of = |slots: &[headwater_model::nat::Slot]| -> BTreeSet<SocketAddr> {
                slots.iter().map(|slot| rules.endpoint(*slot).unwrap().address).collect()
            };
            prop_assert_eq!(&distinct, &of(slots), "without hints a node's own endpoints are those of the Cluster set");
            for path in paths {
                let itself = path.endpoints.iter().any(|endpoint| endpoint.ip() == source);
                let action = path.hops[0].action;
                match masquerade {
                    Masquerade::Always => prop_assert_eq!(action, Action::Masquerade),
                    _ if itself && action != Action::Tunnel => prop_assert_eq!(action, Action::Masquerade),
                    Masquerade::UnlessKept => {}
                    _ => prop_assert_eq!(action, Action::Translate),
                }
                if masquerade != Masquerade::UnlessKept {
                    prop_assert!(action != Action::Tunnel);
                }
            }
        }
    }
    Ok(())
}

/// The packet of a question, as its node sees it.
fn packet(question: &Question, snapshot: &ServiceSnapshot) -> Packet {
    let source: IpAddr = question.from.to_string().parse().unwrap();
    let headwater_explain::Host::Address(to) = question.target.host else { unreachable!() };
    Packet {
        place: place(snapshot, source),
        source,
        destination: SocketAddr::new(to, question.target.port),
        protocol: if question.target.scheme.as_str() == "udp" { Transport::Udp } else { Transport::Tcp },
    }
}

#[test]
fn the_questions_meet_every_kind_of_decision() {
    let mut runner = TestRunner::deterministic();
    let mut met: BTreeSet<String> = BTreeSet::new();
    for _ in 0..2000 {
        let (cluster, question) = (some_cluster(), some_question()).new_tree(&mut runner).unwrap().current();
        let snapshot = snapshot(&cluster, question.node.as_deref().unwrap());
        met.insert(match decide(&snapshot, &packet(&question, &snapshot)) {
            Decision::Forward { masquerade, .. } => format!("{masquerade:?}"),
            other => format!("{other:?}"),
        });
    }
    let all = [
        "Always",
        "Drop(NoLocalEndpoints)",
        "Drop(Source)",
        "Drop(UnknownAddress)",
        "HairpinOnly",
        "Pass",
        "Reject(NoEndpoints)",
        "Reject(UnknownPort)",
        "UnlessKept",
    ];
    assert_eq!(met.iter().collect::<Vec<_>>(), all);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_node_does_what_its_snapshot_says(cluster in some_cluster(), question in some_question()) {
        let node = question.node.clone().unwrap();
        let snapshot = snapshot(&cluster, &node);
        let packet = packet(&question, &snapshot);
        let source = packet.source;
        let explanation = checked(&World::new(cluster.clone(), options()), &question);
        prop_assert_eq!(explanation.answers.len(), 1);
        let answer = &explanation.answers[0];
        prop_assert_eq!(answer.nodes.clone(), vec![node.clone()]);
        for path in &answer.paths {
            prop_assert_eq!(&path.hops[0].at, &Place::Node(node.clone()));
            let kept = path.sees.as_ref().is_some_and(|sees| sees.peer.ip() == Some(source));
            match path.verdict.kind {
                VerdictKind::Kept => prop_assert!(kept),
                VerdictKind::Lost => prop_assert!(!kept),
                _ => prop_assert!(path.endpoints.is_empty()),
            }
        }
        agrees(decide(&snapshot, &packet), &answer.paths, source)?;
    }

    #[test]
    fn every_question_has_an_answer(
        cluster in some_cluster(),
        mut question in some_question(),
        node in option::of(select(vec!["node-1", "node-9"])),
        other in option::of(any::<IpAddr>()),
        target in "(tcp|http|https|udp)://[a-z0-9.\\[\\]:]{1,20}:[0-9]{1,5}/?",
        header in ".{0,40}",
    ) {
        question.node = node.map(Into::into);
        question.sender = other;
        question.proxy_protocol = other;
        question.headers = vec![("X-Forwarded-For".to_owned(), header.clone()), (header, "a".to_owned())];
        if let Ok(target) = target.parse() {
            question.target = target;
        }
        for gateway_here in [false, true] {
            let options = headwater_explain::Options { gateway_here, ..options() };
            checked(&World::new(cluster.clone(), options), &question);
        }
    }

    #[test]
    fn no_text_breaks_the_reading_of_targets(text in ".{0,60}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
    }
}
