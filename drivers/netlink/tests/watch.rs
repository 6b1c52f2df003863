//! What the kernel tells of changes: in network namespaces of their own, as root.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use headwater_netlink::{Netlink, Notice, Watch};
use headwater_testkit::lab;

/// How long a notice may take.
const SOON: Duration = Duration::from_secs(10);

/// Waits for a notice; others before it do not matter.
fn expect(watch: &mut Watch, expected: Notice) -> Result<()> {
    let end = Instant::now() + SOON;
    let mut others = Vec::new();
    while let Some(notice) = watch.wait(end.saturating_duration_since(Instant::now()))? {
        if notice == expected {
            return Ok(());
        }
        others.push(notice);
    }
    bail!("no {expected:?} in {SOON:?}, but {others:?}")
}

fn drain(watch: &mut Watch) -> Result<Vec<Notice>> {
    let mut notices = Vec::new();
    while let Some(notice) = watch.fetch()? {
        notices.push(notice);
    }
    Ok(notices)
}

#[test]
fn every_kind_of_change_is_told() -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.run(|| {
            let mut watch = Watch::open()?;
            host.ip("link add name vx0 type vxlan id 7 dstport 4789")?;
            let vx0 = Netlink::open()?.link("vx0")?.unwrap().index;
            for (command, expected) in [
                ("link set dev vx0 up", Notice::Link(vx0)),
                ("address add 10.0.0.1/24 dev vx0", Notice::Address(vx0)),
                ("address add fd00::1/64 dev vx0", Notice::Address(vx0)),
                ("address del 10.0.0.1/24 dev vx0", Notice::Address(vx0)),
                ("-4 rule add pref 50 fwmark 1 lookup 7", Notice::Rule),
                ("-6 rule add pref 50 fwmark 1 lookup 7", Notice::Rule),
                ("-6 rule del pref 50", Notice::Rule),
                ("neighbour add fd00::7 lladdr 02:00:00:00:00:07 dev vx0", Notice::Neighbour(vx0)),
                ("neighbour del fd00::7 dev vx0", Notice::Neighbour(vx0)),
                ("link del dev vx0", Notice::Link(vx0)),
            ] {
                drain(&mut watch)?;
                host.ip(command)?;
                expect(&mut watch, expected)?;
            }
            host.ip("link add name vx0 type vxlan id 7 dstport 4789")?;
            let vx0 = Netlink::open()?.link("vx0")?.unwrap().index;
            drain(&mut watch)?;
            host.exec("bridge", &["fdb", "add", "02:00:00:00:00:07", "dev", "vx0", "dst", "192.0.2.7"])?;
            expect(&mut watch, Notice::Neighbour(vx0))
        })
    })
}

#[test]
fn nothing_is_told_where_nothing_happens_and_nothing_of_other_namespaces() -> Result<()> {
    lab::test(|lab| {
        let (host, other) = (lab.host("node")?, lab.host("other")?);
        let mut watch = host.run(Watch::open)?;
        other.ip("rule add pref 50 fwmark 1 lookup 7")?;
        assert_eq!(watch.fetch()?, None);
        assert_eq!(watch.wait(Duration::ZERO)?, None);
        Ok(())
    })
}

#[test]
fn what_does_not_fit_is_told_as_lost() -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.run(|| {
            let mut watch = Watch::open()?;
            // Each is told with all that is known of the link, some kilobytes.
            let changes: String = (1..=8_000).map(|number| format!("link set dev lo alias a{number}\n")).collect();
            let file = std::env::temp_dir().join(format!("headwater-netlink-{}", std::process::id()));
            std::fs::write(&file, changes)?;
            let done = host.exec("ip", &["-batch", file.to_str().unwrap()]);
            std::fs::remove_file(&file)?;
            done?;
            let notices = drain(&mut watch)?;
            assert!(notices.contains(&Notice::Lost), "{notices:?}");
            host.ip("rule add pref 50 lookup 7")?;
            expect(&mut watch, Notice::Rule)
        })
    })
}
