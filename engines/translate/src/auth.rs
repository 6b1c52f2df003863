//! Who may come in, as the annotations of an Ingress say: an auth server, passwords, or both.
//!
//! Every doubt closes the path: a value that cannot be used, a Secret or ConfigMap that is missing or broken.

mod names;
mod sources;
mod url;

use headwater_model::finding::Finding;
use headwater_model::gateway::{Auth, BasicAuth, ForwardAuth, HostPattern, PoolId, Template};

pub(crate) use names::{AuthAnnotations, is_name, misplaced, references};
pub(crate) use sources::Sources;
pub(crate) use url::{Server, parse as parse_url};

use names::Found;

/// Reason of the refusal of a rule whose auth cannot be used.
pub(crate) const INVALID_AUTH: &str = "invalid_auth";

/// The path refuses everybody; why has been told.
#[derive(Debug)]
pub(crate) struct Closed;

/// What a path asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// `pool` is for [`Wanted::with_pool`] to fill in.
    forward: Option<(Server, ForwardAuth)>,
    basic: Option<BasicAuth>,
}

impl Wanted {
    /// `acquire` makes, or finds, the pool of a server.
    pub(crate) fn with_pool(self, acquire: impl FnOnce(&Server) -> PoolId) -> (Auth, Option<PoolId>) {
        let forward = self.forward.map(|(server, forward)| ForwardAuth { pool: acquire(&server), ..forward });
        let pool = forward.as_ref().map(|forward| forward.pool);
        (Auth { access: None, forward, basic: self.basic }, pool)
    }
}

/// What a path of `host` asks for.
pub(crate) fn resolve(
    annotations: &AuthAnnotations,
    host: &HostPattern,
    sources: &Sources<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Option<Wanted>, Closed> {
    if annotations.is_empty() {
        return Ok(None);
    }
    if annotations.misplaced {
        return Err(Closed);
    }
    let mut reader = Reader { annotations, sources, findings };
    if reader.boolean("auth-enable")? == Some(false) {
        return Ok(None);
    }
    // Both are read, so that everything that is wrong is told at once.
    let basic = reader.basic();
    let forward = reader.forward(host);
    let (basic, forward) = (basic?, forward?);
    if basic.is_none() && forward.is_none() {
        return Ok(None);
    }
    Ok(Some(Wanted { forward, basic }))
}

/// Lines that only the gateway writes, or that frame a message; `_` is not in them.
const OURS: [&str; 29] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "connection",
    "content-length",
    "expect",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "host",
    "keep-alive",
    "proxy",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
];
const OURS_TOO: [&str; 3] = ["x-forwarded-port", "x-forwarded-proto", "x-forwarded-scheme"];

fn is_ours(name: &str) -> bool {
    let name = name.replace('_', "-");
    OURS.contains(&&*name) || OURS_TOO.contains(&&*name)
}

/// Most headers that an auth server is sent, or that are taken from its answer.
const MAX_HEADERS: usize = 64;

struct Reader<'a, 'b> {
    annotations: &'a AuthAnnotations,
    sources: &'a Sources<'b>,
    findings: &'a mut Vec<Finding>,
}

