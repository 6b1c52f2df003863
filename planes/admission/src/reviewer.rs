//! One review from its bytes to its answer.

use std::time::Duration;

use headwater_kube_io::{ObjectReading, read_object};
use headwater_model::finding::Finding;
use headwater_model::origin::ObjectKey;
use headwater_process::http::{BodyError, Request as HttpRequest, Response};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Failure, MAX_BODIES, MAX_BODY, MAX_REVIEWS, TURN_TIME};
use crate::judge::{Candidate, Judge, Operation};
use crate::metrics::{AdmissionMetrics, Word};
use crate::review::{self, Denial, Request, Verdict};
use crate::verdict::{Stage, Weighed};

/// The one path.
const PATH: &str = "/validate";
/// Bodies are counted in units of 1 KiB.
const UNIT: usize = 1 << 10;
/// Seconds that who finds no turn is asked to wait.
const RETRY_AFTER: u16 = 1;

pub(crate) struct Reviewer<J> {
    judge: J,
    failure: Failure,
    judge_time: Duration,
    metrics: AdmissionMetrics,
    reviews: Semaphore,
    bodies: Semaphore,
    /// Trees of values are larger than what they are read from: one at a time.
    reading: Semaphore,
}

/// Nobody judged the object in time.
struct Late;

impl<J: Judge> Reviewer<J> {
    pub(crate) fn new(judge: J, failure: Failure, judge_time: Duration, metrics: AdmissionMetrics) -> Self {
        Self {
            judge,
            failure,
            judge_time,
            metrics,
            reviews: Semaphore::new(MAX_REVIEWS),
            bodies: Semaphore::new(MAX_BODIES / UNIT),
            reading: Semaphore::new(1),
        }
    }

    pub(crate) async fn answer(&self, request: HttpRequest) -> Response {
        let began = Instant::now();
        let (word, response) = self.respond(request).await;
        self.metrics.reviewed(word, began.elapsed());
        response
    }

    async fn respond(&self, request: HttpRequest) -> (Word, Response) {
        let refused = |status, text: &str| (Word::Refused, Response::text(status, text));
        if request.path() != PATH {
            return refused(404, "there is POST /validate");
        }
        if request.method() != "POST" {
            return refused(405, "use POST");
        }
        if request.content_type() != Some("application/json") {
            return refused(415, "send application/json");
        }
        let too_large = BodyError::TooLarge { limit: MAX_BODY };
        let length = request.length().map_or(Ok(MAX_BODY), usize::try_from);
        let Some(length) = length.ok().filter(|length| *length <= MAX_BODY) else {
            return refused(413, &too_large.to_string());
        };
        let units = u32::try_from(length.div_ceil(UNIT)).expect("MAX_BODY is some MiB");
        let turn = async { (self.reviews.acquire().await, self.bodies.acquire_many(units).await) };
        // Held until the answer is made.
        let Ok(_turn) = timeout(TURN_TIME, turn).await else {
            let mut busy = Response::text(429, "too many reviews at once");
            busy.retry_after = Some(RETRY_AFTER);
            return (Word::Busy, busy);
        };
        let body = match request.body().await {
            Ok(body) => body,
            Err(error @ BodyError::TooLarge { .. }) => return refused(413, &error.to_string()),
            Err(error) => return refused(408, &error.to_string()),
        };
        match self.review(&body).await {
            Ok((word, body)) => (word, Response::json(200, body)),
            Err(error) => refused(400, &error.to_string()),
        }
    }

    /// The body of the answer.
    async fn review(&self, body: &[u8]) -> Result<(Word, Vec<u8>), review::ReviewError> {
        let request = review::parse(body)?;
        let (word, verdict) = self.verdict(&request).await;
        Ok((word, review::answer(&request.uid, &verdict)))
    }

