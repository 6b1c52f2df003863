//! What the status of an Ingress shall say.

use headwater_model::observed::{Observed, PublishedAddress};
use serde_json::{Value, json};

use super::address::in_order;

/// An Ingress that the gateways serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedAs {
    /// By a class that another controller may still be serving as well: nothing is taken from it by force.
    pub taken_over: bool,
}

/// A write that makes the status of an Ingress true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngressWrite {
    /// `status.loadBalancer.ingress` is an atomic list: these, and no others.
    Publish { addresses: Vec<PublishedAddress>, force: bool },
    /// Give up what is ours; what others own stays.
    Clear,
}

/// The write that is missing; `None` when the status says what it shall, or what we do not know yet.
///
/// `published`: where the gateways are reached, in order; `None` before that is known. An Ingress that is not served
/// loses what we wrote to it, and nothing else.
pub fn plan_ingress(
    served: Option<ServedAs>,
    published: Option<&[PublishedAddress]>,
    observed: &Observed,
) -> Option<IngressWrite> {
    let clear = || observed.status_is_ours.then_some(IngressWrite::Clear);
    let Some(ServedAs { taken_over }) = served else { return clear() };
    match published? {
        [] => clear(),
        addresses if in_order(observed.addresses.clone()) == addresses => None,
        addresses => Some(IngressWrite::Publish { addresses: addresses.to_vec(), force: !taken_over }),
    }
}

impl IngressWrite {
    /// `status`, as server-side apply takes it.
    pub(crate) fn body(&self) -> Value {
        match self {
            Self::Clear => Value::Null,
            Self::Publish { addresses, .. } => {
                let entries = addresses.iter().map(|address| match address {
                    PublishedAddress::Ip(ip) => json!({ "ip": ip }),
                    PublishedAddress::Hostname(name) => json!({ "hostname": name }),
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
        observed.addresses = match self {
            Self::Publish { addresses, .. } => addresses.clone(),
            Self::Clear => Vec::new(),
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
        let ours = Some(ServedAs { taken_over: false });
        let theirs_too = Some(ServedAs { taken_over: true });
        let publish = |texts: &[&str], force| Some(IngressWrite::Publish { addresses: addresses(texts), force });
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
        let write = IngressWrite::Publish { addresses: addresses(&["2001:db8::1", "lb.example.com"]), force: true };
        let entries = json!([{ "ip": "2001:db8::1" }, { "hostname": "lb.example.com" }]);
        assert_eq!(write.body(), json!({ "loadBalancer": { "ingress": entries } }));
        assert_eq!(IngressWrite::Clear.body(), Value::Null);
    }
}
