//! What a node makes of its own packets before anybody sees them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use headwater_netlink::{Conntrack, Family, Flow};
use headwater_testkit::lab::Host;
use headwater_testkit::services::Transport;

/// Source and destination with which the packet leaves that a node sends from a port of its own, if it has translated
/// them. To be asked for soon after the packet: the kernel forgets.
///
/// # Errors
/// When the kernel does not tell.
pub fn translated(
    node: &Host,
    transport: Transport,
    port: u16,
    target: SocketAddr,
) -> Result<Option<(SocketAddr, SocketAddr)>> {
    let proto = match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    };
    let mut translated = None;
    let look = |flow: &Flow| {
        let Flow { original, reply, .. } = flow;
        let end = |address: IpAddr, port| SocketAddr::new(address, port);
        // What comes back to the node by the tunnel is tracked again, in a zone.
        let own = (flow.zone, flow.original_zone) == (0, 0);
        if own && original.sport == port && end(original.dst, original.dport) == target {
            let (source, to) = (end(reply.dst, reply.dport), end(reply.src, reply.sport));
            translated = ((source, to) != (end(original.src, port), target)).then_some((source, to));
        }
    };
    node.run(|| anyhow::Ok(Conntrack::open()?.dump(Family::of(target.ip()), Some(proto), look)?))?;
    Ok(translated)
}
