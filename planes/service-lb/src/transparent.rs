//! The way back for connections that gateways of this node make from their clients' addresses; the table of nftables is
//! loaded with the others.

use headwater_model::transparent::{MARK, MASK, PRIORITY, TABLE};
use headwater_netlink::{Family, Netlink, NetlinkError, Rule};

fn rule(family: Family) -> Rule {
    Rule::marked(family, PRIORITY, MARK, MASK, TABLE)
}

/// Makes what is not there.
pub(crate) fn ensure(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    for family in Family::ALL {
        if family == Family::V6 && !crate::tunnel::has_ipv6() {
            continue;
        }
        if !netlink.is_local_table(family, TABLE)? {
            netlink.set_local_table(family, TABLE)?;
        }
        if !netlink.rules(family)?.contains(&rule(family)) {
            netlink.add_rule(&rule(family))?;
        }
    }
    Ok(())
}

/// Takes it away, whoever made it.
pub(crate) fn remove(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    for family in Family::ALL {
        if family == Family::V6 && !crate::tunnel::has_ipv6() {
            continue;
        }
        netlink.delete_rule(&rule(family))?;
        if netlink.is_local_table(family, TABLE)? {
            netlink.delete_local_table(family, TABLE)?;
        }
    }
    Ok(())
}
