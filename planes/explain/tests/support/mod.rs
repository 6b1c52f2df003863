//! A cluster of three nodes, and short ways to ask and to read the answer.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test code, of which each file uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_explain::{
    Answer, Explanation, Flow, Hop, Interfaces, Options, Path, Place, Question, VerdictKind, World, explain,
};
use headwater_kube_io::read_str;
use headwater_model::cluster::{Change, Cluster};

/// `node-1` and `node-2` with tunnels, `node-3` without.
pub const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: node-1
  annotations: {headwater.dev/tunnel: '{"address":"192.0.2.11","port":8474}'}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}, {type: InternalIP, address: "2001:db8:2::11"}]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-2
  annotations: {headwater.dev/tunnel: '{"address":"192.0.2.12","port":8474}'}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}, {type: InternalIP, address: "2001:db8:2::12"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-3}
spec: {podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.13}, {type: InternalIP, address: "2001:db8:2::13"}]}
---
"#;

pub fn cluster(text: &str) -> Cluster {
    let reading = read_str("test.yaml", text);
    assert!(reading.findings.is_empty(), "{:#?}", reading.findings);
    let mut cluster = Cluster::default();
    for (object, _) in reading.objects {
        cluster.apply(&Change::Set(object));
    }
    cluster
}

pub fn options() -> Options {
    Options {
        services: headwater_service_nat::Options {
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
            ..Default::default()
        },
        translate: headwater_translate::Options { serve_all_without_classes: true, ..Default::default() },
        ..Options::default()
    }
}

/// The three nodes and what `text` has.
pub fn world(text: &str) -> World {
    World::new(cluster(&format!("{NODES}{text}")), options())
}

/// Service `shop/web`: 10.96.0.1:80, NodePort 30080, load balancer 203.0.113.1, external IP 203.0.113.2; `more` goes into
/// its spec.
pub fn service(annotations: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:10:96::1"]
  externalIPs: [203.0.113.2]
  ports: [{{port: 80, nodePort: 30080}}]
  {more}
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}, {{ip: "2001:db8:f::1"}}]}}}}
---
"#
    )
}

/// A slice of `shop/SERVICE` at port 8080: `ADDRESS@NODE` each.
pub fn slice(service: &str, endpoints: &[&str]) -> String {
    let v6 = endpoints.first().is_some_and(|endpoint| endpoint.contains("::"));
    let listed: Vec<String> = endpoints
        .iter()
        .map(|endpoint| {
            let (address, node) = endpoint.split_once('@').unwrap();
            let node = if node.is_empty() { String::new() } else { format!(", nodeName: {node}") };
            format!("{{addresses: [\"{address}\"]{node}}}")
        })
        .collect();
    let (name, family) = if v6 { ("v6", "IPv6") } else { ("v4", "IPv4") };
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports: [{{port: 8080}}]
endpoints: [{}]
---
",
        listed.join(", ")
    )
}

pub fn question(from: &str, target: &str, node: &str) -> Question {
    let mut question = Question::new(from.parse().unwrap(), target.parse().unwrap());
    question.node = (!node.is_empty()).then(|| node.into());
    question
}

pub fn ask(world: &World, from: &str, target: &str, node: &str) -> Explanation {
    checked(world, &question(from, target, node))
}

/// Explains, and looks at what holds for every explanation.
pub fn checked(world: &World, question: &Question) -> Explanation {
    let explanation = explain(world, question);
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation, "{json}");
    assert!(headwater_explain::render(&explanation).ends_with('\n'));
    assert!(!explanation.answers.is_empty());
    for path in explanation.answers.iter().flat_map(|answer| &answer.paths) {
        assert!(!path.verdict.why.is_empty());
        assert!(path.verdict.hop.is_none_or(|hop| hop >= 1 && hop as usize <= path.hops.len()), "{path:#?}");
        for (hop, next) in path.hops.iter().zip(path.hops.iter().skip(1)) {
            if next.at != Place::Gateway {
                let after = hop.after.as_ref().unwrap();
                assert!(*after == next.before, "what leaves a hop comes to the next: {path:#?}");
            }
        }
    }
    explanation
}

pub fn verdict(kind: VerdictKind) -> String {
    serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()
}

fn place(place: &Place) -> String {
    match place {
        Place::Node(name) => name.to_string(),
        other => serde_json::to_value(other).unwrap().as_str().unwrap().to_owned(),
    }
}

fn hop(hop: &Hop) -> String {
    format!("{}:{}", place(&hop.at), serde_json::to_value(hop.action).unwrap().as_str().unwrap())
}

/// `VERDICT ENDPOINTS sees PEER by NODE:ACTION NODE:ACTION`, with `@HOP` behind the verdict where a hop did it.
pub fn short(path: &Path) -> String {
    let at = path.verdict.hop.map(|hop| format!("@{hop}")).unwrap_or_default();
    let endpoints: Vec<String> = path.endpoints.iter().map(|endpoint| endpoint.ip().to_string()).collect();
    let mut words = vec![format!("{}{at}", verdict(path.verdict.kind))];
    words.extend((!endpoints.is_empty()).then(|| endpoints.join(",")));
    words.extend(path.sees.as_ref().map(|sees| format!("sees {}", sees.peer)));
    words.push("by".to_owned());
    words.extend(path.hops.iter().map(hop));
    words.join(" ")
}

/// All paths of all answers.
pub fn shorts(explanation: &Explanation) -> Vec<String> {
    explanation.answers.iter().flat_map(|answer| &answer.paths).map(short).collect()
}

/// `PLACE SOURCE -> DESTINATION`, with the outer packet in brackets.
pub fn back(path: &Path) -> Vec<String> {
    let flow = |flow: &Flow| format!("{} -> {}", flow.source, flow.destination);
    path.reply
        .iter()
        .map(|leg| {
            let outer = leg.outer.as_ref().map(|outer| format!(" [{}]", flow(outer))).unwrap_or_default();
            format!("{} {}{outer}", place(&leg.at), flow(&leg.flow))
        })
        .collect()
}

pub fn nodes(answer: &Answer) -> Vec<&str> {
    answer.nodes.iter().map(|node| &**node).collect()
}

/// `node-1` uses that address towards its own pods.
pub fn bridged(mut options: Options) -> Options {
    let towards = vec![("10.244.1.0/24".parse().unwrap(), "10.244.1.1".parse().unwrap())];
    let known = Interfaces { addresses: vec!["10.244.1.1".parse().unwrap()], towards };
    options.interfaces = BTreeMap::from([(Arc::from("node-1"), known)]);
    options
}
