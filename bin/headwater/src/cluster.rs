//! What the roles in a cluster have in common: access to the API server, and which objects count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use headwater_kube_io::{Access, ApiServer, Selection};
use headwater_model::alb::Domain;
use headwater_model::metallb::NAMESPACE;
use headwater_model::origin::{Kind, NamespacedName};
use headwater_netlink::{Netlink, NetlinkError};
use headwater_translate::{AlbScope, CONTROLLER, LABEL_DOMAIN, Options};

/// The label that gateways' Leases have.
pub(crate) const GATEWAY_LABEL: (&str, &str) = ("headwater.dev/role", "gateway");

/// Which API server, and which of its objects. Names are those of ingress-nginx where it has the same flag.
#[derive(Clone, clap::Args)]
pub(crate) struct ClusterArgs {
    /// File with the credentials [default: the pod's service account, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespaces to read, separated by commas [default: all]
    #[arg(long, alias = "watch-namespace", value_delimiter = ',', value_name = "NAMESPACES")]
    watch_namespaces: Vec<String>,
    /// Only objects of namespaces with these labels count
    #[arg(long, value_name = "SELECTOR", conflicts_with = "watch_namespaces")]
    watch_namespace_selector: Option<String>,
    /// `spec.controller` of the IngressClasses to serve
    #[arg(long, default_value = CONTROLLER, value_name = "NAME")]
    controller_class: String,
    /// Only this IngressClass; may be given several times [default: every class of the controller]
    #[arg(long, value_name = "NAME")]
    ingress_class: Vec<String>,
    /// Serve this class of another controller as well, for a migration; may be given several times
    #[arg(long, value_name = "NAME")]
    take_over_class: Vec<String>,
    /// Serve Ingresses without a class when no IngressClass is the default
    #[arg(long)]
    watch_ingress_without_class: bool,
    /// ConfigMap of ingress-nginx, as namespace/name [default: ingress-nginx-controller of namespace ingress-nginx, else of default, if it exists]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    configmap: Option<NamespacedName>,
    /// Service for requests that no Ingress wants, as namespace/name; its first port counts
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    default_backend_service: Option<NamespacedName>,
    /// Secret of the certificate for names without one, as namespace/name, where GatewaySettings name none
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    default_ssl_certificate: Option<NamespacedName>,
    /// Port for plain HTTP where GatewaySettings list no listeners [default: 80]
    #[arg(long, value_name = "PORT", value_parser = port)]
    http_port: Option<u16>,
    /// Port for HTTPS where GatewaySettings list no listeners [default: 443]
    #[arg(long, value_name = "PORT", value_parser = port)]
    https_port: Option<u16>,
    /// Port at which clients reach HTTPS, for redirects [default: the port of the first HTTPS listener]
    #[arg(long, value_name = "PORT", value_parser = port)]
    published_https_port: Option<u16>,
    /// Serve this ALB2 of Alauda, as namespace/name, and the Ingresses of its class; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    alb: Vec<NamespacedName>,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Namespace of Headwater's Leases [default: $POD_NAMESPACE, else that of the credentials]
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
}

/// Where MetalLB's resources are.
#[derive(Clone, clap::Args)]
pub(crate) struct MetallbArgs {
    /// Namespace of the resources of metallb.io
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    pub(crate) metallb_namespace: String,
}

/// How Alauda's labels and annotations are named.
#[derive(Clone, clap::Args)]
pub(crate) struct LabelArgs {
    /// Base domain of Alauda's labels and annotations
    #[arg(long, default_value = LABEL_DOMAIN, value_name = "DOMAIN", value_parser = label_domain)]
    label_domain: String,
}

impl LabelArgs {
    pub(crate) fn domain(&self) -> Domain {
        Domain::parse(&self.label_domain).expect("checked when it was read")
    }

    /// The options of one machine, for what is served here.
    pub(crate) fn embedded(&self) -> Options {
        Options { label_domain: self.label_domain.clone(), ..Options::embedded() }
    }
}

fn label_domain(text: &str) -> Result<String, String> {
    Domain::parse(text).map(|domain| domain.as_str().to_owned()).map_err(|error| error.to_string())
}

