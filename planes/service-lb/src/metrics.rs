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
        "node_applied_generation",
        "Generation of the last snapshot of Services that the kernel has; -1: none yet",
        of(|state| state.generation.map_or(-1, |generation| i64::try_from(generation).unwrap_or(i64::MAX))),
    );
    registry.gauge_fn(
        "node_apply_failed",
        "1 while the kernel does not take what is wanted",
        of(|state| i64::from(state.error.is_some())),
    );
    registry.gauge_fn(
        "node_refused_elements",
        "Elements that the kernel does not take",
        of(|state| count(state.refused.len())),
    );
    registry.gauge_fn(
        "node_tunnel_up",
        "1 while this node sends clients' packets to other nodes with their source",
        of(|state| i64::from(matches!(state.tunnel, TunnelState::Up { .. }))),
    );
    registry.gauge_fn(
        "node_tunnel_peers",
        "Nodes that are reached by the tunnel",
        of(|state| count(state.peers.iter().filter(|peer| peer.tunnel.is_some()).count())),
    );
    registry.gauge_fn(
        "node_masqueraded_peers",
        "Nodes that are not reached by the tunnel: clients are masqueraded towards them",
        of(|state| count(state.peers.iter().filter(|peer| peer.masqueraded.is_some()).count())),
    );
    registry.gauge_fn("node_services", "Services in the snapshot", move || count(snapshots.load().services().count()));
}

#[cfg(test)]
mod tests {
    use headwater_process::publish::publish;

    use super::*;

    #[test]
    fn each_metric_stands_in_the_documentation_under_the_name_it_is_scraped_with() {
        let registry = Registry::new();
        let (_state, state) = watch::channel(Arc::new(State::new("node-1".into())));
        let (_snapshots, snapshots) = publish(ServiceSnapshot::default());
        register(&registry, state, snapshots);
        let page = include_str!("../../../docs/metrics.md");
        let text = registry.encode();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let missing: Vec<&str> = names.filter(|name| !page.contains(&format!("| `{name}` |"))).collect();
        assert_eq!((text.matches("# TYPE").count(), missing), (7, Vec::new()));
    }
}
