//! Addresses that no Service may have, nor an endpoint.

use std::net::IpAddr;

/// What makes an address unfit to be proxied, or proxied to; `None`: nothing.
///
/// Source: Kubernetes `ValidateNonSpecialIP`, and what is nobody's address.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.is_broadcast()),
        IpAddr::V6(address) => {
            if address.to_ipv4_mapped().is_some() {
                return Some("an IPv4 address written as IPv6");
            }
            (address.is_unicast_link_local(), false)
        }
    };
    match () {
        () if address.is_unspecified() => Some("unspecified"),
        () if address.is_loopback() => Some("loopback"),
        () if link_local => Some("link-local"),
        () if address.is_multicast() => Some("multicast"),
        () if broadcast => Some("broadcast"),
        () => None,
    }
}

/// Text of a manifest, for a message.
pub(crate) fn clip(text: &str) -> String {
    let clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() { format!("{clipped}...") } else { clipped }
}
