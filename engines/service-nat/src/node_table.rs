//! Which node takes a flow: Maglev consistent hashing (Eisenbud and others, NSDI 2016, section 3.4), with weights.
//!
//! `engines/balance` has a table of its own, over addresses of endpoints; engines do not know each other, and this one
//! has the kernel's sizes.

use std::sync::Arc;

use headwater_model::fnv::fnv1a_64;
use headwater_model::nat::{NodeShare, NodeTable};

/// Powers of two, so that each place of a table is a whole number of places of a larger one. The first that has enough
/// for each endpoint is taken, or the last.
const SIZES: [usize; 4] = [1024, 4096, 16_384, 65_536];

/// Rounding moves a share by one place: at most 2.5 % of what one endpoint has.
const PLACES_PER_ENDPOINT: usize = 40;

/// SplitMix64.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, then mixed: the same on every machine.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    mix(fnv1a_64(bytes))
}

/// Fills a table in proportion to weights; `None` without nodes. Of more than 65,535 nodes the first take part.
///
/// A node that comes or goes moves its own places and few others, as long as the number of endpoints stays within one
/// size: 25, 102 and 409 endpoints are the thresholds at which most places move once.
pub fn node_table(mut nodes: Vec<NodeShare>) -> Option<NodeTable> {
    nodes.retain(|share| share.weight > 0);
    nodes.sort();
    nodes.dedup_by(|next, kept| kept.node == next.node);
    nodes.truncate(usize::from(u16::MAX));
    let heaviest = u64::from(nodes.iter().map(|share| share.weight).max()?);
    let endpoints: usize = nodes.iter().map(|share| share.weight as usize).sum();
    let wanted = endpoints.saturating_mul(PLACES_PER_ENDPOINT);
    let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
    let mut walks: Vec<Walk> = nodes
        .iter()
        .map(|share| {
            let hash = hash(share.node.as_deref().unwrap_or_default().bytes());
            // An odd step comes by every place of a power of two.
            let (size, step) = (size as u64, mix(hash) | 1);
            Walk { place: (hash % size) as usize, skip: (step % size) as usize, due: 0 }
        })
        .collect();
    const FREE: u16 = u16::MAX;
    let mut places = vec![FREE; size];
    let (mut filled, mut round) = (0, 0);
    while filled < size {
        round += 1;
        for ((walk, share), index) in walks.iter_mut().zip(&nodes).zip(0_u16..) {
            // A node of half the largest weight has its turn in every second round.
            if round * u64::from(share.weight) < walk.due + heaviest {
                continue;
            }
            walk.due += heaviest;
            while places[walk.place] != FREE {
                walk.place = (walk.place + walk.skip) % size;
            }
            places[walk.place] = index;
            filled += 1;
            if filled == size {
                break;
            }
        }
    }
    Some(NodeTable { nodes: Arc::from(nodes), places: places.into() })
}

/// A node's way through the table.
struct Walk {
    place: usize,
    skip: usize,
    due: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32]) -> Vec<NodeShare> {
        let name = |at: usize| Some(Arc::from(format!("node-{at}")));
        weights.iter().enumerate().map(|(at, weight)| NodeShare { node: name(at), weight: *weight }).collect()
    }

    #[test]
    fn every_endpoint_has_its_fair_share_within_three_percent() {
        let uneven: Vec<u32> = (0..60).map(|at| 1 + at % 7).collect();
        for weights in [&[1][..], &[1, 1, 1], &[5, 3, 1], &[1, 30], &[7, 0, 2], &[1; 100], &uneven] {
            let table = node_table(shares(weights)).unwrap();
            let total: u32 = weights.iter().sum();
            for (index, share) in (0_u16..).zip(&*table.nodes) {
                let got = table.places.iter().filter(|place| **place == index).count() as f64;
                let fair = table.places.len() as f64 * f64::from(share.weight) / f64::from(total);
                assert!((got - fair).abs() <= fair * 0.03 + 1.0, "{weights:?} {share:?}: {got} for {fair}");
            }
        }
        assert!(node_table(shares(&[0, 0])).is_none());
    }

    #[test]
    fn a_node_that_goes_moves_few_flows_of_others() {
        let all = shares(&[4; 20]);
        let before = node_table(all.clone()).unwrap();
        let after = node_table(all[..19].to_vec()).unwrap();
        assert_eq!(before.places.len(), after.places.len());
        let name = |table: &NodeTable, at: usize| table.nodes[usize::from(table.places[at])].node.clone();
        let gone = all[19].node.clone();
        let moved = (0..before.places.len())
            .filter(|at| name(&before, *at) != gone && name(&before, *at) != name(&after, *at))
            .count();
        assert!(moved * 100 < before.places.len() * 8, "{moved} of {}", before.places.len());
    }

    #[test]
    fn the_order_of_nodes_does_not_matter() {
        let mut all = shares(&[3, 1, 2, 9]);
        let table = node_table(all.clone());
        all.reverse();
        assert_eq!(node_table(all), table);
    }
}
