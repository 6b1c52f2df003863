//! What the translator is told besides the objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use headwater_model::metallb::NAMESPACE;
use headwater_model::origin::NamespacedName;

/// `spec.controller` of the IngressClasses that Headwater serves.
pub const CONTROLLER: &str = "headwater.dev/ingress";

/// Base domain of Alauda's labels and annotations where none is configured.
pub const LABEL_DOMAIN: &str = "cpaas.io";

/// Which ALB2s are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AlbScope {
    #[default]
    None,
    /// Every one that is read.
    All,
    Only(Vec<NamespacedName>),
}

impl AlbScope {
    pub(crate) fn holds(&self, id: &NamespacedName) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(ids) => ids.contains(id),
        }
    }
}

/// Which Ingresses are served, and what stands in for settings that no object has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `spec.controller` of the classes to serve.
    pub controller: String,
    /// Names of the classes to serve; empty: every class of the controller. A name that stands here is also served when
    /// an Ingress asks for it by the annotation `kubernetes.io/ingress.class` and no such IngressClass exists.
    pub classes: Vec<String>,
    /// Names of another controller's classes to serve as well, whatever their `spec.controller`: a migration. Without
    /// parameters of its own such a class is served with those of the one class of `controller`.
    pub take_over: Vec<String>,
    /// Whether an Ingress without a class is served when no IngressClass is marked as default.
    pub serve_classless: bool,
    /// Whether every Ingress is served, whatever class it names, while no IngressClass exists at all. The only
    /// GatewaySettings object, if there is exactly one, then counts for all of them.
    pub serve_all_without_classes: bool,
    /// Where an ingress-nginx ConfigMap may be; the first that exists counts.
    pub nginx_config_maps: Vec<NamespacedName>,
    /// Service that gets what no Ingress wants, at its first port, unless an Ingress has a default backend.
    pub default_backend: Option<NamespacedName>,
    /// Base domain of Alauda's labels and annotations: `alb.ingress.DOMAIN/...`, `alb2.DOMAIN/name`.
    pub label_domain: String,
    pub albs: AlbScope,
    /// Addresses by network interface, for ALB2s that listen on some only. `None`: not known here.
    pub interfaces: Option<BTreeMap<String, Vec<IpAddr>>>,
    /// Secret of the certificate for names without one, where GatewaySettings name none.
    pub default_certificate: Option<NamespacedName>,
    /// Whether Secrets can be read. Where they cannot (a controller without the right to), nothing is said about them
    /// and none is asked for.
    pub reads_secrets: bool,
    /// Whether [`Translator::shown`](crate::Translator::shown) is asked for.
    pub shows_ingress_rules: bool,
    /// Port of the default HTTP listener in place of 80, for settings that list no listeners.
    pub http_port: Option<u16>,
    /// Port of the default HTTPS listener in place of 443.
    pub https_port: Option<u16>,
    /// Port at which clients reach HTTPS, where something in front maps it (a Service of type LoadBalancer); redirects
    /// name it. `None`: the port of the first HTTPS listener.
    pub published_https_port: Option<u16>,
    /// Namespace of the resources of `metallb.io`.
    pub metallb_namespace: String,
}

impl Default for Options {
    /// A gateway in a cluster: it serves the classes of its controller and nothing else.
    fn default() -> Self {
        let map = |namespace: &str| NamespacedName::new(namespace, "ingress-nginx-controller");
        Self {
            controller: CONTROLLER.to_owned(),
            classes: Vec::new(),
            take_over: Vec::new(),
            serve_classless: false,
            serve_all_without_classes: false,
            nginx_config_maps: vec![map("ingress-nginx"), map("default")],
            default_backend: None,
            label_domain: LABEL_DOMAIN.to_owned(),
            albs: AlbScope::None,
            interfaces: None,
            default_certificate: None,
            reads_secrets: true,
            shows_ingress_rules: false,
            http_port: None,
            https_port: None,
            published_https_port: None,
            metallb_namespace: NAMESPACE.to_owned(),
        }
    }
}

impl Options {
    /// One machine with a directory of manifests: what is there is meant for this gateway.
    pub fn embedded() -> Self {
        Self { serve_classless: true, serve_all_without_classes: true, albs: AlbScope::All, ..Self::default() }
    }
}
