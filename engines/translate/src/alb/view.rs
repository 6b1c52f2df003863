//! The ALB2s that are served: what all their ports have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use headwater_model::alb::alb2::IGNORE_ANNOTATION;
use headwater_model::alb::config::HttpKeepalive;
use headwater_model::alb::effective::{EffectiveAlb, Projects};
use headwater_model::alb::frontend::Protocol;
use headwater_model::alb::{Alb2, Domain, Frontend};
use headwater_model::client::ClientAddressPolicy;
use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{ConnectionSettings, ErrorStyle, RouteTimeouts};
use headwater_model::object::Ingress;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_model::settings::GatewaySettingsSpec;

use crate::class::LEGACY_ANNOTATION;
use crate::conflict::Age;
use crate::environment::GatewayId;
use crate::options::Options;
use crate::settings::{Gateway, Reader};

/// Annotation of an ALB2: name of the GatewaySettings, in its namespace, with the client-address policy, limits and
/// timeouts of its ports. Without it nobody is trusted to name the client.
pub const SETTINGS_ANNOTATION: &str = "headwater.dev/settings";

/// Which ALB2s there are to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// With the projects whose Ingresses they serve.
    pub(crate) served: BTreeMap<NamespacedName, Projects>,
    /// GatewaySettings that they name.
    pub(crate) settings: BTreeSet<NamespacedName>,
    /// Whether projects of one follow from its Frontends.
    pub(crate) by_port: bool,
}

/// The projects that all ports of Ingresses belong to, where ports rather than ALB2s belong to projects.
///
/// A port without a Frontend belongs to nobody; a port that is switched off does not count.
fn projects_of_ports(id: &NamespacedName, effective: &EffectiveAlb, cluster: &Cluster, domain: &Domain) -> Projects {
    let own = |frontend: &&Arc<Frontend>| {
        frontend.metadata.namespace == id.namespace && frontend.alb(domain) == Some(&id.name)
    };
    let ports = [effective.ingress_http_port, effective.ingress_https_port].into_iter().flatten();
    let of_port = |port: u16| {
        let there = cluster
            .frontends
            .values()
            .filter(own)
            .filter(|frontend| frontend.spec.port.get() == port && frontend.spec.protocol() != Protocol::Udp);
        let oldest = there.min_by_key(|frontend| Age::of(&frontend.metadata));
        oldest.map_or(Projects::None, |frontend| {
            let labelled = domain.projects(&frontend.metadata.labels).into_iter();
            Projects::new(&labelled.chain(effective.projects_of_port(port)).map(str::to_owned).collect::<Vec<_>>())
        })
    };
    ports.map(of_port).reduce(Projects::common).unwrap_or_default()
}

impl Census {
    pub(crate) fn take(cluster: &Cluster, options: &Options, domain: &Domain) -> Self {
        let served = cluster.albs.iter().filter(|(id, alb)| options.albs.holds(id) && alb.is_operated(domain));
        let mut census = Self::default();
        for (id, alb) in served {
            let effective = alb.effective();
            let projects = match effective.serves_ingresses && effective.serves_rules {
                false => Projects::None,
                true if effective.port_projects.is_some() => projects_of_ports(id, &effective, cluster, domain),
                true => effective.projects,
            };
            census.by_port |= effective.port_projects.is_some();
            census.served.insert(id.clone(), projects);
            census.settings.extend(settings_of(alb));
        }
        census
    }
}

impl Census {
    /// The ALB2s whose class an Ingress is of, and whose projects its namespace is of. Without a class: of every one's.
    pub(crate) fn takers<'a>(
        &'a self,
        ingress: &Ingress,
        cluster: &Cluster,
        domain: &Domain,
    ) -> impl Iterator<Item = &'a NamespacedName> + use<'a> {
        let class = class_of(ingress).map(str::to_owned);
        let namespace = cluster.namespaces.get(&NamespacedName::new("", ingress.metadata.namespace.clone()));
        let project = namespace.and_then(|namespace| namespace.metadata.labels.get(&domain.project_label()).cloned());
        self.served
            .iter()
            .filter(move |(id, projects)| {
                class.as_deref().is_none_or(|class| class == &*id.name) && projects.admits(project.as_deref())
            })
            .map(|(id, _)| id)
    }
}

/// The class that an Ingress names.
pub(super) fn class_of(ingress: &Ingress) -> Option<&str> {
    let written = ingress.spec.ingress_class_name.as_ref();
    let class = written.or_else(|| ingress.metadata.annotations.get(LEGACY_ANNOTATION));
    class.map(|class| class.trim()).filter(|class| !class.is_empty())
}

