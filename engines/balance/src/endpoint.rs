//! What is known of one endpoint.

use headwater_model::gateway::EndpointAddress;

use crate::ewma::PeakEwma;
use crate::health::{Availability, Health};

/// Names an endpoint of a [`PoolState`](crate::PoolState) while it stays in the pool, across updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    pub(crate) slot: u32,
    /// Tells an endpoint from a former one in the same slot.
    pub(crate) generation: u32,
}

impl EndpointId {
    /// Dense index, unique among the endpoints of the pool at one time; used again once the endpoint has gone.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// A request under way; give it back to [`PoolState::end`](crate::PoolState::end), always.
#[derive(Debug)]
#[must_use = "a request that never ends counts as load for ever"]
pub struct InFlight {
    pub(crate) id: EndpointId,
    /// Whether the endpoint was ejected when the request began.
    pub(crate) trial: bool,
}

impl InFlight {
    pub fn id(&self) -> EndpointId {
        self.id
    }
}

/// How a request ended, as far as the endpoint is to praise or blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `latency` in nanoseconds: to the head of the response.
    Success { latency: u64 },
    /// Not reachable, connection broken, timeout, or a status that counts as a failure.
    Failure { latency: u64 },
    /// Says nothing about the endpoint: the client went away.
    Cancelled,
}

/// For status pages and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointStatus<'p> {
    pub id: EndpointId,
    pub address: &'p EndpointAddress,
    pub weight: u32,
    pub in_flight: u32,
    pub availability: Availability,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    /// 0 also for a slot that is free.
    pub(crate) weight: u32,
    pub(crate) in_flight: u32,
    pub(crate) health: Health,
    pub(crate) ewma: PeakEwma,
    /// Of weighted round robin; `None` before the first round.
    pub(crate) deadline: Option<u64>,
    /// `None`: the slot is free.
    pub(crate) address: Option<EndpointAddress>,
    /// Number of the update that last named the endpoint.
    pub(crate) epoch: u64,
}

impl Slot {
    pub(crate) fn new(generation: u32, address: EndpointAddress, epoch: u64) -> Self {
        Self {
            generation,
            weight: 0,
            in_flight: 0,
            health: Health::default(),
            ewma: PeakEwma::default(),
            deadline: None,
            address: Some(address),
            epoch,
        }
    }
}
