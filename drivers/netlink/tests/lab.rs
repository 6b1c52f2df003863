//! The kernel: in network namespaces of their own, as root. What is written is seen by `ip` and `bridge`, what they
//! write is read.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use headwater_netlink::{Family, FdbEntry, Neighbour, Netlink, NetlinkError, Route, Rule, Vxlan, VxlanFacts, sysctl};
use headwater_testkit::lab;

const MAC: [u8; 6] = [2, 0x48, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0x48, 0, 0, 0, 2];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with a cable `eth0`, and what runs inside.
fn inside(body: impl FnOnce(&lab::Host, Netlink) -> Result<()> + Send) -> Result<()> {
    lab::test(|lab| {
        let (host, other) = (lab.host("node")?, lab.host("other")?);
        host.wire("eth0", &other, "eth0")?;
        for (on, last) in [(&host, 1), (&other, 2)] {
            on.address("eth0", &format!("192.0.2.{last}/24"))?;
            on.address("eth0", &format!("2001:db8::{last}/64"))?;
        }
        host.run(|| body(&host, Netlink::open()?))
    })
}

fn device(local: &str) -> Vxlan {
    Vxlan { name: "vx0".to_owned(), vni: 77, port: 8474, local: ip(local), mtu: 1400, mac: MAC }
}

/// A text of `ip` says all of these.
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text}");
    }
}

