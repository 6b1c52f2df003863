//! Which node a pod runs on: of those that it allows the one with the fewest pods of the same owner, then the one with
//! the fewest pods.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::Method;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::api::call;

/// Pods of one node, as kubelets have it.
const PODS: usize = 110;

/// Until what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Namespace and name.
type Key = (String, String);

enum Seen {
    Pod(Box<Event<Pod>>),
    Node(Box<Event<Node>>),
    Failed,
}

/// Watches pods and nodes, and assigns each pod that is on none, for ever.
pub(super) async fn run(client: Client) {
    let pods = watcher(Api::all(client.clone()), watcher::Config::default());
    let nodes = watcher(Api::all(client.clone()), watcher::Config::default());
    let pods = pods.map(|event| event.map_or(Seen::Failed, |event| Seen::Pod(Box::new(event))));
    let nodes = nodes.map(|event| event.map_or(Seen::Failed, |event| Seen::Node(Box::new(event))));
    let mut seen = pin!(stream::select(pods, nodes));
    let (mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new());
    let mut again = false;
    loop {
        let event = tokio::select! {
            event = seen.next() => event,
            () = tokio::time::sleep(PAUSE), if again => Some(Seen::Pod(Box::new(Event::InitDone))),
        };
        match event {
            Some(Seen::Pod(event)) => {
                apply(&mut pods, *event, |pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone()));
            }
            Some(Seen::Node(event)) => apply(&mut nodes, *event, |node| (None, node.metadata.name.clone())),
            // The API server is away; the watch goes on when it is asked again.
            Some(Seen::Failed) => tokio::time::sleep(PAUSE).await,
            None => return,
        }
        again = !assign(&client, &mut pods, &nodes).await;
    }
}

fn apply<T>(objects: &mut BTreeMap<Key, T>, event: Event<T>, name: fn(&T) -> (Option<String>, Option<String>)) {
    let key = |object: &T| {
        let (namespace, name) = name(object);
        (namespace.unwrap_or_default(), name.unwrap_or_default())
    };
    match event {
        Event::Init => objects.clear(),
        Event::InitApply(object) | Event::Apply(object) => {
            objects.insert(key(&object), object);
        }
        Event::Delete(object) => {
            objects.remove(&key(&object));
        }
        Event::InitDone => {}
    }
}

/// Whether every binding that was tried has succeeded. A pod without a fitting node waits for the next event.
async fn assign(client: &Client, pods: &mut BTreeMap<Key, Pod>, nodes: &BTreeMap<Key, Node>) -> bool {
    let mut complete = true;
    let unassigned = |pod: &Pod| {
        pod.metadata.deletion_timestamp.is_none() && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none())
    };
    let pending: Vec<Key> = pods.iter().filter(|(_, pod)| unassigned(pod)).map(|(key, _)| key.clone()).collect();
    for key in pending {
        let Some(node) = choose(&pods[&key], nodes.values(), pods.values()) else { continue };
        let (namespace, name) = &key;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        match call(client, Method::POST, &path, "application/json", Some(&binding)).await {
            Ok(_) => {
                if let Some(spec) = pods.get_mut(&key).and_then(|pod| pod.spec.as_mut()) {
                    spec.node_name = Some(node);
                }
            }
            // Deleted, or assigned by the test: the watch will say so.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            Err(_) => complete = false,
        }
    }
    complete
}

/// The fitting node with the fewest pods of the same owner, then with the fewest pods.
fn choose<'a>(
    pod: &Pod,
    nodes: impl Iterator<Item = &'a Node>,
    pods: impl Iterator<Item = &'a Pod> + Clone,
) -> Option<String> {
    let wanted = host_ports(pod);
    nodes
        .filter(|node| usable(node) && selected(pod, node))
        .filter_map(|node| {
            let name = node.metadata.name.as_ref()?;
            let here = |other: &&Pod| {
                let over = other.status.as_ref().and_then(|status| status.phase.as_deref());
                other.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(name)
                    && !matches!(over, Some("Succeeded" | "Failed"))
            };
            let others = pods.clone().filter(here);
            let (count, kin) =
                (others.clone().count(), others.clone().filter(|other| owner(other) == owner(pod)).count());
            let free = others.flat_map(host_ports).all(|port| !wanted.contains(&port));
            (count < PODS && free).then_some((kin, count, name))
        })
        .min()
        .map(|(.., name)| name.clone())
}

/// The uid of the controller that has made a pod.
fn owner(pod: &Pod) -> Option<&str> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn host_ports(pod: &Pod) -> BTreeSet<(i32, Option<&str>)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| Some((port.host_port?, port.protocol.as_deref()))).collect()
}

fn usable(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    !cordoned && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod's node selector and required node affinity allow the node.
fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let labels = node.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    let field = |name: &str| (name == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    let by_selector = spec.node_selector.iter().flatten().all(|(name, value)| label(name) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    let allows = |term: &NodeSelectorTerm| {
        term.match_fields.iter().flatten().all(|requirement| meets(requirement, field(&requirement.key)))
            && term.match_expressions.iter().flatten().all(|requirement| meets(requirement, label(&requirement.key)))
    };
    by_selector && required.is_none_or(|selector| selector.node_selector_terms.iter().any(allows))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = value.is_some_and(|value| requirement.values.iter().flatten().any(|wanted| wanted == value));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str) -> Node {
        let object = json!({
            "metadata": { "name": name, "labels": { "zone": zone } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        serde_json::from_value(object).unwrap()
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut object = json!({ "metadata": {}, "spec": { "containers": [] } });
        let owner =
            json!({ "apiVersion": "v1", "kind": "Owner", "name": "o", "uid": spec["owner"], "controller": true });
        if spec["owner"].is_string() {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_pod_goes_to_the_emptiest_node_that_it_allows() {
        let nodes = [node("a", "north"), node("b", "south")];
        let busy = [
            pod(json!({ "nodeName": "a", "owner": "set" })),
            pod(
                json!({ "nodeName": "b", "containers": [{ "name": "c", "ports": [{ "containerPort": 1, "hostPort": 1 }] }] }),
            ),
            pod(json!({ "nodeName": "b" })),
        ];
        let affinity = |requirement: serde_json::Value| {
            let terms = json!({ "nodeSelectorTerms": [requirement] });
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } } })
        };
        let field =
            |name: &str| json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] });
        let not = json!({ "matchExpressions": [{ "key": "zone", "operator": "NotIn", "values": ["north"] }] });
        let port = json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 1, "hostPort": 1 }] }] });
        let mut port_in_south = port.clone();
        port_in_south["nodeSelector"] = json!({ "zone": "south" });
        for (spec, expected) in [
            (json!({}), Some("a")),
            (json!({ "owner": "set" }), Some("b")),
            (json!({ "nodeSelector": { "zone": "south" } }), Some("b")),
            (json!({ "nodeSelector": { "zone": "west" } }), None),
            (affinity(field("b")), Some("b")),
            (affinity(field("c")), None),
            (affinity(not), Some("b")),
            (port, Some("a")),
            (port_in_south, None),
        ] {
            let chosen = choose(&pod(spec.clone()), nodes.iter(), busy.iter());
            assert_eq!(chosen.as_deref(), expected, "{spec}");
        }
    }
}