fn settings_of(alb: &Alb2) -> Option<NamespacedName> {
    let name = alb.metadata.annotations.get(SETTINGS_ANNOTATION)?;
    Some(NamespacedName::new(alb.metadata.namespace.clone(), name.trim()))
}

/// An ALB2 that is served.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) object: Arc<Alb2>,
    pub(crate) effective: EffectiveAlb,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) policy: Arc<ClientAddressPolicy>,
    pub(crate) connection: ConnectionSettings,
    /// Where its ports are opened.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) age: Age,
}

impl PartialEq for View {
    /// Whether everything that ports and rules depend on is the same; the status is not.
    fn eq(&self, other: &Self) -> bool {
        self.object.spec == other.object.spec
            && self.object.metadata.annotations == other.object.metadata.annotations
            && self.object.metadata.labels == other.object.metadata.labels
            && self.effective == other.effective
            && self.gateway == other.gateway
            && self.policy == other.policy
            && self.connection == other.connection
            && self.addresses == other.addresses
            && self.age == other.age
    }
}

/// Tries at endpoints in all, as the ALB has them.
const ATTEMPTS: u32 = 5;

/// Keep-alive of clients: where no Frontend says anything of it, and where one does but for the time.
const IDLE: Duration = Duration::from_secs(65);
const IDLE_OF_KEEPALIVE: Duration = Duration::from_secs(75);
const REQUESTS: u32 = 1000;

impl View {
    /// Reads an ALB2. `None` where it is not served, which is told.
    pub(crate) fn read(
        object: &Arc<Alb2>,
        cluster: &Cluster,
        options: &Options,
        domain: &Domain,
        findings: &mut Vec<Finding>,
    ) -> Option<Self> {
        let key = object.key();
        if !object.is_operated(domain) {
            let ignored = object.metadata.annotations.get(IGNORE_ANNOTATION).is_some_and(|value| value == "true");
            let message = match ignored {
                true => format!("the annotation {IGNORE_ANNOTATION} keeps it from being served"),
                false => "it has no spec.config, as ALB2s of version v1 had none; it is not served".to_owned(),
            };
            findings.push(Finding::new(Severity::Info, "NotServed", key, message));
            return None;
        }
        let settings = settings_of(object);
        let silent = GatewaySettingsSpec::default();
        let found = settings.as_ref().map(|id| cluster.gateway_settings.get(id));
        let (origin, spec) = match (&settings, found) {
            (Some(_), Some(Some(settings))) => (settings.origin(), &settings.spec),
            (Some(id), _) => {
                let named = ObjectKey { kind: Kind::GatewaySettings, id: id.clone() };
                let message = format!("{named} does not exist; nothing of this ALB2 is served");
                let finding = Finding::error("MissingReference", key, message)
                    .at(format!("metadata.annotations[{SETTINGS_ANNOTATION}]"));
                findings.push(finding.mend("create it, or remove the annotation to trust nobody"));
                return None;
            }
            _ => (object.origin(), &silent),
        };
        let effective = object.effective();
        let mut spec = spec.clone();
        spec.compression.enabled.get_or_insert(effective.gzip);
        let mut reads = Vec::new();
        let mut reader = Reader { options, cluster, nginx: None, findings, reads: &mut reads };
        let (mut gateway, policy, mut connection) = reader.of_alb(origin, &spec);
        gateway.routes.timeouts = RouteTimeouts {
            connect: Duration::from_secs(5),
            send: Duration::from_secs(120),
            idle: Duration::from_secs(120),
            request: gateway.routes.timeouts.request,
        };
        if spec.retries.attempts.is_none() {
            gateway.routes.retry.attempts = ATTEMPTS;
        }
        connection.http2 = effective.http2;
        if spec.faults.style.is_none() {
            connection.error_style = ErrorStyle::Alb;
        }
        gateway.tls.http2 = effective.http2;
        gateway.tls.default = None;
        let addresses = addresses(&effective, options, &key, findings);
        unavailable(&effective, &key, findings);
        Some(Self {
            gateway_id: GatewayId::Alb(object.id()),
            gateway: Arc::new(gateway),
            policy,
            connection,
            addresses,
            age: Age::of(&object.metadata),
            effective,
            object: object.clone(),
        })
    }

