//! What is kept of an object: what somebody reads. The rest would fill the memory of every gateway.

use std::sync::Arc;

use ahash::AHashSet;
use headwater_model::object::{
    EndpointSlice, Metadata, SERVICE_NAME_LABEL, SERVICE_PROXY_NAME_LABEL, Service, ServiceStatus,
};

/// Annotations that somebody reads begin with one of these.
const ANNOTATIONS: [&str; 5] = [
    "nginx.ingress.kubernetes.io/",
    "headwater.dev/",
    "kubernetes.io/ingress.class",
    "ingressclass.kubernetes.io/",
    "alb.ingress.kubernetes.io/",
];

/// Labels that somebody reads.
const LABELS: [&str; 2] = [SERVICE_NAME_LABEL, SERVICE_PROXY_NAME_LABEL];

/// Names that many objects share, each held once.
#[derive(Debug, Default)]
pub(crate) struct Names(AHashSet<Arc<str>>);

impl Names {
    /// More names are not remembered: they are no longer shared by many.
    const MOST: usize = 10_000;

    pub(crate) fn share(&mut self, name: &mut Arc<str>) {
        match self.0.get(name) {
            Some(shared) => *name = shared.clone(),
            None if self.0.len() < Self::MOST => drop(self.0.insert(name.clone())),
            None => {}
        }
    }
}

/// Drops the annotations and labels that nobody reads.
pub(crate) fn metadata(metadata: &mut Metadata, names: &mut Names) {
    metadata.annotations.retain(|name, _| ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)));
    metadata.labels.retain(|name, _| LABELS.contains(&&**name));
    names.share(&mut metadata.namespace);
}

/// Drops what a load balancer says of the Service: it changes often, and no gateway reads it here. Who publishes the
/// addresses reads them as `Observed`.
pub(crate) fn service(service: &mut Service) {
    service.status = ServiceStatus::default();
}

/// Gives back the room that lists grew beyond their length, and drops the hints: they are for node proxies.
pub(crate) fn endpoint_slice(slice: &mut EndpointSlice) {
    slice.endpoints.shrink_to_fit();
    slice.ports.shrink_to_fit();
    for endpoint in &mut slice.endpoints {
        endpoint.addresses.shrink_to_fit();
        endpoint.hints = None;
    }
}

#[cfg(test)]
mod tests {
    use headwater_model::object::DEFAULT_CLASS_ANNOTATION;

    use super::*;

    #[test]
    fn only_annotations_and_labels_that_somebody_reads_are_kept() {
        let kept = [
            "alb.ingress.kubernetes.io/scheme",
            "headwater.dev/anything",
            DEFAULT_CLASS_ANNOTATION,
            "kubernetes.io/ingress.class",
            "nginx.ingress.kubernetes.io/rewrite-target",
        ];
        let dropped = ["kubectl.kubernetes.io/last-applied-configuration", "meta.helm.sh/release-name", "team"];
        let all = || kept.iter().chain(&dropped).map(|name| ((*name).to_owned(), "x".to_owned()));
        let mut slimmed = Metadata {
            annotations: all().collect(),
            labels: all().chain([(SERVICE_NAME_LABEL.to_owned(), "web".to_owned())]).collect(),
            ..Metadata::default()
        };
        metadata(&mut slimmed, &mut Names::default());
        assert_eq!(slimmed.annotations.keys().collect::<Vec<_>>(), kept);
        assert_eq!(slimmed.labels.keys().collect::<Vec<_>>(), [SERVICE_NAME_LABEL]);
    }

    #[test]
    fn a_status_or_hint_is_no_change_to_a_gateway() {
        let of = |json: &str| -> Service {
            let mut read: Service = serde_json::from_str(json).unwrap();
            service(&mut read);
            read
        };
        let named = r#"{"metadata": {"name": "web"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}"#;
        assert_eq!(of(named), of(r#"{"metadata": {"name": "web"}}"#));
        let of = |hints: &str| -> EndpointSlice {
            let json = format!(
                r#"{{"metadata": {{"name": "web-1"}}, "addressType": "IPv4",
                    "endpoints": [{{"addresses": ["10.0.0.1"]{hints}}}]}}"#
            );
            let mut read: EndpointSlice = serde_json::from_str(&json).unwrap();
            endpoint_slice(&mut read);
            read
        };
        assert_eq!(of(r#", "hints": {"forZones": [{"name": "a"}]}"#), of(""));
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
