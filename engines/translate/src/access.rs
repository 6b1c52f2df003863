//! Annotations that let clients in, or keep them out, by their addresses.

use headwater_model::gateway::AccessList;
use headwater_model::settings::parse_cidr;
use ipnet::IpNet;

use crate::filters::Reader;
use crate::lookup::Said;

/// Names that are read here.
pub(crate) const READ: [&str; 3] = ["allowlist-source-range", "denylist-source-range", "whitelist-source-range"];

/// Most networks of one list.
const MAX_NETWORKS: usize = 4096;

/// Something is wrong with a list: nobody is let in.
#[derive(Debug)]
pub(crate) struct Closed;

/// `None`: everybody is let in.
pub(crate) fn read(reader: &mut Reader<'_, '_>) -> Result<Option<AccessList>, Closed> {
    // ingress-nginx reads the old name only where the new one is missing.
    let allow = reader.get("allowlist-source-range").or_else(|| reader.get("whitelist-source-range"));
    // Both are read, so that everything that is wrong is told at once.
    let (deny, allow) = (networks(reader, reader.get("denylist-source-range")), networks(reader, allow));
    let list = AccessList { deny: deny?, allow: allow? };
    Ok(Some(list).filter(|list| *list != AccessList::default()))
}

fn networks(reader: &mut Reader<'_, '_>, said: Option<Said<'_>>) -> Result<Vec<IpNet>, Closed> {
    let Some(said) = said else { return Ok(Vec::new()) };
    let entries = said.value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let networks: Option<Vec<IpNet>> = entries.take(MAX_NETWORKS + 1).map(network).collect();
    networks.filter(|networks| networks.len() <= MAX_NETWORKS).ok_or_else(|| {
        let expected = format!("a list of at most {MAX_NETWORKS} networks such as \"10.0.0.0/8,2001:db8::1\"");
        reader.invalid(said, &expected, "requests get 503 invalid_rule");
        Closed
    })
}

/// A network; one of IPv4 in IPv6 clothes is what it is.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let network = parse_cidr(text)?;
    let IpNet::V6(v6) = network else { return Some(network) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => ipnet::Ipv4Net::new(v4, length).ok().map(IpNet::V4),
        _ => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headwater_model::origin::{Kind, ObjectKey};

    use super::*;
    use crate::annotation_names::PREFIX;
    use crate::lookup::Lookup;

    fn list(pairs: &[(&str, &str)]) -> Result<Option<AccessList>, usize> {
        let pairs: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect();
        let (object, mut findings) = (ObjectKey::new(Kind::Ingress, "shop", "web"), Vec::new());
        let lookup = Lookup::new(&pairs, "cpaas.io", None);
        let list = read(&mut Reader { object: &object, lookup: &lookup, findings: &mut findings });
        list.map_err(|Closed| findings.len())
    }

    #[test]
    fn lists_are_read_and_one_wrong_entry_closes() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let (allow, old, deny) = ("allowlist-source-range", "whitelist-source-range", "denylist-source-range");
        for (pairs, expected) in [
            (
                &[(old, "10.0.0.0/8, 192.0.2.1,2001:db8::/32")][..],
                (&["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"][..], &[][..]),
            ),
            (&[(old, "10.0.0.0/8"), (allow, "11.0.0.0/8")], (&["11.0.0.0/8"], &[])),
            (&[(deny, "::ffff:10.0.0.0/104")], (&[], &["10.0.0.0/8"])),
            (&[(deny, "10.1.0.0/16"), (allow, "10.0.0.0/8")], (&["10.0.0.0/8"], &["10.1.0.0/16"])),
        ] {
            let expected = AccessList { allow: networks(expected.0), deny: networks(expected.1) };
            assert_eq!(list(pairs), Ok(Some(expected)), "{pairs:?}");
        }
        assert_eq!(list(&[(allow, " "), (deny, ",")]), Ok(None));
        let many = "10.0.0.1,".repeat(MAX_NETWORKS + 1);
        for (pairs, wrong) in [
            (&[(allow, "10.0.0.0/8,10.0.0.300")][..], 1),
            (&[(deny, "office")], 1),
            (&[(deny, "10.0.0.0/33"), (allow, "x")], 2),
            (&[(allow, &*many)], 1),
        ] {
            assert_eq!(list(pairs), Err(wrong));
        }
    }
}
