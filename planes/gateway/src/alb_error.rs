//! Faults in the words of Alauda's ALB: `X-ALB-ERR-REASON: KIND : text`.

use crate::fault::{By, Fault, Reason};

/// Says why in every answer to a fault, and in answers of endpoints from 400 on.
pub(crate) const HEADER: &[u8] = b"x-alb-err-reason";

/// Status of the answer: ALB's own where it has one of its own.
pub(crate) fn status(reason: Reason) -> u16 {
    if is_without_endpoint(reason) { 500 } else { reason.status() }
}

fn is_without_endpoint(reason: Reason) -> bool {
    matches!(reason, Reason::NoEndpoints | Reason::NoService | Reason::NoServicePort)
}

/// Value of the header. `rule` names the rule that the request is for.
pub(crate) fn words(fault: &Fault, rule: &str) -> String {
    let reason = fault.reason;
    let (kind, text) = match reason {
        Reason::NoRoute => ("InvalidUpstream", "no rule match".to_owned()),
        reason if is_without_endpoint(reason) => ("InvalidBalancer", format!("no balancer found for {rule}")),
        Reason::AuthRequired | Reason::AuthForbidden | Reason::AuthAnswer => ("AuthFail", auth(fault)),
        Reason::AuthUnreachable => ("AuthFail", "send-auth-request-fail".to_owned()),
        Reason::AuthRequest => ("AuthFail", "build-auth-request-fail".to_owned()),
        Reason::InvalidAuth => ("AuthFail", "invalid cfg".to_owned()),
        Reason::UpstreamTimeout | Reason::RequestTimeout => ("TimeoutViaBackend", reason.text().to_owned()),
        Reason::ConnectTimeout => ("TimeoutViaAlb", reason.text().to_owned()),
        reason => match reason.by() {
            By::Upstream => ("BackendError", reason.text().to_owned()),
            By::Downstream => ("InvalidRequest", reason.text().to_owned()),
            By::Local => ("InvalidConfig", reason.text().to_owned()),
        },
    };
    format!("{kind} : {text}")
}

/// What an auth server answered, or what is wrong with a password: never the server's name.
fn auth(fault: &Fault) -> String {
    match fault.detail.rsplit_once(" answered ") {
        Some((_, status)) => format!("auth-service-status: {status}"),
        None if fault.detail == "no such user, or another password" => "invalid user or passwd".to_owned(),
        None if fault.detail.starts_with("no ") => "basic_auth but req no auth header".to_owned(),
        None => "invalid Authorization".to_owned(),
    }
}

/// The same for an answer of an endpoint, of whose connection this many bytes were read.
pub(crate) fn of_endpoint(bytes: usize) -> String {
    format!("BackendError : read {bytes} byte data from backend")
}

/// ALB has no body where its scripts end a request before an endpoint is looked for.
pub(crate) fn body(reason: Reason) -> String {
    let silent = matches!(
        reason,
        Reason::NoRoute
            | Reason::AuthRequired
            | Reason::AuthForbidden
            | Reason::AuthAnswer
            | Reason::AuthUnreachable
            | Reason::AuthRequest
            | Reason::InvalidAuth
    );
    if silent { String::new() } else { format!("X-Error: {}\n", status(reason)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_words_that_fit_into_a_header() {
        for reason in Reason::ALL {
            let words = words(&Fault::new(*reason), "shop/web");
            assert!(words.contains(" : ") && words.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{words}");
            let body = body(*reason);
            assert!(body.is_empty() || body == format!("X-Error: {}\n", status(*reason)), "{body}");
        }
    }

    #[test]
    fn the_words_of_the_manual_are_said() {
        for (fault, status_is, expected) in [
            (Fault::new(Reason::NoRoute), 404, "InvalidUpstream : no rule match"),
            (Fault::new(Reason::NoEndpoints), 500, "InvalidBalancer : no balancer found for web"),
            (Fault::new(Reason::NoService), 500, "InvalidBalancer : no balancer found for web"),
            (
                Fault::new(Reason::AuthForbidden).detail("auth.test answered 403"),
                403,
                "AuthFail : auth-service-status: 403",
            ),
            (
                Fault::new(Reason::AuthUnreachable).detail("auth.test: refused"),
                500,
                "AuthFail : send-auth-request-fail",
            ),
            (
                Fault::new(Reason::AuthRequired).detail("no such user, or another password"),
                401,
                "AuthFail : invalid user or passwd",
            ),
        ] {
            assert_eq!((status(fault.reason), &*words(&fault, "web")), (status_is, expected));
        }
        assert_eq!(of_endpoint(7), "BackendError : read 7 byte data from backend");
    }
}
