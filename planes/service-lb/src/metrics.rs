//! What the plane counts.

use std::sync::Arc;

use headwater_model::nat::ServiceSnapshot;
use headwater_process::metrics::Registry;
use headwater_process::publish::Subscriber;
use tokio::sync::watch;

use crate::state::{State, TunnelState};

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn register(
    registry: &Registry,
    state: watch::Receiver<Arc<State>>,
    snapshots: Subscriber<ServiceSnapshot>,
) {
    let of = |read: fn(&State) -> i64| {
        let state = state.clone();
        move || read(&state.borrow())
    };
    registry.gauge_fn(
        "headwater_node_applied_generation",
        "Generation of the last snapshot of Services that the kernel has; -1: none yet",
        of(|state| state.generation.map_or(-1, |generation| i64::try_from(generation).unwrap_or(i64::MAX))),
    );
    registry.gauge_fn(
        "headwater_node_apply_failed",
        "1 while the kernel does not take what is wanted",
        of(|state| i64::from(state.error.is_some())),
    );
    registry.gauge_fn(
        "headwater_node_refused_elements",
        "Elements that the kernel does not take",
        of(|state| count(state.refused.len())),
    );
    registry.gauge_fn(
        "headwater_node_tunnel_up",
        "1 while this node sends clients' packets to other nodes with their source",
        of(|state| i64::from(matches!(state.tunnel, TunnelState::Up { .. }))),
    );
    registry.gauge_fn(
        "headwater_node_tunnel_peers",
        "Nodes that are reached by the tunnel",
        of(|state| count(state.peers.iter().filter(|peer| peer.tunnel.is_some()).count())),
    );
    registry.gauge_fn(
        "headwater_node_masqueraded_peers",
        "Nodes that are not reached by the tunnel: clients are masqueraded towards them",
        of(|state| count(state.peers.iter().filter(|peer| peer.masqueraded.is_some()).count())),
    );
    registry.gauge_fn("headwater_node_services", "Services in the snapshot", move || {
        count(snapshots.load().services().count())
    });
}
