//! What a gateway tells about itself to whoever writes status: one annotation of its Lease.
//!
//! It holds what only the gateway can know: whether its listeners listen, and what is wrong with Secrets, which the
//! controller has no right to read. Never what is in them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Severity};
use crate::origin::{ObjectKey, Origin};

/// Longest report as JSON, in bytes.
pub const REPORT_BYTES: usize = 32 << 10;

/// Most listeners and most findings in a report; the rest is counted in [`GatewayReport::omitted`].
pub const REPORT_LISTENERS: usize = 64;
pub const REPORT_FINDINGS: usize = 128;

/// Longest text of a report, in bytes.
const TEXT: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayReport {
    /// Of the program.
    pub version: String,
    /// By name, then origin.
    pub listeners: Vec<ListenerReport>,
    /// Worst first.
    pub findings: Vec<ReportedFinding>,
    /// Listeners and findings that found no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted: u32,
}

/// One listener as it is, not as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    pub name: String,
    pub origin: Origin,
    pub address: IpAddr,
    pub port: u16,
    /// Why it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A [`Finding`] that came from another process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedFinding {
    pub severity: Severity,
    pub reason: String,
    pub object: ObjectKey,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl GatewayReport {
    /// Takes up to [`REPORT_LISTENERS`] and [`REPORT_FINDINGS`], sorted, with texts cut.
    ///
    /// The same facts in another order make the same report. Findings without an object, and those that are for
    /// information only, are left out.
    pub fn new<'a>(
        version: impl Into<String>,
        listeners: impl IntoIterator<Item = ListenerReport>,
        findings: impl IntoIterator<Item = &'a Finding>,
    ) -> Self {
        let mut listeners: Vec<ListenerReport> = listeners.into_iter().collect();
        for listener in &mut listeners {
            cut(&mut listener.name);
            listener.error.as_mut().map(cut);
        }
        listeners.sort();
        listeners.dedup();
        let mut findings: Vec<ReportedFinding> = findings.into_iter().filter_map(ReportedFinding::of).collect();
        findings.sort_by(|a, b| (b.severity, &a.object, a).cmp(&(a.severity, &b.object, b)));
        findings.dedup();
        let mut report = Self { version: version.into(), listeners, findings, omitted: 0 };
        cut(&mut report.version);
        report.keep(REPORT_LISTENERS, REPORT_FINDINGS);
        report
    }

    /// As JSON of at most [`REPORT_BYTES`]: what is least bad is left out first.
    pub fn encode(mut self) -> String {
        loop {
            let text = serde_json::to_string(&self).expect("strings and numbers have a JSON form");
            if text.len() <= REPORT_BYTES {
                return text;
            }
            // Each round leaves out an eighth: a logarithmic number of rounds.
            match self.findings.len() {
                0 => self.keep(self.listeners.len() * 7 / 8, 0),
                findings => self.keep(self.listeners.len(), findings * 7 / 8),
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote, in this version or another.
    ///
    /// # Errors
    /// When it is longer than [`REPORT_BYTES`] or not such JSON.
    pub fn decode(text: &str) -> Result<Self, ReportError> {
        if text.len() > REPORT_BYTES {
            return Err(ReportError::TooLong { bytes: text.len() });
        }
        let mut report: Self = serde_json::from_str(text)?;
        report.keep(REPORT_LISTENERS, REPORT_FINDINGS);
        Ok(report)
    }

    fn keep(&mut self, listeners: usize, findings: usize) {
        let left_out = self.listeners.len().saturating_sub(listeners) + self.findings.len().saturating_sub(findings);
        self.listeners.truncate(listeners);
        self.findings.truncate(findings);
        self.omitted = self.omitted.saturating_add(u32::try_from(left_out).unwrap_or(u32::MAX));
    }
}

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error("report has {bytes} bytes; at most {REPORT_BYTES} are read")]
    TooLong { bytes: usize },
    #[error("report is not what a gateway writes")]
    Form(#[from] serde_json::Error),
}

impl ReportedFinding {
    fn of(finding: &Finding) -> Option<Self> {
        let object = finding.object.clone().filter(|_| finding.severity > Severity::Info)?;
        let mut reported = Self {
            severity: finding.severity,
            reason: finding.reason.to_owned(),
            object,
            field: finding.field.clone(),
            message: finding.message.clone(),
            mend: finding.mend.clone(),
        };
        cut(&mut reported.field);
        cut(&mut reported.message);
        cut(&mut reported.mend);
        Some(reported)
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT));
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Kind;

    fn listener(n: u16) -> ListenerReport {
        ListenerReport {
            name: format!("listener-{n}"),
            origin: Origin { key: ObjectKey::new(Kind::GatewaySettings, "a", "b"), generation: 3 },
            address: "::".parse().unwrap(),
            port: n,
            error: Some("address in use".to_owned()),
        }
    }

    fn finding(n: usize) -> Finding {
        Finding::warning("MissingReference", ObjectKey::new(Kind::Ingress, "a", format!("i{n:03}")), "ü".repeat(400))
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = GatewayReport::new("1.0", [listener(2), listener(1)], &[finding(1)]);
        assert_eq!(GatewayReport::decode(&report.clone().encode()).unwrap(), report);
    }

    #[test]
    fn the_same_facts_in_another_order_are_the_same_report() {
        let [a, b] = [finding(1), finding(2)];
        let one = GatewayReport::new("1.0", [listener(2), listener(1)], [&a, &b]);
        assert_eq!(one, GatewayReport::new("1.0", [listener(1), listener(2), listener(1)], [&b, &a, &b]));
    }

    #[test]
    fn a_report_never_outgrows_its_annotation_and_keeps_the_worst() {
        let mut findings: Vec<Finding> = (0..300).map(finding).collect();
        findings.push(Finding::error("InvalidCertificate", ObjectKey::new(Kind::Secret, "z", "z"), "expired"));
        findings.push(Finding::new(Severity::Info, "NotServed", ObjectKey::new(Kind::Ingress, "a", "a"), "silent"));
        let text = GatewayReport::new("1.0", (0..200).map(listener), &findings).encode();
        assert!(text.len() <= REPORT_BYTES, "{} bytes", text.len());
        let report = GatewayReport::decode(&text).unwrap();
        assert_eq!(report.listeners.len(), REPORT_LISTENERS);
        assert_eq!(report.findings[0].reason, "InvalidCertificate");
        assert_eq!(report.omitted as usize, 200 - REPORT_LISTENERS + 301 - report.findings.len());
    }

    #[test]
    fn what_another_version_adds_is_passed_over() {
        let report = GatewayReport::decode(r#"{"version":"2.0","uptime":7,"listeners":[]}"#).unwrap();
        assert_eq!(report.version, "2.0");
    }

    #[test]
    fn text_that_is_no_report_is_refused() {
        for text in ["", "7", r#"{"listeners":7}"#, r#"{"findings":[{"severity":"error"}]}"#, &"x".repeat(40_000)] {
            assert!(GatewayReport::decode(text).is_err(), "{text}");
        }
    }
}
