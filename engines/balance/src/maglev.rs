//! Maglev consistent hashing (Eisenbud and others, NSDI 2016, section 3.4), with weights.

use headwater_model::fnv::fnv1a_64;
use headwater_model::gateway::EndpointAddress;

use crate::random::{below, mix};

/// Primes; the first that has 100 places for each endpoint is taken, or the last.
const SIZES: [usize; 4] = [1021, 4093, 16_381, 65_537];

const PLACES_PER_ENDPOINT: usize = 100;

/// Places that are looked at for a key before all endpoints are.
const MAX_CHOICES: u64 = 16;

/// Hash of a key for [`PoolState::pick`](crate::PoolState::pick): the same in every process and on every machine.
///
/// FNV-1a, then mixed.
pub fn hash_key(key: &[u8]) -> u64 {
    mix(fnv1a_64(key.iter().copied()))
}

/// Which endpoint a key goes to.
///
/// Depends on the set of endpoints and weights alone, so that all workers and gateways agree. An endpoint that comes or
/// goes moves its own keys and few others, as long as the table keeps its size: 10, 40 and 160 endpoints are the
/// thresholds at which most keys move once.
#[derive(Debug)]
pub(crate) struct Maglev {
    /// Indices into `slots`.
    table: Box<[u16]>,
    slots: Box<[u32]>,
}

impl Maglev {
    /// `endpoints`: slot, address, weight (not 0). Of more than 65,535, the first by address take part.
    pub(crate) fn build(mut endpoints: Vec<(u32, &EndpointAddress, u32)>) -> Self {
        endpoints.sort_by(|a, b| a.1.cmp(b.1));
        endpoints.truncate(usize::from(u16::MAX));
        let places = endpoints.len() * PLACES_PER_ENDPOINT;
        let size = SIZES.into_iter().find(|size| *size >= places).unwrap_or(SIZES[3]);
        let max_weight = endpoints.iter().map(|endpoint| u64::from(endpoint.2)).max().unwrap_or(1);
        let mut members: Vec<Member> = endpoints
            .iter()
            .map(|(_, address, weight)| {
                let hash = hash_key(address.to_string().as_bytes());
                Member {
                    place: below(hash, size as u64) as usize,
                    skip: 1 + below(mix(hash), size as u64 - 1) as usize,
                    weight: u64::from(*weight),
                    due: 0,
                }
            })
            .collect();
        let mut table = vec![u16::MAX; size];
        let mut filled = 0;
        let mut round = 0;
        while filled < size && !members.is_empty() {
            round += 1;
            for (member, index) in members.iter_mut().zip(0u16..) {
                // an endpoint of half the largest weight has its turn in every second round
                if round * member.weight < member.due {
                    continue;
                }
                member.due += max_weight;
                while table[member.place] != u16::MAX {
                    member.place = (member.place + member.skip) % size;
                }
                table[member.place] = index;
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Self { table: table.into(), slots: endpoints.iter().map(|endpoint| endpoint.0).collect() }
    }

    /// The slot of the key, or the next that is `usable`; always the same while the same are usable. `None` when none of
    /// the first choices is.
    pub(crate) fn find(&self, key: u64, usable: impl Fn(u32) -> bool) -> Option<u32> {
        let mut hash = mix(key);
        for _ in 0..MAX_CHOICES {
            let index = self.table[below(hash, self.table.len() as u64) as usize];
            let slot = *self.slots.get(usize::from(index))?;
            if usable(slot) {
                return Some(slot);
            }
            hash = mix(hash);
        }
        None
    }
}

/// An endpoint's walk through the table.
struct Member {
    place: usize,
    skip: usize,
    weight: u64,
    due: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: usize) -> Vec<EndpointAddress> {
        (0..count).map(|at| EndpointAddress::Ip(([10, 0, (at >> 8) as u8, at as u8], 8080).into())).collect()
    }

    fn build(addresses: &[EndpointAddress], weight: impl Fn(usize) -> u32) -> Maglev {
        Maglev::build(addresses.iter().enumerate().map(|(at, address)| (at as u32, address, weight(at))).collect())
    }

    #[test]
    fn tables_are_shared_in_proportion_to_weight() {
        for (count, heavy) in [(1, 1), (2, 1), (3, 5), (10, 2), (11, 1), (100, 3), (700, 2)] {
            let addresses = addresses(count);
            let weight = |at: usize| if at.is_multiple_of(2) { heavy } else { 1 };
            let maglev = build(&addresses, weight);
            let mut counts = vec![0usize; count];
            maglev.table.iter().for_each(|index| counts[usize::from(*index)] += 1);
            let total: u32 = (0..count).map(weight).sum();
            for (at, got) in counts.into_iter().enumerate() {
                let expected = maglev.table.len() as f64 * f64::from(weight(at)) / f64::from(total);
                assert!((got as f64 - expected).abs() <= expected * 0.02 + 2.0, "{count} {at}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn one_endpoint_that_goes_moves_few_other_keys() {
        for count in [5, 9, 30, 100, 500] {
            let addresses = addresses(count);
            let before = build(&addresses, |_| 1);
            let after = build(&addresses[..count - 1], |_| 1);
            assert_eq!(before.table.len(), after.table.len(), "{count}");
            let keys = 0..20_000u64;
            let (mut gone, mut moved) = (0, 0);
            for key in keys {
                let old = before.find(key, |_| true).unwrap();
                let new = after.find(key, |_| true).unwrap();
                if old as usize == count - 1 {
                    gone += 1;
                } else if old != new {
                    moved += 1;
                }
            }
            assert!(gone > 0, "{count}");
            assert!(moved < 20_000 * 3 / 100, "{count}: {moved} others of 20000 moved");
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let addresses = addresses(7);
        let slots =
            |maglev: &Maglev| -> Vec<u32> { (0..1000).map(|key| maglev.find(key, |_| true).unwrap()).collect() };
        let endpoints: Vec<_> = addresses.iter().enumerate().map(|(at, address)| (at as u32, address, 1)).collect();
        let reversed = endpoints.iter().rev().copied().collect();
        assert_eq!(slots(&Maglev::build(endpoints)), slots(&Maglev::build(reversed)));
        assert!(Maglev::build(Vec::new()).find(1, |_| true).is_none());
    }

    #[test]
    fn hashes_of_keys_never_change() {
        // written down once: a new value would move every key of a running fleet
        assert_eq!(hash_key(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash_key(b"a"), mix(0xaf63_dc4c_8601_ec8c), "FNV-1a of \"a\"");
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "first output of SplitMix64 seeded with 0");
    }
}
