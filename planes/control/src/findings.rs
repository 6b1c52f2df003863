//! What is wrong with the objects right now.

use std::collections::BTreeSet;

use headwater_model::finding::{Finding, Severity};
use serde::Serialize;

/// All findings, worst first, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Sorts and deduplicates.
    pub fn new(findings: impl IntoIterator<Item = Finding>) -> Self {
        let unique: BTreeSet<Finding> = findings.into_iter().collect();
        let mut findings: Vec<Finding> = unique.into_iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Self(findings)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// How many there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Logs what is new since `before`, and what was mended.
    pub(crate) fn log_changes(&self, before: &Self) {
        let known: BTreeSet<&Finding> = before.0.iter().collect();
        let now: BTreeSet<&Finding> = self.0.iter().collect();
        for finding in self.0.iter().filter(|finding| !known.contains(finding)) {
            match finding.severity {
                Severity::Error => tracing::error!(reason = finding.reason, "{finding}"),
                Severity::Warning => tracing::warn!(reason = finding.reason, "{finding}"),
                Severity::Info => tracing::info!(reason = finding.reason, "{finding}"),
            }
        }
        for finding in before.0.iter().filter(|finding| !now.contains(finding) && finding.severity == Severity::Error) {
            tracing::info!(reason = finding.reason, "mended: {finding}");
        }
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use headwater_model::origin::{Kind, ObjectKey};

    use super::*;

    #[test]
    fn findings_stand_once_and_worst_first() {
        let key = || ObjectKey::new(Kind::Ingress, "a", "b");
        let findings = Findings::new([
            Finding::warning("W", key(), "w"),
            Finding::error("E", key(), "e"),
            Finding::warning("W", key(), "w"),
        ]);
        let reasons: Vec<_> = findings.iter().map(|finding| finding.reason).collect();
        assert_eq!(reasons, ["E", "W"]);
        assert_eq!(findings.count(Severity::Warning), 1);
    }
}
