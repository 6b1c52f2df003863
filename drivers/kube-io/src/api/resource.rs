//! Where the objects of a kind stand on an API server.

use std::sync::Arc;

use headwater_model::origin::{Kind, ObjectKey};

/// What one watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) kind: Kind,
    /// Empty: everywhere, or a cluster-scoped kind.
    pub(crate) namespace: Arc<str>,
    /// One object alone.
    pub(crate) name: Option<Arc<str>>,
    /// Label selector.
    pub(crate) labels: Option<Arc<str>>,
}

impl Scope {
    pub(crate) fn whole(kind: Kind, namespace: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: None, labels: None }
    }

    pub(crate) fn one(key: &ObjectKey) -> Self {
        Self { kind: key.kind, namespace: key.id.namespace.clone(), name: Some(key.id.name.clone()), labels: None }
    }

    pub(crate) fn covers(&self, key: &ObjectKey) -> bool {
        self.kind == key.kind
            && (self.namespace.is_empty() || self.namespace == key.id.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.id.name)
    }

    /// Path and query of the collection, ready for more parameters.
    pub(crate) fn uri(&self) -> String {
        let version = self.kind.api_version();
        let root = if version.contains('/') { "apis" } else { "api" };
        let mut uri = format!("/{root}/{version}/");
        if !self.namespace.is_empty() {
            uri.push_str("namespaces/");
            push_encoded(&mut uri, &self.namespace);
            uri.push('/');
        }
        uri.push_str(plural(self.kind));
        uri.push('?');
        if let Some(name) = &self.name {
            push_parameter(&mut uri, "fieldSelector", &format!("metadata.name={name}"));
        }
        if let Some(labels) = &self.labels {
            push_parameter(&mut uri, "labelSelector", labels);
        }
        uri
    }

    /// For messages: `secrets "web-tls" in namespace "shop"`.
    pub(crate) fn describe(&self) -> String {
        let mut text = plural(self.kind).to_owned();
        if let Some(name) = &self.name {
            text.push_str(&format!(" \"{name}\""));
        }
        if !self.namespace.is_empty() {
            text.push_str(&format!(" in namespace \"{}\"", self.namespace));
        }
        text
    }

    /// The API group, as RBAC rules write it.
    pub(crate) fn group(&self) -> &'static str {
        self.kind.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether a server may well not have the kind, because a definition brings it (a CRD).
    pub(crate) fn is_optional(&self) -> bool {
        !matches!(self.group(), "" | "discovery.k8s.io" | "networking.k8s.io")
    }
}

/// The kind as paths and RBAC rules write it.
pub(crate) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::IngressClass => "ingressclasses",
        Kind::Ingress => "ingresses",
        Kind::GatewaySettings => "gatewaysettings",
        Kind::Node => "nodes",
        Kind::Alb2 => "alaudaloadbalancer2",
        Kind::Frontend => "frontends",
        Kind::Rule => "rules",
        Kind::TimeoutPolicy => "timeoutpolicies",
        Kind::IpAddressPool => "ipaddresspools",
        Kind::L2Advertisement => "l2advertisements",
        Kind::Community => "communities",
        Kind::BfdProfile => "bfdprofiles",
        Kind::BgpPeer => "bgppeers",
        Kind::BgpAdvertisement => "bgpadvertisements",
        Kind::ServiceL2Status => "servicel2statuses",
        Kind::ServiceBgpStatus => "servicebgpstatuses",
        Kind::ConfigurationState => "configurationstates",
        other => unreachable!("no resource is known for kind {other}"),
    }
}

/// Appends `name=value&`.
pub(crate) fn push_parameter(uri: &mut String, name: &str, value: &str) {
    uri.push_str(name);
    uri.push('=');
    push_encoded(uri, value);
    uri.push('&');
}

/// RFC 3986 section 2: everything but unreserved characters as percent and two digits.
fn push_encoded(uri: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_follows_group_namespace_and_name() {
        let secret = Scope::one(&ObjectKey::new(Kind::Secret, "shop", "web-tls"));
        let labels = Scope { labels: Some("team in (a,b)".into()), ..Scope::whole(Kind::Namespace, "") };
        for (scope, uri) in [
            (Scope::whole(Kind::Service, ""), "/api/v1/services?"),
            (Scope::whole(Kind::Ingress, "shop"), "/apis/networking.k8s.io/v1/namespaces/shop/ingresses?"),
            (Scope::whole(Kind::GatewaySettings, ""), "/apis/headwater.dev/v1alpha1/gatewaysettings?"),
            (Scope::whole(Kind::Alb2, ""), "/apis/crd.alauda.io/v2beta1/alaudaloadbalancer2?"),
            (Scope::whole(Kind::Rule, "shop"), "/apis/crd.alauda.io/v1/namespaces/shop/rules?"),
            (Scope::whole(Kind::BgpPeer, "lb"), "/apis/metallb.io/v1beta2/namespaces/lb/bgppeers?"),
            (Scope::whole(Kind::IpAddressPool, ""), "/apis/metallb.io/v1beta1/ipaddresspools?"),
            (secret, "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dweb-tls&"),
            (labels, "/api/v1/namespaces?labelSelector=team%20in%20%28a%2Cb%29&"),
        ] {
            assert_eq!(scope.uri(), uri);
        }
    }

    #[test]
    fn every_kind_has_a_path() {
        for kind in Kind::ALL {
            assert!(Scope::whole(kind, "").uri().contains(plural(kind)));
        }
    }

    #[test]
    fn a_scope_covers_its_own_objects_only() {
        let key = |kind, namespace, name| ObjectKey::new(kind, namespace, name);
        let one = Scope::one(&key(Kind::Secret, "a", "x"));
        let namespace = Scope::whole(Kind::Secret, "a");
        let everywhere = Scope::whole(Kind::Secret, "");
        for (object, covered) in [
            (key(Kind::Secret, "a", "x"), [true, true, true]),
            (key(Kind::Secret, "a", "y"), [false, true, true]),
            (key(Kind::Secret, "b", "x"), [false, false, true]),
            (key(Kind::ConfigMap, "a", "x"), [false, false, false]),
        ] {
            assert_eq!([&one, &namespace, &everywhere].map(|scope| scope.covers(&object)), covered, "{object}");
        }
    }
}
