//! What is kept of an object: what somebody reads. The rest would fill the memory of every gateway.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use ahash::AHashSet;
use headwater_model::metallb;
use headwater_model::object::{
    EndpointHints, EndpointSlice, INTERNAL_IP, Metadata, NETWORK_UNAVAILABLE, Node, SERVICE_NAME_LABEL,
    SERVICE_PROXY_NAME_LABEL, Service, ServiceStatus, TO_BE_DELETED_TAINT, ZONE_LABEL,
};

/// Who reads the objects, and so what is kept of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reader {
    /// Gateways and their controller: not what load balancers say of a Service, which changes often, nor hints.
    #[default]
    Gateway,
    /// The controller where nodes proxy Services: not hints.
    Controller,
    /// The service proxy of a node: both. Headless Services' slices, and what is left to another proxy, are not read.
    Node,
    /// The service proxy of a node that announces addresses, too: what both need.
    Announcer,
    /// Who gives Services addresses and announces them: all labels, what a Service wants and has, whether a Node's
    /// network is set up; not hints.
    LoadBalancer,
    /// Whoever looks once, at everything: nothing of this is dropped.
    Everything,
}

impl Reader {
    /// Whether it gives addresses to Services, or announces them, and needs what they are chosen by.
    fn balances(self) -> bool {
        matches!(self, Self::LoadBalancer | Self::Announcer | Self::Everything)
    }
}

/// Annotations that somebody reads begin with one of these.
const ANNOTATIONS: [&str; 7] = [
    "nginx.ingress.kubernetes.io/",
    "headwater.dev/",
    "kubernetes.io/ingress.class",
    "ingressclass.kubernetes.io/",
    // Alauda's: of an Ingress, a Rule, an ALB2.
    "alb.",
    // Of Services of type LoadBalancer, in MetalLB's words of today and of once.
    metallb::PREFIX,
    metallb::LEGACY_PREFIX,
];

/// Labels that somebody reads.
const LABELS: [&str; 3] = [SERVICE_NAME_LABEL, SERVICE_PROXY_NAME_LABEL, ZONE_LABEL];

/// What many objects share, each held once.
#[derive(Debug)]
struct Shared<T: ?Sized>(AHashSet<Arc<T>>);

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(AHashSet::default())
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// More are not remembered: they are no longer shared by many.
    const MOST: usize = 10_000;

    fn share(&mut self, value: &mut Arc<T>) {
        match self.0.get(value) {
            Some(shared) => *value = shared.clone(),
            None if self.0.len() < Self::MOST => drop(self.0.insert(value.clone())),
            None => {}
        }
    }
}

/// Names and hints of the objects of one watch.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: Shared<str>,
    hints: Shared<EndpointHints>,
}

impl Names {
    pub(crate) fn share(&mut self, name: &mut Arc<str>) {
        self.names.share(name);
    }
}

/// Drops the annotations and labels that nobody reads.
pub(crate) fn metadata(metadata: &mut Metadata, reader: Reader, names: &mut Names) {
    metadata
        .annotations
        .retain(|name, _| ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)) || is_of_path(name));
    metadata.labels.retain(|name, _| reader.balances() || LABELS.contains(&&**name) || is_of_alb(name));
    names.share(&mut metadata.namespace);
}

/// `alb2.cpaas.io/name`, `project.cpaas.io/shop`, `cpaas.io/project`, `cpaas.io/role`: whose a Frontend, Rule or
/// namespace is, whatever the domain.
fn is_of_alb(label: &str) -> bool {
    label.starts_with("alb2.")
        || label.starts_with("project.")
        || label.split_once('/').is_some_and(|(_, name)| matches!(name, "project" | "role"))
}

/// `index.0-1.alb.ingress.cpaas.io/...`: of one path of an Ingress.
fn is_of_path(annotation: &str) -> bool {
    annotation.starts_with("index.") && annotation.contains(".alb.ingress.")
}

/// Drops what a load balancer says of the Service, which no gateway reads here: who publishes the addresses reads them
/// as `Observed`. Drops what addresses are chosen by, where nobody chooses any.
pub(crate) fn service(service: &mut Service, reader: Reader) {
    if !reader.balances() {
        let spec = &mut service.spec;
        spec.selector = BTreeMap::new();
        (spec.load_balancer_ip, spec.load_balancer_class) = (None, None);
        (spec.ip_families, spec.ip_family_policy) = (Vec::new(), None);
    }
    match reader {
        Reader::Gateway => service.status = ServiceStatus::default(),
        _ => service.status.load_balancer.ingress.shrink_to_fit(),
    }
}

