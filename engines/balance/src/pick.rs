//! Choosing an endpoint.

use headwater_model::gateway::Balance;

use crate::endpoint::{EndpointId, Slot};
use crate::health::Availability;
use crate::maglev::Maglev;
use crate::pool::PoolState;
use crate::random::{below, mix};
use crate::round_robin::RoundRobin;

/// Draws before all endpoints are looked at.
const DRAWS: usize = 4;

/// A latency that is less than this share of another is better; anything nearer is noise, and weights decide.
const CLEARLY: f64 = 0.8;

/// The endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub id: EndpointId,
    /// Nothing better was left: the endpoint is ejected, or was tried before.
    pub panic: bool,
}

/// Who may be chosen.
#[derive(Clone, Copy)]
struct Choice<'t> {
    now: u64,
    tried: &'t [EndpointId],
    allow_tried: bool,
    allow_ejected: bool,
}

impl PoolState {
    /// Chooses an endpoint; `None` when the pool has none of weight above 0.
    ///
    /// `tried` are endpoints that failed this request already. In this order: untried and not ejected; tried and not
    /// ejected; untried and ejected; anyone. `key` is for [`Balance::Hash`], and for [`Balance::Cookie`] where the cookie is
    /// not ours. Call [`PoolState::begin`] next, before another pick.
    pub fn pick(
        &mut self,
        policy: &Balance,
        key: Option<u64>,
        now: u64,
        random: u64,
        tried: &[EndpointId],
    ) -> Option<Pick> {
        if self.live.is_empty() {
            return None;
        }
        [(false, false), (true, false), (false, true), (true, true)].into_iter().find_map(
            |(allow_tried, allow_ejected)| {
                if (allow_tried && tried.is_empty()) || (allow_ejected && self.unhealthy == 0) {
                    return None;
                }
                let choice = Choice { now, tried, allow_tried, allow_ejected };
                let slot = self.choose(policy, key, random, choice)?;
                let id = EndpointId { slot, generation: self.slots[slot as usize].generation };
                Some(Pick { id, panic: allow_tried || allow_ejected })
            },
        )
    }

    /// Whether a request may go to this endpoint without doubt: it is untried, and not ejected.
    pub fn is_open(&self, id: EndpointId, now: u64, tried: &[EndpointId]) -> bool {
        let choice = Choice { now, tried, allow_tried: false, allow_ejected: false };
        let state = self.slots.get(id.slot()).filter(|slot| slot.generation == id.generation && slot.weight > 0);
        state.is_some() && choice.allows(&self.slots, &self.health, self.unhealthy, id.slot)
    }

    fn choose(&mut self, policy: &Balance, key: Option<u64>, random: u64, choice: Choice<'_>) -> Option<u32> {
        match (policy, key) {
            (Balance::RoundRobin, _) => {
                let (live, slots, equal) = (&self.live, &mut self.slots, self.sampler.is_uniform());
                let turns = self.round_robin.get_or_insert_with(|| RoundRobin::new(live, slots, equal, random));
                let (health, unhealthy) = (&self.health, self.unhealthy);
                turns.next(live, slots, |slots, slot| choice.allows(slots, health, unhealthy, slot))
            }
            (Balance::PeakEwma, _) => {
                // latencies are never equal: of a light and a heavy endpoint the better would win always, whatever the
                // weights, unless each is now and then drawn twice
                let with_replacement = !self.sampler.is_uniform();
                self.choose_of_two(random, choice, with_replacement, |pool, first, second| {
                    pool.latency_cost(second, choice.now) < pool.latency_cost(first, choice.now) * CLEARLY
                })
            }
            (Balance::Hash(_) | Balance::Cookie(_), Some(key)) => {
                let (live, slots) = (&self.live, &self.slots);
                let maglev = self.maglev.get_or_insert_with(|| {
                    let endpoint = |slot: &u32| {
                        let state = &slots[*slot as usize];
                        state.address.as_ref().map(|address| (*slot, address, state.weight))
                    };
                    Maglev::build(live.iter().filter_map(endpoint).collect())
                });
                let usable = |slot| choice.allows(slots, &self.health, self.unhealthy, slot);
                maglev.find(key, usable).or_else(|| self.scan(mix(key), &usable))
            }
            (Balance::LeastRequest | Balance::Hash(_) | Balance::Cookie(_), _) => {
                self.choose_of_two(random, choice, false, |pool, first, second| {
                    let (first, second) = (&pool.slots[first as usize], &pool.slots[second as usize]);
                    let load = |load: u32, weight: u32| u64::from(load) * u64::from(weight);
                    load(second.in_flight, first.weight) < load(first.in_flight, second.weight)
                })
            }
        }
    }

    /// Power of two choices (Mitzenmacher 2001): draws two by weight, keeps the first unless the second is better. An
    /// endpoint on trial is taken when it is drawn, or one that is known as bad would never be tried.
    fn choose_of_two(
        &self,
        random: u64,
        choice: Choice<'_>,
        with_replacement: bool,
        second_is_better: impl Fn(&Self, u32, u32) -> bool,
    ) -> Option<u32> {
        let usable = |slot| choice.allows(&self.slots, &self.health, self.unhealthy, slot);
        let first = self.draw(random, &usable)?;
        let other = |slot| (with_replacement || slot != first) && usable(slot);
        let Some(second) = self.draw(mix(random), &other) else { return Some(first) };
        let healthy = |slot: u32| self.slots[slot as usize].health.is_healthy();
        Some(match (healthy(first), healthy(second)) {
            (false, true) => first,
            (true, false) => second,
            _ if second_is_better(self, first, second) => second,
            _ => first,
        })
    }

    /// A usable endpoint at random, by weight.
    fn draw(&self, mut random: u64, usable: &impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..DRAWS {
            let slot = self.live[self.sampler.sample(random)];
            if usable(slot) {
                return Some(slot);
            }
            random = mix(random);
        }
        self.scan(random, usable)
    }

    /// The same by looking at all endpoints.
    fn scan(&self, random: u64, usable: &impl Fn(u32) -> bool) -> Option<u32> {
        let weights = || {
            let usable = self.live.iter().copied().filter(|slot| usable(*slot));
            usable.map(|slot| (slot, u64::from(self.slots[slot as usize].weight)))
        };
        let point = below(random, weights().map(|(_, weight)| weight).sum());
        let mut sum = 0;
        weights().find_map(|(slot, weight)| {
            sum += weight;
            (point < sum).then_some(slot)
        })
    }

    fn latency_cost(&self, slot: u32, now: u64) -> f64 {
        let state = &self.slots[slot as usize];
        state.ewma.cost(f64::from(state.in_flight) * self.mean_weight / f64::from(state.weight.max(1)), now)
    }
}

impl Choice<'_> {
    fn allows(
        &self,
        slots: &[Slot],
        health: &headwater_model::gateway::PassiveHealth,
        unhealthy: usize,
        slot: u32,
    ) -> bool {
        let state = &slots[slot as usize];
        let untried = || self.tried.iter().all(|id| id.slot != slot || id.generation != state.generation);
        (self.allow_ejected || unhealthy == 0 || state.health.availability(health, self.now) != Availability::Ejected)
            && (self.allow_tried || untried())
    }
}
