//! Findings -> verdict: what is rejected, and what is only warned of.

use std::collections::HashMap;

use headwater_model::finding::{Finding, Severity};
use headwater_model::metallb::judge::is_judged;
use headwater_model::origin::{Kind, ObjectKey};

use crate::review::{Cause, Denial, Verdict};

/// Reasons that speak of other objects, which may come or change later: never a rejection, so that the objects of a
/// directory can be applied in any order.
const ABOUT_OTHERS: [(&str, &str); 9] = [
    ("MissingReference", "a Service, Secret, IngressClass or GatewaySettings that is not there yet"),
    ("InvalidBackend", "a Service that has no such port yet"),
    ("InvalidCertificate", "a Secret whose content may be replaced"),
    ("HostNotCovered", "a Secret whose certificate may be replaced"),
    ("Expired", "a Secret whose certificate may be replaced"),
    ("Conflict", "another object that wants the same and may give it up, or another entry of this one"),
    ("NoEndpoints", "a Service whose Pods may come"),
    ("NotServed", "an IngressClass that may come"),
    ("NoIngressClass", "an IngressClass that may come"),
];

/// Warnings are cut at this many characters, by the API's advice.
const MAX_WARNING: usize = 120;
/// Bytes of all warnings; an API server drops what goes beyond.
const MAX_WARNINGS: usize = 4096;
/// Causes that a denial names.
const MAX_CAUSES: usize = 16;
/// Bytes of a denial's message.
const MAX_MESSAGE: usize = 2048;

/// What a finding does to the object under review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Rejects,
    Warns,
    Nothing,
}

/// Where a finding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The object's form.
    Reading,
    Judging,
}

/// The weight of one finding in a review of `object`, of this kind.
pub(crate) fn weigh(finding: &Finding, stage: Stage, object: Option<&ObjectKey>) -> Weight {
    match (finding.severity, stage) {
        (Severity::Info, _) => Weight::Nothing,
        (Severity::Warning, _) => Weight::Warns,
        // Kubernetes validated its own kinds before it asked: what we cannot read of them is newer than we are.
        (Severity::Error, Stage::Reading) => match object.or(finding.object.as_ref()).map(|key| key.kind) {
            Some(Kind::GatewaySettings) => Weight::Rejects,
            // Their definitions take any text for an address.
            Some(kind) if is_judged(kind) => Weight::Rejects,
            _ => Weight::Warns,
        },
        (Severity::Error, Stage::Judging) => {
            let is_own = object.is_some() && finding.object.as_ref() == object;
            let about_others = ABOUT_OTHERS.iter().any(|(reason, _)| *reason == finding.reason);
            if is_own && !about_others { Weight::Rejects } else { Weight::Warns }
        }
    }
}

/// Findings of one form of an object, by what they do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Weighed {
    pub(crate) rejecting: Vec<Finding>,
    pub(crate) warning: Vec<Finding>,
}

impl Weighed {
    pub(crate) fn add(&mut self, findings: Vec<Finding>, stage: Stage, object: Option<&ObjectKey>) {
        for finding in findings {
            match weigh(&finding, stage, object) {
                Weight::Rejects => self.rejecting.push(finding),
                Weight::Warns => self.warning.push(finding),
                Weight::Nothing => {}
            }
        }
    }

    /// An object that is broken already can still be edited elsewhere: what the old form did wrong, too, is a warning.
    /// Fields may have moved, so reason and message tell.
    pub(crate) fn forgive(&mut self, old: &Self) {
        let mut known: HashMap<(&str, &str), usize> = HashMap::new();
        for finding in &old.rejecting {
            *known.entry((finding.reason, &finding.message)).or_default() += 1;
        }
        let is_known: Vec<bool> = self
            .rejecting
            .iter()
            .map(|finding| {
                let left = known.get_mut(&(finding.reason, finding.message.as_str())).filter(|left| **left > 0);
                left.map(|left| *left -= 1).is_some()
            })
            .collect();
        let mut is_known = is_known.into_iter();
        let (forgiven, rejecting): (Vec<Finding>, Vec<Finding>) =
            std::mem::take(&mut self.rejecting).into_iter().partition(|_| is_known.next().unwrap_or_default());
        self.rejecting = rejecting;
        self.warning.splice(0..0, forgiven);
    }

    pub(crate) fn verdict(&self, object: Option<&ObjectKey>) -> Verdict {
        let warnings = warnings(&self.warning);
        if self.rejecting.is_empty() {
            return Verdict::Allowed { warnings };
        }
        let mut message = match object {
            Some(object) => format!("headwater refuses {object}: "),
            None => "headwater refuses this object: ".to_owned(),
        };
        let mut said = 0;
        for finding in &self.rejecting {
            let text = about(finding, object);
            if said > 0 && message.len() + text.len() > MAX_MESSAGE {
                break;
            }
            message += if said > 0 { "; " } else { "" };
            message += &text;
            said += 1;
        }
        let more = self.rejecting.len() - said;
        if more > 0 {
            message += &format!("; and {more} more");
        }
        let causes = self.rejecting.iter().take(MAX_CAUSES).map(Cause::of).collect();
        let message = clip(&plain(&message), MAX_MESSAGE);
        let denial = Denial { code: 422, reason: "Invalid", message, object: object.cloned(), causes };
        Verdict::Denied { denial, warnings }
    }
}

/// The text of a finding, without the object when that is the one under review.
fn about(finding: &Finding, object: Option<&ObjectKey>) -> String {
    let is_own = finding.object.as_ref() == object;
    Finding { object: finding.object.clone().filter(|_| !is_own), location: None, ..finding.clone() }.to_string()
}

/// Texts that fit into what an API server passes on; each once.
pub(crate) fn warnings(findings: &[Finding]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut left = MAX_WARNINGS;
    let rest = |count: usize| format!("and {count} more; headwater check tells all");
    for (index, finding) in findings.iter().enumerate() {
        let text = warning(finding);
        if texts.contains(&text) {
            continue;
        }
        let more = findings.len() - index;
        let reserve = if more > 1 { rest(more).len() } else { 0 };
        if text.len() + reserve > left {
            texts.push(rest(more));
            break;
        }
        left -= text.len();
        texts.push(text);
    }
    texts
}

/// As much of a finding as fits: the mend goes first, then the field, then the end of the message.
fn warning(finding: &Finding) -> String {
    let without_mend = Finding { location: None, mend: String::new(), ..finding.clone() };
    let without_field = Finding { field: String::new(), ..without_mend.clone() };
    let whole = Finding { location: None, ..finding.clone() };
    let texts = [&whole, &without_mend, &without_field].map(|finding| plain(&finding.to_string()));
    let fits = texts.iter().find(|text| text.chars().count() <= MAX_WARNING);
    fits.cloned().unwrap_or_else(|| clip(&texts[2], MAX_WARNING))
}

/// One line that no terminal obeys.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests;