/// Gives back the room that lists grew beyond their length, and shares what endpoints have in common.
pub(crate) fn endpoint_slice(slice: &mut EndpointSlice, reader: Reader, names: &mut Names) {
    slice.endpoints.shrink_to_fit();
    slice.ports.shrink_to_fit();
    for endpoint in &mut slice.endpoints {
        endpoint.addresses.truncate(1);
        endpoint.addresses.shrink_to_fit();
        if let Some(node) = &mut endpoint.node_name {
            names.share(node);
        }
        match (reader, &mut endpoint.hints) {
            (Reader::Node | Reader::Announcer | Reader::Everything, Some(hints)) => names.hints.share(hints),
            (_, hints) => *hints = None,
        }
    }
}

/// Keeps the addresses that nodes reach each other by, whether the Node is about to go and, for who announces addresses,
/// whether its network is set up; what else a Node says of itself changes every few seconds.
pub(crate) fn node(node: &mut Node, reader: Reader) {
    let conditions = &mut node.status.conditions;
    conditions.retain(|condition| reader.balances() && condition.condition_type == NETWORK_UNAVAILABLE);
    conditions.shrink_to_fit();
    node.status.addresses.retain(|address| address.address_type == INTERNAL_IP);
    node.status.addresses.shrink_to_fit();
    node.spec.taints.retain(|taint| taint.key == TO_BE_DELETED_TAINT);
    node.spec.taints.shrink_to_fit();
    // Of other taints, of which nothing is kept.
    node.metadata.generation = 0;
}

#[cfg(test)]
mod tests {
    use headwater_model::object::DEFAULT_CLASS_ANNOTATION;

    use super::*;

    #[test]
    fn only_annotations_and_labels_that_somebody_reads_are_kept() {
        let kept = [
            "alb.ingress.cpaas.io/redirect-host",
            "alb.rule.cpaas.io/rewrite-request",
            "headwater.dev/anything",
            "index.0-1.alb.ingress.cpaas.io/redirect-host",
            DEFAULT_CLASS_ANNOTATION,
            "kubernetes.io/ingress.class",
            "nginx.ingress.kubernetes.io/rewrite-target",
        ];
        let dropped = [
            "index.example.com/a",
            "kubectl.kubernetes.io/last-applied-configuration",
            "meta.helm.sh/release-name",
            "team",
        ];
        let all = || kept.iter().chain(&dropped).map(|name| ((*name).to_owned(), "x".to_owned()));
        let mut slimmed = Metadata {
            annotations: all().collect(),
            labels: all().chain([(SERVICE_NAME_LABEL.to_owned(), "web".to_owned())]).collect(),
            ..Metadata::default()
        };
        let mut everything = slimmed.clone();
        metadata(&mut slimmed, Reader::Gateway, &mut Names::default());
        assert_eq!(slimmed.annotations.keys().collect::<Vec<_>>(), kept);
        assert_eq!(slimmed.labels.keys().collect::<Vec<_>>(), [SERVICE_NAME_LABEL]);
        for (label, is_kept) in [
            ("alb2.example.org/frontend", true),
            ("project.cpaas.io/shop", true),
            ("cpaas.io/project", true),
            ("cpaas.io/role", true),
            ("project", false),
            ("cpaas.io/projects", false),
        ] {
            assert_eq!(is_of_alb(label), is_kept, "{label}");
        }
        metadata(&mut everything, Reader::Everything, &mut Names::default());
        assert_eq!(everything.annotations, slimmed.annotations);
        assert_eq!(everything.labels.len(), 1 + kept.len() + dropped.len());
    }

    #[test]
    fn a_status_or_hint_is_a_change_to_a_node_and_none_to_a_gateway() {
        for (reader, is_none) in [(Reader::Gateway, true), (Reader::Node, false), (Reader::Everything, false)] {
            status_and_hint(reader, is_none);
        }
    }

