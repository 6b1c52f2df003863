//! Who answers for an address, and what everybody hears.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_testkit::lab;
use headwater_testkit::wait::{self, DEADLINE};

use crate::segment::{NODES, Segment, VIPS, announcements, answering, elected, gratuitous, mac};

#[test]
fn one_node_answers_and_everybody_hears_of_it_for_five_seconds() -> Result<()> {
    lab::test(|lab| {
        let mut segment = Segment::new(lab)?;
        let heard = segment.capture(&segment.client)?;
        for name in NODES {
            segment.start(name, &announcements(&NODES, None), None)?;
        }
        let winner = elected(&NODES);
        segment.announced_by(&winner)?;
        let mac = segment.node(&winner).mac()?;
        for (vip, frames) in [(VIPS[0], 10), (VIPS[1], 5)] {
            wait::until(DEADLINE, || gratuitous(&heard.stdout(), &mac, vip).len() >= frames)
                .with_context(|| format!("{:?}", gratuitous(&heard.stdout(), &mac, vip)))?;
            ensure!(segment.answering(vip)? == [mac.clone()].into(), "{vip}: {:?}", segment.answering(vip)?);
            let told = gratuitous(&heard.stdout(), &mac, vip);
            ensure!(told.len() == frames, "{told:#?}");
            let lasted = told.last().map_or(0.0, |last| last.0) - told[0].0;
            ensure!((4.3..5.2).contains(&lasted), "{lasted} s: {told:#?}");
        }
        for other in NODES.iter().filter(|name| **name != winner) {
            let mac = segment.node(other).mac()?;
            for vip in VIPS {
                ensure!(gratuitous(&heard.stdout(), &mac, vip).is_empty(), "{other} announced {vip}");
            }
        }
        let metrics = segment.node(&winner).registry.encode_classic();
        for (metric, least) in [("requests_received", 1), ("responses_sent", 1), ("gratuitous_sent", 5)] {
            for vip in VIPS {
                let name = format!("metallb_layer2_{metric}{{ip=\"{vip}\"}} ");
                let count = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok());
                ensure!(count.is_some_and(|count| count >= least), "{name}: {metrics}");
            }
        }
        ensure!(metrics.contains(&format!(
            "metallb_speaker_announced{{service=\"shop/web\",protocol=\"layer2\",node=\"{winner}\""
        )));
        // Nobody is told that an address goes: the next node tells that it has it.
        segment.say(&announcements(&[], None));
        wait::until(DEADLINE, || segment.node(&winner).state().vips.iter().all(|vip| !vip.is_announced))?;
        for vip in VIPS {
            ensure!(segment.answering(vip)?.is_empty());
        }
        Ok(())
    })
}

#[test]
fn an_address_that_a_stranger_has_is_not_announced() -> Result<()> {
    lab::test(|lab| {
        let mut segment = Segment::new(lab)?;
        segment.stranger.address("eth0", "192.0.2.100/32")?;
        segment.stranger.address("eth0", "2001:db8:2::100/128")?;
        let theirs = mac(&segment.stranger)?;
        segment.start("node-1", &announcements(&["node-1"], None), None)?;
        for vip in VIPS {
            let refused = || segment.node("node-1").vip(vip).is_some_and(|vip| vip.problem.is_some());
            wait::until(DEADLINE, refused).with_context(|| format!("{:?}", segment.node("node-1").state()))?;
            let state = segment.node("node-1").vip(vip).context("it is there")?;
            ensure!(
                !state.is_announced && state.problem.as_ref().is_some_and(|why| why.contains(&theirs)),
                "{state:?}"
            );
            ensure!(segment.answering(vip)? == [theirs.clone()].into());
        }
        ensure!(!segment.node("node-1").registry.encode_classic().contains("gratuitous_sent{ip=\"192.0.2.100\"} 1"));
        ensure!(segment.node("node-1").state().conflicts().iter().map(ToString::to_string).eq(VIPS));
        Ok(())
    })
}

