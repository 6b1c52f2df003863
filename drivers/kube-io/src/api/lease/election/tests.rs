//! The election, step by step and in simulations with lost messages, pauses and clocks that differ.

use super::*;

mod simulation;

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn held_by(holder: &str) -> Record {
    Record { holder: holder.to_owned(), duration_seconds: 15, transitions: 3, acquired: Some(START), renewed: None }
}

fn version(version: &str) -> String {
    version.to_owned()
}

/// Asks and answers in the same moment.
fn tell(election: &mut Election, now: Instant, answer: Answer) -> Ask {
    let ask = election.ask(now, START);
    election.hear(&ask, answer, now, now, 0.0);
    ask
}

#[test]
fn a_lease_that_is_not_there_is_created_at_once() {
    let now = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default(), now);
    assert_eq!(tell(&mut election, now, Answer::NotFound), Ask::Read);
    assert_eq!(election.next(), now);
    let Ask::Create(record) = election.ask(now, START) else { panic!("not created") };
    assert_eq!((&*record.holder, record.duration_seconds, record.transitions), ("a", 15, 0));
    tell(&mut election, now, Answer::Lease(record, version("1")));
    assert!(election.leads(now + seconds(9)));
    assert!(!election.leads(now + seconds(10)));
}

#[test]
fn a_lease_is_taken_over_only_when_it_was_seen_unchanged_for_its_duration() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), Timing::default(), start);
    let seen = |election: &mut Election, after: u64, at: &str| {
        tell(election, start + seconds(after), Answer::Lease(held_by("a"), version(at)));
    };
    seen(&mut election, 0, "1");
    seen(&mut election, 14, "1");
    assert_eq!(election.ask(start + seconds(14), START), Ask::Read);
    seen(&mut election, 14, "2");
    seen(&mut election, 28, "2");
    assert_eq!(election.ask(start + seconds(28), START), Ask::Read);
    let Ask::Replace(record, at) = election.ask(start + seconds(29), START) else { panic!("not taken over") };
    assert_eq!((&*record.holder, record.transitions, &*at), ("b", 4, "2"));
    assert!(!election.leads(start + seconds(29)));
}

#[test]
fn a_lease_counts_as_seen_when_the_answer_came_not_when_the_question_left() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), Timing::default(), start);
    let ask = election.ask(start, START);
    election.hear(&ask, Answer::Lease(held_by("a"), version("1")), start, start + seconds(4), 0.0);
    assert_eq!(election.ask(start + seconds(18), START), Ask::Read);
    assert!(matches!(election.ask(start + seconds(19), START), Ask::Replace(..)));
}

#[test]
fn a_holder_that_asks_for_longer_is_given_longer() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), Timing::default(), start);
    let record = Record { duration_seconds: 60, ..held_by("a") };
    tell(&mut election, start, Answer::Lease(record, version("1")));
    assert_eq!(election.ask(start + seconds(59), START), Ask::Read);
    assert!(matches!(election.ask(start + seconds(60), START), Ask::Replace(..)));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let now = Instant::now();
    let mut election = Election::new("b".to_owned(), Timing::default(), now);
    tell(&mut election, now, Answer::Lease(held_by(""), version("1")));
    assert_eq!(election.next(), now);
    assert!(matches!(election.ask(now, START), Ask::Replace(record, _) if record.transitions == 4));
}

#[test]
fn a_renewal_without_answer_does_not_extend_what_is_sure() {
    let start = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default(), start);
    tell(&mut election, start, Answer::NotFound);
    tell(&mut election, start, Answer::Lease(held_by("a"), version("1")));
    tell(&mut election, start + seconds(2), Answer::Lost);
    assert_eq!(election.deadline(), Some(start + seconds(10)));
    // It was stored all the same: found on the next look, and renewed from there.
    let ask = tell(&mut election, start + seconds(3), Answer::Lease(held_by("a"), version("2")));
    assert_eq!(ask, Ask::Read);
    assert_eq!(election.deadline(), Some(start + seconds(10)));
    assert!(matches!(election.ask(start + seconds(3), START), Ask::Replace(_, at) if at == "2"));
}

#[test]
fn what_counts_is_when_a_renewal_was_sent_not_when_it_was_answered() {
    let start = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default(), start);
    tell(&mut election, start, Answer::NotFound);
    let ask = election.ask(start, START);
    election.hear(&ask, Answer::Lease(held_by("a"), version("1")), start, start + seconds(4), 0.0);
    assert_eq!(election.deadline(), Some(start + seconds(10)));
}

#[test]
fn a_leader_that_reads_another_name_leads_no_more() {
    let now = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default(), now);
    tell(&mut election, now, Answer::NotFound);
    tell(&mut election, now, Answer::Lease(held_by("a"), version("1")));
    tell(&mut election, now, Answer::Conflict);
    assert!(election.leads(now), "somebody may have touched an annotation only");
    tell(&mut election, now, Answer::Lease(held_by("b"), version("2")));
    assert!(!election.leads(now));
}

#[test]
fn a_lease_deleted_under_its_holder_is_not_taken_by_who_saw_it_held() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), Timing::default(), start);
    tell(&mut election, start, Answer::Lease(held_by("a"), version("1")));
    tell(&mut election, start + seconds(1), Answer::NotFound);
    assert_eq!(election.ask(start + seconds(15), START), Ask::Read);
    assert!(matches!(election.ask(start + seconds(16), START), Ask::Create(_)));
}

#[test]
fn only_the_holder_releases_and_people_still_read_how_often_it_changed_hands() {
    let now = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default(), now);
    tell(&mut election, now, Answer::Lease(held_by("b"), version("1")));
    assert_eq!(election.release(START), None);
    let mut election = Election::new("a".to_owned(), Timing::default(), now);
    tell(&mut election, now, Answer::Lease(held_by("a"), version("1")));
    let Some(Ask::Replace(record, at)) = election.release(START) else { panic!("not released") };
    assert_eq!((&*record.holder, record.duration_seconds, record.transitions, &*at), ("", 1, 3, "1"));
    assert!(!election.leads(now));
}
