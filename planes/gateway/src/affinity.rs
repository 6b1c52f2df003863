//! Where a request goes first, and the cookies of sessions that stay with their endpoint.
//!
//! Nothing is remembered of a session: its cookie names the endpoint, and every worker of every gateway finds the same.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater_balance::{EndpointId, Token, hash_key};
use headwater_client_address::Scheme;
use headwater_model::gateway::{AffinityCookie, Backend, Balance, Forward, SameSite};

use crate::fault::Reason;
use crate::message::Request;
use crate::plan::{self, Plan};
use crate::upstream::{Lease, PoolRuntime};
use crate::worker::Worker;

/// What is known of a request before an endpoint is picked.
pub(crate) struct Choice<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) pool: Rc<PoolRuntime>,
    /// What the balancer hashes.
    pub(crate) key: Option<u64>,
    /// The endpoint that the cookie names.
    pub(crate) home: Option<EndpointId>,
    session: Option<Session<'a>>,
}

struct Session<'a> {
    cookie: &'a AffinityCookie,
    /// Whether the request brings a value that is not ours: it is not replaced.
    foreign: bool,
}

/// Chooses a backend, by the cookie where it names one, else by weight.
pub(crate) fn choose<'a, R: Request>(
    worker: &Worker,
    forward: &'a Forward,
    plan: &Plan<'_>,
    request: &R,
) -> Result<Choice<'a>, Reason> {
    let Balance::Cookie(cookie) = &forward.balance else {
        let key = plan::hash_key(&forward.balance, plan, request);
        let (backend, pool) = by_weight(worker, forward, key)?;
        return Ok(Choice { backend, pool, key, home: None, session: None });
    };
    let value = plan::cookie(request, &cookie.name).filter(|value| !value.is_empty());
    let token = value.and_then(Token::parse);
    let foreign = token.is_none() && value.is_some();
    let key = value.filter(|_| foreign).map(hash_key);
    let session = Some(Session { cookie, foreign });
    if let Some(token) = token.filter(|_| cookie.across_backends) {
        for backend in forward.backends.iter().filter(|backend| backend.weight > 0) {
            let Some(pool) = worker.upstreams.find(backend.pool) else { continue };
            if let Some(home) = pool.named(token) {
                return Ok(Choice { backend, pool, key, home: Some(home), session });
            }
        }
    }
    let (backend, pool) = by_weight(worker, forward, key.filter(|_| cookie.across_backends))?;
    let home = token.and_then(|token| pool.named(token));
    Ok(Choice { backend, pool, key, home, session })
}

/// The same key always chooses the same backend, as long as weights stay.
fn by_weight<'a>(
    worker: &Worker,
    forward: &'a Forward,
    key: Option<u64>,
) -> Result<(&'a Backend, Rc<PoolRuntime>), Reason> {
    // Mixed once more: within a backend, the key itself decides.
    let point = || key.map_or_else(|| worker.random(), |key| hash_key(&key.to_le_bytes()));
    let backend = plan::pick_backend(forward, point).ok_or(Reason::NoEndpoints)?;
    let pool = worker.upstreams.find(backend.pool).ok_or(Reason::NoEndpoints)?;
    Ok((backend, pool))
}

impl Choice<'_> {
    /// The cookie that a response of this endpoint sets; `None` where the client keeps what it has.
    pub(crate) fn cookie<R: Request>(&self, lease: &Lease, plan: &Plan<'_>, request: &R) -> Option<SetCookie> {
        let Session { cookie, foreign } = self.session.as_ref()?;
        let stays = match self.home {
            _ if *foreign => true,
            Some(home) => home == lease.id || !cookie.change_on_failure,
            None => false,
        };
        if stays {
            return None;
        }
        let mut user_agent: &[u8] = b"";
        request.each_value("user-agent", |value| user_agent = value);
        let is_https = plan.client.scheme == Scheme::Https;
        let line = render(cookie, lease.pool.token(lease)?, is_https, user_agent, SystemTime::now());
        Some(SetCookie { name: cookie.name.len(), line })
    }
}

/// Value of a `Set-Cookie` line.
pub(crate) struct SetCookie {
    /// Length of the name.
    name: usize,
    line: String,
}

impl SetCookie {
    pub(crate) fn line(&self) -> &[u8] {
        self.line.as_bytes()
    }

    /// Whether another `Set-Cookie` line sets the same cookie.
    pub(crate) fn is_named_like(&self, other: &[u8]) -> bool {
        let name = self.line.get(..self.name).unwrap_or_default();
        let at = other.iter().position(|byte| *byte == b'=');
        at.is_some_and(|at| other[..at].trim_ascii() == name.as_bytes())
    }
}

