//! The tunnel between nodes: a VXLAN device, and the way into it for packets that are marked.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headwater_model::nat::Family;
use headwater_model::tunnel::TunnelEnd;
use headwater_netlink::{self as netlink, FdbEntry, Netlink, NetlinkError, Route, Rule, Vxlan, sysctl};
use ipnet::IpNet;

use crate::fabric::Fabric;
use crate::mark;
use crate::ruleset::Tunnel;

pub(crate) const DEVICE: &str = "hwvx";

/// Number of the virtual network, and of the routing table.
const NUMBER: u32 = 18_519;

/// Routing rules: marked packets before all else, also before the node's own addresses.
const MARK_PRIORITY: u32 = 90;
const LOCAL_PRIORITY: u32 = 100;
const LOCAL_TABLE: u32 = 255;

/// Stands in the route for the peer, which the mark names.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 72, 87);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x4857);
const GATEWAY_MAC: [u8; 6] = [0x02, 0x48, 0, 0, 0, 1];

/// Outer headers: Ethernet, IP, UDP, VXLAN.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// Smallest link over which IPv6 goes.
const LEAST_MTU: u32 = 1280;

/// Why clients cannot be kept here, and what would mend it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelProblem {
    #[error("{0}")]
    NotWanted(String),
    #[error("address {address} of the tunnel is on no interface of this node")]
    NotHere { address: IpAddr },
    #[error(
        "net.ipv4.conf.all.rp_filter is 1: the kernel would drop clients' packets from the tunnel; set it to 0 or 2"
    )]
    StrictReversePath,
    #[error("the underlay's MTU of {mtu} leaves less than {LEAST_MTU} bytes in the tunnel")]
    TooNarrow { mtu: u32 },
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A tunnel that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) end: TunnelEnd,
    pub(crate) index: u32,
    /// The device was made anew, and lost what was bound to it.
    pub(crate) recreated: bool,
    pub(crate) rules: Tunnel,
}

fn family_of(family: Family) -> netlink::Family {
    match family {
        Family::V4 => netlink::Family::V4,
        Family::V6 => netlink::Family::V6,
    }
}

pub(crate) fn has_ipv6() -> bool {
    sysctl::read("net.ipv6.conf.all.forwarding").is_ok()
}

/// Sets a kernel parameter that is not set already.
fn set(name: &str, value: &str) -> Result<(), TunnelProblem> {
    if sysctl::read(name)?.trim() != value {
        sysctl::write(name, value)?;
    }
    Ok(())
}

/// Makes the device and the routes, or finds them as they should be. Nothing is written that is right already. Without
/// `ipv6` nothing is done to that family: a host that forwards it listens to router advertisements no more.
pub(crate) fn ensure(
    netlink: &mut Netlink,
    own: &TunnelEnd,
    mtu: Option<u32>,
    ipv6: bool,
) -> Result<Standing, TunnelProblem> {
    if sysctl::read("net.ipv4.conf.all.rp_filter")?.trim() == "1" {
        return Err(TunnelProblem::StrictReversePath);
    }
    let underlay = Family::of(own.address);
    let holder = netlink.addresses()?.into_iter().find(|(_, net)| net.addr() == own.address);
    let (index, _) = holder.ok_or(TunnelProblem::NotHere { address: own.address })?;
    let below = netlink.link_at(index)?.ok_or(TunnelProblem::NotHere { address: own.address })?;
    let overhead = if underlay == Family::V4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let mtu = mtu.unwrap_or_else(|| below.mtu.min(9216).saturating_sub(overhead));
    if mtu < LEAST_MTU {
        return Err(TunnelProblem::TooNarrow { mtu: below.mtu });
    }
    let wanted =
        Vxlan { name: DEVICE.to_owned(), vni: NUMBER, port: own.port, local: own.address, mtu, mac: own.mac.0 };
    let ensured = netlink.ensure_vxlan(&wanted)?;
    set(&format!("net.ipv4.conf.{DEVICE}.rp_filter"), "0")?;
    // Replies to NodePorts have the node's own address as their source.
    set(&format!("net.ipv4.conf.{DEVICE}.accept_local"), "1")?;
    set("net.ipv4.ip_forward", "1")?;
    let mut families = vec![Family::V4];
    if ipv6 && has_ipv6() {
        set(&format!("net.ipv6.conf.{DEVICE}.disable_ipv6"), "0")?;
        set(&format!("net.ipv6.conf.{DEVICE}.accept_ra"), "0")?;
        set("net.ipv6.conf.all.forwarding", "1")?;
        families.push(Family::V6);
    }
    for family in families {
        way_in(netlink, family, ensured.index)?;
    }
    Ok(Standing {
        end: *own,
        index: ensured.index,
        recreated: ensured.recreated,
        rules: Tunnel { device: DEVICE.to_owned(), port: own.port, underlay, mtu },
    })
}

