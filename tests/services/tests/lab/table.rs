//! The table of docs/source-ip.md, one test for each column. Of Headwater's columns every packet is explained.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use headwater_services_tests::implementation::Implementation;
use headwater_services_tests::prediction::{Asked, agree, world};
use headwater_services_tests::scenario::{Mode, Observation, cells, observe_all};
use headwater_services_tests::stand::{Stand, block_on, cluster};
use headwater_services_tests::table::{Column, compare};

use crate::why::why;

fn column(implementation: Implementation, mode: Mode) -> Result<()> {
    let stand = Stand::of(implementation)?;
    let observations = observe_all(stand, mode)?;
    compare(Column { implementation, mode }, &cells(&observations), why)?;
    match implementation {
        Implementation::Headwater => explained(stand, &observations),
        Implementation::Nftables | Implementation::Iptables => Ok(()),
    }
}

/// What became of every question is what `headwater explain` says.
fn explained(stand: &Stand, observations: &[Observation]) -> Result<()> {
    let world = block_on(world(cluster()?, &stand.topology))?;
    let mut faults = String::new();
    for Observation { row, family, question, outcome, trace, .. } in observations {
        let asked = Asked {
            from: &question.from,
            receiver: question.receiver.as_deref(),
            target: question.target,
            transport: question.transport,
            outcome,
            trace,
        };
        if let Err(error) = agree(&world, &asked) {
            writeln!(faults, "{row}, {family:?} {:?}: {error:#}", question.transport)?;
        }
    }
    ensure!(faults.is_empty(), "explanations and packets differ:\n{faults}");
    Ok(())
}

#[test]
fn kube_proxy_with_nftables_does_what_the_table_says() -> Result<()> {
    column(Implementation::Nftables, Mode::Preserve)
}

#[test]
fn kube_proxy_with_iptables_does_what_the_table_says() -> Result<()> {
    column(Implementation::Iptables, Mode::Preserve)
}

#[test]
fn headwater_keeps_the_client_by_the_node_that_received_it_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::Preserve)
}

#[test]
fn headwater_keeps_the_client_with_direct_replies_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::PreserveDirect)
}

#[test]
fn headwater_masquerades_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::Masquerade)
}
