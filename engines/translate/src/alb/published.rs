//! Where clients reach the Ingresses of an ALB2: what their status is to say.

use std::collections::{BTreeMap, BTreeSet};

use headwater_model::alb::Alb2;
use headwater_model::alb::alb2::Address;
use headwater_model::gateway::HostPattern;
use headwater_model::observed::PublishedAddress;

use crate::host::parse_host;

/// An Ingress that ALB2s serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedByAlbs {
    /// Whether the Ingress names their class. Without a class it is every ALB2's, and maybe another controller's.
    pub names_class: bool,
    /// Where clients reach them, with the TCP ports that the Ingress has there.
    pub at: BTreeMap<PublishedAddress, BTreeSet<u16>>,
}

/// Where clients reach an ALB2, as a status can say it: what is neither an address nor a host's name is passed over.
pub(super) fn published(alb: &Alb2) -> BTreeSet<PublishedAddress> {
    let addresses = alb.addresses().into_iter();
    addresses
        .filter_map(|address| match address {
            Address::Ip(ip) => Some(PublishedAddress::Ip(ip)),
            Address::Hostname(name) => match parse_host(&name) {
                Ok(HostPattern::Exact(name)) => Some(PublishedAddress::Hostname(name.to_string())),
                _ => None,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alb_is_reached_where_it_says_and_where_its_load_balancer_is() {
        let alb = json!({
            "metadata": {"name": "a"},
            "spec": {"address": "192.0.2.1, LB.Example.com,,*.example.com,not a name"},
            "status": {"detail": {"address": {"ipv4": ["192.0.2.2"], "ipv6": ["2001:db8::1"], "host": ["x.example.com"]}}},
        });
        let found = published(&Alb2::parse(&alb).unwrap());
        let shown: Vec<String> = found
            .iter()
            .map(|address| match address {
                PublishedAddress::Ip(ip) => ip.to_string(),
                PublishedAddress::Hostname(name) => name.clone(),
            })
            .collect();
        assert_eq!(shown, ["192.0.2.1", "192.0.2.2", "2001:db8::1", "lb.example.com", "x.example.com"]);
    }
}
