//! Smooth weighted round robin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::endpoint::Slot;
use crate::random::mix;

/// Virtual time between two turns of an endpoint of weight 1.
const TURN: u64 = 1 << 40;

/// Virtual time is set back once it is past this.
const LATE: u64 = 1 << 62;

/// Turns by earliest deadline: an endpoint of weight `w` has its turn every `TURN / w`.
///
/// As smooth as nginx's algorithm (within a round, no endpoint is more than one turn ahead of or behind its share), but
/// `O(log n)` instead of `O(n)`. With equal weights it is a plain round, `O(1)`.
#[derive(Debug)]
pub(crate) enum RoundRobin {
    Equal { next: usize },
    Weighted { turns: BinaryHeap<Reverse<(u64, u32)>>, aside: Vec<(u64, u32)> },
}

impl RoundRobin {
    /// Endpoints that stay keep their place. `random` spreads the starts of workers.
    pub(crate) fn new(live: &[u32], slots: &mut [Slot], equal: bool, random: u64) -> Self {
        if equal {
            return Self::Equal { next: crate::random::below(random, live.len() as u64) as usize };
        }
        let now = live.iter().filter_map(|slot| slots[*slot as usize].deadline).min().unwrap_or(0);
        let turns = live.iter().map(|&slot| {
            let state = &mut slots[slot as usize];
            let turn = turn(state.weight);
            let phase = crate::random::below(mix(random ^ u64::from(slot)), turn);
            // a place from before a change of weight may be too far off
            let deadline = state.deadline.map_or(now + phase, |deadline| deadline.min(now + turn));
            state.deadline = Some(deadline);
            Reverse((deadline, slot))
        });
        Self::Weighted { turns: turns.collect(), aside: Vec::new() }
    }

    /// The slot whose turn it is among those that are `usable`; others lose their turn.
    pub(crate) fn next(
        &mut self,
        live: &[u32],
        slots: &mut [Slot],
        usable: impl Fn(&[Slot], u32) -> bool,
    ) -> Option<u32> {
        match self {
            Self::Equal { next } => {
                for _ in 0..live.len() {
                    let slot = live.get(*next).or(live.first()).copied()?;
                    *next = if *next + 1 >= live.len() { 0 } else { *next + 1 };
                    if usable(slots, slot) {
                        return Some(slot);
                    }
                }
                None
            }
            Self::Weighted { turns, aside } => {
                let mut found = None;
                while let Some(Reverse((deadline, slot))) = turns.pop() {
                    aside.push((deadline, slot));
                    if usable(slots, slot) {
                        found = Some((deadline, slot));
                        break;
                    }
                }
                for (mut deadline, slot) in aside.drain(..) {
                    if found.is_some() {
                        let state = &mut slots[slot as usize];
                        deadline += turn(state.weight);
                        state.deadline = Some(deadline);
                    }
                    turns.push(Reverse((deadline, slot)));
                }
                if found.is_some_and(|(deadline, _)| deadline > LATE) {
                    Self::set_back(turns, slots);
                }
                found.map(|(_, slot)| slot)
            }
        }
    }

    fn set_back(turns: &mut BinaryHeap<Reverse<(u64, u32)>>, slots: &mut [Slot]) {
        let earliest = turns.peek().map_or(0, |Reverse((deadline, _))| *deadline);
        *turns = turns.drain().map(|Reverse((deadline, slot))| Reverse((deadline - earliest, slot))).collect();
        for Reverse((deadline, slot)) in turns.iter() {
            slots[*slot as usize].deadline = Some(*deadline);
        }
    }
}

fn turn(weight: u32) -> u64 {
    TURN / u64::from(weight.max(1))
}
