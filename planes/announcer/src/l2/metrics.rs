//! What is counted under MetalLB's names, and what MetalLB does not know.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_l2::Counted;
use headwater_process::metrics::{CounterShard, Registry, ShardedCounter};
use tokio::sync::watch;

use super::state::L2State;

/// Registers what Headwater itself counts.
pub fn register(registry: &Registry, state: watch::Receiver<Arc<L2State>>) {
    let contests = state.clone();
    registry.gauges_fn(
        "node_address_conflicts",
        "1 for each address that this node should announce, and does not because somebody else has it",
        move || {
            let label = |address: IpAddr| vec![("ip".to_owned(), address.to_string())];
            state.borrow().conflicts().into_iter().map(|address| (label(address), 1)).collect()
        },
    );
    registry.counter_fn(
        "node_address_contests",
        "Times that somebody else said to have an address that this node announces",
        move || contests.borrow().contests,
    );
}

/// Names and values.
type Labels = Vec<(&'static str, String)>;

/// Counters by address, of the thread that has the sockets.
pub(super) struct Counts {
    requests: ShardedCounter<Labels>,
    responses: ShardedCounter<Labels>,
    gratuitous: ShardedCounter<Labels>,
    shards: HashMap<IpAddr, [CounterShard; 3]>,
}

/// Addresses that are counted at once; those of others are not.
const MOST: usize = 20_000;

impl Counts {
    /// `registry` without a prefix: the names are MetalLB's.
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: registry
                .counters("metallb_layer2_requests_received", "ARP and NDP requests for announced addresses"),
            responses: registry.counters("metallb_layer2_responses_sent", "Answers to them"),
            gratuitous: registry.counters("metallb_layer2_gratuitous_sent", "Unasked announcements of addresses"),
            shards: HashMap::new(),
        }
    }

    fn shards(&mut self, address: IpAddr) -> Option<&[CounterShard; 3]> {
        if !self.shards.contains_key(&address) {
            if self.shards.len() >= MOST {
                return None;
            }
            let labels = vec![("ip", address.to_string())];
            let shards = [self.requests.shard(&labels), self.responses.shard(&labels), self.gratuitous.shard(&labels)];
            self.shards.insert(address, shards);
        }
        self.shards.get(&address)
    }

    pub(super) fn requested(&mut self, address: IpAddr) {
        if let Some([requests, ..]) = self.shards(address) {
            requests.inc();
        }
    }

    pub(super) fn sent(&mut self, address: IpAddr, counted: Counted) {
        let Some([_, responses, gratuitous]) = self.shards(address) else { return };
        match counted {
            Counted::Answer => responses.inc(),
            Counted::Gratuitous => gratuitous.inc(),
            Counted::Probe => {}
        }
    }
}
