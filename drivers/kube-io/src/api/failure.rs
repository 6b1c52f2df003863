//! Why a request or a stream ended, and what follows from it.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use kube::core::Status;

use super::resource::{Scope, plural};

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection, or it broke, or nothing came in time.
    Unreachable,
    /// 429, 5xx.
    Busy,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: the server does not know the kind.
    NotFound,
    /// 410, or a version from the future: only a new list helps.
    Expired,
    /// Another 4xx: the server does not take the request.
    Rejected,
    /// What came is not what an API server sends.
    Garbled,
}

impl Cause {
    /// Whether it is the server that fails, and not one request.
    pub(crate) fn is_of_server(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy | Self::Unauthorized | Self::Garbled)
    }
}

/// A request or a stream that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// The server asks not to be asked sooner.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// No server may keep us waiting for longer.
    const LONGEST_PAUSE: Duration = Duration::from_secs(30);

    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), retry_after: None }
    }

    /// What a person can do about it.
    pub(crate) fn mend(&self, scope: &Scope) -> String {
        match self.cause {
            Cause::Unreachable => "see whether the API server runs and can be reached from here".to_owned(),
            Cause::Busy | Cause::Garbled => "see the API server's log".to_owned(),
            Cause::Unauthorized => "see whether the service account or the credentials are still valid".to_owned(),
            Cause::Forbidden => {
                let (resource, group) = (plural(scope.kind), scope.group());
                format!("allow list and watch of {resource} (API group \"{group}\") by RBAC")
            }
            Cause::NotFound => "install the definition of the kind".to_owned(),
            Cause::Expired | Cause::Rejected => "see the API server's version and log".to_owned(),
        }
    }

    /// No answer at all; `error` with all its causes, since the outer ones say little.
    pub(crate) fn unreachable(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(Cause::Unreachable, clip(&message))
    }

    /// An answer that is not 200, with as much of its body as was read.
    pub(crate) fn answered(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut failure = match serde_json::from_slice::<Status>(body) {
            Ok(status) => Self::status(Status { code: code.as_u16(), ..status }),
            Err(_) => {
                let body = String::from_utf8_lossy(body);
                Self::status(Status { code: code.as_u16(), ..Status::failure(body.trim(), "") })
            }
        };
        failure.retry_after =
            header.map(Duration::from_secs).or(failure.retry_after).map(|pause| pause.min(Self::LONGEST_PAUSE));
        failure
    }

    /// What a `Status` says, be it a response or an event of a watch.
    pub(crate) fn status(status: Status) -> Self {
        let details = status.details.as_ref();
        let from_the_future = || {
            let causes = details.map(|details| &details.causes[..]).unwrap_or_default();
            causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
        };
        let cause = match status.code {
            410 => Cause::Expired,
            504 if from_the_future() => Cause::Expired,
            401 => Cause::Unauthorized,
            403 => Cause::Forbidden,
            404 => Cause::NotFound,
            429 | 500..=599 => Cause::Busy,
            _ => Cause::Rejected,
        };
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        let message = if status.message.is_empty() { status.reason } else { status.message };
        let (code, message) = (status.code.to_string(), clip(&message));
        let message = if message.starts_with(&code) { message } else { format!("{code} {message}") };
        Self {
            cause,
            message,
            retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(Self::LONGEST_PAUSE)),
        }
    }
}

/// One line, not too long, nothing that a terminal would obey.
fn clip(text: &str) -> String {
    const MOST: usize = 400;
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(code: u16, header: Option<&str>, body: &str) -> Failure {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        Failure::answered(StatusCode::from_u16(code).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn the_answer_tells_what_follows() {
        let future = json!({ "status": "Failure", "message": "Timeout: Too large resource version: 9, current: 5", "code": 504,
            "details": { "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }] } });
        for (code, body, cause) in [
            (401, "Unauthorized", Cause::Unauthorized),
            (403, "", Cause::Forbidden),
            (404, "404 page not found\n", Cause::NotFound),
            (410, "", Cause::Expired),
            (422, "", Cause::Rejected),
            (429, "", Cause::Busy),
            (503, "", Cause::Busy),
            (504, "", Cause::Busy),
            (504, &*future.to_string(), Cause::Expired),
        ] {
            assert_eq!(answered(code, None, body).cause, cause, "{code} {body}");
        }
        assert_eq!(answered(404, None, "404 page not found\n").to_string(), "404 page not found");
    }

    #[test]
    fn the_server_may_say_when_to_ask_again_within_limits() {
        let body = r#"{"status":"Failure","code":429,"details":{"retryAfterSeconds":3}}"#;
        for (header, body, seconds) in [
            (Some("2"), "", Some(2)),
            (Some("2"), body, Some(2)),
            (None, body, Some(3)),
            (Some("86400"), "", Some(30)),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), "", None),
            (None, "", None),
        ] {
            assert_eq!(answered(429, header, body).retry_after, seconds.map(Duration::from_secs), "{header:?} {body}");
        }
    }
}
