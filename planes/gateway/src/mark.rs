//! What the gateway adds to the responses of endpoints.

use headwater_client_address::HeaderSource;
use headwater_model::gateway::{ConnectionSettings, ErrorStyle, Rule};
use serde_json::json;

use crate::affinity::SetCookie;
use crate::alb_error;
use crate::message::HeaderLines;
use crate::plan::Plan;

/// Asks which rule and endpoint serve the request.
const ASKS: &str = "cpaas-trace";
/// Says it; a gateway behind this one says its own in a line of its own, ahead of ours.
const TRACE: &[u8] = b"x-cpaas-trace";

/// Lines of the gateway's own.
#[derive(Default)]
pub(crate) struct Marks {
    /// Of a session that stays with its endpoint.
    pub(crate) cookie: Option<SetCookie>,
    pub(crate) trace: Trace,
    pub(crate) error_style: ErrorStyle,
}

/// Whether the client hears where its request went.
#[derive(Default)]
pub(crate) enum Trace {
    /// Nobody is told on this listener: an endpoint's own line is none of our business.
    #[default]
    Absent,
    /// This client is not: an endpoint's line is taken out, for it names addresses.
    Hidden,
    Told(String),
}

impl Trace {
    /// `upstream` is `namespace/service:port`, `address` that of the endpoint; empty where there is none.
    pub(crate) fn of(
        settings: &ConnectionSettings,
        request: &impl HeaderSource,
        plan: &Plan<'_>,
        upstream: &dyn Fn() -> String,
        address: &str,
    ) -> Self {
        if settings.trace_clients.is_empty() {
            return Self::Absent;
        }
        let client = plan.client.addr.to_canonical();
        let may_ask = settings.trace_clients.iter().any(|network| network.contains(&client));
        if !may_ask || request.values(ASKS).next() != Some(b"true") {
            return Self::Hidden;
        }
        Self::Told(render(plan.rule, &upstream(), address))
    }
}

fn render(rule: &Rule, upstream: &str, address: &str) -> String {
    let origin = &rule.origin.key.id;
    let gateway = std::env::var("HOSTNAME").unwrap_or_default();
    let text = json!({
        "alb_pod": gateway,
        "rule": format!("{}/{}", origin.namespace, origin.name),
        "index": rule.field,
        "upstream": upstream,
        "upstream_ip": address,
    });
    // Nothing but visible ASCII stands in names and addresses; whatever else a variable of the environment has is left out.
    text.to_string().chars().filter(|char| char.is_ascii() && !char.is_ascii_control()).collect()
}

/// Lines of a response with the gateway's own behind them.
pub(crate) struct Marked<'a, L> {
    pub(crate) lines: &'a L,
    pub(crate) marks: &'a Marks,
    pub(crate) status: u16,
    /// Bytes read from the endpoint so far.
    pub(crate) received: usize,
}

impl<L: HeaderLines> HeaderLines for Marked<'_, L> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let marks = self.marks;
        let mut cookie = marks.cookie.as_ref();
        let is_alb = marks.error_style == ErrorStyle::Alb;
        let hides_trace = matches!(marks.trace, Trace::Hidden);
        self.lines.each(|name, value| {
            // An application's own cookie of the name counts: ours would end its session.
            if cookie.is_some_and(|ours| name.eq_ignore_ascii_case(b"set-cookie") && ours.is_named_like(value)) {
                cookie = None;
            }
            let is_ours = (is_alb && name.eq_ignore_ascii_case(alb_error::HEADER))
                || (hides_trace && name.eq_ignore_ascii_case(TRACE));
            if !is_ours {
                visit(name, value);
            }
        });
        if let Some(cookie) = cookie {
            visit(b"set-cookie", cookie.line());
        }
        if is_alb && self.status >= 400 {
            visit(alb_error::HEADER, alb_error::of_endpoint(self.received).as_bytes());
        }
        marks.trace.each(visit);
    }
}

impl HeaderLines for Trace {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        if let Self::Told(text) = self {
            visit(TRACE, text.as_bytes());
        }
    }
}
