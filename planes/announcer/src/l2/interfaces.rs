//! Which interfaces of the node frames may be heard and sent on.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use headwater_l2::{Interface, Mac};
use headwater_netlink::{Link, Netlink, NetlinkError, Notice, Watch};
use ipnet::IpNet;
use regex::RegexSet;
use tokio::sync::watch;

/// Everything is looked at again this often, whatever the kernel tells.
const RESCAN: Duration = Duration::from_secs(10);

/// A burst of changes is over when none came for this long.
const QUIET: Duration = Duration::from_millis(2);

/// How long the thread sleeps at most, before it looks whether it is wanted still.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Interfaces that may be used, by number.
    pub(super) interfaces: Vec<Interface>,
    /// Addresses of all interfaces.
    pub(super) own: Vec<IpAddr>,
    /// The same with their interfaces.
    pub(super) places: Vec<(u32, IpAddr)>,
}

impl Found {
    /// Interfaces that have no address of these networks.
    pub(super) fn outside<'a>(&'a self, networks: &'a [IpNet]) -> impl Iterator<Item = &'a Interface> {
        let is_inside = |index: u32| {
            let mut here = self.places.iter().filter(|(other, _)| *other == index);
            here.any(|(_, address)| networks.iter().any(|network| network.contains(address)))
        };
        self.interfaces.iter().filter(move |interface| !is_inside(interface.index))
    }
}

/// Follows the interfaces of the network namespace of this thread, on a thread of its own that ends with the receiver.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn follow(excluded: RegexSet) -> Result<watch::Receiver<Found>, NetlinkError> {
    let mut scan = Scan { netlink: Netlink::open()?, watch: Watch::open()?, excluded };
    let (tell, found) = watch::channel(scan.look()?);
    thread::Builder::new()
        .name("l2-interfaces".to_owned())
        .spawn(move || scan.run(&tell))
        .expect("the system has room for a thread");
    Ok(found)
}

struct Scan {
    netlink: Netlink,
    watch: Watch,
    excluded: RegexSet,
}

impl Scan {
    fn run(mut self, tell: &watch::Sender<Found>) {
        let mut complained = false;
        while !tell.is_closed() {
            self.wait(tell);
            match self.look() {
                Ok(now) => {
                    complained = false;
                    tell.send_if_modified(|found| {
                        let changed = *found != now;
                        if changed {
                            *found = now;
                        }
                        changed
                    });
                }
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::warn!(%error, "interfaces cannot be read; what was known of them counts");
                }
                Err(_) => {}
            }
        }
    }

    /// Until something may have changed.
    fn wait(&mut self, tell: &watch::Sender<Found>) {
        let end = Instant::now() + RESCAN;
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(LONGEST_SLEEP);
            if left.is_zero() || tell.is_closed() {
                return;
            }
            match self.watch.wait(left) {
                Ok(Some(Notice::Link(_) | Notice::Address(_) | Notice::Lost)) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "changes of interfaces cannot be heard");
                    thread::sleep(LONGEST_SLEEP);
                    return;
                }
            }
        }
        while let Ok(Some(_)) = self.watch.wait(QUIET) {}
    }

    fn look(&mut self) -> Result<Found, NetlinkError> {
        let links = self.netlink.links()?;
        let addresses = self.netlink.addresses()?;
        let mut own: Vec<IpAddr> = addresses.iter().map(|(_, net)| net.addr()).collect();
        own.sort_unstable();
        own.dedup();
        let interfaces = links.iter().filter_map(|link| usable(link, &addresses, &self.excluded)).collect();
        Ok(Found { interfaces, own, places: addresses.iter().map(|(index, net)| (*index, net.addr())).collect() })
    }
}

/// What an interface speaks; `None`: it is not used.
fn usable(link: &Link, addresses: &[(u32, IpNet)], excluded: &RegexSet) -> Option<Interface> {
    let mac = Mac(link.mac?);
    if !link.up || link.master.is_some() || !mac.is_unicast() || excluded.is_match(&link.name) {
        return None;
    }
    let ours = || addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, net)| net);
    if leads_to_a_pod(link, ours()) {
        return None;
    }
    let link_local = ours().filter_map(|net| match net.addr() {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
        _ => None,
    });
    let interface = Interface {
        index: link.index,
        name: Arc::from(&*link.name),
        mac,
        arp: link.broadcast && link.resolves,
        link_local: link_local.min(),
    };
    (interface.arp || interface.link_local.is_some()).then_some(interface)
}

