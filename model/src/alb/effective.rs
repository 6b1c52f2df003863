//! An ALB2 with its defaults: what the operator makes of the object as written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::alb2::{Alb2, Alb2Config, Amounts, BindNic, GatewayMode, NetworkMode, Overwrite, PortProject, SslStrategy};
use super::text::{BoolText, JsonText, Quantity};
use crate::object::Metadata;
use crate::origin::NamespacedName;

/// What an ALB2 comes to. Times are those of the API in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveAlb {
    /// Of the object, whatever `loadbalancerName` says.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub network_mode: NetworkMode,
    pub node_selector: BTreeMap<String, String>,
    pub replicas: u32,
    pub anti_affinity_key: String,
    /// Whether Frontends and Rules are served.
    pub serves_rules: bool,
    /// Whether Ingresses are served.
    pub serves_ingresses: bool,
    /// `None`: the ALB has no part in the Gateway API.
    pub gateway: Option<GatewayPart>,
    pub prometheus: bool,
    pub port_probe: bool,
    pub ipv6: bool,
    pub http2: bool,
    pub gzip: bool,
    pub cross_clusters: bool,
    pub metrics_port: u16,
    /// `None`: no Ingress is served without TLS.
    pub ingress_http_port: Option<u16>,
    /// `None`: no Ingress is served with TLS.
    pub ingress_https_port: Option<u16>,
    pub ingress_ssl_redirect: bool,
    pub default_certificate: Option<NamespacedName>,
    pub ssl_strategy: SslStrategy,
    pub default_ingress_class: bool,
    /// Port of the monitor of the controller itself; `None`: it is off.
    pub go_monitor_port: Option<u16>,
    pub profile: bool,
    pub worker_limit: u32,
    pub backlog: u32,
    pub max_term: Duration,
    pub interval: Duration,
    pub reload_timeout: Duration,
    pub resync_period: Duration,
    /// Of the proxy.
    pub resources: EffectiveResources,
    /// Of the controller beside it.
    pub alb_resources: EffectiveResources,
    pub projects: Projects,
    /// Which ports belong to which projects; `None`: ports belong to nobody.
    pub port_projects: Option<Vec<PortProject>>,
    /// Names of network interfaces; empty: every address.
    pub nics: Vec<String>,
    pub overwrite: Overwrite,
    pub readonly_root: bool,
    /// The Service of type LoadBalancer; `None`: there is none.
    pub load_balancer: Option<LoadBalancer>,
}

/// The part of an ALB in the Gateway API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayPart {
    /// Every Gateway of this GatewayClass.
    Shared(String),
    /// This Gateway alone.
    Standalone(NamespacedName),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveResources {
    pub limits: EffectiveAmounts,
    pub requests: EffectiveAmounts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveAmounts {
    pub cpu: Quantity,
    pub memory: Quantity,
}

/// Whose Ingresses are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Projects {
    /// Everybody's, those of namespaces without a project too.
    All,
    /// Those of these projects.
    Only(Vec<String>),
    /// Nobody's.
    #[default]
    None,
}

/// The word for every project.
pub const ALL_PROJECTS: &str = "ALL_ALL";

impl Projects {
    /// What a list of names comes to; [`ALL_PROJECTS`] anywhere in it means all.
    pub fn new(names: &[String]) -> Self {
        match names {
            [] => Self::None,
            names if names.iter().any(|name| name == ALL_PROJECTS) => Self::All,
            names => Self::Only(names.to_vec()),
        }
    }

    /// Those that are served by both.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, other) | (other, Self::All) => other,
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Only(mut names), Self::Only(others)) => {
                names.retain(|name| others.contains(name));
                if names.is_empty() { Self::None } else { Self::Only(names) }
            }
        }
    }

    /// Whether Ingresses of a namespace of this project are served; `None`: of no project.
    pub fn admits(&self, project: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => project.is_some_and(|project| names.iter().any(|name| name == project)),
            Self::None => false,
        }
    }
}

/// The Service of type LoadBalancer in front of an ALB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    pub annotations: BTreeMap<String, String>,
    /// `None`: `PreferDualStack`.
    pub ip_family_policy: Option<String>,
    pub allocate_node_ports: bool,
}

impl EffectiveAlb {
    /// Threads that serve: the limit of CPU in whole cores, at least one, at most `worker_limit`.
    pub fn workers(&self) -> u64 {
        self.resources.limits.cpu.ceil().max(1).min(u64::from(self.worker_limit.max(1)))
    }

    /// Projects that `portProjects` gives a port to, in the order written.
    pub fn projects_of_port(&self, port: u16) -> impl Iterator<Item = &str> {
        let ranges = self.port_projects.iter().flatten().filter(move |range| range.port.contains(port));
        ranges.flat_map(|range| range.projects.iter().map(String::as_str))
    }
}

