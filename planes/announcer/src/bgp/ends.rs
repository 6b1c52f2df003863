//! What the interface of a connection has for next hops.

use std::io;
use std::net::{IpAddr, SocketAddr};

use headwater_bgp::Ends;
use headwater_netlink::{Netlink, NetlinkError};
use ipnet::IpNet;
use tokio::net::TcpStream;

/// Blocks for as long as the kernel needs to list addresses.
pub(super) fn of(local: SocketAddr, remote: SocketAddr) -> Result<Ends, NetlinkError> {
    let addresses = Netlink::open()?.addresses()?;
    Ok(among(&addresses, local, remote))
}

fn among(addresses: &[(u32, IpNet)], local: SocketAddr, remote: SocketAddr) -> Ends {
    let own = local.ip().to_canonical();
    // A link-local address may be on several interfaces.
    let scope = match local {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let here = addresses.iter().find(|(index, net)| net.addr() == own && (scope == 0 || *index == scope));
    let index = here.map(|(index, _)| *index);
    let beside = || addresses.iter().filter(move |(other, _)| Some(*other) == index).map(|(_, net)| net.addr());
    let ipv4 = beside().find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let ipv6 = |link_local: bool| {
        beside().find_map(move |address| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() == link_local && !address.is_loopback() => {
                Some(address)
            }
            _ => None,
        })
    };
    // Beside a global next hop the link-local one is told to who shares the link. RFC 2545 section 3.
    let same_link = here.is_some_and(|(_, net)| net.contains(&remote.ip().to_canonical()));
    Ends { local, remote, ipv4, ipv6: ipv6(false), link_local: ipv6(true).filter(|_| same_link) }
}

/// Those of a connection that was just made.
pub(super) async fn of_stream(stream: &TcpStream) -> io::Result<Ends> {
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    tokio::task::spawn_blocking(move || of(local, remote)).await.map_err(io::Error::other)?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_of_the_interface_that_the_connection_uses() {
        let nets = [
            (1, "127.0.0.1/8"),
            (2, "192.0.2.2/24"),
            (2, "fe80::2/64"),
            (2, "2001:db8::2/64"),
            (3, "198.51.100.2/24"),
            (3, "fe80::2/64"),
            (3, "2001:db8:3::2/64"),
        ];
        let nets: Vec<(u32, IpNet)> = nets.map(|(index, net)| (index, net.parse().unwrap())).to_vec();
        let text = |address: Option<std::net::Ipv6Addr>| address.map(|address| address.to_string());
        for (local, remote, ipv4, ipv6, link_local) in [
            ("192.0.2.2:40000", "192.0.2.1:179", Some("192.0.2.2"), Some("2001:db8::2"), Some("fe80::2")),
            ("192.0.2.2:40000", "203.0.113.9:179", Some("192.0.2.2"), Some("2001:db8::2"), None),
            (
                "[2001:db8:3::2]:40000",
                "[2001:db8:3::1]:179",
                Some("198.51.100.2"),
                Some("2001:db8:3::2"),
                Some("fe80::2"),
            ),
            ("[fe80::2%3]:40000", "[fe80::1%3]:179", Some("198.51.100.2"), Some("2001:db8:3::2"), Some("fe80::2")),
            ("192.0.2.77:40000", "192.0.2.1:179", None, None, None),
        ] {
            let ends = among(&nets, local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!(ends.ipv4.map(|address| address.to_string()).as_deref(), ipv4, "{local}");
            assert_eq!(text(ends.ipv6).as_deref(), ipv6, "{local}");
            assert_eq!(text(ends.link_local).as_deref(), link_local, "{local} {remote}");
        }
    }
}
