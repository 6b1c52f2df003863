//! How long an address is away when its node dies, or stops.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use headwater_announcer::l2::Membership;
use headwater_kube_io::{Access, ApiServer};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::lab;
use headwater_testkit::wait::{self, DEADLINE};

use crate::segment::{NODES, Segment, VIPS, announcements, elected, gratuitous};

/// How often each is measured.
const ROUNDS: usize = 3;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[test]
fn another_node_takes_over_from_a_dead_one_in_two_seconds_and_from_one_that_stops_in_300_ms() -> Result<()> {
    lab::test(|lab| {
        let mut segment = Segment::new(lab)?;
        let runtime = segment.runtime.handle().clone();
        let (cluster, server) = runtime.block_on(async {
            let cluster = Cluster::start().await?;
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds/metallb");
            cluster.kubectl(&["apply", "--server-side", "-f", root]).await?;
            cluster.kubectl(&["create", "namespace", "metallb-system"]).await?;
            cluster.kubectl(&["create", "namespace", "headwater"]).await?;
            let access = Access { kubeconfig: Some(cluster.kubeconfig().to_owned()), context: None };
            anyhow::Ok((cluster, ApiServer::connect(&access).await?))
        })?;
        let membership = || Some(Membership { server: server.clone(), namespace: "headwater".to_owned(), pod: None });
        let said = announcements(&NODES, None);
        let heard = segment.capture(&segment.client)?;
        for name in NODES {
            segment.start(name, &said, membership())?;
        }
        let (mut dead, mut stopped) = (Vec::new(), Vec::new());
        for round in 0..2 * ROUNDS {
            // All are there, and the announcer has been so for a while.
            for name in NODES {
                wait::until(DEADLINE, || segment.node(name).state().members.len() == NODES.len())
                    .with_context(|| format!("{name}: {:?}", segment.node(name).state()))?;
            }
            let first = elected(&NODES);
            segment.announced_by(&first)?;
            let settled = std::time::Instant::now();
            wait::until(DEADLINE, || settled.elapsed() > Duration::from_millis(2_500))?;
            let rest: Vec<&str> = NODES.iter().copied().filter(|name| *name != first).collect();
            let second = elected(&rest);
            let mac = segment.node(&second).mac()?;
            let plane = segment.node_mut(&first).plane.take().context("it runs")?;
            let began = now();
            let is_dead = round % 2 == 0;
            match is_dead {
                true => drop(plane),
                false => runtime.block_on(plane.stop()),
            }
            let after =
                |vip| gratuitous(&heard.stdout(), &mac, vip).into_iter().map(|(at, _)| at).find(|at| *at > began);
            let mut took = Vec::new();
            for vip in VIPS {
                let at = wait::value(DEADLINE, || after(vip))
                    .with_context(|| format!("{second} does not announce {vip}"))?;
                took.push(at - began);
            }
            let took = took.into_iter().fold(0.0, f64::max);
            println!("round {round}: {} after {took:.3} s", if is_dead { "dead" } else { "stopped" });
            if is_dead {
                dead.push(took)
            } else {
                stopped.push(took)
            }
            ensure!(segment.answering(VIPS[0])? == [mac].into());
            segment.start(&first, &said, membership())?;
        }
        let (dead, stopped) = (median(dead), median(stopped));
        println!("median of {ROUNDS}: dead {dead:.3} s, stopped {stopped:.3} s");
        ensure!(dead < 2.0 && stopped < 0.3, "dead {dead} s, stopped {stopped} s");

        // An object tells who announces: one for the Service, whoever it is of.
        let first = elected(&NODES);
        segment.announced_by(&first)?;
        let written = || async {
            let list =
                cluster.kubectl(&["-n", "metallb-system", "get", "servicel2statuses", "-o", "json"]).await?.json()?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let is_told = matches!(&items[..], [one] if one["status"]["node"] == *first
                && one["status"]["serviceName"] == "web"
                && one["metadata"]["labels"]["metallb.io/node"] == *first
                && one["metadata"]["labels"]["metallb.io/service-namespace"] == "shop");
            Ok(is_told.then_some(items))
        };
        runtime.block_on(wait::eventually(DEADLINE, written)).context("status of the Service")?;

        // Nobody is given up while the API server hangs, however long that takes.
        cluster.signal_apiserver("SIGSTOP")?;
        let hung = std::time::Instant::now();
        let mut wrong = None;
        wait::until(DEADLINE, || {
            for name in NODES {
                let announces = segment.node(name).state().vips.iter().any(|vip| vip.is_announced);
                if announces != (name == first) {
                    wrong = Some(name);
                }
            }
            hung.elapsed() > Duration::from_secs(4)
        })?;
        cluster.signal_apiserver("SIGCONT")?;
        ensure!(wrong.is_none(), "{wrong:?} changed its mind while the API server hung");
        Ok(())
    })
}
