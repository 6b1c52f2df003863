//! Annotations about which endpoint a request goes to, and who stays with one.

use headwater_model::alb::config::ServiceGroup;
use headwater_model::finding::Finding;
use headwater_model::gateway::{
    AffinityCookie, Balance, Fill, HashKey, Part, PathMatch, SameSite, Template, Variable, is_cookie_name,
};

use crate::alb;
use crate::annotation_names::PREFIX;
use crate::annotations::parse_bool;
use crate::filters::Reader;
use crate::host::is_name;

/// Names that are read here.
pub(crate) const READ: [&str; 16] = [
    "affinity",
    "affinity-canary-behavior",
    "affinity-mode",
    "load-balance",
    "session-affinity-attribute",
    "session-affinity-policy",
    "session-cookie-change-on-failure",
    "session-cookie-conditional-samesite-none",
    "session-cookie-domain",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-name",
    "session-cookie-path",
    "session-cookie-samesite",
    "session-cookie-secure",
    "upstream-hash-by",
];

/// The cookie's name where none is written.
const COOKIE: &str = "INGRESSCOOKIE";

/// How the endpoints of an Ingress are chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Balancing {
    balance: Option<Balance>,
    /// Whether the cookie is for the path of each rule.
    by_path: bool,
}

impl Balancing {
    /// For the rule of a path.
    pub(crate) fn of(&self, path: &PathMatch, default: &Balance) -> Balance {
        let mut balance = self.balance.as_ref().unwrap_or(default).clone();
        if let Balance::Cookie(cookie) = &mut balance
            && self.by_path
            && let PathMatch::Exact(path) | PathMatch::Prefix(path) = path
            && is_cookie_path(path)
        {
            cookie.path = path.clone();
        }
        balance
    }
}

/// `load-balance` of annotations and of the ConfigMap.
pub(crate) fn load_balance(value: &str) -> Option<Balance> {
    match value.trim() {
        "round_robin" => Some(Balance::RoundRobin),
        "ewma" => Some(Balance::PeakEwma),
        _ => None,
    }
}

/// ALB's policy, else the cookie, else what is hashed, else how to balance.
pub(crate) fn read(reader: &mut Reader<'_, '_>) -> Balancing {
    let plain = reader.parsed("load-balance", "round_robin or ewma", load_balance);
    let hashed = hash_by(reader);
    let (cookie, by_path) = cookie(reader);
    let policy = policy(reader);
    let by_path = by_path && policy.is_none();
    Balancing { balance: policy.or(cookie).or(hashed).or(plain), by_path }
}

/// ALB's `session-affinity-policy`, which ingress-nginx does not have.
fn policy(reader: &mut Reader<'_, '_>) -> Option<Balance> {
    let own = |name: &str| reader.get(name).filter(|said| !said.full_name.starts_with(PREFIX));
    let said = own("session-affinity-policy")?;
    let attribute = own("session-affinity-attribute").map_or("", |said| said.value).trim();
    let policy = said.value.trim();
    let group = ServiceGroup {
        session_affinity_policy: policy.to_owned(),
        session_affinity_attribute: attribute.to_owned(),
        ..ServiceGroup::default()
    };
    let known =
        matches!(policy, "" | "rr" | "sip-hash" | "cookie" | "ewma") || policy == "header" && !attribute.is_empty();
    if !known {
        let expected = "rr, sip-hash, cookie, ewma, or header with its name in session-affinity-attribute";
        reader.invalid(said, expected, "endpoints have their turns");
    }
    match alb::balance(&group.affinity()) {
        Ok(balance) => Some(balance),
        Err(wrong) => {
            let object = reader.object.clone();
            let message = format!("session-affinity-attribute: {wrong}; endpoints have their turns");
            reader.find(said, Finding::error("InvalidValue", object, message));
            Some(Balance::RoundRobin)
        }
    }
}

