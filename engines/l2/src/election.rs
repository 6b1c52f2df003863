//! Which node announces an address.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// A node that may announce an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// `metadata.name` of its Node.
    pub node: Arc<str>,
    /// Sum of the weights of the preferences that it fulfils; more is better.
    pub weight: i64,
}

/// The candidate that announces an address: of the greatest weight the one whose SHA-256 of `<node>#<address>` is
/// smallest, bytewise. `None` without candidates. The order of the candidates does not matter.
///
/// `address` is the text of the first address of the Service, so that its addresses of both families go to one node.
///
/// Source: MetalLB, `speaker/layer2_controller.go`.
pub fn elect<'a>(address: &str, candidates: impl IntoIterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    candidates.into_iter().min_by_key(|candidate| (std::cmp::Reverse(candidate.weight), rank(&candidate.node, address)))
}

fn rank(node: &str, address: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update(b"#");
    hash.update(address.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: &str, weight: i64) -> Candidate {
        Candidate { node: node.into(), weight }
    }

    fn order(address: &str, mut left: Vec<Candidate>) -> Vec<String> {
        let mut order = Vec::new();
        while let Some(first) = elect(address, &left).cloned() {
            left.retain(|candidate| *candidate != first);
            order.push(first.node.to_string());
        }
        order
    }

    #[test]
    fn nodes_come_in_the_order_that_metallb_gives_them() {
        for (address, expected) in [
            ("10.20.30.1", ["iris3", "iris2", "iris1"]),
            ("10.20.30.2", ["iris1", "iris2", "iris3"]),
            ("fc00::1", ["iris3", "iris2", "iris1"]),
        ] {
            for names in [["iris1", "iris2", "iris3"], ["iris3", "iris1", "iris2"]] {
                let candidates = names.iter().map(|name| candidate(name, 0)).collect();
                assert_eq!(order(address, candidates), expected, "{address}");
            }
        }
    }

    #[test]
    fn a_greater_weight_beats_any_hash() {
        let candidates = vec![candidate("iris3", 0), candidate("iris1", 30), candidate("iris2", 70)];
        assert_eq!(order("10.20.30.1", candidates), ["iris2", "iris1", "iris3"]);
    }

    #[test]
    fn nobody_is_elected_among_nobody() {
        assert_eq!(elect("10.20.30.1", &[]), None);
    }
}