    fn status_and_hint(reader: Reader, is_none: bool) {
        let of = |json: &str| -> Service {
            let mut read: Service = serde_json::from_str(json).unwrap();
            service(&mut read, reader);
            read
        };
        let named = r#"{"metadata": {"name": "web"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}"#;
        assert_eq!(of(named) == of(r#"{"metadata": {"name": "web"}}"#), is_none, "{reader:?}");
        let of = |hints: &str| -> EndpointSlice {
            let json = format!(
                r#"{{"metadata": {{"name": "web-1"}}, "addressType": "IPv4",
                    "endpoints": [{{"addresses": ["10.0.0.1"]{hints}}}]}}"#
            );
            let mut read: EndpointSlice = serde_json::from_str(&json).unwrap();
            endpoint_slice(&mut read, reader, &mut Names::default());
            read
        };
        assert_eq!(of(r#", "hints": {"forZones": [{"name": "a"}]}"#) == of(""), is_none, "{reader:?}");
    }

    #[test]
    fn what_endpoints_have_in_common_is_held_once() {
        let endpoint =
            r#"{"addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n", "hints": {"forNodes": [{"name": "n"}]}}"#;
        let json =
            format!(r#"{{"metadata": {{"name": "a"}}, "addressType": "IPv4", "endpoints": [{endpoint}, {endpoint}]}}"#);
        let mut slice: EndpointSlice = serde_json::from_str(&json).unwrap();
        endpoint_slice(&mut slice, Reader::Node, &mut Names::default());
        let [first, second] = &slice.endpoints[..] else { panic!("{slice:?}") };
        assert!(Arc::ptr_eq(first.node_name.as_ref().unwrap(), second.node_name.as_ref().unwrap()));
        assert!(Arc::ptr_eq(first.hints.as_ref().unwrap(), second.hints.as_ref().unwrap()));
        assert_eq!(first.addresses, ["10.0.0.1"]);
    }

    #[test]
    fn a_heartbeat_of_a_node_is_no_change() {
        let of = |generation: u32, more: &str| -> Node {
            let json = format!(
                r#"{{"metadata": {{"name": "n", "generation": {generation}}}, "spec": {{"podCIDRs": ["10.1.0.0/24"],
                    "taints": [{{"key": "busy-{generation}", "effect": "NoSchedule"}}]}},
                    "status": {{"addresses": [{{"type": "InternalIP", "address": "192.0.2.1"}}{more}}}}}"#
            );
            let mut read: Node = serde_json::from_str(&json).unwrap();
            node(&mut read, Reader::Gateway);
            read
        };
        let heartbeat = r#", {"type": "Hostname", "address": "n"}], "images": [{"names": ["a"], "sizeBytes": 1}],
            "conditions": [{"type": "Ready", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]"#;
        assert_eq!(of(1, "]"), of(2, heartbeat));
        let moved = r#", {"type": "InternalIP", "address": "2001:db8::1"}]"#;
        assert_ne!(of(1, "]"), of(1, moved));
    }

    #[test]
    fn what_addresses_are_chosen_by_is_kept_for_who_chooses() {
        let json = r#"{"metadata": {"name": "a", "labels": {"team": "b"}, "annotations": {"metallb.io/address-pool": "p",
            "metallb.universe.tf/allow-shared-ip": "k"}}, "spec": {"selector": {"app": "a"}, "loadBalancerClass": "c",
            "loadBalancerIP": "192.0.2.1", "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}}"#;
        let of = |reader| -> Service {
            let mut read: Service = serde_json::from_str(json).unwrap();
            service(&mut read, reader);
            metadata(&mut read.metadata, reader, &mut Names::default());
            read
        };
        assert_eq!(of(Reader::LoadBalancer), serde_json::from_str(json).unwrap());
        assert_eq!(of(Reader::Node).spec, Default::default());
        let json = r#"{"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}]}}"#;
        for (reader, kept) in [(Reader::LoadBalancer, true), (Reader::Node, false)] {
            let mut read: Node = serde_json::from_str(json).unwrap();
            node(&mut read, reader);
            assert_eq!((read.is_network_unavailable(), read.status.conditions.len()), (kept, usize::from(kept)));
        }
    }

    #[test]
    fn a_namespace_is_held_once() {
        let mut names = Names::default();
        let [mut first, mut second]: [Arc<str>; 2] = ["shop".into(), "shop".into()];
        names.share(&mut first);
        names.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
    }
}
