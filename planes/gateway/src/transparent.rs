//! Whether this host lets the gateway connect from its clients' addresses, and brings the answers back.

use std::io;

use headwater_model::gateway::Listener;
use headwater_model::transparent::{MARK, MASK, PRIORITY, TABLE};
use headwater_net_io::transparent::permitted;
use headwater_netlink::{Family, Netlink, NetlinkError, Rule};

/// Whether a listener as such connects from clients' addresses: where that cannot be, it is not served.
pub(crate) fn is_wanted(listener: &Listener) -> bool {
    listener.stream.as_ref().is_some_and(|route| route.transparent)
}

/// The same of hosts whose TLS passes through: without it their connections are reset, and other hosts are served.
pub(crate) fn is_wanted_by_some(listener: &Listener) -> bool {
    listener.tls.iter().flat_map(|tls| tls.passthrough.values()).any(|route| route.transparent)
}

/// What is missing, and what to do.
///
/// The table of nftables is not looked for: reading it needs a capability that connecting does not need. Where it alone
/// is missing connections end with `connect_timeout`.
pub(crate) fn lacking() -> Option<String> {
    match permitted() {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(
                "transparent needs the capability CAP_NET_RAW or CAP_NET_ADMIN: run as root, or in a container with uid 0 \
                 that has one of them, in the host's network"
                    .to_owned(),
            );
        }
        Err(error) => return Some(format!("transparent: {error}")),
    }
    match missing() {
        Ok(None) => None,
        Ok(Some(what)) => Some(format!(
            "transparent needs `{what}` in the network of this process: run `headwater node --transparent` there, or the \
             commands that `headwater check` prints"
        )),
        Err(error) => Some(format!("transparent: routing rules cannot be read: {error}")),
    }
}

/// The first rule or route that is not there, as `ip` spells it.
fn missing() -> Result<Option<String>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    for (family, flag) in [(Family::V4, "-4"), (Family::V6, "-6")] {
        // A host without IPv6 has no clients either that would need it.
        if family == Family::V6 && !std::fs::exists("/proc/sys/net/ipv6/conf/all").unwrap_or_default() {
            continue;
        }
        let is_ours = |rule: &Rule| rule.mark == Some((MARK, MASK)) && rule.table == TABLE && !rule.special;
        if !netlink.rules(family)?.iter().any(is_ours) {
            return Ok(Some(format!(
                "ip {flag} rule add priority {PRIORITY} fwmark {MARK:#x}/{MASK:#x} lookup {TABLE}"
            )));
        }
        if !netlink.is_local_table(family, TABLE)? {
            return Ok(Some(format!("ip {flag} route replace local default dev lo table {TABLE}")));
        }
    }
    Ok(None)
}
