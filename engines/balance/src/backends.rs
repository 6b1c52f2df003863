//! Splitting traffic between the backends of a rule.

use crate::random::below;

/// Index of a backend, each in proportion to its weight; `None` when all weights are 0.
///
/// Looks at each weight twice: a rule has a few backends.
pub fn pick_backend(mut weights: impl Iterator<Item = u32> + Clone, random: u64) -> Option<usize> {
    let total = weights.clone().map(u64::from).sum();
    let point = below(random, total);
    let mut sum = 0;
    weights.position(|weight| {
        sum += u64::from(weight);
        point < sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    #[test]
    fn backends_receive_their_share() {
        for weights in [vec![1, 3], vec![0, 1, 0, 0, 9, 0], vec![5], vec![u32::MAX, u32::MAX]] {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut counts = vec![0u32; weights.len()];
            for random in (0..20_000).map(mix) {
                counts[pick_backend(weights.iter().copied(), random).unwrap()] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let expected = 20_000.0 * f64::from(*weight) / total;
                assert!((f64::from(count) - expected).abs() <= 250.0, "{weights:?} {count}");
                assert!(*weight > 0 || count == 0, "{weights:?}");
            }
        }
        for weights in [vec![], vec![0], vec![0, 0]] {
            assert_eq!(pick_backend(weights.into_iter(), u64::MAX), None);
        }
        assert_eq!(pick_backend([1, 1, 0].into_iter(), u64::MAX), Some(1));
    }
}
