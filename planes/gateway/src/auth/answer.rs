//! The answer to a request that is turned away.

use super::Denial;
use crate::accept::Accepted;
use crate::cors;
use crate::fault::Fault;
use crate::message::{HeaderLines, Request, RequestBody, ResponseSink};
use crate::plan::Plan;
use crate::record::Record;
use crate::respond;

/// Lines besides those of the fault, or of the redirect.
struct More<'a> {
    denial: &'a Denial,
    cors: Option<cors::Answer<'a>>,
}

impl HeaderLines for More<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        if let Some(answer) = &self.cors {
            answer.each(&mut visit);
        }
        let denial = self.denial;
        if denial.location.is_none() {
            denial.challenges.iter().for_each(|challenge| visit(b"www-authenticate", challenge));
        }
        denial.cookies.iter().for_each(|cookie| visit(b"set-cookie", cookie));
    }
}

pub(super) async fn send<R: Request, B: RequestBody, S: ResponseSink>(
    accepted: &Accepted,
    denial: &Denial,
    request: &R,
    body: &B,
    sink: &mut S,
    plan: &Plan<'_>,
    record: &mut Record<'_>,
) -> Result<(), Fault> {
    if !body.is_done() {
        sink.close_after();
    }
    let more = More { denial, cors: cors::Answer::to(plan.rule, request) };
    if let Some(location) = &denial.location {
        record.status = 302;
        return respond::send_redirect_with(sink, 302, location, &more).await;
    }
    let fault = Fault::new(denial.reason).detail(&denial.detail);
    let manner = record.manner(accepted.settings().error_style);
    record.status = manner.status(denial.reason);
    let sent = respond::send_fault(sink, &fault, manner, &more).await;
    record.fault = Some(fault);
    record.sent_bytes = sent?;
    Ok(())
}
