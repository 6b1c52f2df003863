//! What browsers are told about reading responses from other origins (Fetch, "CORS protocol").

use headwater_model::gateway::{Cors, Rule};

use crate::message::{HeaderLines, Request};

/// The answer to one request.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a> {
    cors: &'a Cors,
    /// Of the request, where the list has it.
    origin: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    /// `None` for a rule that leaves it to its endpoints.
    pub(crate) fn to<R: Request>(rule: &'a Rule, request: &'a R) -> Option<Self> {
        let cors = rule.filters.cors.as_deref()?;
        let mut origins = request.values("origin");
        let origin = match (origins.next(), origins.next()) {
            (Some(origin), None) if cors.allows(origin) => Some(origin),
            _ => None,
        };
        Some(Self { cors, origin })
    }
}

impl HeaderLines for Answer<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let cors = self.cors;
        let all = cors.allows_all();
        if !all {
            visit(b"vary", b"origin");
        }
        let origin = match self.origin {
            _ if all => &b"*"[..],
            Some(origin) => origin,
            None => return,
        };
        visit(b"access-control-allow-origin", origin);
        if cors.credentials && !all {
            visit(b"access-control-allow-credentials", b"true");
        }
        visit(b"access-control-allow-methods", cors.methods.as_bytes());
        visit(b"access-control-allow-headers", cors.headers.as_bytes());
        if let Some(expose) = &cors.expose {
            visit(b"access-control-expose-headers", expose.as_bytes());
        }
        visit(b"access-control-max-age", itoa::Buffer::new().format(cors.max_age).as_bytes());
    }
}

/// Lines of a response with the answer in the place of what the endpoint says.
pub(crate) struct Answered<'a, L> {
    pub(crate) lines: &'a L,
    pub(crate) answer: Option<Answer<'a>>,
}

impl<L: HeaderLines> HeaderLines for Answered<'_, L> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let Some(answer) = &self.answer else { return self.lines.each(visit) };
        const PREFIX: &[u8] = b"access-control-";
        self.lines.each(|name, value| {
            if !name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) {
                visit(name, value);
            }
        });
        answer.each(visit);
    }
}
