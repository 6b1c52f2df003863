//! Which findings become Events, and when.
//!
//! One Event for each finding that stays for a moment: who applies a file of objects does not want to hear of the order
//! in which they arrive. An object may cause ten at once and one every five minutes from then
//! on (the spam filter of client-go's recorder); all together 25 a second.

use std::collections::{HashMap, HashSet, VecDeque};

use headwater_kube_io::NOTE_LIMIT;
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::{Kind, ObjectKey};
use headwater_model::report::ReportedFinding;
use tokio::time::{Duration, Instant};

use super::bucket::Bucket;

const OBJECT_BURST: u32 = 10;
const OBJECT_PER_SECOND: f64 = 1.0 / 300.0;
const OVERALL_BURST: u32 = 25;
const OVERALL_PER_SECOND: f64 = 25.0;

/// How long a finding has to stay before it is told.
const SETTLE: Duration = Duration::from_secs(2);

/// Objects whose rate is kept. Where more than these are noisy at once, none of the others is heard.
const OBJECTS: usize = 10_000;

/// Findings that were mended, and would happen again when they come back.
const MENDED: usize = 10_000;

/// What an Event will say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Notice {
    pub(crate) about: ObjectKey,
    pub(crate) reason: String,
    pub(crate) note: String,
}

impl Notice {
    pub(crate) fn new(about: ObjectKey, reason: &str, mut note: String) -> Self {
        note.truncate(note.floor_char_boundary(NOTE_LIMIT));
        Self { about, reason: reason.to_owned(), note }
    }

    /// Of errors and warnings about objects that users look at.
    pub(crate) fn of(finding: &Finding) -> Option<Self> {
        let about = finding.object.as_ref()?;
        told(about.kind, finding.severity)
            .then(|| Self::new(about.clone(), finding.reason, words(&finding.field, &finding.message, &finding.mend)))
    }

    /// Of what a gateway reports.
    pub(crate) fn reported(finding: &ReportedFinding) -> Option<Self> {
        let ReportedFinding { severity, reason, object, field, message, mend } = finding;
        told(object.kind, *severity).then(|| Self::new(object.clone(), reason, words(field, message, mend)))
    }
}

fn told(kind: Kind, severity: Severity) -> bool {
    severity > Severity::Info
        && matches!(
            kind,
            Kind::Ingress
                | Kind::IngressClass
                | Kind::GatewaySettings
                | Kind::ConfigMap
                | Kind::Secret
                | Kind::Service
                | Kind::Alb2
                | Kind::Frontend
                | Kind::Rule
        )
}

/// `spec.tls[0].secretName: there is no such Secret (mend: ...)`
pub(crate) fn words(field: &str, message: &str, mend: &str) -> String {
    let mut words = String::new();
    if !field.is_empty() {
        words.push_str(field);
        words.push_str(": ");
    }
    words.push_str(message);
    if !mend.is_empty() {
        words.push_str(" (mend: ");
        words.push_str(mend);
        words.push(')');
    }
    words
}

#[derive(Debug)]
pub(crate) struct Notices {
    /// What is wrong now.
    current: HashSet<Notice>,
    mended: HashSet<Notice>,
    /// What happened once, and is not wrong by itself.
    happened: HashSet<Notice>,
    /// What is to be told, and from when on.
    queue: VecDeque<(Instant, Notice)>,
    objects: HashMap<ObjectKey, Bucket>,
    overall: Bucket,
    /// Whether this process tells, rather than another.
    telling: bool,
    dropped: u64,
}