impl Alb2 {
    /// The ALB2 with the operator's defaults for what it does not say.
    ///
    /// A standalone Gateway's ALB serves nothing else, is in container mode behind a load balancer and probes no ports.
    /// In container mode a load balancer is made unless `vip.enableLbSvc` is false.
    pub fn effective(&self) -> EffectiveAlb {
        let silent = Alb2Config::default();
        let config = self.spec.config.as_ref().unwrap_or(&silent);
        let switch = |written: Option<BoolText>, default: bool| written.map_or(default, |switch| switch.0);
        let seconds = |written: Option<u32>, default: u32| Duration::from_secs(u64::from(written.unwrap_or(default)));
        let port = |written: Option<u16>, default: u16| Some(written.unwrap_or(default)).filter(|port| *port > 0);
        let gateway = self.gateway_part(config);
        let standalone = matches!(gateway, Some(GatewayPart::Standalone(_)));
        let network_mode = if standalone { NetworkMode::Container } else { config.network_mode.unwrap_or_default() };
        let written = config.resources.clone().unwrap_or_default();
        let alb = written.alb.unwrap_or_default();
        EffectiveAlb {
            name: self.metadata.name.clone(),
            namespace: self.metadata.namespace.clone(),
            network_mode,
            node_selector: config.node_selector.clone(),
            replicas: config.replicas.unwrap_or(3),
            anti_affinity_key: config.anti_affinity_key.clone().unwrap_or_else(|| "local".to_owned()),
            serves_rules: !standalone && config.enable_alb.unwrap_or(true),
            serves_ingresses: !standalone && switch(config.enable_ingress, true),
            prometheus: switch(config.enable_prometheus, true),
            port_probe: !standalone && switch(config.enable_portprobe, true),
            ipv6: switch(config.enable_ipv6, true),
            http2: switch(config.enable_http2, true),
            gzip: switch(config.enable_gzip, true),
            cross_clusters: switch(config.enable_cross_clusters, false),
            metrics_port: config.metrics_port.unwrap_or(1936),
            ingress_http_port: port(config.ingress_http_port, 80),
            ingress_https_port: port(config.ingress_https_port, 443),
            ingress_ssl_redirect: config.ingress_ssl_redirect.unwrap_or(false),
            default_certificate: config.default_ssl_cert.clone(),
            ssl_strategy: config.default_ssl_strategy.unwrap_or_default(),
            default_ingress_class: config.default_ingress_class.unwrap_or(false),
            go_monitor_port: config.enable_go_monitor.unwrap_or(false).then(|| config.go_monitor_port.unwrap_or(1937)),
            profile: config.enable_profile.unwrap_or(false),
            worker_limit: config.worker_limit.unwrap_or(8),
            backlog: config.backlog.unwrap_or(2048),
            max_term: seconds(config.max_term_seconds, 30),
            interval: seconds(config.interval, 5),
            reload_timeout: seconds(config.reload_timeout, 600),
            resync_period: seconds(config.resync_period, 300),
            resources: resources(written.limits, written.requests, ["2", "2Gi"]),
            alb_resources: resources(alb.limits, alb.requests, ["200m", "2Gi"]),
            projects: Projects::new(&config.projects),
            port_projects: config
                .enable_port_project
                .unwrap_or(false)
                .then(|| config.port_projects.clone().unwrap_or_default().0),
            nics: config.bind_nic.clone().map_or_else(Vec::new, |JsonText(BindNic { nic })| nic),
            overwrite: config.overwrite.clone().unwrap_or_default(),
            readonly_root: config.readonly_fs.unwrap_or(true),
            load_balancer: load_balancer(config, network_mode, standalone),
            gateway,
        }
    }

    fn gateway_part(&self, config: &Alb2Config) -> Option<GatewayPart> {
        let gateway = config.gateway.as_ref()?;
        if !gateway.enable.unwrap_or(gateway.mode.is_some()) {
            return None;
        }
        let Metadata { name: own, namespace, .. } = &self.metadata;
        match (gateway.mode.unwrap_or_default(), gateway.name.as_deref()) {
            (GatewayMode::Shared, name) => Some(GatewayPart::Shared(name.unwrap_or(own).to_owned())),
            // A standalone ALB that does not say for whom it is there is there for nobody.
            (GatewayMode::Standalone, None) => None,
            (GatewayMode::Standalone, Some(name)) => Some(GatewayPart::Standalone(match NamespacedName::parse(name) {
                // Written the other way around than anywhere else: `name/namespace`.
                Some(NamespacedName { namespace: name, name: namespace }) => NamespacedName { namespace, name },
                None => NamespacedName::new(namespace.clone(), name),
            })),
        }
    }
}

fn load_balancer(config: &Alb2Config, network_mode: NetworkMode, standalone: bool) -> Option<LoadBalancer> {
    let vip = config.vip.clone().unwrap_or_default();
    let wanted = standalone || vip.enable_lb_svc.unwrap_or(network_mode == NetworkMode::Container);
    wanted.then(|| LoadBalancer {
        annotations: vip.lb_svc_annotations,
        ip_family_policy: vip.lb_svc_ip_family_policy,
        allocate_node_ports: vip.allocate_load_balancer_node_ports.unwrap_or(true),
    })
}

/// Each amount by itself: as written, or its default.
fn resources(limits: Option<Amounts>, requests: Option<Amounts>, default_limits: [&str; 2]) -> EffectiveResources {
    let amounts = |written: Option<Amounts>, [cpu, memory]: [&str; 2]| {
        let Amounts { cpu: written_cpu, memory: written_memory } = written.unwrap_or_default();
        let default = |text: &str| Quantity::parse(text).expect("the defaults are quantities");
        EffectiveAmounts {
            cpu: written_cpu.unwrap_or_else(|| default(cpu)),
            memory: written_memory.unwrap_or_else(|| default(memory)),
        }
    };
    EffectiveResources { limits: amounts(limits, default_limits), requests: amounts(requests, ["50m", "128Mi"]) }
}
