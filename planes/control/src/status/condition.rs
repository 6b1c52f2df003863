//! Conditions, as `metav1.Condition` wants them kept.
//!
//! Source: Kubernetes API conventions, "Typical status properties".

use headwater_model::observed::{Condition, ConditionStatus};
use jiff::{Timestamp, Unit};

/// Longest message, in bytes (the API counts characters).
const MESSAGE: usize = 32 << 10;

/// What a condition of ours shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Says {
        condition_type: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        message: String,
    },
    /// Whatever it says now: we do not know better yet.
    AsItIs {
        condition_type: &'static str,
    },
}

impl Wanted {
    fn condition_type(&self) -> &'static str {
        match self {
            Self::Says { condition_type, .. } | Self::AsItIs { condition_type } => condition_type,
        }
    }
}

/// Our conditions as they shall be applied; `None` when `observed` says all of it already.
///
/// The time moves only where the status changes. Conditions of other types belong to others: server-side apply keeps
/// them, as the list is a map by type.
pub(crate) fn merge(
    observed: &[Condition],
    wanted: Vec<Wanted>,
    generation: i64,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let mut differs = false;
    let mut merged = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let before = observed.iter().find(|condition| condition.condition_type == wanted.condition_type());
        match wanted {
            Wanted::AsItIs { .. } => merged.extend(before.cloned()),
            Wanted::Says { condition_type, status, reason, message } => {
                let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time);
                let condition = Condition {
                    condition_type: condition_type.to_owned(),
                    status,
                    observed_generation: generation,
                    last_transition_time: since.unwrap_or_else(|| now.round(Unit::Second).unwrap_or(now)),
                    reason: reason.to_owned(),
                    message: cut(message),
                };
                differs |= before != Some(&condition);
                merged.push(condition);
            }
        }
    }
    differs.then_some(merged)
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE {
        message.truncate(message.floor_char_boundary(MESSAGE - "...".len()));
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Timestamp = Timestamp::UNIX_EPOCH;

    fn now() -> Timestamp {
        "2026-05-01T12:00:00Z".parse().unwrap()
    }

    fn says(status: ConditionStatus, reason: &'static str, message: &str) -> Wanted {
        Wanted::Says { condition_type: "Accepted", status, reason, message: message.to_owned() }
    }

    fn observed(status: ConditionStatus, reason: &str, message: &str, generation: i64) -> Condition {
        Condition {
            condition_type: "Accepted".to_owned(),
            status,
            observed_generation: generation,
            last_transition_time: THEN,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_time_moves_only_when_the_status_changes() {
        use ConditionStatus::{False, True, Unknown};
        let before = observed(True, "Accepted", "m", 1);
        for (wanted, generation, expected) in [
            (says(True, "Accepted", "m"), 1, None),
            (says(True, "Accepted", "m"), 2, Some(THEN)),
            (says(True, "Accepted", "other"), 1, Some(THEN)),
            (says(True, "Other", "m"), 1, Some(THEN)),
            (says(False, "Invalid", "m"), 1, Some(now())),
            (says(Unknown, "Accepted", "m"), 1, Some(now())),
        ] {
            let merged = merge(std::slice::from_ref(&before), vec![wanted.clone()], generation, now());
            let time = merged.as_ref().map(|merged| merged[0].last_transition_time);
            assert_eq!(time, expected, "{wanted:?}");
            assert!(merged.is_none_or(|merged| merged[0].observed_generation == generation));
        }
        assert_eq!(merge(&[], vec![says(True, "Accepted", "m")], 1, now()).unwrap()[0].last_transition_time, now());
    }

    #[test]
    fn conditions_of_others_are_neither_read_nor_written() {
        let theirs =
            Condition { condition_type: "Audited".to_owned(), ..observed(ConditionStatus::False, "R", "m", 9) };
        let ours = observed(ConditionStatus::True, "Accepted", "m", 1);
        let both = [theirs, ours.clone()];
        assert_eq!(merge(&both, vec![says(ConditionStatus::True, "Accepted", "m")], 1, now()), None);
        let merged = merge(&both, vec![says(ConditionStatus::False, "Invalid", "m")], 1, now()).unwrap();
        let types: Vec<&str> = merged.iter().map(|condition| &*condition.condition_type).collect();
        assert_eq!(types, ["Accepted"]);
    }

    #[test]
    fn a_condition_that_stays_is_applied_again_with_those_that_change() {
        let programmed =
            Condition { condition_type: "Programmed".to_owned(), ..observed(ConditionStatus::True, "P", "m", 1) };
        let wanted =
            || vec![says(ConditionStatus::True, "Accepted", "m"), Wanted::AsItIs { condition_type: "Programmed" }];
        let merged = merge(std::slice::from_ref(&programmed), wanted(), 2, now()).unwrap();
        assert_eq!(merged[1], programmed, "server-side apply would drop it otherwise");
        assert_eq!(merge(&merged, wanted(), 2, now()), None);
        assert_eq!(merge(&[], wanted(), 2, now()).unwrap().len(), 1);
    }

    #[test]
    fn a_message_is_cut_to_what_the_api_takes() {
        let long = "ü".repeat(20_000);
        let merged = merge(&[], vec![says(ConditionStatus::False, "Invalid", &long)], 1, now()).unwrap();
        let message = &merged[0].message;
        assert!(message.len() <= MESSAGE && message.ends_with("ü..."));
        assert_eq!(merge(&merged, vec![says(ConditionStatus::False, "Invalid", &long)], 1, now()), None);
    }
}