fn way_in(netlink: &mut Netlink, family: Family, index: u32) -> Result<(), TunnelProblem> {
    let gateway: IpAddr = match family {
        Family::V4 => GATEWAY_V4.into(),
        Family::V6 => GATEWAY_V6.into(),
    };
    let known = netlink.neighbours(index)?;
    if !known.iter().any(|neighbour| neighbour.ip == gateway && neighbour.permanent) {
        netlink.set_neighbour(index, gateway, GATEWAY_MAC)?;
    }
    let destination = match family {
        Family::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        Family::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    let route = Route { table: NUMBER, destination, gateway: Some(gateway), index, onlink: true, mtu: None };
    let there = netlink.routes_in(NUMBER)?;
    if !there.iter().any(|known| known.destination == destination && known.index == index) {
        netlink.set_route(&route)?;
    }
    let family = family_of(family);
    let rules = netlink.rules(family)?;
    let marked = Rule::marked(family, MARK_PRIORITY, mark::MAGIC, mark::OURS, NUMBER);
    if !rules.contains(&marked) {
        netlink.add_rule(&marked)?;
    }
    // NodePorts: the table of own addresses would come before all rules. It is never absent.
    let first = Rule::lookup(family, 0, LOCAL_TABLE);
    if rules.contains(&first) {
        let moved = Rule::lookup(family, LOCAL_PRIORITY, LOCAL_TABLE);
        if !rules.contains(&moved) {
            netlink.add_rule(&moved)?;
        }
        netlink.delete_rule(&first)?;
    }
    Ok(())
}

/// Tells the device where its peers are.
pub(crate) fn peers(netlink: &mut Netlink, index: u32, fabric: &Fabric) -> Result<(), NetlinkError> {
    let wanted: BTreeSet<FdbEntry> =
        fabric.peers().map(|(_, _, end)| FdbEntry { mac: end.mac.0, ip: end.address }).collect();
    let found: BTreeSet<FdbEntry> = netlink.fdb(index)?.into_iter().collect();
    for entry in found.difference(&wanted) {
        netlink.delete_fdb(index, entry)?;
    }
    for entry in wanted.difference(&found) {
        netlink.set_fdb(index, entry)?;
    }
    Ok(())
}

/// Takes everything away that [`ensure`] made.
pub(crate) fn remove(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    for family in [netlink::Family::V4, netlink::Family::V6] {
        let rules = netlink.rules(family)?;
        let moved = Rule::lookup(family, LOCAL_PRIORITY, LOCAL_TABLE);
        if rules.contains(&moved) {
            let first = Rule::lookup(family, 0, LOCAL_TABLE);
            if !rules.contains(&first) {
                netlink.add_rule(&first)?;
            }
            netlink.delete_rule(&moved)?;
        }
        let marked = Rule::marked(family, MARK_PRIORITY, mark::MAGIC, mark::OURS, NUMBER);
        netlink.delete_rule(&marked)?;
    }
    netlink.delete_link(DEVICE)?;
    Ok(())
}