fn hash_by(reader: &mut Reader<'_, '_>) -> Option<Balance> {
    let said = reader.get("upstream-hash-by").filter(|said| !said.value.trim().is_empty())?;
    // The address in another form.
    let text = said.value.trim().replace("binary_remote_addr", "remote_addr");
    let template = match Template::parse(&text) {
        Ok(template) => template,
        Err(wrong) => {
            let object = reader.object.clone();
            let shown: String = said.value.chars().take(100).collect();
            let message = format!("{shown:?} cannot be hashed: {wrong}; the default balancing is used");
            let mend = "use variables such as $request_uri, $host or $cookie_NAME; the client is $remote_addr";
            reader.find(said, Finding::error("InvalidValue", object, message).mend(mend));
            return None;
        }
    };
    let varies = |part: &Part| matches!(part, Part::Variable(Fill::Request(_) | Fill::EscapedTarget));
    if !template.parts().iter().any(varies) {
        reader.invalid(
            said,
            "text with a variable of the request such as $request_uri",
            "the default balancing is used",
        );
        return None;
    }
    let key = match template.parts() {
        [Part::Variable(Fill::Request(Variable::Client))] => HashKey::Client,
        [Part::Variable(Fill::Request(Variable::Header(name)))] => HashKey::Header(name.clone()),
        [Part::Variable(Fill::Request(Variable::Cookie(name)))] => HashKey::Cookie(name.clone()),
        _ => HashKey::Template(template),
    };
    Some(Balance::Hash(key))
}

/// With whether its path is that of each rule.
fn cookie(reader: &mut Reader<'_, '_>) -> (Option<Balance>, bool) {
    let wanted = reader.parsed("affinity", "cookie", |text| match text {
        "" => Some(false),
        "cookie" => Some(true),
        _ => None,
    });
    if wanted != Some(true) {
        return (None, false);
    }
    // Both modes keep a session with its endpoint for as long as there is one.
    let mode = |text: &str| matches!(text, "balanced" | "persistent").then_some(());
    reader.parsed("affinity-mode", "balanced or persistent", mode);
    let name = reader.parsed("session-cookie-name", "a cookie's name", |text| is_cookie_name(text).then_some(text));
    let seconds = "a number of seconds";
    let number = |text: &str| text.parse::<u32>().ok();
    let mut cookie = AffinityCookie::new(name.unwrap_or(COOKIE));
    cookie.max_age = reader.parsed("session-cookie-max-age", seconds, number);
    cookie.expires = reader.parsed("session-cookie-expires", seconds, number);
    let path = reader.parsed("session-cookie-path", "a path", |text| is_cookie_path(text).then_some(text));
    let by_path = path.is_none();
    if let Some(path) = path {
        cookie.path = path.into();
    }
    let domain = |text: &str| {
        let name = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
        is_name(&name).then(|| name.into())
    };
    cookie.domain = reader.parsed("session-cookie-domain", "a host name", domain);
    cookie.same_site = reader.parsed("session-cookie-samesite", "Strict, Lax or None", |text| {
        [SameSite::Strict, SameSite::Lax, SameSite::None]
            .into_iter()
            .find(|one| one.as_str().eq_ignore_ascii_case(text))
    });
    let boolean = "true or false";
    cookie.secure = reader.parsed("session-cookie-secure", boolean, parse_bool);
    cookie.conditional_same_site_none =
        reader.parsed("session-cookie-conditional-samesite-none", boolean, parse_bool).unwrap_or(false);
    cookie.change_on_failure = reader.parsed("session-cookie-change-on-failure", boolean, parse_bool).unwrap_or(false);
    cookie.across_backends = reader
        .parsed("affinity-canary-behavior", "sticky or legacy", |text| match text {
            "" | "sticky" => Some(true),
            "legacy" => Some(false),
            _ => None,
        })
        .unwrap_or(true);
    (Some(Balance::Cookie(Box::new(cookie))), by_path)
}

