//! What a Service asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::metallb::{ADDRESSES_ANNOTATION, LEGACY_PREFIX, POOL_ANNOTATION, PREFIX, SHARING_ANNOTATION};
use headwater_model::nat::{Family, Transport};
use headwater_model::object::{IpFamily, IpFamilyPolicy, Service, ServiceType};
use thiserror::Error;

/// Whose Services get addresses: of this loadBalancerClass, or of none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Class(pub Option<String>);

/// One port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub protocol: Transport,
    pub number: u16,
}

impl fmt::Display for Port {
    /// `tcp/80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str().to_ascii_lowercase(), self.number)
    }
}

/// Which addresses a Service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Families {
    One(Family),
    /// Both of them, or one if both cannot be had: this one rather.
    PreferBoth(Family),
    Both,
}

impl Families {
    /// Whether an address of the family is asked for.
    pub fn include(self, family: Family) -> bool {
        match self {
            Self::One(one) => one == family,
            Self::PreferBoth(_) | Self::Both => true,
        }
    }
}

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub namespace: Arc<str>,
    pub namespace_labels: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub families: Families,
    /// The addresses it names; empty: any.
    pub addresses: Vec<IpAddr>,
    /// The pool it names.
    pub pool: Option<Arc<str>>,
    /// Services with the same one may share an address; `None`: with nobody.
    pub sharing_key: Option<Sharing>,
    pub ports: BTreeSet<Port>,
}

/// What Services have to have in common that share an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sharing {
    /// The text of the annotation.
    pub key: Box<str>,
    /// Where traffic stays on a node, its pods: they have to be the same. Empty for all others.
    pub backend: Box<str>,
}

/// What makes the words of a Service senseless.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("invalid loadBalancerIPs \"{0}\" of the annotation: not an IP address")]
    Address(String),
    #[error("invalid spec.loadBalancerIP \"{0}\": not an IP address")]
    LoadBalancerIp(String),
    #[error("service can not have both {ADDRESSES_ANNOTATION} and spec.loadBalancerIP")]
    Twice,
    #[error("invalid loadBalancerIPs \"{0}\": at most one address of each family")]
    Family(String),
}

/// Whether addresses are for this Service at all: it is of type LoadBalancer, of our class, and not on its way out.
pub fn is_asking(service: &Service, class: &Class) -> bool {
    service.spec.service_type == ServiceType::LoadBalancer && service.spec.load_balancer_class == class.0
}

/// The annotation, in today's words or in those of once.
fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let annotations = &service.metadata.annotations;
    let legacy = || annotations.get(&format!("{LEGACY_PREFIX}{}", name.strip_prefix(PREFIX)?));
    annotations.get(name).or_else(legacy).map(String::as_str).filter(|text| !text.is_empty())
}

impl Request {
    /// What the Service asks for; `None` while it cannot have an address, since it has no ClusterIP.
    ///
    /// `without_cluster_ip`: the family of Services that have none where nobody gives any; `None`: they cannot have one.
    ///
    /// # Errors
    /// What makes its words senseless.
    pub fn of(
        service: &Service,
        namespace_labels: &BTreeMap<String, String>,
        without_cluster_ip: Option<Family>,
    ) -> Result<Option<Self>, RequestError> {
        let Some(families) = families(service, without_cluster_ip) else { return Ok(None) };
        let spec = &service.spec;
        let ports = spec
            .ports
            .iter()
            .filter_map(|port| Some(Port { protocol: Transport::parse(port.protocol.as_deref())?, number: port.port }));
        let sharing_key = annotation(service, SHARING_ANNOTATION).map(|key| {
            let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
            let pods = || spec.selector.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            let backend = if is_local { pods().join(",") } else { String::new() };
            Sharing { key: key.into(), backend: backend.into() }
        });
        Ok(Some(Self {
            namespace: service.metadata.namespace.clone(),
            namespace_labels: namespace_labels.clone(),
            labels: service.metadata.labels.clone(),
            families,
            addresses: addresses(service)?,
            pool: annotation(service, POOL_ANNOTATION).map(Arc::from),
            sharing_key,
            ports: ports.collect(),
        }))
    }

    /// Annotations of the Service that are of MetalLB's days before `metallb.io`.
    pub fn legacy_annotations(service: &Service) -> impl Iterator<Item = &str> {
        service.metadata.annotations.keys().map(String::as_str).filter(|name| name.starts_with(LEGACY_PREFIX))
    }
}

fn families(service: &Service, without_cluster_ip: Option<Family>) -> Option<Families> {
    let spec = &service.spec;
    let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
    let cluster_ips = spec.cluster_ips.iter().chain(one).filter_map(|text| text.parse::<IpAddr>().ok());
    let mut families: Vec<Family> = cluster_ips.map(Family::of).collect();
    if families.is_empty() {
        let default = without_cluster_ip.filter(|_| spec.cluster_ip.as_deref() != Some("None"))?;
        families = spec
            .ip_families
            .iter()
            .map(|family| match family {
                IpFamily::IPv4 => Family::V4,
                IpFamily::IPv6 => Family::V6,
            })
            .collect();
        if families.is_empty() {
            families.push(default);
            if matches!(spec.ip_family_policy, Some(IpFamilyPolicy::PreferDualStack | IpFamilyPolicy::RequireDualStack))
            {
                families.push(if default == Family::V4 { Family::V6 } else { Family::V4 });
            }
        }
    }
    families.dedup();
    match (&families[..], spec.ip_family_policy) {
        ([], _) => None,
        ([one], _) => Some(Families::One(*one)),
        ([first, ..], Some(IpFamilyPolicy::PreferDualStack)) => Some(Families::PreferBoth(*first)),
        _ => Some(Families::Both),
    }
}

fn addresses(service: &Service) -> Result<Vec<IpAddr>, RequestError> {
    let field = service.spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
    match (annotation(service, ADDRESSES_ANNOTATION), field) {
        (Some(_), Some(_)) => Err(RequestError::Twice),
        (None, Some(text)) => {
            let address = text.parse().map_err(|_| RequestError::LoadBalancerIp(text.to_owned()))?;
            Ok(vec![address])
        }
        (None, None) => Ok(Vec::new()),
        (Some(text), None) => {
            let read = |part: &str| part.trim().parse().map_err(|_| RequestError::Address(part.trim().to_owned()));
            let addresses: Vec<IpAddr> = text.split(',').map(read).collect::<Result<_, _>>()?;
            match addresses[..] {
                [_] => Ok(addresses),
                [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(addresses),
                _ => Err(RequestError::Family(text.to_owned())),
            }
        }
    }
}
