//! Which requests are told of.

use headwater_model::gateway::{RootSampler, Sampler};

use crate::context::{Parent, TraceId};

/// Whether the span of this trace is told of.
pub fn sampled(sampler: &Sampler, parent: Option<&Parent>, trace: &TraceId) -> bool {
    if sampler.parent_based
        && let Some(parent) = parent
    {
        return parent.is_sampled();
    }
    match sampler.root {
        RootSampler::AlwaysOn => true,
        RootSampler::AlwaysOff => false,
        RootSampler::TraceIdRatio(share) if share >= 1.0 => true,
        // The first 32 bits against the share of all there are: so does the ALB, and whoever has the same share chooses
        // the same traces.
        RootSampler::TraceIdRatio(share) => {
            let [a, b, c, d, ..] = trace.0;
            f64::from(u32::from_be_bytes([a, b, c, d])) < share * f64::from(u32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_first(word: u32) -> TraceId {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&word.to_be_bytes());
        TraceId(id)
    }

    #[test]
    fn a_ratio_takes_its_share_by_the_first_half_word() {
        let taken = |share, word| {
            let sampler = Sampler { parent_based: false, root: RootSampler::TraceIdRatio(share) };
            sampled(&sampler, None, &with_first(word))
        };
        for (share, word, expected) in [
            (0.0, 0, false),
            (1.0, u32::MAX, true),
            (0.5, 0x7fff_ffff, true),
            (0.5, 0x8000_0000, false),
            (0.25, 0x3fff_ffff, true),
            (0.25, 0x4000_0000, false),
        ] {
            assert_eq!(taken(share, word), expected, "{share} {word:x}");
        }
    }

    #[test]
    fn a_parent_decides_only_where_it_is_asked() {
        let parent =
            |flags: &str| Parent::parse(format!("00-{}-{}-{flags}", "a".repeat(32), "b".repeat(16)).as_bytes());
        let id = with_first(0);
        for (parent_based, root, flags, expected) in [
            (true, RootSampler::AlwaysOff, Some("01"), true),
            (true, RootSampler::AlwaysOn, Some("00"), false),
            (true, RootSampler::AlwaysOn, Some("02"), false),
            (true, RootSampler::AlwaysOn, None, true),
            (true, RootSampler::AlwaysOff, None, false),
            (false, RootSampler::AlwaysOn, Some("00"), true),
            (false, RootSampler::AlwaysOff, Some("01"), false),
        ] {
            let sampler = Sampler { parent_based, root };
            let parent = flags.and_then(parent);
            assert_eq!(sampled(&sampler, parent.as_ref(), &id), expected, "{sampler:?} {flags:?}");
        }
    }
}