fn is_cookie_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headwater_model::origin::{Kind, ObjectKey};

    use super::*;
    use crate::lookup::Lookup;

    /// The balancing for `/a`, and reasons of findings.
    fn balance(pairs: &[(&str, &str)]) -> (Option<Balance>, Vec<&'static str>) {
        let full = |name: &str| if name.contains('/') { name.to_owned() } else { format!("{PREFIX}{name}") };
        let pairs: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| (full(name), (*value).to_owned())).collect();
        let object = ObjectKey::new(Kind::Ingress, "shop", "web");
        let mut findings = Vec::new();
        let lookup = Lookup::new(&pairs, "cpaas.io", None);
        let balancing = read(&mut Reader { object: &object, lookup: &lookup, findings: &mut findings });
        let of = balancing.of(&PathMatch::Prefix("/a".into()), &Balance::LeastRequest);
        (Some(of).filter(|of| *of != Balance::LeastRequest), findings.iter().map(|finding| finding.reason).collect())
    }

    #[test]
    fn what_is_hashed_may_be_made_of_variables() {
        let header = |name: &str| Some(HashKey::Header(name.into()));
        let template = |text: &str| Some(HashKey::Template(Template::parse(text).unwrap()));
        for (value, key) in [
            ("$remote_addr", Some(HashKey::Client)),
            ("${binary_remote_addr}", Some(HashKey::Client)),
            ("$http_x_user", header("x-user")),
            ("$cookie_Session", Some(HashKey::Cookie("Session".into()))),
            ("$request_uri", template("$request_uri")),
            ("$host$http_x:$cookie_y", template("$host$http_x:$cookie_y")),
            ("$http_x_forwarded_for", None),
            ("$msec", None),
            ("constant", None),
            ("$upstream_addr", None),
        ] {
            let (balance, findings) = balance(&[("upstream-hash-by", value)]);
            assert_eq!(balance, key.clone().map(Balance::Hash), "{value}");
            assert_eq!(findings.len(), usize::from(key.is_none()), "{value}");
        }
    }

    #[test]
    fn the_closest_to_a_session_wins() {
        let named = |name: &str, path: &str| {
            Some(Balance::Cookie(Box::new(AffinityCookie { path: path.into(), ..AffinityCookie::new(name) })))
        };
        let policy = "alb.ingress.cpaas.io/session-affinity-policy";
        let attribute = "alb.ingress.cpaas.io/session-affinity-attribute";
        let all = [("affinity", "cookie"), ("upstream-hash-by", "$host"), ("load-balance", "ewma")];
        assert_eq!(balance(&all).0, named("INGRESSCOOKIE", "/a"));
        assert_eq!(balance(&all[2..]).0, Some(Balance::PeakEwma));
        assert!(matches!(balance(&all[1..]).0, Some(Balance::Hash(HashKey::Template(_)))));
        assert_eq!(balance(&[all[0], (policy, "rr")]).0, Some(Balance::RoundRobin));
        assert_eq!(balance(&[(policy, "cookie")]).0, named("JSESSIONID", "/"));
        assert_eq!(balance(&[(policy, "cookie"), (attribute, "sid")]).0, named("sid", "/"));
        assert_eq!(balance(&[(policy, "sip-hash")]).0, Some(Balance::Hash(HashKey::Client)));
        let header = balance(&[(policy, "header"), (attribute, "X-User")]);
        assert_eq!(header, (Some(Balance::Hash(HashKey::Header("x-user".into()))), vec![]));
        for wrong in [&[(policy, "header")][..], &[(policy, "least")], &[(policy, "cookie"), (attribute, "a;b")]] {
            assert_eq!(balance(wrong), (Some(Balance::RoundRobin), vec!["InvalidValue"]), "{wrong:?}");
        }
    }

    #[test]
    fn a_cookie_is_made_as_it_is_described_and_never_of_wrong_values() {
        let (cookie, findings) = balance(&[
            ("affinity", "cookie"),
            ("affinity-mode", "persistent"),
            ("affinity-canary-behavior", "legacy"),
            ("session-cookie-name", "route"),
            ("session-cookie-path", "/x"),
            ("session-cookie-domain", ".Example.com"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-expires", "61"),
            ("session-cookie-samesite", "None"),
            ("session-cookie-conditional-samesite-none", "true"),
            ("session-cookie-secure", "true"),
            ("session-cookie-change-on-failure", "true"),
        ]);
        let expected = AffinityCookie {
            name: "route".into(),
            path: "/x".into(),
            domain: Some("example.com".into()),
            max_age: Some(60),
            expires: Some(61),
            same_site: Some(SameSite::None),
            conditional_same_site_none: true,
            secure: Some(true),
            change_on_failure: true,
            across_backends: false,
        };
        assert_eq!((cookie, findings), (Some(Balance::Cookie(Box::new(expected))), vec![]));
        let plain = AffinityCookie { path: "/a".into(), ..AffinityCookie::new("INGRESSCOOKIE") };
        for wrong in [
            ("affinity-mode", "sticky"),
            ("session-cookie-name", "a b"),
            ("session-cookie-path", "/x; Domain=evil.test"),
            ("session-cookie-path", "x"),
            ("session-cookie-domain", "a.test; Secure"),
            ("session-cookie-max-age", "1; x"),
            ("session-cookie-samesite", "Some"),
            ("session-cookie-secure", "yes"),
        ] {
            let (cookie, findings) = balance(&[("affinity", "cookie"), wrong]);
            assert_eq!(cookie, Some(Balance::Cookie(Box::new(plain.clone()))), "{wrong:?}");
            assert_eq!(findings, ["InvalidValue"], "{wrong:?}");
        }
        assert_eq!(balance(&[("affinity", "ip"), ("session-cookie-name", "x")]), (None, vec!["InvalidValue"]));
    }
}
