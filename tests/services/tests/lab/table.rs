//! The table of docs/source-ip.md, one test for each column.

use anyhow::Result;
use headwater_services_tests::implementation::Implementation;
use headwater_services_tests::scenario::{Mode, cells, observe_all};
use headwater_services_tests::stand::Stand;
use headwater_services_tests::table::{Column, compare};

use crate::why::why;

fn column(implementation: Implementation, mode: Mode) -> Result<()> {
    let stand = Stand::of(implementation)?;
    compare(Column { implementation, mode }, &cells(&observe_all(stand, mode)?), why)
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
#[ignore = "a packet from the endpoint's node comes back to it by the tunnel and is lost there"]
fn headwater_keeps_the_client_by_the_node_that_received_it_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::Preserve)
}

#[test]
#[ignore = "a packet from the endpoint's node comes back to it by the tunnel and is lost there"]
fn headwater_keeps_the_client_with_direct_replies_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::PreserveDirect)
}

#[test]
fn headwater_masquerades_as_the_table_says() -> Result<()> {
    column(Implementation::Headwater, Mode::Masquerade)
}