#[test]
fn an_interface_that_goes_and_returns_answers_again() -> Result<()> {
    lab::test(|lab| {
        let mut segment = Segment::new(lab)?;
        segment.start("node-1", &announcements(&["node-1"], None), None)?;
        segment.announced_by("node-1")?;
        let host = segment.node("node-1").host.clone();
        let before = mac(&host)?;
        host.ip("link delete eth0")?;
        wait::until(DEADLINE, || segment.node("node-1").state().vips.iter().all(|vip| !vip.is_announced))?;
        // Nobody turns in circles meanwhile.
        let (gone, busy) = (Instant::now(), host.busy()?);
        wait::until(DEADLINE, || gone.elapsed() > Duration::from_millis(1_500))?;
        let busy = host.busy()? - busy;
        ensure!(busy < Duration::from_millis(300), "{busy:?} of work without an interface");
        segment.plug(&host)?;
        host.address("eth0", "192.0.2.11/24")?;
        segment.announced_by("node-1")?;
        let after = mac(&host)?;
        ensure!(before != after, "the interface is the same");
        for vip in VIPS {
            ensure!(segment.answering(vip)? == [after.clone()].into(), "{vip}");
        }
        // Switched off, it answers no more; switched on, it does.
        host.ip("link set eth0 down")?;
        wait::until(DEADLINE, || segment.node("node-1").state().vips.iter().all(|vip| !vip.is_announced))?;
        host.ip("link set eth0 up")?;
        segment.announced_by("node-1")?;
        ensure!(segment.answering(VIPS[0])? == [after].into());
        Ok(())
    })
}

#[test]
fn only_interfaces_that_are_named_and_not_left_out_answer_and_pods_are_not_believed() -> Result<()> {
    lab::test(|lab| {
        let mut segment = Segment::new(lab)?;
        let (pod, other) = (lab.host("pod")?, lab.host("other")?);
        // Names tell nothing of who is there.
        for (host, there) in [(&pod, "lan0"), (&other, "lan1")] {
            host.wire("eth0", &segment.node("node-1").host, there)?;
            host.address("eth0", "192.0.2.77/24")?;
            host.address("eth0", "2001:db8:2::77/64")?;
        }
        segment.node("node-1").host.address("lan1", "198.51.100.1/24")?;
        // The pod has taken the addresses, and answers whoever looks for duplicates.
        pod.address("eth0", "192.0.2.100/32")?;
        pod.address("eth0", "2001:db8:2::100/128")?;
        segment.start("node-1", &announcements(&["node-1"], Some(&["eth0", "lan0"])), None)?;
        segment.announced_by("node-1")?;
        let ours = segment.node("node-1").mac()?;
        for vip in VIPS {
            let alone = pod.ip(&format!("address del {vip}/{} dev eth0", if vip.contains(':') { 128 } else { 32 }));
            alone.with_context(|| vip.to_owned())?;
            ensure!(answering(&pod, vip)?.is_empty(), "{vip} is answered to a pod");
            ensure!(answering(&other, vip)?.is_empty(), "{vip} is answered where it shall not be");
        }
        // A pod says that it has the address, for as long as it likes.
        let heard = segment.capture(&segment.client)?;
        pod.exec("arping", &["-U", "-P", "-c", "3", "-W", "0.1", "-w", "1", "-i", "eth0", "-S", VIPS[0], VIPS[0]]).ok();
        let state = segment.node("node-1").vip(VIPS[0]).context("it is there")?;
        ensure!(state.is_announced && state.problem.is_none(), "{state:?}");
        ensure!(segment.answering(VIPS[0])? == [ours.clone()].into());
        // On the segment itself somebody who says so is contradicted.
        let before = gratuitous(&heard.stdout(), &ours, VIPS[0]).len();
        segment.stranger.exec("arping", &["-U", "-P", "-c", "1", "-w", "1", "-i", "eth0", "-S", VIPS[0], VIPS[0]]).ok();
        wait::until(DEADLINE, || gratuitous(&heard.stdout(), &ours, VIPS[0]).len() > before)?;
        ensure!(segment.node("node-1").vip(VIPS[0]).is_some_and(|vip| vip.is_announced));
        Ok(())
    })
}
