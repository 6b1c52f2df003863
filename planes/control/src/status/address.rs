//! Where clients reach the gateways: what Ingresses show as their addresses.

use std::net::IpAddr;

use headwater_model::object::{Service, ServiceType};
use headwater_model::observed::PublishedAddress;

/// The addresses of a Service, as ingress-nginx reads them for `--publish-service`.
///
/// `status`: what its `status.loadBalancer.ingress` says.
/// Source: ingress-nginx `statusAddressFromService`.
pub fn published_by(service: &Service, status: &[PublishedAddress]) -> Vec<PublishedAddress> {
    let spec = &service.spec;
    let external = spec.external_ips.iter().filter_map(|text| ip(text));
    let cluster = || spec.cluster_ip.as_deref().and_then(ip).into_iter().collect();
    let addresses: Vec<PublishedAddress> = match spec.service_type {
        ServiceType::LoadBalancer => status.iter().cloned().chain(external).collect(),
        ServiceType::NodePort if !spec.external_ips.is_empty() => external.collect(),
        ServiceType::NodePort | ServiceType::ClusterIP => cluster(),
        ServiceType::ExternalName => spec.external_name.iter().cloned().map(PublishedAddress::Hostname).collect(),
    };
    in_order(addresses)
}

/// Sorted and each once, as ingress-nginx writes them: addresses by their text, then host names.
pub(super) fn in_order(mut addresses: Vec<PublishedAddress>) -> Vec<PublishedAddress> {
    addresses.sort_by_cached_key(|address| match address {
        PublishedAddress::Ip(ip) => (String::new(), ip.to_string()),
        PublishedAddress::Hostname(name) => (name.clone(), String::new()),
    });
    addresses.dedup();
    addresses
}

/// Reads an address of `--publish-address`: an IP address, or a host name in lower case.
///
/// # Errors
/// What is wrong with it, for a message that names the flag.
pub fn parse_address(text: &str) -> Result<PublishedAddress, String> {
    if let Some(address) = ip(text) {
        return Ok(address);
    }
    // RFC 1123 section 2.1, as Kubernetes checks `status.loadBalancer.ingress[].hostname`.
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numbers_only = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.len() <= 253 && !numbers_only && text.split('.').all(label) {
        true => Ok(PublishedAddress::Hostname(text.to_owned())),
        false => Err(format!("\"{text}\" is not an address (try \"192.0.2.1\" or \"lb.example.com\")")),
    }
}

fn ip(text: &str) -> Option<PublishedAddress> {
    text.parse::<IpAddr>().ok().map(PublishedAddress::Ip)
}

#[cfg(test)]
mod tests {
    use headwater_model::object::ServiceSpec;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<PublishedAddress> {
        texts.iter().map(|text| parse_address(text).unwrap()).collect()
    }

    fn service(service_type: ServiceType, cluster_ip: &str, external_ips: &[&str]) -> Service {
        let spec = ServiceSpec {
            service_type,
            cluster_ip: Some(cluster_ip.to_owned()),
            external_ips: external_ips.iter().map(|&text| text.to_owned()).collect(),
            external_name: Some("lb.example.com".to_owned()),
            ..ServiceSpec::default()
        };
        Service { spec, ..Service::default() }
    }

    #[test]
    fn each_type_of_service_publishes_what_ingress_nginx_would() {
        use ServiceType::{ClusterIP, ExternalName, LoadBalancer, NodePort};
        let cases: [(Service, &[&str], &[&str]); 9] = [
            (service(LoadBalancer, "10.96.0.1", &[]), &["192.0.2.2", "192.0.2.1"], &["192.0.2.1", "192.0.2.2"]),
            (
                service(LoadBalancer, "10.96.0.1", &["192.0.2.2", "192.0.2.9"]),
                &["192.0.2.2"],
                &["192.0.2.2", "192.0.2.9"],
            ),
            (service(LoadBalancer, "10.96.0.1", &[]), &[], &[]),
            (
                service(LoadBalancer, "10.96.0.1", &[]),
                &["a.example.com", "2001:db8::1"],
                &["2001:db8::1", "a.example.com"],
            ),
            (service(NodePort, "10.96.0.1", &["192.0.2.9"]), &["192.0.2.1"], &["192.0.2.9"]),
            (service(NodePort, "10.96.0.1", &[]), &[], &["10.96.0.1"]),
            (service(ClusterIP, "10.96.0.1", &["192.0.2.9"]), &[], &["10.96.0.1"]),
            (service(ClusterIP, "None", &[]), &[], &[]),
            (service(ExternalName, "", &[]), &[], &["lb.example.com"]),
        ];
        for (service, status, expected) in cases {
            assert_eq!(
                published_by(&service, &addresses(status)),
                addresses(expected),
                "{:?} {status:?}",
                service.spec
            );
        }
    }

    #[test]
    fn addresses_stand_once_and_in_the_order_of_their_text() {
        let ordered = in_order(addresses(&["b.example.com", "192.0.2.9", "192.0.2.10", "a.example.com", "192.0.2.9"]));
        assert_eq!(ordered, addresses(&["192.0.2.10", "192.0.2.9", "a.example.com", "b.example.com"]));
    }

    #[test]
    fn what_is_neither_an_address_nor_a_host_name_is_refused() {
        for text in ["", "192.0.2.256", "a b", "-a.example.com", "a..b", "A.example.com", "1.2.3", "*.example.com"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert_eq!(parse_address("2001:DB8::1"), Ok(PublishedAddress::Ip("2001:db8::1".parse().unwrap())));
    }
}
