//! Splitting traffic between the backends of a rule.

use crate::random::below;

/// Running sums of weights, for [`pick_backend`]; compute once for each rule.
pub fn cumulative_weights(weights: impl IntoIterator<Item = u32>) -> Box<[u64]> {
    let mut sum = 0;
    weights
        .into_iter()
        .map(|weight| {
            sum += u64::from(weight);
            sum
        })
        .collect()
}

/// Index of a backend, each in proportion to its weight; `None` when all weights are 0.
pub fn pick_backend(cumulative: &[u64], random: u64) -> Option<usize> {
    let total = *cumulative.last()?;
    let point = below(random, total);
    (total > 0).then(|| cumulative.partition_point(|sum| *sum <= point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    #[test]
    fn backends_receive_their_share() {
        for weights in [vec![1, 3], vec![0, 1, 0, 0, 9, 0], vec![5], vec![u32::MAX, u32::MAX]] {
            let cumulative = cumulative_weights(weights.iter().copied());
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut counts = vec![0u32; weights.len()];
            for random in (0..20_000).map(mix) {
                counts[pick_backend(&cumulative, random).unwrap()] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let expected = 20_000.0 * f64::from(*weight) / total;
                assert!((f64::from(count) - expected).abs() <= 250.0, "{weights:?} {count}");
                assert!(*weight > 0 || count == 0, "{weights:?}");
            }
        }
        for weights in [vec![], vec![0], vec![0, 0]] {
            assert_eq!(pick_backend(&cumulative_weights(weights), u64::MAX), None);
        }
        assert_eq!(pick_backend(&cumulative_weights([1, 1, 0]), u64::MAX), Some(1));
    }
}
