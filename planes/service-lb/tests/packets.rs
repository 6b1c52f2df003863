//! What endpoints see of their clients, with the plane on three nodes.

mod support;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use headwater_testkit::lab;
use headwater_testkit::services::{Entry, Family, Transport, ask};
use support::{Stage, ready, service, vip};

#[test]
fn under_cluster_the_endpoint_on_another_node_sees_the_client() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.topology.serve(&web, 8080)?;
        for keep in ["preserve", "preserve-direct", "masquerade"] {
            stage.start(&service(keep, "", &[ready(&web)]))?;
            for family in [Family::V4, Family::V6] {
                for transport in Transport::ALL {
                    for node in [1, 2] {
                        let client = Entry::Router(node).client(family);
                        let node_port = SocketAddr::new(stage.topology.node(node).address(family), 30080);
                        for target in [vip(family), node_port] {
                            let outcome = ask(stage.topology.client(), Some(client), target, transport)?;
                            let case = format!("{keep} {transport:?} by node {node} to {target}: {outcome:?}");
                            let seen = outcome.seen().with_context(|| case.clone())?;
                            ensure!((seen.source.ip() == client) == (keep != "masquerade"), "{case}");
                        }
                    }
                }
            }
        }
        Ok(())
    })
}
