//! Random endpoints in proportion to their weights, in constant time.

use crate::random::below;

/// Vose's alias method (1991); without a table when all weights are equal.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    len: u64,
    /// Chance to stay, of 2^32, and index to go to otherwise.
    columns: Box<[(u32, u32)]>,
}

impl Sampler {
    /// Weights are not 0.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let len = weights.len() as u64;
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self { len, columns: Box::default() };
        }
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // scaled so that the average is `total`
        let mut scaled: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * u128::from(len)).collect();
        let total = u128::from(total);
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|at| scaled[*at] < total);
        let mut columns: Vec<(u32, u32)> = (0..).take(weights.len()).map(|at| (u32::MAX, at)).collect();
        while let (Some(under), Some(over)) = (small.pop(), large.last().copied()) {
            columns[under] = (u32::try_from((scaled[under] << 32) / total).unwrap_or(u32::MAX), over as u32);
            scaled[over] -= total - scaled[under];
            if scaled[over] < total {
                large.pop();
                small.push(over);
            }
        }
        Self { len, columns: columns.into() }
    }

    pub(crate) fn is_uniform(&self) -> bool {
        self.columns.is_empty()
    }

    /// An index; 0 when there is none to choose from.
    pub(crate) fn sample(&self, random: u64) -> usize {
        // the high bits choose the column, the low ones whether to stay
        let at = below(random, self.len) as usize;
        match self.columns.get(at) {
            Some((chance, other)) if random as u32 > *chance => *other as usize,
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn samples_are_in_proportion(weights in proptest::collection::vec(1..50u32, 1..12), seed: u64) {
            let sampler = Sampler::new(&weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for step in 0..20_000u64 {
                counts[sampler.sample(mix(seed.wrapping_add(step)))] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let expected = 20_000.0 * f64::from(*weight) / f64::from(total);
                // six standard deviations
                prop_assert!((f64::from(count) - expected).abs() < 6.0 * expected.sqrt().max(2.0), "{:?}", weights);
            }
        }
    }
}
