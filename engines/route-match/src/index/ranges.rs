//! Which of many ranges of addresses hold an address.

use std::ops::Range;

/// Ranges by their lower end, read as a balanced tree: the middle of a stretch is the root of what is left and right.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    bounds: Box<[(u128, u128)]>,
    /// Highest upper end of the stretch that the range at this place is the middle of.
    highest: Box<[u128]>,
}

impl Ranges {
    /// `bounds` are inclusive, sorted and distinct; hits name them by index.
    pub(super) fn build(bounds: Vec<(u128, u128)>) -> Self {
        let mut highest = vec![0; bounds.len()];
        fill(&bounds, 0..bounds.len(), &mut highest);
        Self { bounds: bounds.into(), highest: highest.into() }
    }

    /// Calls `meet` with each range that holds the address: logarithmic in their number, and linear in the hits.
    pub(super) fn find(&self, address: u128, mut meet: impl FnMut(usize)) {
        self.search(address, 0..self.bounds.len(), &mut meet);
    }

    fn search(&self, address: u128, stretch: Range<usize>, meet: &mut impl FnMut(usize)) {
        let middle = middle(&stretch);
        if stretch.is_empty() || self.highest[middle] < address {
            return;
        }
        self.search(address, stretch.start..middle, meet);
        let (low, high) = self.bounds[middle];
        if low <= address {
            if address <= high {
                meet(middle);
            }
            self.search(address, middle + 1..stretch.end, meet);
        }
    }
}

fn middle(stretch: &Range<usize>) -> usize {
    stretch.start + (stretch.end - stretch.start) / 2
}

fn fill(bounds: &[(u128, u128)], stretch: Range<usize>, highest: &mut [u128]) -> u128 {
    if stretch.is_empty() {
        return 0;
    }
    let middle = middle(&stretch);
    let left = fill(bounds, stretch.start..middle, highest);
    let right = fill(bounds, middle + 1..stretch.end, highest);
    highest[middle] = bounds[middle].1.max(left).max(right);
    highest[middle]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_range_that_holds_the_address_is_met_once(
            bounds in proptest::collection::btree_set((0..40u128, 0..40u128), 0..40), address in 0..42u128
        ) {
            let bounds: Vec<(u128, u128)> = bounds.into_iter().collect();
            let mut found = Vec::new();
            Ranges::build(bounds.clone()).find(address, |at| found.push(at));
            let expected: Vec<usize> =
                (0..bounds.len()).filter(|at| bounds[*at].0 <= address && address <= bounds[*at].1).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