fn render(cookie: &AffinityCookie, token: Token, is_https: bool, user_agent: &[u8], now: SystemTime) -> String {
    let mut line = format!("{}={token}; Path={}", cookie.name, cookie.path);
    if let Some(domain) = &cookie.domain {
        line.push_str("; Domain=");
        line.push_str(domain);
    }
    if let Some(seconds) = cookie.max_age {
        line.push_str(&format!("; Max-Age={seconds}"));
    }
    if let Some(seconds) = cookie.expires {
        line.push_str(&format!("; Expires={}", date(now + Duration::from_secs(seconds.into()))));
    }
    if cookie.secure.unwrap_or(is_https) {
        line.push_str("; Secure");
    }
    line.push_str("; HttpOnly");
    let same_site = cookie.same_site.filter(|same_site| {
        *same_site != SameSite::None || !cookie.conditional_same_site_none || takes_none(user_agent)
    });
    if let Some(same_site) = same_site {
        line.push_str("; SameSite=");
        line.push_str(same_site.as_str());
    }
    line
}

/// IMF-fixdate (RFC 9110 section 5.6.7).
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Whether the browser knows `SameSite=None`; those that do not are told apart as ingress-nginx does.
fn takes_none(user_agent: &[u8]) -> bool {
    let agent = String::from_utf8_lossy(user_agent);
    let has = |text: &str| agent.contains(text);
    let old_chrome = ["Chrome/5", "Chrome/6"].into_iter().any(|start| {
        // Chrome/51 to Chrome/66; not Chrome/500.
        agent
            .split(start)
            .nth(1)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest[1..].starts_with('.'))
    });
    let old_ios = has("CPU iPhone OS 12") || has("iPad; CPU OS 12");
    let old_mac = has("Macintosh") && has("Intel Mac OS X 10_14") && has("Safari") && !has("Chrome");
    !(old_chrome || old_ios || old_mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_says_what_is_configured_and_no_more() {
        let token = Token::parse(b"0123456789abcdef0123456789abcdef").unwrap();
        let value = "R=0123456789abcdef0123456789abcdef";
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 60);
        let plain = || AffinityCookie::new("R");
        let none = || AffinityCookie {
            same_site: Some(SameSite::None),
            conditional_same_site_none: true,
            secure: Some(true),
            ..plain()
        };
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 12_0 like Mac OS X) Safari/605";
        for (cookie, is_https, agent, expected) in [
            (plain(), false, "", "; Path=/; HttpOnly"),
            (plain(), true, "", "; Path=/; Secure; HttpOnly"),
            (AffinityCookie { secure: Some(false), ..plain() }, true, "", "; Path=/; HttpOnly"),
            (
                AffinityCookie {
                    path: "/a".into(),
                    domain: Some("a.example".into()),
                    max_age: Some(5),
                    expires: Some(60),
                    same_site: Some(SameSite::Lax),
                    ..plain()
                },
                false,
                "",
                "; Path=/a; Domain=a.example; Max-Age=5; Expires=Sun, 06 Nov 1994 08:49:37 GMT; HttpOnly; SameSite=Lax",
            ),
            (none(), false, "Mozilla/5.0 Chrome/120.0", "; Path=/; Secure; HttpOnly; SameSite=None"),
            (none(), false, safari, "; Path=/; Secure; HttpOnly"),
            (
                AffinityCookie { conditional_same_site_none: false, ..none() },
                false,
                safari,
                "; Path=/; Secure; HttpOnly; SameSite=None",
            ),
        ] {
            assert_eq!(render(&cookie, token, is_https, agent.as_bytes(), now), format!("{value}{expected}"));
        }
    }

    #[test]
    fn browsers_that_misread_none_are_told_apart() {
        for (agent, takes) in [
            ("", true),
            ("Mozilla/5.0 Chrome/51.0.1 Safari/537", false),
            ("Mozilla/5.0 Chrome/66.0 Safari/537", false),
            ("Mozilla/5.0 Chrome/70.0 Safari/537", true),
            ("Mozilla/5.0 Chrome/500.0 Safari/537", true),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Version/12 Safari/605", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Chrome/80.0 Safari/605", true),
            ("Mozilla/5.0 (iPad; CPU OS 12_1 like Mac OS X) Safari/605", false),
        ] {
            assert_eq!(takes_none(agent.as_bytes()), takes, "{agent}");
        }
    }

    #[test]
    fn the_same_cookie_is_known_by_its_whole_name() {
        let set = SetCookie { name: 1, line: "R=x; Path=/".to_owned() };
        for (other, same) in
            [("R=1", true), (" R =1", true), ("R2=1", false), ("r=1", false), ("a=R=1", false), ("R", false)]
        {
            assert_eq!(set.is_named_like(other.as_bytes()), same, "{other}");
        }
    }
}
