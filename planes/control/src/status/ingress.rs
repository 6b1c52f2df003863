//! What the status of an Ingress shall say.

use std::collections::{BTreeMap, BTreeSet};

use headwater_model::observed::{Observed, PublishedAddress};
use serde_json::{Value, json};

use super::address::in_order;

/// An Ingress that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedAs {
    /// In a way that another controller may still be serving as well: nothing is taken from it by force.
    pub taken_over: bool,
    /// Where clients reach it, and at which TCP ports, when gateways of its own serve it (those of ALB2s). `None`: where
    /// all gateways are reached.
    pub at: Option<BTreeMap<PublishedAddress, BTreeSet<u16>>>,
}

/// A write that makes the status of an Ingress true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngressWrite {
    /// `status.loadBalancer.ingress` is an atomic list: these, and no others. `ports` stand beside those that have some.
    Publish { addresses: Vec<PublishedAddress>, ports: BTreeMap<PublishedAddress, BTreeSet<u16>>, force: bool },
    /// Give up what is ours; what others own stays.
    Clear,
}

/// The write that is missing; `None` when the status says what it shall, or what we do not know yet.
///
/// `published`: where the gateways are reached, in order; `None` before that is known. An Ingress that is not served
/// loses what we wrote to it, and nothing else.
pub fn plan_ingress(
    served: Option<&ServedAs>,
    published: Option<&[PublishedAddress]>,
    observed: &Observed,
) -> Option<IngressWrite> {
    let clear = || observed.status_is_ours.then_some(IngressWrite::Clear);
    let Some(ServedAs { taken_over, at }) = served else { return clear() };
    let (addresses, ports) = match at {
        None => (published?.to_vec(), BTreeMap::new()),
        Some(at) => {
            let ports = at.iter().filter(|(_, ports)| !ports.is_empty());
            (in_order(at.keys().cloned().collect()), ports.map(|(at, ports)| (at.clone(), ports.clone())).collect())
        }
    };
    if addresses.is_empty() {
        return clear();
    }
    // Ports that others wrote beside our addresses say nothing wrong.
    let same = in_order(observed.addresses.clone()) == addresses && (at.is_none() || observed.ports == ports);
    (!same).then_some(IngressWrite::Publish { addresses, ports, force: !taken_over })
}

impl IngressWrite {
    /// `status`, as server-side apply takes it.
    pub(crate) fn body(&self) -> Value {
        match self {
            Self::Clear => Value::Null,
            Self::Publish { addresses, ports, .. } => {
                let entries = addresses.iter().map(|address| {
                    let mut entry = match address {
                        PublishedAddress::Ip(ip) => json!({ "ip": ip }),
                        PublishedAddress::Hostname(name) => json!({ "hostname": name }),
                    };
                    if let Some(ports) = ports.get(address) {
                        entry["ports"] = ports.iter().map(|port| json!({ "port": port, "protocol": "TCP" })).collect();
                    }
                    entry
                });
                json!({ "loadBalancer": { "ingress": entries.collect::<Vec<_>>() } })
            }
        }
    }

    pub(crate) fn force(&self) -> bool {
        // Nothing can be in the way of a write that only gives up.
        matches!(self, Self::Clear | Self::Publish { force: true, .. })
    }

