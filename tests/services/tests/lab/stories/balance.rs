//! Shares of endpoints.

use anyhow::{Result, ensure};
use headwater_services_tests::object::{Endpoint, Frontend};
use headwater_testkit::services::{Entry, Family, Transport, tally};

use super::Story;

/// So many that of three endpoints each has its third within 5 % in all but one of two million runs (the standard
/// deviation is 1 % of the fair share).
const CONNECTIONS: usize = 20_000;
/// Hundredths of the fair share.
const TOLERANCE: usize = 5;

pub(super) fn connections_are_spread_evenly_over_endpoints_that_nodes_have_unevenly(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(1)?, stand.pod(2)?];
    let service = stand.service("balance");
    stand.create(&service, &pods.each_ref().map(Endpoint::of))?;
    // A node with two of them, and one without any.
    for node in [1, 3] {
        let target = service.address(&stand.topology, Frontend::LoadBalancer, node, Family::V4);
        let client = Some(Entry::Router(node).client(Family::V4));
        let shares = tally(stand.topology.client(), client, target, Transport::Tcp, CONNECTIONS)?;
        let fair = CONNECTIONS / pods.len();
        let even = |share: &usize| share.abs_diff(fair) * 100 <= fair * TOLERANCE;
        ensure!(shares.len() == pods.len() && shares.values().all(even), "at node-{node}: {shares:?}, fair is {fair}");
    }
    Ok(())
}
