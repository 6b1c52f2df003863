//! What is wrong with the objects right now.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_kube_io::DirectorySource;
use headwater_model::finding::{Finding, Location, Severity};
use headwater_model::origin::ObjectKey;
use serde::Serialize;
use tokio::sync::watch;

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
    fn log_changes(&self, before: &Self) {
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

/// Where findings are reported. There may be thousands, and most changes change none of them.
pub(crate) struct Report {
    sender: watch::Sender<Arc<Findings>>,
    /// As translated and as read, when they were last gathered.
    gathered: Option<(Arc<[Finding]>, Vec<Finding>)>,
}

impl Report {
    pub(crate) fn new() -> (Self, watch::Receiver<Arc<Findings>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        (Self { sender, gathered: None }, receiver)
    }

    /// Gathers, logs and reports findings; `None` when they are those of the last time.
    ///
    /// `files` are where the objects stand, if they do in files: lines move with every edit.
    pub(crate) fn update(
        &mut self,
        translated: Arc<[Finding]>,
        read: Vec<Finding>,
        files: Option<&DirectorySource>,
    ) -> Option<Arc<Findings>> {
        let known = self.gathered.as_ref();
        let same = known.is_some_and(|(before, said)| Arc::ptr_eq(before, &translated) && *said == read);
        if same && files.is_none() {
            return None;
        }
        let located = translated.iter().cloned().map(|finding| match files {
            Some(files) => located(finding, |key, field| files.locate(key, field)),
            None => finding,
        });
        let findings = Arc::new(Findings::new(read.iter().cloned().chain(located)));
        self.gathered = Some((translated, read));
        findings.log_changes(&self.sender.borrow());
        self.sender.send_replace(findings.clone());
        Some(findings)
    }
}

/// Adds file and line to a finding that names object and field.
pub(crate) fn located(mut finding: Finding, find: impl Fn(&ObjectKey, &str) -> Option<Location>) -> Finding {
    if finding.location.is_none()
        && let Some(object) = &finding.object
    {
        finding.location = find(object, &finding.field);
    }
    finding
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
    use headwater_model::origin::Kind;

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