    /// What will be observed once it is done.
    pub(crate) fn expect(&self, observed: &mut Observed) {
        observed.status_is_ours = matches!(self, Self::Publish { .. });
        (observed.addresses, observed.ports) = match self {
            Self::Publish { addresses, ports, .. } => (addresses.clone(), ports.clone()),
            Self::Clear => Default::default(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::parse_address;
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<PublishedAddress> {
        texts.iter().map(|text| parse_address(text).unwrap()).collect()
    }

    #[test]
    fn a_write_is_planned_only_where_the_status_says_something_else() {
        let ours = Some(&ServedAs { taken_over: false, at: None });
        let theirs_too = Some(&ServedAs { taken_over: true, at: None });
        let publish = |texts: &[&str], force| {
            Some(IngressWrite::Publish { addresses: addresses(texts), ports: BTreeMap::new(), force })
        };
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let two: &[&str] = &[a, b];
        // served, published, observed, ours already -> write
        for (served, published, observed, is_ours, write) in [
            (ours, Some(&[a][..]), &[][..], false, publish(&[a], true)),
            (ours, Some(&[a]), &[a], true, None),
            // Another controller wrote the same.
            (ours, Some(&[a]), &[a], false, None),
            (ours, Some(&[a]), &[b], false, publish(&[a], true)),
            (ours, Some(two), &[b, a], true, None),
            (ours, Some(two), &[a], true, publish(two, true)),
            (theirs_too, Some(&[a]), &[b], false, publish(&[a], false)),
            (theirs_too, Some(&[a]), &[a], false, None),
            // Not known yet where.
            (ours, None, &[b], true, None),
            // The load balancer lost its addresses.
            (ours, Some(&[]), &[a], true, Some(IngressWrite::Clear)),
            (ours, Some(&[]), &[a], false, None),
            (ours, Some(&[]), &[], false, None),
            // Served no more, or never.
            (None, Some(&[a]), &[a], true, Some(IngressWrite::Clear)),
            (None, None, &[a], true, Some(IngressWrite::Clear)),
            (None, Some(&[a]), &[a], false, None),
            (None, Some(&[a]), &[], false, None),
        ] {
            let before = Observed { addresses: addresses(observed), status_is_ours: is_ours, ..Observed::default() };
            let published = published.map(addresses);
            let planned = plan_ingress(served, published.as_deref(), &before);
            assert_eq!(planned, write, "{served:?} {published:?} {before:?}");
            if let Some(write) = planned {
                let mut after = before;
                write.expect(&mut after);
                assert_eq!(plan_ingress(served, published.as_deref(), &after), None, "planned twice: {write:?}");
            }
        }
    }

    #[test]
    fn the_body_is_what_the_api_calls_a_load_balancer_status() {
        let addresses = addresses(&["2001:db8::1", "lb.example.com"]);
        let ports = BTreeMap::from([(addresses[0].clone(), BTreeSet::from([80, 443]))]);
        let write = IngressWrite::Publish { addresses, ports, force: true };
        let ports = json!([{ "port": 80, "protocol": "TCP" }, { "port": 443, "protocol": "TCP" }]);
        let entries = json!([{ "ip": "2001:db8::1", "ports": ports }, { "hostname": "lb.example.com" }]);
        assert_eq!(write.body(), json!({ "loadBalancer": { "ingress": entries } }));
        assert_eq!(IngressWrite::Clear.body(), Value::Null);
    }

    #[test]
    fn an_ingress_of_gateways_of_its_own_shows_their_addresses_and_its_ports() {
        let elsewhere = addresses(&["192.0.2.9"]);
        let at = |ports: &[u16]| {
            let ports: BTreeSet<u16> = ports.iter().copied().collect();
            addresses(&["lb.example.com", "192.0.2.1"]).into_iter().map(|address| (address, ports.clone())).collect()
        };
        let served = ServedAs { taken_over: false, at: Some(at(&[80])) };
        let mut observed = Observed::default();
        // Not where the others are reached, and before that is known.
        for published in [Some(&elsewhere[..]), None] {
            let write = plan_ingress(Some(&served), published, &observed).unwrap();
            let IngressWrite::Publish { addresses: written, ports, force: true } = &write else { panic!("{write:?}") };
            assert_eq!((written, ports), (&addresses(&["192.0.2.1", "lb.example.com"]), &at(&[80])));
        }
        plan_ingress(Some(&served), None, &observed).unwrap().expect(&mut observed);
        assert_eq!(plan_ingress(Some(&served), None, &observed), None);
        let more = ServedAs { at: Some(at(&[80, 443])), ..served };
        assert!(plan_ingress(Some(&more), None, &observed).is_some(), "another port is another status");
        let nowhere = ServedAs { at: Some(BTreeMap::new()), ..more };
        assert_eq!(plan_ingress(Some(&nowhere), Some(&elsewhere), &observed), Some(IngressWrite::Clear));
    }
}