impl<'a> Reader<'a, '_> {
    fn find(&self, name: &str) -> Option<Found<'a>> {
        self.annotations.find(name)
    }

    /// The value cannot be used.
    fn wrong(&mut self, found: Found<'_>, expected: impl std::fmt::Display) -> Closed {
        let shown: String = found.value.chars().take(100).collect();
        let message = format!("{shown:?} is not {expected}; requests get 503 {INVALID_AUTH}");
        self.tell(Finding::error("InvalidValue", self.sources.key.clone(), message), found);
        Closed
    }

    /// What it names cannot be used.
    fn broken(&mut self, found: Found<'_>, reason: &'static str, message: impl std::fmt::Display) -> Closed {
        let message = format!("{message}; requests get 503 {INVALID_AUTH}");
        self.tell(Finding::error(reason, self.sources.key.clone(), message), found);
        Closed
    }

    fn tell(&mut self, finding: Finding, found: Found<'_>) {
        let finding = finding.at(found.field);
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>, Closed> {
        let Some(found) = self.find(name) else { return Ok(None) };
        match crate::annotations::parse_bool(found.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(found, "true or false")),
        }
    }

    fn template(&mut self, name: &str) -> Result<Option<Template>, Closed> {
        let Some(found) = self.find(name) else { return Ok(None) };
        match Template::parse(found.value.trim()) {
            Ok(template) => Ok(Some(template)),
            Err(error) => Err(self.wrong(found, format_args!("usable: {error}"))),
        }
    }

    fn basic(&mut self) -> Result<Option<BasicAuth>, Closed> {
        let secret = self.find("auth-secret");
        let Some(kind) = self.find("auth-type") else {
            return match secret {
                None => Ok(None),
                Some(found) => {
                    let message = "without auth-type it is not known whether passwords are to be asked for";
                    Err(self.broken(found, "InvalidValue", message))
                }
            };
        };
        if kind.value.trim() != "basic" {
            return Err(self.wrong(kind, "basic, the only auth-type there is"));
        }
        let realm = match self.find("auth-realm") {
            None => "Authentication Required",
            Some(found) => {
                let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\';
                let realm = found.value.trim();
                if realm.len() > 256 || !realm.bytes().all(plain) {
                    return Err(self.wrong(found, "at most 256 visible ASCII characters without \" and \\"));
                }
                realm
            }
        };
        let map = match self.find("auth-secret-type") {
            None => false,
            Some(found) => match found.value.trim() {
                "auth-file" => false,
                "auth-map" => true,
                _ => return Err(self.wrong(found, "auth-file or auth-map")),
            },
        };
        let Some(secret) = secret else {
            return Err(self.broken(kind, "InvalidValue", "auth-type needs auth-secret, which is missing"));
        };
        let id = self.reference(secret)?;
        match self.sources.users(&id, map) {
            Ok(users) => Ok(Some(BasicAuth { realm: realm.into(), users })),
            Err(error) => {
                let reason = if error.is_missing() { "MissingReference" } else { "InvalidSecret" };
                Err(self.broken(secret, reason, format_args!("Secret {id} {error}")))
            }
        }
    }

    /// A name of the Ingress's own namespace: what lies in others is others' to share.
    fn reference(&mut self, found: Found<'_>) -> Result<headwater_model::origin::NamespacedName, Closed> {
        self.annotations.reference(&self.sources.key.id.namespace, found.value).ok_or_else(|| {
            let expected =
                format!("a name in namespace {}, or that namespace, / and a name", self.sources.key.id.namespace);
            self.wrong(found, expected)
        })
    }

    fn forward(&mut self, host: &HostPattern) -> Result<Option<(Server, ForwardAuth)>, Closed> {
        let Some(found) = self.find("auth-url") else {
            let idle = ["auth-signin", "auth-method", "auth-response-headers", "auth-proxy-set-headers"];
            let annotations = self.annotations;
            for found in idle.into_iter().filter_map(|name| annotations.find(name)) {
                let message = "has no effect without auth-url: requests are NOT held by it";
                self.tell(Finding::warning("NoEffect", self.sources.key.clone(), message), found);
            }
            return Ok(None);
        };
        let url = match url::parse(found.value.trim(), host) {
            Ok(url) => url,
            Err(why) => return Err(self.wrong(found, format_args!("usable: {why}"))),
        };
        let method = match self.find("auth-method") {
            None => "GET",
            Some(found) => match found.value.trim() {
                method @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => method,
                _ => return Err(self.wrong(found, "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")),
            },
        };
        let response_headers = self.response_headers()?;
        let headers = self.proxy_set_headers()?;
        let redirect = self.template("auth-request-redirect")?;
        let signin = self.signin()?;
        let always_set_cookie = self.boolean("auth-always-set-cookie")?.unwrap_or(false);
        let forward = ForwardAuth {
            pool: PoolId(u32::MAX),
            method: method.into(),
            authority: url.authority,
            target: url.target,
            headers,
            redirect,
            response_headers,
            signin,
            always_set_cookie,
        };
        Ok(Some((url.server, forward)))
    }

    fn response_headers(&mut self) -> Result<Vec<Box<str>>, Closed> {
        let Some(found) = self.find("auth-response-headers") else { return Ok(Vec::new()) };
        let mut headers: Vec<Box<str>> = Vec::new();
        for name in found.value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = name.to_ascii_lowercase();
            if !is_token(&name) || headers.len() == MAX_HEADERS {
                return Err(self.wrong(found, format_args!("a list of at most {MAX_HEADERS} header names")));
            }
            if is_ours(&name) {
                self.leave_out(found, &name);
            } else if !headers.contains(&name.as_str().into()) {
                headers.push(name.into());
            }
        }
        Ok(headers)
    }

    fn leave_out(&mut self, found: Found<'_>, name: &str) {
        let message = format!("{name} is the gateway's to write; it is left out");
        self.tell(Finding::warning("NoEffect", self.sources.key.clone(), message), found);
    }

    fn proxy_set_headers(&mut self) -> Result<Vec<(Box<str>, Template)>, Closed> {
        let Some(found) = self.find("auth-proxy-set-headers") else { return Ok(Vec::new()) };
        let id = self.reference(found)?;
        let Some(data) = self.sources.config_map(&id) else {
            return match self.sources.reads {
                true => Err(self.broken(found, "MissingReference", format_args!("ConfigMap {id} does not exist"))),
                false => Ok(Vec::new()),
            };
        };
        let mut headers: Vec<(Box<str>, Template)> = Vec::new();
        for (name, value) in data {
            let lower = name.to_ascii_lowercase();
            let same = |known: &str| known.replace('_', "-") == lower.replace('_', "-");
            if !is_token(&lower) || headers.iter().any(|(known, _)| same(known)) || headers.len() == MAX_HEADERS {
                let message = format!(
                    "ConfigMap {id}: {name:?} is not a header name, or one that is there already, or one of more than {MAX_HEADERS}"
                );
                return Err(self.broken(found, "InvalidConfigMap", message));
            }
            if is_ours(&lower) {
                self.leave_out(found, &lower);
                continue;
            }
            match Template::parse(value.trim()) {
                Ok(template) => headers.push((lower.into(), template)),
                Err(error) => {
                    let message = format!("ConfigMap {id}: {name}: {error}");
                    return Err(self.broken(found, "InvalidConfigMap", message));
                }
            }
        }
        Ok(headers)
    }

    fn signin(&mut self) -> Result<Option<Template>, Closed> {
        let Some(found) = self.find("auth-signin") else { return Ok(None) };
        let parameter = match self.find("auth-signin-redirect-param") {
            None => "rd",
            Some(found) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
                let name = found.value.trim();
                if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                    return Err(self.wrong(found, "the name of a parameter of a URL"));
                }
                name
            }
        };
        let text = url::with_return(found.value.trim(), parameter);
        match Template::parse(&text) {
            Ok(template) if !found.value.trim().is_empty() => Ok(Some(template)),
            Ok(_) => Err(self.wrong(found, "a URL")),
            Err(error) => Err(self.wrong(found, format_args!("usable: {error}"))),
        }
    }
}

fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_gateways_own_lines_are_told_in_any_spelling() {
        for (name, ours) in [
            ("host", true),
            ("x-real-ip", true),
            ("x_real_ip", true),
            ("x-forwarded-proto", true),
            ("x-forwarded-user", false),
            ("x-auth-request-user", false),
            ("authorization", false),
        ] {
            assert_eq!(is_ours(name), ours, "{name}");
        }
    }
}
