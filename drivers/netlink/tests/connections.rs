//! Connections: in network namespaces of their own, as root.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context as _, Result};
use headwater_netlink::Family;
use headwater_netlink::conntrack::{Conntrack, Flow, Tuple};
use headwater_testkit::lab;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The kernel tracks connections where a rule wants to know their state. Packets to port 53 go to 5353, those to port 7
/// belong to a zone of their own.
const RULES: &str = "table inet t {
    chain zone {
        type filter hook output priority raw
        udp dport 7 ct zone set 5
    }
    chain track {
        type filter hook output priority filter
        ct state new ct mark set 0x4000 accept
    }
    chain translate {
        type nat hook output priority -100
        udp dport 53 redirect to :5353
    }
}";

fn inside(body: impl FnOnce(Conntrack) -> Result<()> + Send) -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.nft(RULES)?;
        host.run(|| body(Conntrack::open()?))
    })
}

fn flows(conntrack: &mut Conntrack, family: Family, proto: Option<u8>) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    conntrack.dump(family, proto, |flow| flows.push(*flow))?;
    Ok(flows)
}

/// Sends a packet from an own port, which it returns.
fn send(from: &str, to: u16) -> Result<u16> {
    let from: IpAddr = from.parse()?;
    let socket = UdpSocket::bind((from, 0))?;
    socket.send_to(b"x", (from, to))?;
    Ok(socket.local_addr()?.port())
}

#[test]
fn a_connection_is_read_and_forgotten() -> Result<()> {
    for (family, address) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
        inside(|mut conntrack| {
            let client = send(address, 53)?;
            let found = flows(&mut conntrack, family, Some(UDP))?;
            let flow = *found.first().context("no connection")?;
            let ip: IpAddr = address.parse()?;
            let tuple = |sport, dport| Tuple { src: ip, dst: ip, sport, dport };
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((flow.proto, flow.family(), flow.mark, flow.zone), (UDP, family, 0x4000, 0));
            assert_eq!((flow.original, flow.reply), (tuple(client, 53), tuple(5353, client)));
            assert!((1..=30).contains(&flow.timeout.as_secs()), "{flow:?}");

            // The same addresses with another name are another connection.
            assert!(!conntrack.delete(&Flow { id: flow.id ^ 1, ..flow })?);
            assert_eq!(flows(&mut conntrack, family, None)?.len(), 1);
            assert!(conntrack.delete(&flow)?);
            assert_eq!(flows(&mut conntrack, family, None)?, []);
            assert!(!conntrack.delete(&flow)?, "it is gone already");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn connections_are_told_by_protocol_and_family() -> Result<()> {
    inside(|mut conntrack| {
        send("127.0.0.1", 9)?;
        send("::1", 9)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address: SocketAddr = listener.local_addr()?;
        let stream = TcpStream::connect(address)?;
        for (family, proto, expected) in [
            (Family::V4, None, vec![TCP, UDP]),
            (Family::V4, Some(UDP), vec![UDP]),
            (Family::V4, Some(TCP), vec![TCP]),
            (Family::V4, Some(132), vec![]),
            (Family::V6, None, vec![UDP]),
            (Family::V6, Some(TCP), vec![]),
        ] {
            let found = flows(&mut conntrack, family, proto)?;
            let mut protos: Vec<u8> = found.iter().map(|flow| flow.proto).collect();
            protos.sort_unstable();
            assert_eq!(protos, expected, "{family} {proto:?}");
            assert!(found.iter().all(|flow| flow.family() == family), "{found:?}");
        }
        let flow = flows(&mut conntrack, Family::V4, Some(TCP))?[0];
        let client = stream.local_addr()?;
        let tuple = |from: SocketAddr, to: SocketAddr| Tuple {
            src: from.ip(),
            dst: to.ip(),
            sport: from.port(),
            dport: to.port(),
        };
        assert_eq!((flow.original, flow.reply), (tuple(client, address), tuple(address, client)));
        Ok(())
    })
}

#[test]
fn a_connection_of_another_zone_is_told_with_it_and_forgotten() -> Result<()> {
    inside(|mut conntrack| {
        send("127.0.0.1", 7)?;
        let found = flows(&mut conntrack, Family::V4, None)?;
        assert_eq!(found.iter().map(|flow| flow.zone).collect::<Vec<_>>(), [5]);
        assert!(conntrack.delete(&found[0])?);
        assert_eq!(flows(&mut conntrack, Family::V4, None)?, []);
        Ok(())
    })
}

#[test]
fn thousands_of_connections_are_each_told_once() -> Result<()> {
    inside(|mut conntrack| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for port in 10_000..13_000 {
            socket.send_to(b"x", ("127.0.0.1", port))?;
        }
        let (mut ports, mut told) = (BTreeSet::new(), 0);
        conntrack.dump(Family::V4, Some(UDP), |flow| {
            told += 1;
            ports.insert(flow.original.dport);
        })?;
        assert_eq!((told, ports.len()), (3_000, 3_000));
        Ok(())
    })
}

#[test]
fn who_may_not_is_told_what_is_missing() -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        // A process without capabilities, which is this test again.
        let test = std::env::current_exe()?;
        let test = test.to_str().context("path of the test")?;
        let arguments = [
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
            test,
            "--exact",
            "--ignored",
            "--nocapture",
            "without_capabilities",
        ];
        let output = host.exec("setpriv", &arguments)?;
        for words in [
            "add rule priority 50 lookup 7 (IPv4): not permitted by the kernel; CAP_NET_ADMIN is needed in this network \
             namespace",
            "list IPv4 connections: not permitted by the kernel; CAP_NET_ADMIN is needed in this network namespace",
        ] {
            assert!(output.contains(words), "{output}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "run by who_may_not_is_told_what_is_missing, without CAP_NET_ADMIN"]
fn without_capabilities() -> Result<()> {
    use headwater_netlink::{Netlink, Rule};
    println!("{}", Netlink::open()?.add_rule(&Rule::lookup(Family::V4, 50, 7)).unwrap_err());
    println!("{}", Conntrack::open()?.dump(Family::V4, None, |_| {}).unwrap_err());
    Ok(())
}
