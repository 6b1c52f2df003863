//! Who may come in: an auth server is asked, a password is checked, before a request is forwarded.
//!
//! Whatever is in doubt is refused: a server that cannot be reached or says something else than yes or no, a question
//! that cannot be asked, a list of users that is gone.

mod answer;
mod basic;
mod forward;

use headwater_model::gateway::Auth;

use crate::accept::Accepted;
use crate::fault::{Fault, Reason};
use crate::message::{HeaderLines, Request, RequestBody, ResponseSink, Trailers};
use crate::plan::Plan;
use crate::record::Record;
use crate::timer::Timer;

pub(crate) use basic::Passwords;

/// Whether the request may go on; otherwise it has been answered.
///
/// # Errors
/// The fault to answer with, when neither yes nor no was heard.
#[expect(clippy::too_many_arguments, reason = "the parts of one exchange, each borrowed differently")]
pub(crate) async fn admit<R: Request, B: RequestBody, S: ResponseSink>(
    accepted: &std::rc::Rc<Accepted>,
    timer: &Timer,
    request: &R,
    body: &B,
    sink: &mut S,
    plan: &Plan<'_>,
    auth: &Auth,
    record: &mut Record<'_>,
) -> Result<bool, Fault> {
    if let Some(access) = &auth.access
        && !access.admits(plan.client.addr)
    {
        return Err(Reason::ClientForbidden.into());
    }
    let mut granted = Granted::default();
    if let Some(forward) = &auth.forward {
        match forward::ask(accepted, timer, request, plan, forward).await? {
            Verdict::Granted(found) => granted = found,
            Verdict::Denied(denial) => {
                answer::send(accepted, &denial, request, body, sink, plan, record).await?;
                return Ok(false);
            }
        }
    }
    if let Some(basic) = &auth.basic
        && let Some(denial) = basic::check(&accepted.worker, request, basic).await?
    {
        answer::send(accepted, &denial, request, body, sink, plan, record).await?;
        return Ok(false);
    }
    if plan.granted.set(granted).is_err() {
        return Err(Fault::new(Reason::Internal).detail("a request was admitted twice"));
    }
    Ok(true)
}

enum Verdict {
    Granted(Granted),
    Denied(Denial),
}

/// How a request is turned away.
struct Denial {
    reason: Reason,
    /// For the log.
    detail: String,
    /// Values of `WWW-Authenticate`.
    challenges: Vec<Vec<u8>>,
    /// Values of `Set-Cookie`.
    cookies: Vec<Vec<u8>>,
    /// Where to sign in, instead of the fault.
    location: Option<String>,
}

/// What an auth server said of a request that it let in.
#[derive(Default)]
pub(crate) struct Granted {
    /// Lines towards the endpoint, in place of the request's own, by name.
    headers: Vec<(Box<str>, Vec<Vec<u8>>)>,
    /// Values of `Set-Cookie`.
    cookies: Vec<Vec<u8>>,
    always_set_cookie: bool,
}

impl Granted {
    /// Whether the request's own line of this name is not the endpoint's to see; `_` counts as `-`.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        self.headers.iter().any(|(known, _)| is_spelled_like(name, known))
    }

    pub(crate) fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for (name, values) in &self.headers {
            values.iter().for_each(|value| visit(name.as_bytes(), value));
        }
    }

    /// The request's trailers without those that could be taken for the server's word: some endpoints merge the two.
    pub(crate) fn cleaned(granted: Option<&Self>, mut trailers: Trailers) -> Trailers {
        if let Some(granted) = granted {
            trailers.retain(|(name, _)| !granted.replaces(name));
        }
        trailers
    }

    /// Cookies for a response of this status; nginx's `add_header` knows the same statuses.
    fn cookies(&self, status: u16) -> &[Vec<u8>] {
        let usual = matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308);
        if usual || self.always_set_cookie { &self.cookies } else { &[] }
    }
}

/// Lines of a response with the auth server's cookies behind them.
pub(crate) struct WithCookies<'a, L> {
    pub(crate) lines: &'a L,
    pub(crate) granted: Option<&'a Granted>,
    pub(crate) status: u16,
}

impl<L: HeaderLines> HeaderLines for WithCookies<'_, L> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        self.lines.each(&mut visit);
        if let Some(granted) = self.granted {
            granted.cookies(self.status).iter().for_each(|cookie| visit(b"set-cookie", cookie));
        }
    }
}

/// Equal but for case and `_` for `-`: many servers take both for one header.
fn is_spelled_like(name: &[u8], known: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len() && name.iter().zip(known.bytes()).all(|(a, b)| fold(*a) == fold(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_could_be_taken_for_the_servers_word_is_replaced() {
        let granted = Granted { headers: vec![("x-user".into(), vec![])], ..Granted::default() };
        for (name, replaced) in [("X-User", true), ("x_user", true), ("X-Users", false), ("X-Use", false)] {
            assert_eq!(granted.replaces(name.as_bytes()), replaced, "{name}");
        }
    }

    #[test]
    fn cookies_go_with_the_statuses_of_success_unless_always() {
        let cookies = |status, always_set_cookie| {
            let granted = Granted { cookies: vec![b"a=1".to_vec()], always_set_cookie, ..Granted::default() };
            granted.cookies(status).len()
        };
        for (status, sent) in [(200, 1), (206, 1), (302, 1), (304, 1), (308, 1), (202, 0), (404, 0), (500, 0)] {
            assert_eq!((cookies(status, false), cookies(status, true)), (sent, 1), "{status}");
        }
    }
}
