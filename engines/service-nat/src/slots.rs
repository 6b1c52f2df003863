//! Numbers of endpoints that stay while they live.

use std::net::{IpAddr, SocketAddr};

use ahash::{AHashMap, AHashSet};
use headwater_model::nat::Slot;

use crate::node_table::{hash, mix};

/// Endpoints of one Service port and family; of more, the first by address are used. Half of the slots: one is found
/// quickly.
pub(crate) const MAX_ENDPOINTS: usize = 32_767;

const SLOTS: u64 = 65_535;

/// Places looked at before the next free one is taken.
const TRIES: usize = 64;

/// Slots of the addresses, in their order: the one had `before`, else one that the address itself suggests, so that
/// a process that starts anew, and other nodes, find nearly always the same.
pub(crate) fn assign(addresses: &[SocketAddr], before: &AHashMap<SocketAddr, Slot>) -> Vec<Slot> {
    let mut taken: AHashSet<u16> = AHashSet::with_capacity(addresses.len());
    let mut slots: Vec<Option<Slot>> = addresses
        .iter()
        .map(|address| before.get(address).copied().filter(|slot| slot.0 != 0 && taken.insert(slot.0)))
        .collect();
    let mut next = 1_u16;
    for (address, slot) in addresses.iter().zip(&mut slots) {
        if slot.is_some() {
            continue;
        }
        let mut number = hash_address(*address);
        let suggested = (0..TRIES).find_map(|_| {
            let place = u16::try_from(1 + number % SLOTS).unwrap_or(1);
            number = mix(number);
            taken.insert(place).then_some(place)
        });
        let place = suggested.unwrap_or_else(|| {
            while !taken.insert(next) {
                next = next.wrapping_add(1).max(1);
            }
            next
        });
        *slot = Some(Slot(place));
    }
    slots.into_iter().flatten().collect()
}

fn hash_address(address: SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => hash(ip.octets().into_iter().chain(port)),
        IpAddr::V6(ip) => hash(ip.octets().into_iter().chain(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|at| SocketAddr::new(IpAddr::V4((0x0a00_0000 + at).into()), 8080)).collect()
    }

    #[test]
    fn as_many_endpoints_as_are_allowed_have_slots_of_their_own() {
        let addresses = addresses(MAX_ENDPOINTS as u32);
        let slots = assign(&addresses, &AHashMap::new());
        assert_eq!(slots.len(), addresses.len());
        let distinct: AHashSet<Slot> = slots.into_iter().collect();
        assert_eq!(distinct.len(), addresses.len());
        assert!(!distinct.contains(&Slot(0)));
    }

    #[test]
    fn who_had_a_slot_keeps_it_whoever_comes() {
        let few = addresses(50);
        let before: AHashMap<_, _> = few.iter().copied().zip((1..).map(Slot)).collect();
        let many = addresses(3000);
        let slots: AHashMap<_, _> = many.iter().copied().zip(assign(&many, &before)).collect();
        assert!(few.iter().all(|address| slots[address] == before[address]));
        assert_eq!(slots.values().collect::<AHashSet<_>>().len(), 3000);
    }

    #[test]
    fn two_that_are_said_to_have_one_slot_do_not_share_it() {
        let both = addresses(2);
        let before: AHashMap<_, _> = both.iter().map(|address| (*address, Slot(7))).collect();
        let slots = assign(&both, &before);
        assert_eq!(slots[0], Slot(7));
        assert_ne!(slots[1], Slot(7));
    }
}
