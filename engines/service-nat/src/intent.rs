//! What one Service asks for, apart from its endpoints and from other Services.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::finding::Finding;
use headwater_model::nat::{Family, FrontendAddress, KeepClient, SourceRanges, Transport};
use headwater_model::object::{SERVICE_PROXY_NAME_LABEL, Service, ServiceType};
use headwater_model::origin::{ObjectKey, Origin};
use ipnet::IpNet;

use crate::address::{clip, special};
use crate::claims::{Claim, Holder};
use crate::options::{Options, SOURCE_IP_ANNOTATION};

/// Findings about single entries of one list.
pub(crate) const MAX_FINDINGS: usize = 5;

const DEFAULT_AFFINITY: i32 = 10_800;
const MAX_AFFINITY: i32 = 86_400;

#[derive(Debug, Clone)]
pub(crate) struct Intent {
    pub(crate) origin: Origin,
    pub(crate) created: i64,
    /// Empty: nothing of this Service is proxied.
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<PortIntent>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) affinity: Option<u32>,
    pub(crate) keep: KeepClient,
    pub(crate) health: Option<u16>,
    pub(crate) findings: Vec<Finding>,
}

#[derive(Debug, Clone)]
pub(crate) struct PortIntent {
    /// In `spec.ports`.
    pub(crate) index: u32,
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
    pub(crate) protocol: Transport,
    pub(crate) frontends: Vec<Wanted>,
}

#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) family: Family,
    pub(crate) address: FrontendAddress,
    pub(crate) sources: Option<Arc<SourceRanges>>,
}

impl Wanted {
    pub(crate) fn claim(&self, protocol: Transport) -> Claim {
        match self.address {
            FrontendAddress::ClusterIp(address)
            | FrontendAddress::LoadBalancer(address)
            | FrontendAddress::ExternalIp(address) => Claim::Address(address, protocol),
            FrontendAddress::NodePort(port) => Claim::Node(port, protocol),
        }
    }
}

impl Intent {
    pub(crate) fn holder(&self, place: u32, written: bool) -> Holder {
        Holder { written, created: self.created, id: self.origin.key.id.clone(), place }
    }

    /// Everything it wants to own, sorted.
    pub(crate) fn claims(&self) -> Vec<(Claim, Holder)> {
        let mut claims: Vec<(Claim, Holder)> = Vec::new();
        for port in &self.ports {
            for wanted in &port.frontends {
                let written = !matches!(wanted.address, FrontendAddress::ClusterIp(_));
                claims.push((wanted.claim(port.protocol), self.holder(port.index, written)));
            }
        }
        claims.extend(self.health.map(|port| (Claim::Node(port, Transport::Tcp), self.holder(u32::MAX, true))));
        claims.sort();
        claims.dedup();
        claims
    }
}

/// `None`: the Service is not for this proxy, or has nothing to proxy.
pub(crate) fn read(service: &Service, options: &Options) -> Option<Intent> {
    let spec = &service.spec;
    let headless = spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.iter().any(|ip| ip == "None");
    let elsewhere = service.metadata.labels.contains_key(SERVICE_PROXY_NAME_LABEL);
    if headless || elsewhere || spec.service_type == ServiceType::ExternalName {
        return None;
    }
    let mut reader = Reader { service, options, key: service.key(), findings: Vec::new() };
    let cluster_ips = reader.cluster_ips();
    let mut intent = Intent {
        origin: service.origin(),
        created: service.metadata.creation_timestamp.map_or(i64::MAX, |at| at.as_microsecond()),
        cluster_ips: Vec::new(),
        ports: Vec::new(),
        internal_local: false,
        external_local: false,
        affinity: None,
        keep: options.keep,
        health: None,
        findings: Vec::new(),
    };
    if !cluster_ips.is_empty() {
        intent.internal_local = reader.is_local("internalTrafficPolicy", spec.internal_traffic_policy.as_deref());
        intent.external_local = reader.is_local("externalTrafficPolicy", spec.external_traffic_policy.as_deref());
        intent.affinity = reader.affinity();
        intent.keep = reader.keep();
        intent.ports = reader.ports(&cluster_ips);
        intent.health = spec
            .health_check_node_port
            .filter(|port| *port != 0 && intent.external_local && spec.service_type == ServiceType::LoadBalancer);
        intent.cluster_ips = cluster_ips;
    }
    intent.findings = reader.findings;
    intent.findings.shrink_to_fit();
    Some(intent)
}