    /// How connections at a port with this keep-alive are treated.
    pub(crate) fn connection(&self, keepalive: Option<&HttpKeepalive>) -> ConnectionSettings {
        let mut connection = self.connection.clone();
        connection.idle_timeout = keepalive.map_or(IDLE, |http| http.timeout.map_or(IDLE_OF_KEEPALIVE, |time| time.0));
        if connection.idle_timeout.is_zero() {
            // nginx: no keep-alive.
            connection.limits.requests_per_connection = 1;
            connection.idle_timeout = IDLE;
        } else {
            connection.limits.requests_per_connection =
                keepalive.and_then(|http| http.requests).unwrap_or(REQUESTS).max(1);
        }
        connection
    }
}

/// What is asked for and not available, once for all ports.
fn unavailable(effective: &EffectiveAlb, key: &ObjectKey, findings: &mut Vec<Finding>) {
    let mut tell = |field: &str, message: &str| {
        findings.push(Finding::warning("NotImplemented", key.clone(), message).at(field));
    };
    if effective.gateway.is_some() {
        tell("spec.config.gateway", "the Gateway API is not served yet");
    }
    if effective.cross_clusters {
        tell("spec.config.enableCrossClusters", "endpoints of other clusters are not looked for");
    }
}

/// Every address, or those of the interfaces that are named; those of the link alone are left out. A family of which
/// they have none is served at all its addresses, as by the ALB.
fn addresses(effective: &EffectiveAlb, options: &Options, key: &ObjectKey, findings: &mut Vec<Finding>) -> Vec<IpAddr> {
    let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let any_v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let known: &BTreeMap<String, Vec<IpAddr>> = match &options.interfaces {
        Some(known) if !effective.nics.is_empty() => known,
        // `::` takes both families.
        _ => return vec![if effective.ipv6 { any_v6 } else { any_v4 }],
    };
    let mut found = BTreeSet::new();
    for nic in &effective.nics {
        match known.get(nic) {
            Some(addresses) => found.extend(addresses.iter().copied().filter(|address| !is_of_link(*address))),
            None => {
                let message = format!("there is no network interface {nic:?} here");
                findings.push(Finding::warning("MissingInterface", key.clone(), message).at("spec.config.bindNIC"));
            }
        }
    }
    let (mut v4, mut v6): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(IpAddr::is_ipv4);
    if !effective.ipv6 {
        v6.clear();
    }
    match (v4.is_empty(), v6.is_empty()) {
        (true, true) if effective.ipv6 => vec![any_v6],
        (true, _) => {
            v4.push(any_v4);
            v4.append(&mut v6);
            v4
        }
        // A socket of `::` alone would take IPv4 as well; those addresses are there already.
        (false, _) => {
            v4.append(&mut v6);
            v4
        }
    }
}

fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_opened_at_the_addresses_of_the_interfaces_that_are_named() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let interfaces: BTreeMap<String, Vec<IpAddr>> = [
            ("eth0", vec!["192.0.2.7", "fe80::1"]),
            ("eth1", vec!["192.0.2.3", "2001:db8::1", "192.0.2.7"]),
            ("six", vec!["2001:db8::6"]),
        ]
        .map(|(name, addresses)| (name.to_owned(), addresses.into_iter().map(ip).collect()))
        .into();
        let options = Options { interfaces: Some(interfaces), ..Options::default() };
        #[rustfmt::skip]
        let cases: [(&[&str], bool, &[&str], usize); 8] = [
            (&[], true, &["::"], 0),
            (&[], false, &["0.0.0.0"], 0),
            (&["eth0"], true, &["192.0.2.7"], 0),
            (&["eth1", "eth0"], true, &["192.0.2.3", "192.0.2.7", "2001:db8::1"], 0),
            (&["eth1"], false, &["192.0.2.3", "192.0.2.7"], 0),
            (&["six"], true, &["0.0.0.0", "2001:db8::6"], 0),
            (&["six"], false, &["0.0.0.0"], 0),
            (&["gone"], true, &["::"], 1),
        ];
        for (nics, ipv6, expected, told) in cases {
            let nic = json!({"nic": nics}).to_string();
            let config = json!({"bindNIC": nic, "enableIPV6": ipv6.to_string()});
            let alb = Alb2::parse(&json!({"metadata": {"name": "a"}, "spec": {"config": config}})).unwrap();
            let mut findings = Vec::new();
            let found = addresses(&alb.effective(), &options, &alb.key(), &mut findings);
            let expected: Vec<IpAddr> = expected.iter().map(|text| ip(text)).collect();
            assert_eq!((found, findings.len()), (expected, told), "{nics:?} {ipv6}");
        }
    }
}