/// Addresses of this host by network interface; `None` where the kernel does not say.
pub(crate) fn interfaces() -> Option<BTreeMap<String, Vec<IpAddr>>> {
    let read = || {
        let mut netlink = Netlink::open()?;
        let (links, addresses) = (netlink.links()?, netlink.addresses()?);
        let of = |index| addresses.iter().filter(move |(at, _)| *at == index).map(|(_, net)| net.addr()).collect();
        Ok(links.into_iter().map(|link| (link.name, of(link.index))).collect())
    };
    read().inspect_err(|error: &NetlinkError| tracing::warn!(%error, "network interfaces cannot be read")).ok()
}

pub(crate) fn namespaced_name(text: &str) -> Result<NamespacedName, String> {
    NamespacedName::parse(text).ok_or_else(|| "it takes the form namespace/name".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| "it takes a number from 1 to 65535".to_owned())
}

impl ClusterArgs {
    pub(crate) async fn connect(&self) -> anyhow::Result<ApiServer> {
        let access = Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        ApiServer::connect(&access).await.context("API server")
    }

    pub(crate) fn options(&self) -> Options {
        let defaults = Options::default();
        Options {
            controller: self.controller_class.clone(),
            classes: self.ingress_class.clone(),
            take_over: self.take_over_class.clone(),
            serve_classless: self.watch_ingress_without_class,
            nginx_config_maps: match &self.configmap {
                Some(id) => vec![id.clone()],
                None => defaults.nginx_config_maps,
            },
            default_backend: self.default_backend_service.clone(),
            default_certificate: self.default_ssl_certificate.clone(),
            http_port: self.http_port,
            https_port: self.https_port,
            published_https_port: self.published_https_port,
            albs: match self.alb.is_empty() {
                true => AlbScope::None,
                false => AlbScope::Only(self.alb.clone()),
            },
            label_domain: self.labels.label_domain.clone(),
            ..defaults
        }
    }

    /// What both roles watch; `own` is the namespace of Headwater, whose settings count wherever Ingresses are read.
    pub(crate) fn selection(&self, own: &str, observe: bool) -> Selection {
        let of_albs: BTreeSet<String> = self.alb.iter().map(|id| id.namespace.to_string()).collect();
        let mut kinds =
            vec![Kind::Service, Kind::EndpointSlice, Kind::GatewaySettings, Kind::IngressClass, Kind::Ingress];
        if !self.alb.is_empty() {
            // Their labels say which projects they belong to.
            kinds.push(Kind::Namespace);
        }
        let around = [Kind::Alb2, Kind::Frontend, Kind::Rule];
        Selection {
            kinds,
            namespaces: self.namespaces(own),
            within: around.into_iter().flat_map(|kind| of_albs.iter().map(move |of| (kind, of.clone()))).collect(),
            namespace_selector: self.watch_namespace_selector.clone(),
            always: of_albs.iter().cloned().chain([own.to_owned()]).collect(),
            observe,
            ..Selection::default()
        }
    }

    /// Those that are watched; empty: all. Headwater's own, and those of ALB2s, are among them, for their settings.
    pub(crate) fn namespaces(&self, own: &str) -> Vec<String> {
        let mut namespaces = self.watch_namespaces.clone();
        let more: Vec<&str> = self.alb.iter().map(|id| &*id.namespace).chain([own]).collect();
        for namespace in more.into_iter().filter(|_| !self.watch_namespaces.is_empty()) {
            if !namespaces.iter().any(|known| known == namespace) {
                namespaces.push(namespace.to_owned());
            }
        }
        namespaces
    }

    /// Namespace of the Leases.
    pub(crate) fn namespace(&self, server: &ApiServer) -> String {
        self.lease_namespace
            .clone()
            .or_else(|| variable("POD_NAMESPACE"))
            .unwrap_or_else(|| server.namespace().to_owned())
    }
}

/// Name of the pod, or of the host where there is none.
pub(crate) fn pod_name() -> String {
    variable("POD_NAME").unwrap_or_else(host_name)
}

/// Name of the Node, as kubelets choose it.
pub(crate) fn node_name() -> String {
    variable("NODE_NAME").unwrap_or_else(host_name)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

pub(crate) fn pod_uid() -> Option<String> {
    variable("POD_UID")
}

/// An environment variable, as the downward API sets it.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