struct Reader<'a> {
    service: &'a Service,
    options: &'a Options,
    key: ObjectKey,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn warn(&mut self, reason: &'static str, field: impl Into<String>, message: String, mend: &'static str) {
        self.findings.push(Finding::warning(reason, self.key.clone(), message).at(field).mend(mend));
    }

    fn error(&mut self, reason: &'static str, field: impl Into<String>, message: String, mend: &'static str) {
        self.findings.push(Finding::error(reason, self.key.clone(), message).at(field).mend(mend));
    }

    /// At most one of each family, in the order written.
    fn cluster_ips(&mut self) -> Vec<IpAddr> {
        let spec = &self.service.spec;
        let texts: Vec<&str> = if spec.cluster_ips.is_empty() {
            spec.cluster_ip.as_deref().into_iter().collect()
        } else {
            spec.cluster_ips.iter().map(String::as_str).collect()
        };
        let mut found: Vec<IpAddr> = Vec::new();
        let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        for text in texts.iter().take(MAX_FINDINGS) {
            let Some(address) = self.address("spec.clusterIPs", text) else { continue };
            if found.iter().any(|other| Family::of(*other) == Family::of(address)) {
                let message = format!("\"{address}\" is a second cluster IP of its family; it is not served");
                self.warn("MixedFamilies", "spec.clusterIPs", message, "keep one address of each family");
            } else {
                found.push(address);
            }
        }
        if texts.is_empty() {
            let message = "the Service has no cluster IP; nothing of it is served".to_owned();
            self.warn("NoClusterIP", "spec.clusterIP", message, "an API server gives one; in a manifest write it");
        }
        found
    }

    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let fault = match text.parse::<IpAddr>() {
            Err(_) => "not an IP address",
            Ok(address) => match special(address) {
                None => return Some(address),
                Some(what) => what,
            },
        };
        let message = format!("\"{}\" is {fault}; it is not served", clip(text));
        self.error("InvalidAddress", field, message, "write an address that hosts can have");
        None
    }

    fn is_local(&mut self, field: &str, policy: Option<&str>) -> bool {
        match policy {
            None | Some("Cluster") => false,
            Some("Local") => true,
            Some(other) => {
                let message = format!("\"{}\" is no policy; Cluster is used", clip(other));
                self.warn("InvalidValue", format!("spec.{field}"), message, "write Cluster or Local");
                false
            }
        }
    }

    fn affinity(&mut self) -> Option<u32> {
        let spec = &self.service.spec;
        match spec.session_affinity.as_deref() {
            None | Some("" | "None") => return None,
            Some("ClientIP") => {}
            Some(other) => {
                let message = format!("\"{}\" is no affinity; none is used", clip(other));
                self.warn("InvalidValue", "spec.sessionAffinity", message, "write None or ClientIP");
                return None;
            }
        }
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let written = config.and_then(|client| client.timeout_seconds).unwrap_or(DEFAULT_AFFINITY);
        let used = written.clamp(1, MAX_AFFINITY);
        if used != written {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let message = format!("{written} s is out of range; {used} s is used");
            self.warn("InvalidValue", field, message, "write 1 to 86400");
        }
        Some(used.unsigned_abs())
    }

    fn keep(&mut self) -> KeepClient {
        match self.service.metadata.annotations.get(SOURCE_IP_ANNOTATION).map(String::as_str) {
            None => self.options.keep,
            Some("preserve") => KeepClient::ViaIngress,
            Some("preserve-direct") => KeepClient::Direct,
            Some("masquerade") => KeepClient::Masquerade,
            Some(other) => {
                let field = format!("metadata.annotations[{SOURCE_IP_ANNOTATION}]");
                let message = format!("\"{}\" is no way to treat a client's address; the default is used", clip(other));
                self.warn("InvalidValue", field, message, "write preserve, preserve-direct or masquerade");
                self.options.keep
            }
        }
    }

    fn ports(&mut self, cluster_ips: &[IpAddr]) -> Vec<PortIntent> {
        let spec = &self.service.spec;
        if spec.ports.is_empty() {
            let message = "the Service has no ports; whatever is sent to it is refused".to_owned();
            self.warn("NoPorts", "spec.ports", message, "list the ports");
        }
        let addresses = self.addresses(cluster_ips);
        let has_node_ports = matches!(spec.service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
        let mut seen = BTreeSet::new();
        let mut ports = Vec::new();
        for (index, port) in (0..).zip(&spec.ports) {
            let field = || format!("spec.ports[{index}]");
            let Some(protocol) = Transport::parse(port.protocol.as_deref()) else {
                let message = format!(
                    "\"{}\" is no protocol; the port is not served",
                    clip(port.protocol.as_deref().unwrap_or_default())
                );
                self.error("InvalidValue", field() + ".protocol", message, "write TCP, UDP or SCTP");
                continue;
            };
            if port.port == 0 {
                let message = "0 is no port; it is not served".to_owned();
                self.error("InvalidValue", field() + ".port", message, "write 1 to 65535");
                continue;
            }
            if !seen.insert((port.port, protocol)) {
                let message =
                    format!("{}/{} stands here a second time; it is not served", port.port, protocol.as_str());
                self.error("DuplicatePort", field(), message, "remove one of the two");
                continue;
            }
            let mut frontends: Vec<Wanted> =
                addresses.iter().map(|(make, wanted)| wanted.at(*make, port.port)).collect();
            if let Some(number) = port.node_port.filter(|number| *number != 0 && has_node_ports) {
                frontends.extend(cluster_ips.iter().map(|ip| Wanted {
                    family: Family::of(*ip),
                    address: FrontendAddress::NodePort(number),
                    sources: None,
                }));
            }
            ports.push(PortIntent {
                index,
                name: port.name.as_deref().unwrap_or_default().into(),
                port: port.port,
                protocol,
                frontends,
            });
        }
        ports
    }

    /// Where every port is reached, each address once: what is said first wins.
    fn addresses(&mut self, cluster_ips: &[IpAddr]) -> Vec<(Make, Reached)> {
        let service = self.service;
        let mut found: Vec<(Make, Reached)> = Vec::new();
        let mut seen: BTreeSet<IpAddr> = cluster_ips.iter().copied().collect();
        let plain = |ip: IpAddr, sources| Reached { ip, sources };
        found.extend(cluster_ips.iter().map(|ip| (FrontendAddress::ClusterIp as Make, plain(*ip, None))));
        let mut written: Vec<(&str, &str, Make)> = Vec::new();
        if service.spec.service_type == ServiceType::LoadBalancer {
            let ingress = service.status.load_balancer.ingress.iter();
            let here = ingress.filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
            let ips = here.filter_map(|entry| entry.ip.as_deref()).filter(|ip| !ip.is_empty());
            written.extend(ips.map(|ip| ("status.loadBalancer.ingress", ip, FrontendAddress::LoadBalancer as Make)));
        }
        let external = service.spec.external_ips.iter();
        written.extend(external.map(|ip| ("spec.externalIPs", ip.as_str(), FrontendAddress::ExternalIp as Make)));
        let ranges = self.source_ranges(cluster_ips, &written);
        for (field, text, make) in written {
            let Some(ip) = self.address(field, text) else { continue };
            let family = Family::of(ip);
            if !cluster_ips.iter().any(|known| Family::of(*known) == family) {
                let message = format!("{ip} is of a family in which the Service has no cluster IP; it is not served");
                self.warn("MixedFamilies", field, message, "set spec.ipFamilyPolicy to PreferDualStack, or remove it");
                continue;
            }
            if !seen.insert(ip) {
                continue;
            }
            let is_balanced = field.starts_with("status");
            let sources = ranges.as_ref().filter(|_| is_balanced).map(|(v4, v6)| match family {
                Family::V4 => v4.clone(),
                Family::V6 => v6.clone(),
            });
            found.push((make, plain(ip, sources)));
        }
        found
    }

    /// `loadBalancerSourceRanges` by family; `None`: everybody may send. A range that is none admits nobody.
    fn source_ranges(
        &mut self,
        cluster_ips: &[IpAddr],
        written: &[(&str, &str, Make)],
    ) -> Option<(Arc<SourceRanges>, Arc<SourceRanges>)> {
        let texts = &self.service.spec.load_balancer_source_ranges;
        if texts.is_empty() || self.service.spec.service_type != ServiceType::LoadBalancer {
            return None;
        }
        let field = "spec.loadBalancerSourceRanges";
        let (mut v4, mut v6, mut wrong) = (Vec::new(), Vec::new(), 0);
        for text in texts {
            match text.trim().parse::<IpNet>().map(|range| range.trunc()) {
                Ok(range @ IpNet::V4(_)) => v4.push(range),
                Ok(range @ IpNet::V6(_)) => v6.push(range),
                Err(_) => {
                    wrong += 1;
                    if wrong <= MAX_FINDINGS {
                        let message = format!("\"{}\" is no range of addresses; it admits nobody", clip(text));
                        self.error("InvalidValue", field, message, "write it as 203.0.113.0/24");
                    }
                }
            }
        }
        let primary = &self.options.node.primary;
        let ranges = |mut allowed: Vec<IpNet>| {
            allowed.sort();
            allowed.dedup();
            let itself = primary.iter().any(|address| allowed.iter().any(|range| range.contains(address)));
            Arc::new(SourceRanges { allowed, itself })
        };
        for (family, none, name) in [(Family::V4, v4.is_empty(), "IPv4"), (Family::V6, v6.is_empty(), "IPv6")] {
            let is_balanced = written.iter().any(|(field, ip, _)| {
                field.starts_with("status") && ip.parse::<IpAddr>().is_ok_and(|ip| Family::of(ip) == family)
            });
            if none && is_balanced && cluster_ips.iter().any(|ip| Family::of(*ip) == family) {
                let message = format!("no range is of {name}; every {name} client of the load balancer is dropped");
                self.warn("NoSourceRange", field, message, "add the ranges of that family");
            }
        }
        Some((ranges(v4), ranges(v6)))
    }
}

type Make = fn(SocketAddr) -> FrontendAddress;

struct Reached {
    ip: IpAddr,
    sources: Option<Arc<SourceRanges>>,
}

impl Reached {
    fn at(&self, make: Make, port: u16) -> Wanted {
        Wanted {
            family: Family::of(self.ip),
            address: make(SocketAddr::new(self.ip, port)),
            sources: self.sources.clone(),
        }
    }
}
