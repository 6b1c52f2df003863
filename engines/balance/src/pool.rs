//! The endpoints of a pool, as one worker sees them.

use ahash::AHashMap;
use headwater_model::gateway::{Endpoint, EndpointAddress, PassiveHealth};
use headwater_model::origin::NamespacedName;

use crate::endpoint::{EndpointId, EndpointStatus, InFlight, Outcome, Slot};
use crate::health::{HealthEvent, max_ejected};
use crate::maglev::Maglev;
use crate::round_robin::RoundRobin;
use crate::sampler::Sampler;
use crate::token::Token;

/// What one worker knows of one pool.
///
/// Costs for `n` endpoints: a pick is `O(1)`, or `O(log n)` for round robin with weights, and `O(n)` while most endpoints
/// are ejected or tried; an update is `O(n)`. The table of [`Balance::Hash`](headwater_model::gateway::Balance::Hash) (2 kB
/// to 128 kB) is built by the first pick that needs it after an update that changed endpoints or weights.
#[derive(Debug)]
pub struct PoolState {
    pub(crate) health: PassiveHealth,
    pub(crate) slots: Vec<Slot>,
    free: Vec<u32>,
    by_address: AHashMap<EndpointAddress, u32>,
    /// Slots of weight above 0, in the order of the endpoints.
    pub(crate) live: Vec<u32>,
    /// How many of `live` are ejected or on trial.
    pub(crate) unhealthy: usize,
    pub(crate) mean_weight: f64,
    pub(crate) sampler: Sampler,
    pub(crate) round_robin: Option<RoundRobin>,
    pub(crate) maglev: Option<Maglev>,
    /// Slots by name; made when the first name is looked for.
    tokens: Option<AHashMap<Token, u32>>,
    epoch: u64,
}

impl PoolState {
    pub fn new(endpoints: &[Endpoint], health: PassiveHealth) -> Self {
        let mut pool = Self {
            health,
            slots: Vec::with_capacity(endpoints.len()),
            free: Vec::new(),
            by_address: AHashMap::with_capacity(endpoints.len()),
            live: Vec::new(),
            unhealthy: 0,
            mean_weight: 1.0,
            sampler: Sampler::default(),
            round_robin: None,
            maglev: None,
            tokens: None,
            epoch: 0,
        };
        pool.update(endpoints, health, 0, 0);
        pool
    }

    /// Takes over a new list of endpoints; those that stay keep their load, latency, ejection and [`EndpointId`].
    ///
    /// Of endpoints with one address the first counts. When the list has become so short that more are ejected than may
    /// be, those that were to return first are restored.
    pub fn update(&mut self, endpoints: &[Endpoint], health: PassiveHealth, now: u64, random: u64) -> Vec<HealthEvent> {
        self.health = health;
        self.epoch += 1;
        let mut live = Vec::with_capacity(endpoints.len());
        let mut changed = false;
        let mut named = 0;
        for endpoint in endpoints {
            let slot = self.slot_of(&endpoint.address);
            let state = &mut self.slots[slot as usize];
            if state.epoch == self.epoch {
                continue;
            }
            state.epoch = self.epoch;
            named += 1;
            changed |= state.weight != endpoint.weight;
            state.weight = endpoint.weight;
            if endpoint.weight > 0 {
                live.push(slot);
            }
        }
        if named < self.by_address.len() {
            self.forget_unnamed();
        }
        changed |= live != self.live;
        self.live = live;
        if changed {
            self.rebuild(random);
        }
        self.unhealthy = self.live.iter().filter(|slot| !self.slots[**slot as usize].health.is_healthy()).count();
        self.restore_surplus(now)
    }

    /// Counts a request that goes to the endpoint; `None` when it has left the pool.
    pub fn begin(&mut self, id: EndpointId, now: u64) -> Option<InFlight> {
        let state = self.state_mut(id)?;
        state.in_flight = state.in_flight.saturating_add(1);
        Some(InFlight { id, trial: state.health.begin(now) })
    }