    async fn verdict(&self, request: &Request<'_>) -> (Word, Verdict) {
        let allowed = || (Word::Allowed, Verdict::Allowed { warnings: Vec::new() });
        let operation = match &*request.operation {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            "DELETE" => return self.removal(request).await,
            // Whatever Kubernetes invents may happen.
            _ => return allowed(),
        };
        // A status is written by controllers, not by users.
        if request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
            return allowed();
        }
        let Some(object) = request.object else { return allowed() };
        // It waits for its finalizers to be removed.
        if review::is_being_deleted(object) {
            return allowed();
        }
        let dry_run = request.dry_run.unwrap_or(false);
        let deadline = Instant::now() + self.judge_time;
        let reading = self.read(object).await;
        if let Some(kind) = reading.unread {
            let text = format!("headwater does not judge objects of kind {kind}");
            return (Word::Warned, Verdict::Allowed { warnings: vec![crate::verdict::plain(&text)] });
        }
        let key = reading.key.clone();
        let candidate =
            |reading: ObjectReading, old| reading.object.map(|object| Candidate { object, operation, dry_run, old });
        let (weighed, late) = self.weigh(reading, candidate, false, deadline).await;
        let mut weighed = weighed;
        let mut late = late.is_some();
        if operation == Operation::Update
            && !weighed.rejecting.is_empty()
            && let Some(old) = request.old_object
        {
            let old = self.read(old).await;
            let (old, old_late) = self.weigh(old, candidate, true, deadline).await;
            weighed.forgive(&old);
            // Whether the fault is a new one is not known.
            late |= old_late.is_some();
        }
        self.conclude(&weighed, late, key.as_ref(), dry_run)
    }

    /// Whatever goes away may go, unless others need it.
    async fn removal(&self, request: &Request<'_>) -> (Word, Verdict) {
        let allowed = (Word::Allowed, Verdict::Allowed { warnings: Vec::new() });
        let Some(old) = request.old_object.filter(|_| request.sub_resource.as_deref().is_none_or(str::is_empty)) else {
            return allowed;
        };
        let Some(key) = self.read(old).await.key else { return allowed };
        let deadline = Instant::now() + self.judge_time;
        let Ok(findings) = timeout_at(deadline, self.judge.removal(key.clone())).await else {
            return self.conclude(&Weighed::default(), true, Some(&key), request.dry_run.unwrap_or(false));
        };
        let mut weighed = Weighed::default();
        weighed.add(findings, Stage::Judging, Some(&key));
        self.conclude(&weighed, false, Some(&key), request.dry_run.unwrap_or(false))
    }

    async fn read(&self, object: &RawValue) -> ObjectReading {
        let _one = self.reading.acquire().await;
        read_object(object.get().as_bytes())
    }

    async fn weigh(
        &self,
        mut reading: ObjectReading,
        candidate: impl Fn(ObjectReading, bool) -> Option<Candidate>,
        old: bool,
        deadline: Instant,
    ) -> (Weighed, Option<Late>) {
        let mut weighed = Weighed::default();
        let key = reading.key.clone();
        weighed.add(std::mem::take(&mut reading.findings), Stage::Reading, key.as_ref());
        let Some(candidate) = candidate(reading, old) else { return (weighed, None) };
        let judged: Result<Vec<Finding>, _> = timeout_at(deadline, self.judge.judge(candidate)).await;
        match judged {
            Ok(findings) => {
                weighed.add(findings, Stage::Judging, key.as_ref());
                (weighed, None)
            }
            Err(_) => (weighed, Some(Late)),
        }
    }

    fn conclude(&self, weighed: &Weighed, late: bool, key: Option<&ObjectKey>, dry_run: bool) -> (Word, Verdict) {
        let object = key.map(ToString::to_string).unwrap_or_default();
        if late {
            tracing::warn!(object, failure = ?self.failure, "admission: not judged in time");
            let text = "headwater did not answer in time; this object was not judged".to_owned();
            return match self.failure {
                Failure::Allow => {
                    let warnings = [text].into_iter().chain(crate::verdict::warnings(&weighed.warning)).collect();
                    (Word::Late, Verdict::Allowed { warnings })
                }
                Failure::Deny => {
                    let message = format!("{text}: try again");
                    let denial = Denial { code: 504, reason: "Timeout", message, object: None, causes: Vec::new() };
                    (Word::Late, Verdict::Denied { denial, warnings: Vec::new() })
                }
            };
        }
        let verdict = weighed.verdict(key);
        let word = match &verdict {
            Verdict::Denied { .. } => {
                let reasons: Vec<&str> = weighed.rejecting.iter().map(|finding| finding.reason).collect();
                tracing::info!(object, reasons = reasons.join(","), dry_run, "admission: rejected");
                Word::Denied
            }
            Verdict::Allowed { warnings } if warnings.is_empty() => Word::Allowed,
            Verdict::Allowed { .. } => Word::Warned,
        };
        (word, verdict)
    }
}

/// For fuzzing: reviews any bytes with a judge that has nothing to say but an error about everything.
///
/// # Panics
/// When an answer breaks a promise: it is JSON, for the same `uid`, with short warnings, and a deletion is allowed.
pub fn fuzz(body: &[u8]) {
    struct Strict;
    impl Judge for Strict {
        async fn judge(&self, candidate: Candidate) -> Vec<Finding> {
            vec![Finding::error("InvalidValue", candidate.key(), "refused")]
        }
    }
    let registry = headwater_process::metrics::Registry::new();
    let metrics = AdmissionMetrics::register(&registry);
    let reviewer = Reviewer::new(Strict, Failure::Deny, Duration::from_secs(3600), metrics);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
    let Ok((word, answer)) = runtime.block_on(reviewer.review(body)) else { return };
    let request = review::parse(body).expect("it was answered");
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("answers are JSON");
    let response = &answer["response"];
    assert_eq!(response["uid"], *request.uid);
    let allowed = response["allowed"].as_bool().expect("there is a verdict");
    assert_eq!(allowed, word != Word::Denied);
    assert!(allowed || matches!(&*request.operation, "CREATE" | "UPDATE"));
    let warnings = response["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    let texts = warnings.iter().map(|text| text.as_str().expect("warnings are texts"));
    assert!(texts.clone().all(|text| text.chars().count() <= 200 && !text.chars().any(char::is_control)));
    assert!(texts.map(str::len).sum::<usize>() <= 4096 + 200);
    assert!(response["status"]["message"].as_str().unwrap_or_default().len() <= 4 * 2048);
}

#[cfg(test)]
mod tests;
