//! What is decided about a request before it goes anywhere: its client, its rule, its backend.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_balance::hash_key as balance_key;
use headwater_client_address::{Client, HeaderSource, resolve};
use headwater_model::client::Provenance;
use headwater_model::gateway::{Action, Backend, Balance, Fill, Forward, HashKey, Part, PathRewrite, Rule};
use headwater_route_match::{NormalPath, Recommendation, RequestView, normalise_host, normalise_path};

use crate::accept::Accepted;
use crate::apply::CompiledListener;
use crate::auth::Granted;
use crate::fault::{Fault, Reason};
use crate::headers::Variables as _;
use crate::message::Request;
use crate::trace::Begun;
use crate::variable::Asked;

/// The decisions; kept until the request is done.
pub(crate) struct Plan<'a> {
    pub(crate) listener: &'a CompiledListener,
    pub(crate) client: Client,
    pub(crate) rule: &'a Arc<Rule>,
    /// Bytes of `path` that the rule's prefix matched.
    pub(crate) matched_prefix: usize,
    /// Normal form of the path.
    pub(crate) path: NormalPath<'a>,
    /// Whether the endpoint must get the normal form, because it could read the received one differently.
    pub(crate) path_changed: bool,
    /// Path, and perhaps a query of its own, where the rule rewrites by a regular expression.
    pub(crate) rewritten: Option<String>,
    /// For requests that bring none we believe.
    pub(crate) request_id: RequestId,
    /// Set when the request was admitted, once, before it is forwarded.
    pub(crate) granted: OnceCell<Granted>,
    /// Its span; set once, when it is forwarded, where the rule is traced.
    pub(crate) begun: OnceCell<Begun>,
}

/// A fresh id: 32 hexadecimal digits.
pub(crate) struct RequestId([u8; 32]);

impl RequestId {
    fn new(random: [u64; 2]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (index, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(random[index / 16] >> (4 * (index % 16)) & 15) as usize];
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

/// A request that was refused before a rule was found.
pub(crate) struct Refused {
    pub(crate) fault: Fault,
    pub(crate) client: Option<(IpAddr, Provenance)>,
}

/// Names the client and finds the rule.
pub(crate) fn plan<'a, R: Request>(
    accepted: &Accepted,
    listener: &'a CompiledListener,
    request: &'a R,
) -> Result<Plan<'a>, Refused> {
    let policy = &listener.snapshot.client_address;
    let client = resolve(policy, &accepted.sender, request);
    let refused =
        |client: &Client, fault: Fault| Refused { fault, client: Some((client.addr, client.provenance.clone())) };
    if let Some(reason) = request.conflict() {
        return Err(refused(&client, reason.into()));
    }
    let target = request.target();
    let (raw_path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    // `OPTIONS *` asks the server as a whole: the root's rule speaks for it.
    let normal = match raw_path {
        "*" => NormalPath::Unchanged("/"),
        raw => match normalise_path(raw.as_bytes()) {
            Ok(normal) => normal,
            Err(error) => return Err(refused(&client, Fault::new(Reason::UnsafePath).detail(error))),
        },
    };
    let path_changed = normal.recommendation() == Recommendation::Normalised;
    // What a sender forwards of the host is for backends: proxies pass on what clients wrote there.
    let authority = request.authority();
    let mut scratch = accepted.worker.host_scratch.borrow_mut();
    let host = match normalise_host(authority, &mut scratch) {
        Ok(host) => host,
        // HTTP/1.0 need not name a host.
        Err(_) if authority.is_empty() => "",
        Err(error) => return Err(refused(&client, Fault::new(Reason::BadRequest).detail(error))),
    };
    let view = View { request, path: normal.as_str(), query, client: client.addr };
    let Some(matched) = listener.table.find(&view, host) else {
        return Err(refused(&client, Reason::NoRoute.into()));
    };
    let (rule, matched_prefix) = (matched.rule, matched.matched_prefix_len);
    let rewritten = match rewrites(rule) {
        false => None,
        true => match matched.rewrite().map(|rewrite| rewrite.apply(normal.as_str())) {
            Some(Some(path)) => Some(path),
            Some(None) => {
                let fault = Fault::new(Reason::UnsafePath).detail("the rule's rewrite makes dot segments of it");
                return Err(refused(&client, fault));
            }
            None => return Err(refused(&client, Reason::InvalidRule.into())),
        },
    };
    let request_id = RequestId::new([accepted.worker.random(), accepted.worker.random()]);
    Ok(Plan {
        listener,
        client,
        rule,
        matched_prefix,
        path: normal,
        path_changed,
        rewritten,
        request_id,
        granted: OnceCell::new(),
        begun: OnceCell::new(),
    })
}

/// Whether the rule forwards, to a path rewritten by a regular expression.
fn rewrites(rule: &Rule) -> bool {
    let path = rule.filters.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    matches!((path, &rule.action), (Some(PathRewrite::Regex { .. }), Action::Forward(_)))
}

/// What rules see of a request.
struct View<'a, R> {
    request: &'a R,
    path: &'a str,
    query: Option<&'a str>,
    client: IpAddr,
}

impl<R: Request> RequestView for View<'_, R> {
    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn method(&self) -> &str {
        self.request.method()
    }

    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, line: F) {
        self.request.each_value(name, line);
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

/// Chooses among a rule's backends by weight; `None` when all weights are 0. The same number chooses the same.
pub(crate) fn pick_backend(forward: &Forward, random: impl FnOnce() -> u64) -> Option<&Backend> {
    match &*forward.backends {
        [only] if only.weight > 0 => Some(only),
        backends => {
            let index = headwater_balance::pick_backend(backends.iter().map(|backend| backend.weight), random())?;
            backends.get(index)
        }
    }
}

/// What the balancer hashes; `None` where the policy hashes nothing, or the request has none of it.
pub(crate) fn hash_key<R: Request>(balance: &Balance, plan: &Plan<'_>, request: &R) -> Option<u64> {
    let Balance::Hash(key) = balance else { return None };
    match key {
        HashKey::Client => Some(match plan.client.addr {
            IpAddr::V4(v4) => balance_key(&v4.octets()),
            IpAddr::V6(v6) => balance_key(&v6.octets()),
        }),
        HashKey::Header(name) => request.values(name).next().map(balance_key),
        HashKey::Cookie(name) => cookie(request, name).map(balance_key),
        HashKey::Template(template) => {
            let asked = Asked { request, plan };
            let (mut text, mut filled) = (Vec::new(), false);
            for part in template.parts() {
                match part {
                    Part::Text(fixed) => text.extend_from_slice(fixed.as_bytes()),
                    Part::Variable(Fill::Request(variable)) => {
                        if let Some(value) = asked.value(variable).filter(|value| !value.is_empty()) {
                            text.extend_from_slice(&value);
                            filled = true;
                        }
                    }
                    Part::Variable(Fill::EscapedTarget) => {
                        text.extend_from_slice(request.target().as_bytes());
                        filled = true;
                    }
                    // The time is nobody's key.
                    Part::Variable(Fill::Now) => {}
                }
            }
            filled.then(|| balance_key(&text))
        }
    }
}

/// The value of a cookie, first one of the name, as conditions of rules see it.
pub(crate) fn cookie<'a>(request: &'a impl HeaderSource, name: &str) -> Option<&'a [u8]> {
    request.values("cookie").find_map(|line| headwater_route_match::cookie(line, name))
}
