//! What to do next so that every certificate served is one that the API server believes. Pure: time is an argument.
//!
//! ```text
//!  authority:  ──A──────────────────────────────┐ old ┐        (bundle holds A and B from here ...
//!                          stage ┌──B (next)────┴─ authority ──   ... to here, a day after B signs)
//!  serving:    ──a1───┐──a2───┐──a3───┐──a4─────┐──b1──────┐──b2──
//! ```
//!
//! A new authority signs nothing before the configuration has named it for [`Lives::settle`]; an old one is named until every
//! replica had a day to serve what the new one signed.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// How long things last. Anything but the default is for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Of an authority.
    pub authority: SignedDuration,
    /// Of a serving certificate.
    pub serving: SignedDuration,
    /// Certificates begin this long before they are made: clocks differ.
    pub backdated: SignedDuration,
    /// From when a configuration names an authority until every API server has heard of it.
    pub settle: SignedDuration,
    /// From when a new authority signs until every replica serves what it signed.
    pub old_kept: SignedDuration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            authority: SignedDuration::from_hours(365 * 24),
            serving: SignedDuration::from_hours(90 * 24),
            backdated: SignedDuration::from_hours(1),
            settle: SignedDuration::from_mins(10),
            old_kept: SignedDuration::from_hours(24),
        }
    }
}

/// A certificate as a whole: the same bytes are the same certificate.
pub(super) type Der = Arc<[u8]>;

/// What a step needs to know of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) der: Der,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Facts {
    /// After two thirds of its life.
    pub(super) fn renewal(&self) -> Timestamp {
        self.not_before + self.not_before.duration_until(self.not_after) * 2 / 3
    }
}

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) authority: Facts,
    /// Named in the bundle, signs nothing yet.
    pub(super) next: Option<Facts>,
    /// Named in the bundle, signs nothing any more.
    pub(super) old: Option<Facts>,
    pub(super) serving: Facts,
    /// Whether `authority` signed `serving`.
    pub(super) signed: bool,
    /// Whether `serving` has the names that it is asked for by.
    pub(super) named: bool,
}

impl Kept {
    /// The authorities that a configuration must name.
    pub(super) fn bundle(&self) -> Vec<Der> {
        [Some(&self.authority), self.next.as_ref(), self.old.as_ref()]
            .into_iter()
            .flatten()
            .map(|facts| facts.der.clone())
            .collect()
    }
}

/// What the configuration of webhooks names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trusted {
    /// The bundle of each webhook; `None` where it is not PEM.
    pub(super) bundles: Vec<Option<Vec<Der>>>,
    /// Since when it is seen like this.
    pub(super) since: Timestamp,
}

impl Trusted {
    fn all(&self, mut holds: impl FnMut(&[Der]) -> bool) -> bool {
        self.bundles.iter().all(|bundle| bundle.as_deref().is_some_and(&mut holds))
    }
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// To the Secret: an authority and what it signs, from nothing.
    Begin,
    /// To the Secret: the next authority.
    StageAuthority,
    /// To the Secret: the next authority becomes the authority, and signs.
    Promote,
    /// To the Secret: a serving certificate by the same authority.
    RenewServing,
    /// To the Secret: the old authority goes.
    DropOld,
    /// To the configuration: the bundle.
    Trust,
}

/// What to do now, or until when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Act(Action),
    Wait(Timestamp),
}

/// The next write of the leader. `kept` is `None` when the Secret has nothing that can be used, `trusted` when there is
/// no configuration.
pub(super) fn step(now: Timestamp, kept: Option<&Kept>, trusted: Option<&Trusted>, lives: &Lives) -> Step {
    let Some(kept) = kept else { return Step::Act(Action::Begin) };
    let expired = now >= kept.authority.not_after;
    // Nobody believes anything now, so nothing can be lost.
    if expired && trusted.is_none() {
        return Step::Act(Action::Begin);
    }
    let bundle = kept.bundle();
    if trusted.is_some_and(|trusted| !trusted.all(|named| named == bundle)) {
        return Step::Act(Action::Trust);
    }
    let mut wake = vec![kept.authority.renewal(), kept.serving.renewal(), kept.authority.not_after];
    match (&kept.next, trusted) {
        (None, _) if now >= kept.authority.renewal() => return Step::Act(Action::StageAuthority),
        (Some(_), Some(trusted)) => {
            let settled = trusted.since + lives.settle;
            if expired || now >= settled {
                return Step::Act(Action::Promote);
            }
            wake.push(settled);
        }
        _ => {}
    }
    // One that ends with its authority cannot be renewed by it.
    let can_renew = kept.serving.not_after < kept.authority.not_after;
    if !expired && (!kept.named || !kept.signed || (now >= kept.serving.renewal() && can_renew)) {
        return Step::Act(Action::RenewServing);
    }
    if kept.old.is_some() && kept.signed {
        let drop = kept.serving.not_before + lives.backdated + lives.old_kept;
        if now >= drop {
            return Step::Act(Action::DropOld);
        }
        wake.push(drop);
    }
    let next = wake.into_iter().filter(|at| *at > now).min();
    Step::Wait(next.unwrap_or(now + SignedDuration::from_hours(1)))
}

#[cfg(test)]
mod tests;
