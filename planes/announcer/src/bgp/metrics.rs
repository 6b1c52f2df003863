//! Metrics under MetalLB's names, for dashboards and alerts that are written for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use headwater_bfd::State as BfdState;
use headwater_bgp::State;

use super::speaker::PeerStatus;

type Row = (&'static str, &'static str, fn(&PeerStatus) -> Option<u64>);

/// Type, name and value of each; those without value are of peers without BFD.
const ROWS: &[Row] = &[
    ("gauge", "metallb_bgp_session_up", |peer| Some(u64::from(peer.session.state == State::Established))),
    ("counter", "metallb_bgp_updates_total", |peer| Some(peer.session.counters.updates_sent)),
    ("gauge", "metallb_bgp_announced_prefixes_total", |peer| Some(peer.session.announced as u64)),
    ("gauge", "metallb_bgp_pending_prefixes_total", |peer| Some(peer.session.pending as u64)),
    ("counter", "metallb_bgp_opens_sent", |peer| Some(peer.session.counters.opens_sent)),
    ("counter", "metallb_bgp_opens_received", |peer| Some(peer.session.counters.opens_received)),
    ("counter", "metallb_bgp_notifications_sent", |peer| Some(peer.session.counters.notifications_sent)),
    ("counter", "metallb_bgp_updates_total_received", |peer| Some(peer.session.counters.updates_received)),
    ("counter", "metallb_bgp_keepalives_sent", |peer| Some(peer.session.counters.keepalives_sent)),
    ("counter", "metallb_bgp_keepalives_received", |peer| Some(peer.session.counters.keepalives_received)),
    // A speaker that learns nothing never asks to be told again.
    ("counter", "metallb_bgp_route_refresh_sent", |_| Some(0)),
    ("counter", "metallb_bgp_total_sent", |peer| Some(peer.session.counters.sent())),
    ("counter", "metallb_bgp_total_received", |peer| Some(peer.session.counters.received())),
    ("gauge", "metallb_bfd_session_up", |peer| peer.bfd.map(|bfd| u64::from(bfd.state == BfdState::Up))),
    ("counter", "metallb_bfd_control_packet_input", |peer| peer.bfd.map(|bfd| bfd.counters.control_in)),
    ("counter", "metallb_bfd_control_packet_output", |peer| peer.bfd.map(|bfd| bfd.counters.control_out)),
    ("counter", "metallb_bfd_echo_packet_input", |peer| peer.bfd.map(|bfd| bfd.counters.echo_in)),
    ("counter", "metallb_bfd_echo_packet_output", |peer| peer.bfd.map(|bfd| bfd.counters.echo_out)),
    ("counter", "metallb_bfd_session_up_events", |peer| peer.bfd.map(|bfd| bfd.counters.up)),
    ("counter", "metallb_bfd_session_down_events", |peer| peer.bfd.map(|bfd| bfd.counters.down)),
    // There is no zebra; what it would be told is what ends and begins.
    ("counter", "metallb_bfd_zebra_notifications", |peer| peer.bfd.map(|bfd| bfd.counters.up + bfd.counters.down)),
];

/// Everything in the text format of Prometheus; `label`: what a peer is called, by its name: its address, as MetalLB does.
pub fn metrics(peers: &BTreeMap<Arc<str>, PeerStatus>, label: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (kind, name, value) in ROWS {
        let samples: Vec<(String, u64)> =
            peers.iter().filter_map(|(peer, status)| Some((label(peer), value(status)?))).collect();
        if samples.is_empty() {
            continue;
        }
        writeln!(text, "# TYPE {name} {kind}").expect("a String takes any text");
        for (peer, value) in samples {
            // Labels are addresses and names of objects: nothing in them needs to be escaped.
            writeln!(text, "{name}{{peer=\"{peer}\"}} {value}").expect("a String takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn each_metric_stands_in_the_documentation() {
        let page = include_str!("../../../../docs/metrics.md");
        let missing: Vec<&str> =
            ROWS.iter().map(|row| row.1).filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