impl Notices {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            current: HashSet::new(),
            mended: HashSet::new(),
            happened: HashSet::new(),
            queue: VecDeque::new(),
            objects: HashMap::new(),
            overall: Bucket::new(OVERALL_BURST, OVERALL_PER_SECOND, now),
            telling: false,
            dropped: 0,
        }
    }

    /// What is wrong now, all of it.
    pub(crate) fn replace(&mut self, all: HashSet<Notice>, now: Instant) {
        if self.telling {
            let due = now + SETTLE;
            self.queue.extend(all.difference(&self.current).map(|notice| (due, notice.clone())));
        }
        let mended: Vec<Notice> = self.current.difference(&all).cloned().collect();
        if self.mended.len() + mended.len() > MENDED {
            self.mended.clear();
        }
        self.mended.extend(mended.into_iter().take(MENDED));
        self.current = all;
    }

    /// Something that happened; told once by this process.
    pub(crate) fn push(&mut self, notice: Notice, now: Instant) {
        if self.happened.len() >= MENDED {
            self.happened.clear();
        }
        if self.telling && self.happened.insert(notice.clone()) {
            self.queue.push_back((now + SETTLE, notice));
        }
    }

    /// From now on this process tells, or does not. Who begins tells everything: what the one before it told is known
    /// to the server by its name.
    pub(crate) fn tell(&mut self, telling: bool, now: Instant) {
        self.telling = telling;
        self.queue.clear();
        if telling {
            self.queue.extend(self.current.iter().map(|notice| (now + SETTLE, notice.clone())));
        }
    }

    /// When [`pop`](Self::pop) may have something.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Instant> {
        let (due, _) = self.queue.front()?;
        Some(self.overall.ready(now).err().unwrap_or(now).max(*due))
    }

    /// The next to tell, and whether it happened again after it was mended.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Notice, bool)> {
        while self.overall.ready(now).is_ok() {
            let (_, notice) = self.queue.pop_front_if(|(due, _)| *due <= now)?;
            // Mended before it was told.
            if !self.current.contains(&notice) && !self.happened.contains(&notice) {
                continue;
            }
            if !self.may_tell_about(&notice.about, now) {
                self.dropped += 1;
                tracing::debug!(object = %notice.about, reason = notice.reason, dropped = self.dropped, "too many events about one object");
                continue;
            }
            let _ = self.overall.take(now);
            let again = self.mended.remove(&notice);
            return Some((notice, again));
        }
        None
    }

    /// Not told after all; later.
    pub(crate) fn put_back(&mut self, notice: Notice, now: Instant) {
        if self.telling {
            self.queue.push_back((now + SETTLE, notice));
        }
    }

    fn may_tell_about(&mut self, about: &ObjectKey, now: Instant) -> bool {
        if self.objects.len() >= OBJECTS && !self.objects.contains_key(about) {
            self.objects.retain(|_, bucket| !bucket.is_full(now));
            if self.objects.len() >= OBJECTS {
                return false;
            }
        }
        let bucket =
            self.objects.entry(about.clone()).or_insert_with(|| Bucket::new(OBJECT_BURST, OBJECT_PER_SECOND, now));
        bucket.take(now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(object: &str, note: &str) -> Notice {
        Notice::new(ObjectKey::new(Kind::Ingress, "a", object), "R", note.to_owned())
    }

    fn set(notices: &[Notice]) -> HashSet<Notice> {
        notices.iter().cloned().collect()
    }

    /// What is told once it has settled.
    fn told(notices: &mut Notices, now: Instant) -> Vec<(Notice, bool)> {
        std::iter::from_fn(|| notices.pop(now + SETTLE)).collect()
    }

    #[test]
    fn a_finding_is_told_once_when_it_appears_and_again_when_it_comes_back() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.tell(true, now);
        notices.replace(set(&[notice("x", "n")]), now);
        assert_eq!(told(&mut notices, now), [(notice("x", "n"), false)]);
        notices.replace(set(&[notice("x", "n"), notice("y", "n")]), now);
        assert_eq!(told(&mut notices, now), [(notice("y", "n"), false)]);
        notices.replace(set(&[notice("y", "n")]), now);
        notices.replace(set(&[notice("x", "n"), notice("y", "n")]), now);
        assert_eq!(told(&mut notices, now), [(notice("x", "n"), true)]);
    }

    #[test]
    fn only_who_leads_tells_and_who_begins_tells_everything() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.replace(set(&[notice("x", "n")]), now);
        notices.push(notice("y", "n"), now);
        assert_eq!(told(&mut notices, now), []);
        notices.tell(true, now);
        assert_eq!(told(&mut notices, now), [(notice("x", "n"), false)]);
        notices.replace(set(&[notice("x", "n"), notice("z", "n")]), now);
        notices.tell(false, now);
        assert_eq!(told(&mut notices, now), []);
    }

    #[test]
    fn what_happened_is_told_once_whatever_is_found_meanwhile() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.tell(true, now);
        notices.push(notice("x", "n"), now);
        notices.replace(HashSet::new(), now);
        assert_eq!(told(&mut notices, now), [(notice("x", "n"), false)]);
        notices.push(notice("x", "n"), now);
        assert_eq!(told(&mut notices, now), []);
    }

    #[test]
    fn what_is_mended_before_it_settled_is_not_told() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.tell(true, now);
        notices.replace(set(&[notice("x", "n")]), now);
        assert_eq!(notices.next(now), Some(now + SETTLE));
        assert_eq!(notices.pop(now + SETTLE - Duration::from_millis(1)), None);
        notices.replace(HashSet::new(), now);
        assert_eq!(told(&mut notices, now), []);
    }

    #[test]
    fn one_noisy_object_does_not_silence_the_others() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.tell(true, now);
        let mut noise: Vec<Notice> = (0..50).map(|n| notice("noisy", &n.to_string())).collect();
        noise.push(notice("quiet", "n"));
        notices.replace(set(&noise), now);
        let about: Vec<ObjectKey> = told(&mut notices, now).into_iter().map(|(notice, _)| notice.about).collect();
        assert_eq!(about.iter().filter(|about| &*about.id.name == "noisy").count(), OBJECT_BURST as usize);
        assert_eq!(about.iter().filter(|about| &*about.id.name == "quiet").count(), 1);
        noise.push(notice("noisy", "later"));
        notices.replace(set(&noise), now);
        let later = now + Duration::from_secs(301);
        assert_eq!(told(&mut notices, later), [(notice("noisy", "later"), false)]);
    }

    #[test]
    fn all_objects_together_keep_to_a_rate() {
        let now = Instant::now();
        let mut notices = Notices::new(now);
        notices.tell(true, now);
        let many: Vec<Notice> = (0..1_000).map(|n| notice(&n.to_string(), "n")).collect();
        notices.replace(set(&many), now);
        assert_eq!(told(&mut notices, now).len(), 25);
        let settled = now + SETTLE;
        let next = notices.next(settled).unwrap();
        assert!(next > settled && next < settled + Duration::from_millis(50));
        assert_eq!(told(&mut notices, next - SETTLE).len(), 1);
    }

    #[test]
    fn errors_and_warnings_about_objects_that_users_look_at_are_told_in_full() {
        let key = |kind| ObjectKey::new(kind, "a", "b");
        let finding = Finding::warning("R", key(Kind::Ingress), "is odd").at("spec.rules[0]").mend("change it");
        assert_eq!(Notice::of(&finding).unwrap().note, "spec.rules[0]: is odd (mend: change it)");
        assert_eq!(Notice::of(&Finding::new(Severity::Info, "R", key(Kind::Ingress), "m")), None);
        assert_eq!(Notice::of(&Finding::error("R", key(Kind::EndpointSlice), "m")), None);
        let long = Finding::error("R", key(Kind::Secret), "ü".repeat(1_000));
        assert_eq!(Notice::of(&long).unwrap().note.len(), NOTE_LIMIT);
    }
}
