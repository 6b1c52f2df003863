//! Medians, spreads and verdicts.

use std::fmt;

use serde::Serialize;

/// Median with the extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max, count: values.len() })
    }
}

impl fmt::Display for Spread {
    /// `12.3 (10.1-14.2)`; `{:.2}` sets the decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(1);
        write!(f, "{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median, self.min, self.max)
    }
}

/// Nearest-rank percentile of sorted values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// How a figure stands to its goal; smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Stretch,
    Pass,
    WithinThirtyPercent,
    Short,
    NotMeasured,
}

impl Verdict {
    pub(crate) fn of(value: Option<f64>, goal: f64, stretch: f64) -> Self {
        match value {
            None => Self::NotMeasured,
            Some(value) if value <= stretch => Self::Stretch,
            Some(value) if value <= goal => Self::Pass,
            Some(value) if value <= goal * 1.3 => Self::WithinThirtyPercent,
            Some(_) => Self::Short,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stretch => "pass (stretch)",
            Self::Pass => "pass",
            Self::WithinThirtyPercent => "within 1.3 x",
            Self::Short => "short",
            Self::NotMeasured => "not measured",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.count), (2.5, 1.0, 4.0, 4));
        assert_eq!(format!("{spread:.2}"), "2.50 (1.00-4.00)");
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (share, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(percentile(&values, share), Some(expected));
        }
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_verdict_changes_at_stretch_goal_and_a_third_past_it() {
        for (value, verdict) in [
            (Some(0.75), Verdict::Stretch),
            (Some(0.76), Verdict::Pass),
            (Some(0.90), Verdict::Pass),
            (Some(1.17), Verdict::WithinThirtyPercent),
            (Some(1.18), Verdict::Short),
            (None, Verdict::NotMeasured),
        ] {
            assert_eq!(Verdict::of(value, 0.90, 0.75), verdict, "{value:?}");
        }
    }
}
