//! Rules that cannot be matched as written.

use std::fmt;
use std::sync::Arc;

use headwater_model::gateway::Rule;

/// A rule that became one that refuses, and why.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Index of the rule in its host.
    pub index: u32,
    /// The rule as written.
    pub rule: Arc<Rule>,
    pub reason: FaultReason,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultReason {
    /// A regular expression has a fault in its syntax, or is too large once compiled.
    Regex { pattern: Box<str>, cause: String },
    /// A replacement of a path is too long, or has a character that no path may have.
    Replacement { text: Box<str> },
    /// `Any` and `All` nest deeper than [`MAX_DEPTH`](crate::MAX_DEPTH).
    Depth,
    /// A kind of condition that this matcher does not know.
    Condition,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule.origin, self.rule.field, self.reason)
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regex { pattern, cause } => write!(f, "regular expression {pattern:?} cannot be used: {cause}"),
            Self::Replacement { text } => write!(
                f,
                "replacement {text:?} cannot be used: visible ASCII without \"#\", {} bytes and {} groups at most",
                crate::MAX_REPLACEMENT,
                crate::MAX_GROUPS
            ),
            Self::Depth => write!(f, "conditions nest deeper than {}", crate::MAX_DEPTH),
            Self::Condition => f.write_str("a condition is of a kind that is not supported"),
        }
    }
}
