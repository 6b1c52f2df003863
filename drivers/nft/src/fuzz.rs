//! What must hold for any bytes that a netlink socket could bring.

use crate::decode;
use crate::encode::Batch;
use crate::events::Feed;
use crate::kernel::Outcome;
use crate::types::{Element, Family, Kind, Name, Set, Table};

/// Reads bytes as everything that they could be. Elements that come out go in again, and come out as they were.
///
/// # Panics
/// When that is not so.
pub fn fuzz(bytes: &[u8]) {
    let name = |text: &str| Name::new(text).expect("the name is one");
    let sets = [Family::Ip, Family::Ip6].map(|family| {
        let table = Table::new(family, name("services"));
        let address = if family == Family::Ip { Kind::Ipv4 } else { Kind::Ipv6 };
        let services = [address, Kind::Proto, Kind::Port];
        let endpoints = [address, Kind::Proto, Kind::Port, Kind::Mark];
        [
            Set::verdict_map(&table, name("svc"), &services),
            Set::map(&table, name("eps"), &endpoints, &[address, Kind::Port]),
            Set::plain(&table, name("sources"), &[address, address]),
            Set::map(&table, name("nodes"), &[Kind::Ether], &[Kind::Mark]),
        ]
        .map(|set| set.expect("the key is short"))
    });
    for set in sets.iter().flatten() {
        let found = elements(set, bytes);
        let mut batch = Batch::new();
        for element in &found {
            batch.add(set, element).expect("what was decoded has the fields of its set");
        }
        let encoded = batch.encode(7);
        assert_eq!(elements(set, encoded.bytes()), found);
        let mut outcome = Outcome::new(&encoded);
        for message in decode::messages(bytes).flatten() {
            let _ = decode::answer(&message);
            let _ = decode::generation(&message);
            let _ = outcome.take(&message);
        }
        let _ = outcome.result().map_err(|error| error.to_string());
    }
    let mut feed = Feed::new(&sets.map(|[set, ..]| set.table().clone()));
    let _ = feed.take(bytes);
}

fn elements(set: &Set, bytes: &[u8]) -> Vec<Element> {
    let mut found = Vec::new();
    for message in decode::messages(bytes).flatten() {
        let _ = decode::elements(set, &message, &mut found);
    }
    found
}