/// A cable into another network namespace, with no network on it but the two ends: nobody but a pod is there. Where a
/// node is itself in a namespace, its cable has an address of a network.
fn leads_to_a_pod<'a>(link: &Link, mut addresses: impl Iterator<Item = &'a IpNet>) -> bool {
    let is_link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
    let is_cable = link.leads_elsewhere && link.kind.as_deref() == Some("veth");
    is_cable && !addresses.any(|net| !is_link_local(net) && net.prefix_len() < net.max_prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::config::{DEFAULT_EXCLUDED, excluded};

    fn link() -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            broadcast: true,
            resolves: true,
            master: None,
            leads_elsewhere: false,
            kind: None,
            vxlan: None,
            makes_addresses: true,
        }
    }

    #[test]
    fn only_interfaces_with_neighbours_of_their_own_are_used() {
        let excluded = excluded(&DEFAULT_EXCLUDED).unwrap();
        let addresses = [(2, "fe80::2/64"), (2, "fe80::1/64"), (3, "fe80::3/64")];
        let addresses = addresses.map(|(index, net)| (index, net.parse().unwrap()));
        let found = |link: &Link| usable(link, &addresses, &excluded);
        let ours = found(&link()).unwrap();
        assert_eq!((ours.arp, ours.link_local), (true, Some("fe80::1".parse().unwrap())));
        assert_eq!(found(&Link { index: 9, ..link() }).unwrap().link_local, None);
        for without_arp in [Link { broadcast: false, ..link() }, Link { resolves: false, ..link() }] {
            assert!(!found(&without_arp).unwrap().arp);
            assert_eq!(found(&Link { index: 9, ..without_arp }), None);
        }
        for unused in [
            Link { up: false, ..link() },
            Link { master: Some(7), ..link() },
            Link { mac: None, ..link() },
            Link { mac: Some([0; 6]), ..link() },
            Link { name: "cali1".to_owned(), ..link() },
        ] {
            assert_eq!(found(&unused), None, "{unused:?}");
        }
    }

    #[test]
    fn a_cable_to_a_pod_is_not_used_whatever_its_name_and_that_of_a_node_in_a_container_is() {
        let excluded = excluded(&DEFAULT_EXCLUDED).unwrap();
        let cable = Link { leads_elsewhere: true, kind: Some("veth".to_owned()), ..link() };
        for (link, nets, is_used) in [
            (&cable, &["fe80::1/64"][..], false),
            // The gateway of a pod, as the plugin ptp gives it.
            (&cable, &["fe80::1/64", "10.244.0.1/32", "fd00:10:244::1/128"], false),
            (&cable, &["fe80::1/64", "172.18.0.2/16"], true),
            (&cable, &["fe80::1/64", "2001:db8::2/64"], true),
            (&Link { leads_elsewhere: false, ..cable.clone() }, &["fe80::1/64"], true),
            // Of a VLAN or a macvlan the interface below is elsewhere: what is on it is a network.
            (&Link { kind: Some("macvlan".to_owned()), ..cable.clone() }, &["fe80::1/64"], true),
        ] {
            let nets: Vec<(u32, IpNet)> = nets.iter().map(|net| (2, net.parse().unwrap())).collect();
            assert_eq!(usable(link, &nets, &excluded).is_some(), is_used, "{link:?} {nets:?}");
        }
    }

    #[test]
    fn an_interface_with_an_address_of_pods_is_inside() {
        let excluded = excluded(&DEFAULT_EXCLUDED).unwrap();
        let bridge = Link { index: 7, name: "pods".to_owned(), kind: Some("bridge".to_owned()), ..link() };
        let nets = [(2, "192.0.2.2/24"), (7, "10.244.1.1/24"), (7, "fd00:10:244:1::1/64")];
        let nets: Vec<(u32, IpNet)> = nets.map(|(index, net)| (index, net.parse().unwrap())).into();
        let interfaces = [link(), bridge].iter().filter_map(|link| usable(link, &nets, &excluded)).collect();
        let places = nets.iter().map(|(index, net)| (*index, net.addr())).collect();
        let found = Found { interfaces, own: Vec::new(), places };
        for (networks, left) in [
            (&[][..], &["eth0", "pods"][..]),
            (&["10.244.1.0/24"], &["eth0"]),
            (&["fd00:10:244:1::/64"], &["eth0"]),
            (&["10.244.2.0/24", "fd00:10:244:2::/64"], &["eth0", "pods"]),
        ] {
            let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
            let names: Vec<&str> = found.outside(&networks).map(|interface| &*interface.name).collect();
            assert_eq!(names, left, "{networks:?}");
        }
    }
}
