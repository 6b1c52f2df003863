//! What must hold for any bytes that a netlink socket could bring.

use std::collections::VecDeque;

use crate::{address, conntrack, decode, link, neighbour, route, rule, watch};

/// Reads bytes as everything that they could be. A connection that comes out is named in a request to delete it as it
/// was read.
///
/// # Panics
/// When that is not so.
pub fn fuzz(bytes: &[u8]) {
    for message in decode::messages(bytes).flatten() {
        let _ = decode::answer(&message);
        if let Ok(Some(flow)) = conntrack::decode(&message) {
            assert!(!flow.to_string().is_empty());
            let request = conntrack::deletion(&flow);
            let message = decode::messages(&request).next();
            let message = message.and_then(Result::ok).expect("what was written is one message");
            let said = conntrack::fields(&message).expect("what was written can be read");
            assert_eq!(said.original, Some((flow.proto, flow.original)));
            assert_eq!((said.id, said.zone), (Some(flow.id), flow.zone));
        }
        let Ok(message) = message.route() else { continue };
        let _ = link::link(message.clone());
        let _ = address::address(message.clone());
        let _ = neighbour::fdb_entry(message.clone(), 1);
        let _ = neighbour::neighbour(message.clone(), 1);
        let _ = route::route(message.clone()).map(|route| route.to_string());
        let _ = route::route_answer(message.clone());
        let _ = rule::rule(message).map(|rule| rule.to_string());
    }
    watch::take(bytes, &mut VecDeque::new());
}