#[test]
fn links_are_read_as_ip_shows_them() -> Result<()> {
    inside(|host, mut netlink| {
        host.ip("link add name br0 address 02:00:00:00:00:09 mtu 1300 type bridge")?;
        host.ip("link add vx9 type vxlan id 9 dstport 4789 local 2001:db8::1 group ff02::1 dev eth0")?;
        let links = netlink.links()?;
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let lo = netlink.link("lo")?.context("lo")?;
        assert_eq!((lo.index, lo.mtu, lo.up, lo.kind.as_deref()), (1, 65536, true, None));
        let bridge = netlink.link("br0")?.context("br0")?;
        assert!(links.contains(&bridge));
        assert_eq!(bridge.mac, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!((bridge.mtu, bridge.up, bridge.kind.as_deref(), bridge.vxlan), (1300, false, Some("bridge"), None));
        let eth0 = netlink.link("eth0")?.context("eth0")?;
        assert_eq!((eth0.up, eth0.kind.as_deref()), (true, Some("veth")));
        assert_eq!(netlink.link_at(eth0.index)?, Some(eth0.clone()));
        let vx9 = netlink.link("vx9")?.context("vx9")?.vxlan.context("facts of vx9")?;
        let (local, group) = (Some(ip("2001:db8::1")), Some(ip("ff02::1")));
        let lower = Some(eth0.index);
        assert_eq!(vx9, VxlanFacts { vni: 9, port: 4789, local, group, lower, learning: true, external: false });

        assert_eq!(netlink.link("absent")?, None);
        assert_eq!(netlink.link_at(9999)?, None);
        assert!(netlink.delete_link("br0")?);
        assert!(!netlink.delete_link("br0")?);
        assert_eq!(netlink.link("br0")?, None);
        Ok(())
    })
}

#[test]
fn a_vxlan_device_is_made_as_ip_shows_it_and_adopted_when_it_is_right() -> Result<()> {
    for local in ["192.0.2.1", "2001:db8::1"] {
        inside(|host, mut netlink| {
            let wanted = device(local);
            let made = netlink.ensure_vxlan(&wanted)?;
            assert!(made.recreated);
            let shown = host.ip("-d link show dev vx0")?;
            let local = format!("local {local} ");
            let words = ["vxlan id 77 ", &local, "dstport 8474 ", "nolearning", "mtu 1400 ", "addrgenmode none"];
            assert_says(&shown, &words);
            assert_says(&shown, &["02:48:00:00:00:01", ",UP"]);
            assert!(!shown.contains("noudpcsum"), "{shown}");
            if wanted.local.is_ipv6() {
                assert_says(&shown, &["udp6zerocsumrx"]);
            }
            assert_eq!(host.ip("-6 address show dev vx0")?, "", "no address is made by the kernel");

            let again = netlink.ensure_vxlan(&wanted)?;
            assert_eq!((again.index, again.recreated), (made.index, false));

            // In place, also while it is switched on.
            let changed = Vxlan { mtu: 1280, mac: PEER, ..wanted.clone() };
            let again = netlink.ensure_vxlan(&changed)?;
            assert_eq!((again.index, again.recreated), (made.index, false));
            let shown = host.ip("link show dev vx0")?;
            assert_says(&shown, &["mtu 1280 ", "02:48:00:00:00:02"]);

            host.ip("link set dev vx0 down")?;
            host.ip("link set dev vx0 addrgenmode eui64")?;
            assert!(!netlink.ensure_vxlan(&changed)?.recreated);
            let shown = host.ip("-d link show dev vx0")?;
            assert_says(&shown, &[",UP", "addrgenmode none"]);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_vxlan_device_that_is_not_right_is_made_anew() -> Result<()> {
    inside(|host, mut netlink| {
        let wanted = device("192.0.2.1");
        for other in [
            "vxlan id 78 dstport 8474 local 192.0.2.1 nolearning",
            "vxlan id 77 dstport 4789 local 192.0.2.1 nolearning",
            "vxlan id 77 dstport 8474 local 192.0.2.9 nolearning",
            "vxlan id 77 dstport 8474 local 192.0.2.1",
            "vxlan dstport 8474 external",
        ] {
            host.ip(&format!("link add vx0 type {other}"))?;
            let before = netlink.link("vx0")?.context("vx0")?.index;
            let ensured = netlink.ensure_vxlan(&wanted)?;
            assert!(ensured.recreated && ensured.index != before, "{other}");
            let facts = netlink.link("vx0")?.context("vx0")?.vxlan.context("facts of vx0")?;
            assert_eq!((facts.vni, facts.port, facts.local, facts.learning), (77, 8474, Some(wanted.local), false));
            assert!(netlink.delete_link("vx0")?);
        }
        Ok(())
    })
}

#[test]
fn a_link_that_is_no_vxlan_device_is_left_alone_and_named() -> Result<()> {
    inside(|host, mut netlink| {
        host.ip("link add vx0 type bridge")?;
        let error = netlink.ensure_vxlan(&device("192.0.2.1")).unwrap_err();
        assert!(matches!(error, NetlinkError::NotVxlan { .. }));
        assert_eq!(
            error.to_string(),
            "link vx0 is of kind bridge, not vxlan: rename or delete it, or choose another name"
        );
        assert_says(&host.ip("-d link show dev vx0")?, &["bridge"]);
        Ok(())
    })
}

#[test]
fn a_vxlan_device_that_the_kernel_refuses_is_named_with_its_words() -> Result<()> {
    inside(|host, mut netlink| {
        host.ip("link add first type vxlan id 77 dstport 8474 local 192.0.2.1")?;
        let error = netlink.ensure_vxlan(&device("192.0.2.1")).unwrap_err().to_string();
        assert_says(
            &error,
            &[
                "create vxlan vx0 (VNI 77, port 8474, local 192.0.2.1, mtu 1400, mac 02:48:00:00:00:01): refused by the \
                 kernel: File exists (os error 17) (",
                "VNI",
            ],
        );
        Ok(())
    })
}

#[test]
fn fdb_entries_are_set_replaced_and_deleted() -> Result<()> {
    for (local, first, second) in
        [("192.0.2.1", "192.0.2.2", "192.0.2.3"), ("2001:db8::1", "2001:db8::2", "2001:db8::3")]
    {
        inside(|host, mut netlink| {
            let index = netlink.ensure_vxlan(&device(local))?.index;
            // Of another device.
            host.ip("link add other type vxlan id 78 dstport 8475")?;
            host.exec("bridge", &["fdb", "add", "02:00:00:00:00:07", "dev", "other", "dst", "192.0.2.7"])?;
            assert_eq!(netlink.fdb(index)?, []);

            let entry = FdbEntry { mac: PEER, ip: ip(first) };
            netlink.set_fdb(index, &entry)?;
            netlink.set_fdb(index, &entry)?;
            let shown = host.exec("bridge", &["fdb", "show", "dev", "vx0"])?;
            assert_eq!(shown.trim(), format!("02:48:00:00:00:02 dst {first} self permanent"));
            assert_eq!(netlink.fdb(index)?, [entry]);

            let moved = FdbEntry { ip: ip(second), ..entry };
            netlink.set_fdb(index, &moved)?;
            assert_eq!(netlink.fdb(index)?, [moved]);
            assert!(netlink.delete_fdb(index, &moved)?);
            assert!(!netlink.delete_fdb(index, &moved)?);
            assert_eq!(host.exec("bridge", &["fdb", "show", "dev", "vx0"])?, "");

            let error = netlink.set_fdb(9999, &entry).unwrap_err().to_string();
            let words =
                [&format!("set FDB entry 02:48:00:00:00:02 to {first} on link number 9999: refused"), "os error"];
            assert_says(&error, &words);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn neighbours_are_set_replaced_and_deleted() -> Result<()> {
    for address in ["10.0.0.7", "fd00::7"] {
        inside(|host, mut netlink| {
            let index = netlink.ensure_vxlan(&device("192.0.2.1"))?.index;
            host.ip("neighbour add 192.0.2.99 lladdr 02:00:00:00:00:63 dev eth0")?;
            assert_eq!(netlink.neighbours(index)?, []);
            netlink.set_neighbour(index, ip(address), PEER)?;
            let shown = host.ip("neighbour show dev vx0")?;
            assert_eq!(shown.trim(), format!("{address} lladdr 02:48:00:00:00:02 PERMANENT"));
            netlink.set_neighbour(index, ip(address), MAC)?;
            let expected = Neighbour { ip: ip(address), mac: Some(MAC), permanent: true };
            assert_eq!(netlink.neighbours(index)?, [expected]);
            assert!(netlink.delete_neighbour(index, ip(address))?);
            assert!(!netlink.delete_neighbour(index, ip(address))?);
            assert_eq!(netlink.neighbours(index)?, []);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn addresses_of_both_families_and_all_links_are_listed() -> Result<()> {
    inside(|host, mut netlink| {
        host.ip("address add 10.1.0.1 peer 10.1.0.2/32 dev eth0")?;
        let eth0 = netlink.link("eth0")?.context("eth0")?.index;
        let addresses = netlink.addresses()?;
        for (index, net) in [
            (1, "127.0.0.1/8"),
            (1, "::1/128"),
            (eth0, "192.0.2.1/24"),
            (eth0, "2001:db8::1/64"),
            (eth0, "10.1.0.1/32"),
        ] {
            assert!(addresses.contains(&(index, net.parse()?)), "{net} is missing in {addresses:?}");
        }
        assert!(!addresses.iter().any(|(_, net)| net.addr() == ip("10.1.0.2")), "{addresses:?}");
        Ok(())
    })
}

#[test]
fn routes_are_set_replaced_and_deleted() -> Result<()> {
    for (local, default, peer, other, net, dash) in [
        ("192.0.2.1", "0.0.0.0/0", "192.0.2.2", "192.0.2.3", "198.51.100.0/24", "-4"),
        ("2001:db8::1", "::/0", "fe80::2", "fd77::3", "2001:db8:1::/64", "-6"),
    ] {
        // One that fits into the header, and one that does not.
        for table in [100, 8474] {
            inside(|host, mut netlink| {
                let index = netlink.ensure_vxlan(&device(local))?.index;
                let show = || host.ip(&format!("{dash} route show table {table}"));
                assert_eq!(netlink.routes_in(table)?, [], "no table of that number was made yet");

                let gateway = Some(ip(peer));
                let mut route = Route { table, destination: default.parse()?, gateway, index, onlink: true, mtu: None };
                netlink.set_route(&route)?;
                assert_says(&show()?, &["default via ", peer, " dev vx0 ", "proto static", "onlink"]);
                assert_eq!(netlink.routes_in(table)?, [route.clone()]);

                route.gateway = Some(ip(other));
                route.mtu = Some(1350);
                netlink.set_route(&route)?;
                assert_says(&show()?, &[other, "mtu 1350"]);
                assert_eq!(netlink.routes_in(table)?, [route.clone()]);

                let direct = Route { table, destination: net.parse()?, gateway: None, index, onlink: false, mtu: None };
                netlink.set_route(&direct)?;
                let mut routes = netlink.routes_in(table)?;
                routes.sort();
                let mut expected = [route.clone(), direct.clone()];
                expected.sort();
                assert_eq!(routes, expected);

                // Another gateway is another route.
                assert!(!netlink.delete_route(&Route { gateway: Some(ip(peer)), ..route.clone() })?);
                assert!(netlink.delete_route(&route)?);
                assert!(!netlink.delete_route(&route)?);
                assert!(netlink.delete_route(&direct)?);
                assert_eq!(show()?, "");

                let refused = netlink.set_route(&Route { index: 9999, ..route.clone() }).unwrap_err().to_string();
                let named = format!("set route {default} via {other} on link number 9999 onlink mtu 1350 in table");
                assert_says(&refused, &[&named, "refused by the kernel", "os error"]);
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_route_is_asked_for_as_by_ip_route_get() -> Result<()> {
    inside(|host, mut netlink| {
        let eth0 = netlink.link("eth0")?.context("eth0")?.index;
        host.ip("link set dev eth0 mtu 1480")?;
        host.ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1300")?;
        host.ip("route add 2001:db8:1::/64 via 2001:db8::2 mtu 1300")?;
        for (to, index, gateway, source, mtu) in [
            ("192.0.2.77", eth0, None, Some("192.0.2.1"), 1480),
            ("2001:db8::77", eth0, None, Some("2001:db8::1"), 1480),
            ("198.51.100.7", eth0, Some("192.0.2.2"), Some("192.0.2.1"), 1300),
            ("2001:db8:1::7", eth0, Some("2001:db8::2"), Some("2001:db8::1"), 1300),
            ("192.0.2.1", 1, None, Some("192.0.2.1"), 65536),
        ] {
            let answer = netlink.route_to(ip(to))?;
            assert_eq!((answer.index, answer.gateway, answer.mtu), (index, gateway.map(ip), mtu), "{to}");
            assert_eq!(answer.source, source.map(ip), "{to}");
        }
        let error = netlink.route_to(ip("203.0.113.1")).unwrap_err();
        assert_says(&error.to_string(), &["route to 203.0.113.1: refused by the kernel: Network is unreachable"]);
        Ok(())
    })
}

#[test]
fn rules_are_added_and_exactly_those_are_deleted() -> Result<()> {
    for (family, dash, net) in [(Family::V4, "-4", "10.0.0.0/8"), (Family::V6, "-6", "fd00::/8")] {
        inside(|host, mut netlink| {
            let show = || host.ip(&format!("{dash} rule"));
            let local = Rule::lookup(family, 0, 255);
            assert!(netlink.rules(family)?.contains(&local));

            // The local table goes behind the rules for marks: added before it is deleted.
            let moved = Rule::lookup(family, 100, 255);
            assert!(netlink.add_rule(&moved)?);
            assert!(!netlink.add_rule(&moved)?, "it is there already");
            assert!(netlink.delete_rule(&local)?);
            assert!(!netlink.delete_rule(&local)?);
            let marked = Rule::marked(family, 50, 0x1, 0xff, 8474);
            assert!(netlink.add_rule(&marked)?);
            let from = Rule { source: Some(net.parse()?), iif: Some("eth0".to_owned()), ..Rule::lookup(family, 60, 7) };
            assert!(netlink.add_rule(&from)?);
            let shown = show()?;
            assert_says(&shown, &["50:\tfrom all fwmark 0x1/0xff lookup 8474", "100:\tfrom all lookup local"]);
            assert_says(&shown, &[&format!("60:\tfrom {net} iif eth0 lookup 7")]);
            assert!(!shown.contains("\n0:") && !shown.starts_with("0:"), "{shown}");
            let rules = netlink.rules(family)?;
            let places: Vec<u32> = rules.iter().map(|rule| rule.priority).collect();
            assert!(places.is_sorted(), "{rules:?}");
            assert!(rules.contains(&moved) && rules.contains(&marked) && rules.contains(&from), "{rules:?}");

            // A rule that has more to it than can be said here is not taken for one that has not.
            host.ip(&format!("{dash} rule add pref 70 ipproto udp lookup 7"))?;
            let plain = Rule::lookup(family, 70, 7);
            assert!(!netlink.delete_rule(&plain)?);
            assert!(netlink.add_rule(&plain)?);
            let error = netlink.delete_rule(&plain).unwrap_err();
            assert!(matches!(error, NetlinkError::Ambiguous { .. }), "{error}");
            assert_says(&show()?, &["ipproto udp"]);
            // Nor one with another mark.
            assert!(!netlink.delete_rule(&Rule::marked(family, 50, 0x2, 0xff, 8474))?);
            assert!(!netlink.delete_rule(&Rule::lookup(family, 50, 8474))?);
            assert!(netlink.delete_rule(&marked)?);
            assert!(netlink.delete_rule(&from)?);
            let shown = show()?;
            assert!(!shown.contains("8474") && !shown.contains("eth0"), "{shown}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn parameters_are_those_of_the_thread_s_network_namespace() -> Result<()> {
    inside(|host, _| {
        let name = "net.ipv4.conf.eth0.rp_filter";
        for value in ["2", "0"] {
            sysctl::write(name, value)?;
            assert_eq!(sysctl::read(name)?, value);
        }
        host.ip("link add name up.100 type veth peer name down")?;
        sysctl::write("net.ipv4.conf.up/100.rp_filter", "1")?;
        assert_eq!(host.exec("cat", &["/proc/sys/net/ipv4/conf/up.100/rp_filter"])?.trim(), "1");
        assert_eq!(sysctl::read(name)?, "0");

        let error = sysctl::read("net.ipv4.conf.absent.rp_filter").unwrap_err();
        assert_eq!(error.errno(), Some(2));
        assert_says(&error.to_string(), &["sysctl net.ipv4.conf.absent.rp_filter: read: No such file"]);
        let error = sysctl::write(name, "many").unwrap_err().to_string();
        assert_says(&error, &["sysctl net.ipv4.conf.eth0.rp_filter: set to \"many\": Invalid argument"]);
        Ok(())
    })
}