    /// Counts the end of a request. For an endpoint that has left the pool this does nothing.
    pub fn end(&mut self, request: InFlight, outcome: Outcome, now: u64) -> Option<HealthEvent> {
        let InFlight { id, trial } = request;
        let policy = self.health;
        let room = self.unhealthy < max_ejected(&policy, self.live.len());
        let state = self.state_mut(id)?;
        state.in_flight = state.in_flight.saturating_sub(1);
        let was_healthy = state.health.is_healthy();
        let counts = state.weight > 0;
        let event = match outcome {
            Outcome::Success { latency } => {
                state.ewma.success(latency, now);
                state.health.success(trial, now).then_some(HealthEvent::Restored { id })
            }
            Outcome::Failure { latency } => {
                state.ewma.failure(latency, now);
                let ejected = state.health.failure(&policy, trial, room && counts, now);
                ejected.map(|(until, ejections)| HealthEvent::Ejected { id, until, ejections })
            }
            Outcome::Cancelled => {
                state.health.cancelled(trial);
                None
            }
        };
        match (was_healthy, state.health.is_healthy()) {
            (true, false) if counts => self.unhealthy += 1,
            (false, true) if counts => self.unhealthy -= 1,
            _ => {}
        }
        event
    }

    /// Address of an endpoint; `None` when it has left the pool.
    pub fn address(&self, id: EndpointId) -> Option<&EndpointAddress> {
        self.slots.get(id.slot()).filter(|slot| slot.generation == id.generation)?.address.as_ref()
    }

    /// The endpoint of weight above 0 with this name. Service and port are those of the pool, always the same.
    pub fn named(&mut self, service: &NamespacedName, port: u16, token: Token) -> Option<EndpointId> {
        let (live, slots) = (&self.live, &self.slots);
        let tokens = self.tokens.get_or_insert_with(|| {
            let name = |slot: &u32| Some((Token::of(service, port, slots[*slot as usize].address.as_ref()?), *slot));
            live.iter().filter_map(name).collect()
        });
        let slot = *tokens.get(&token)?;
        Some(EndpointId { slot, generation: slots[slot as usize].generation })
    }

    /// All endpoints, those of weight 0 included.
    pub fn endpoints(&self, now: u64) -> impl Iterator<Item = EndpointStatus<'_>> {
        (0..).zip(&self.slots).filter_map(move |(slot, state)| {
            Some(EndpointStatus {
                id: EndpointId { slot, generation: state.generation },
                address: state.address.as_ref()?,
                weight: state.weight,
                in_flight: state.in_flight,
                availability: state.health.availability(&self.health, now),
            })
        })
    }

    /// How many endpoints are ejected or on trial.
    pub fn ejected(&self) -> usize {
        self.unhealthy
    }

    fn state_mut(&mut self, id: EndpointId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation && slot.address.is_some())
    }

    fn slot_of(&mut self, address: &EndpointAddress) -> u32 {
        if let Some(slot) = self.by_address.get(address) {
            return *slot;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                let generation = self.slots[slot as usize].generation.wrapping_add(1);
                self.slots[slot as usize] = Slot::new(generation, address.clone(), 0);
                slot
            }
            None => {
                self.slots.push(Slot::new(0, address.clone(), 0));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_address.insert(address.clone(), slot);
        slot
    }

    fn forget_unnamed(&mut self) {
        self.by_address.retain(|_, slot| {
            let state = &mut self.slots[*slot as usize];
            let stays = state.epoch == self.epoch;
            if !stays {
                state.address = None;
                state.weight = 0;
                self.free.push(*slot);
            }
            stays
        });
    }

    fn rebuild(&mut self, random: u64) {
        let weights: Vec<u32> = self.live.iter().map(|slot| self.slots[*slot as usize].weight).collect();
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        self.mean_weight = if weights.is_empty() { 1.0 } else { total / weights.len() as f64 };
        self.sampler = Sampler::new(&weights);
        self.maglev = None;
        self.tokens = None;
        if self.round_robin.is_some() {
            let equal = self.sampler.is_uniform();
            self.round_robin = Some(RoundRobin::new(&self.live, &mut self.slots, equal, random));
        }
    }

    fn restore_surplus(&mut self, now: u64) -> Vec<HealthEvent> {
        let most = max_ejected(&self.health, self.live.len());
        if self.unhealthy <= most {
            return Vec::new();
        }
        let until = |slot: u32| self.slots[slot as usize].health.ejected_until().map(|until| (until, slot));
        let mut ejected: Vec<(u64, u32)> = self.live.iter().filter_map(|slot| until(*slot)).collect();
        ejected.sort_unstable();
        ejected.truncate(self.unhealthy - most);
        self.unhealthy = most;
        let mut events = Vec::with_capacity(ejected.len());
        for (_, slot) in ejected {
            let state = &mut self.slots[slot as usize];
            state.health.restore(now);
            events.push(HealthEvent::Restored { id: EndpointId { slot, generation: state.generation } });
        }
        events
    }
}
