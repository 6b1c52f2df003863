//! Who may come in: passwords, auth servers, and the texts that are filled in for each request.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{PoolId, Variable};

/// What a request must pass before it is forwarded: the access list, the auth server, then the password, each where
/// there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Auth {
    pub access: Option<AccessList>,
    pub forward: Option<ForwardAuth>,
    pub basic: Option<BasicAuth>,
}

/// Which clients `R` are let in; decided by the address alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccessList {
    /// Never let in, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// Nobody else is let in; empty: everybody.
    pub allow: Vec<IpNet>,
}

impl AccessList {
    /// Whether the client is let in. An IPv4 address in IPv6 clothes is compared as what it is.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// A server is asked about each request (nginx `auth_request`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForwardAuth {
    /// The server. Spoken to in HTTP/1.1.
    pub pool: PoolId,
    /// `GET` and so on, upper case.
    pub method: Box<str>,
    /// `Host` towards the server.
    pub authority: Box<str>,
    /// Path and query towards the server.
    pub target: Template,
    /// Lines of the question, in place of the client's own. Names in lower case. A line of which a variable is absent is
    /// left out.
    pub headers: Vec<(Box<str>, Template)>,
    /// `X-Auth-Request-Redirect` of the question; `None`: path and query as received.
    pub redirect: Option<Template>,
    /// Lines of the answer that the endpoint gets, in place of the client's own. Names in lower case.
    pub response_headers: Vec<Box<str>>,
    /// Where a request goes that the server answers with 401; `None`: the client gets the 401.
    pub signin: Option<Template>,
    /// Whether the server's cookies are set whatever becomes of the request.
    pub always_set_cookie: bool,
}

/// A password is asked for (RFC 7617).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BasicAuth {
    /// Visible ASCII and spaces, without `"` and `\`.
    pub realm: Box<str>,
    pub users: Arc<Users>,
}

/// Names and hashed passwords; never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<Box<str>, PasswordHash>);

/// Most users of one list.
pub const MAX_USERS: usize = 10_000;

/// Why a list of users cannot be used. Nothing of it is quoted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UsersError {
    #[error("has no user")]
    Empty,
    #[error("has more than {MAX_USERS} users")]
    TooMany,
    #[error("is not UTF-8")]
    NotText,
    #[error("line {0} is not \"user:hash\"")]
    Line(usize),
    #[error("line {0} has a user of an earlier line")]
    Repeated(usize),
    #[error("{place} {number} has a hash that cannot be used: {why}")]
    Hash { place: &'static str, number: usize, why: HashError },
}

impl Users {
    /// Reads lines `user:hash`, as `htpasswd` writes them; empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// [`UsersError`]; one wrong line makes the whole list unusable.
    pub fn parse_lines(bytes: &[u8]) -> Result<Self, UsersError> {
        let text = std::str::from_utf8(bytes).map_err(|_| UsersError::NotText)?;
        let mut users = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, rest) = line.split_once(':').ok_or(UsersError::Line(number))?;
            // Behind a second colon nginx has a comment.
            let hash = rest.split(':').next().unwrap_or_default().trim_end();
            if user.is_empty() {
                return Err(UsersError::Line(number));
            }
            let hash = PasswordHash::parse(hash).map_err(|why| UsersError::Hash { place: "line", number, why })?;
            if users.insert(user.into(), hash).is_some() {
                return Err(UsersError::Repeated(number));
            }
        }
        Self::of(users)
    }

    /// Reads one hash for each user.
    ///
    /// # Errors
    /// [`UsersError`]; one wrong hash makes the whole list unusable.
    pub fn parse_entries<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, UsersError> {
        let mut users = BTreeMap::new();
        for (number, (user, hash)) in (1..).zip(entries) {
            let hash = std::str::from_utf8(hash).map_err(|_| UsersError::NotText)?;
            let hash =
                PasswordHash::parse(hash.trim_end()).map_err(|why| UsersError::Hash { place: "entry", number, why })?;
            users.insert(user.into(), hash);
        }
        Self::of(users)
    }

    fn of(users: BTreeMap<Box<str>, PasswordHash>) -> Result<Self, UsersError> {
        match users.len() {
            0 => Err(UsersError::Empty),
            1..=MAX_USERS => Ok(Self(users)),
            _ => Err(UsersError::TooMany),
        }
    }

    /// The hash of a user's password.
    pub fn find(&self, user: &str) -> Option<&PasswordHash> {
        self.0.get(user)
    }

    /// Some hash of the list: checked in place of one that is missing, names cannot be guessed by the time it takes.
    pub fn any(&self) -> Option<&PasswordHash> {
        self.0.values().next()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Serialize for Users {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} users, redacted", self.len()))
    }
}

/// A hashed password as `crypt(3)` and `htpasswd` write it, well formed; never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// `$apr1$` (Apache) and `$1$`: MD5, 1000 rounds.
    Md5 { apache: bool, salt: Box<str>, digest: Box<str> },
    /// `$5$`.
    Sha256 { rounds: u32, salt: Box<str>, digest: Box<str> },
    /// `$6$`.
    Sha512 { rounds: u32, salt: Box<str>, digest: Box<str> },
    /// `$2y$`, `$2b$`, `$2a$`, the whole text.
    Bcrypt(Box<str>),
    /// `{SHA}`: SHA-1 without salt, in base64.
    Sha1(Box<str>),
}

/// Why a text is not a hash that passwords can be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HashError {
    #[error("its kind is none of $apr1$, $1$, $2y$, $2b$, $2a$, $5$, $6$ and {{SHA}}")]
    Kind,
    #[error("it is not complete, or has characters that hashes of its kind do not have")]
    Form,
    #[error(
        "checking it takes too long (bcrypt has cost 4 to {MAX_BCRYPT_COST} here, SHA-crypt 1000 to {MAX_SHA_ROUNDS} rounds)"
    )]
    Cost,
}

/// About a second on one core.
pub const MAX_BCRYPT_COST: u32 = 14;
/// About a second on one core.
pub const MAX_SHA_ROUNDS: u32 = 1_000_000;

impl PasswordHash {
    /// Reads one hash.
    ///
    /// # Errors
    /// [`HashError`], without anything of the text.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        if let Some(digest) = text.strip_prefix("{SHA}") {
            // 20 bytes in base64.
            let (body, end) = digest.split_at_checked(27).ok_or(HashError::Form)?;
            let plain = body.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
            return if plain && end == "=" { Ok(Self::Sha1(digest.into())) } else { Err(HashError::Form) };
        }
        let rest = text.strip_prefix('$').ok_or(HashError::Kind)?;
        let (kind, rest) = rest.split_once('$').ok_or(HashError::Kind)?;
        match kind {
            "apr1" | "1" => {
                let (salt, digest) = salted(rest, 8, 22)?;
                Ok(Self::Md5 { apache: kind == "apr1", salt, digest })
            }
            "2y" | "2b" | "2a" => {
                let (cost, tail) = rest.split_once('$').ok_or(HashError::Form)?;
                if tail.len() != 53 || !is_crypt_text(tail) || cost.len() != 2 {
                    return Err(HashError::Form);
                }
                let cost: u32 = cost.parse().map_err(|_| HashError::Form)?;
                if !(4..=MAX_BCRYPT_COST).contains(&cost) {
                    return Err(HashError::Cost);
                }
                Ok(Self::Bcrypt(text.into()))
            }
            "5" | "6" => {
                let (rounds, rest) = match rest.strip_prefix("rounds=") {
                    Some(rest) => {
                        let (rounds, rest) = rest.split_once('$').ok_or(HashError::Form)?;
                        let rounds: u32 = rounds.parse().map_err(|_| HashError::Form)?;
                        (rounds, rest)
                    }
                    None => (5000, rest),
                };
                let (salt, digest) = salted(rest, 16, if kind == "5" { 43 } else { 86 })?;
                if !(1000..=MAX_SHA_ROUNDS).contains(&rounds) {
                    return Err(HashError::Cost);
                }
                Ok(match kind {
                    "5" => Self::Sha256 { rounds, salt, digest },
                    _ => Self::Sha512 { rounds, salt, digest },
                })
            }
            _ => Err(HashError::Kind),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// `salt$digest` with a salt of at most `salt_len` bytes.
fn salted(text: &str, salt_len: usize, digest_len: usize) -> Result<(Box<str>, Box<str>), HashError> {
    let (salt, digest) = text.split_once('$').ok_or(HashError::Form)?;
    let sane = salt.len() <= salt_len
        && salt.bytes().all(|byte| byte.is_ascii_graphic())
        && digest.len() == digest_len
        && is_crypt_text(digest);
    if sane { Ok((salt.into(), digest.into())) } else { Err(HashError::Form) }
}

fn is_crypt_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'))
}

/// Text with variables of the request in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(Box<str>),
    Variable(Fill),
}

/// What a variable of a [`Template`] is filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fill {
    Request(Variable),
    /// `escaped_request_uri`: path and query as received, percent-encoded but for unreserved characters.
    EscapedTarget,
    /// `msec`: seconds since the epoch, with three decimals.
    Now,
}

/// Longest text of a template, in bytes.
pub const MAX_TEMPLATE: usize = 8 << 10;

/// Why a text cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TemplateError {
    #[error("${0} is not a variable that is known here")]
    Unknown(String),
    #[error("a \"$\" is not followed by the name of a variable")]
    NoName,
    #[error("it has characters that are not visible ASCII")]
    Control,
    #[error("it is longer than {MAX_TEMPLATE} bytes")]
    TooLong,
}

impl Template {
    /// Reads text with `$name` and `${name}` in it; names are letters, digits and `_`.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(TemplateError::Control);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let braced = after.strip_prefix('{');
            let from = braced.unwrap_or(after);
            let length = from.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            let (name, behind) = from.split_at(length);
            rest = match braced {
                Some(_) => behind.strip_prefix('}').ok_or(TemplateError::NoName)?,
                None => behind,
            };
            if name.is_empty() {
                return Err(TemplateError::NoName);
            }
            let fill = Fill::parse(name).ok_or_else(|| TemplateError::Unknown(name.chars().take(64).collect()))?;
            parts.push(Part::Variable(fill));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self(parts))
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl Fill {
    /// ingress-nginx's own names stand for those of nginx that they are set from.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "escaped_request_uri" => Self::EscapedTarget,
            "msec" => Self::Now,
            "pass_access_scheme" => Self::Request(Variable::Scheme),
            "best_http_host" => Self::Request(Variable::Authority),
            "the_real_ip" => Self::Request(Variable::Client),
            "pass_server_port" | "pass_port" => Self::Request(Variable::ServerPort),
            "req_id" => Self::Request(Variable::RequestId),
            _ => Self::Request(Variable::parse(name)?),
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Variable(Fill::Request(variable)) => write!(f, "${{{variable}}}")?,
                Part::Variable(Fill::EscapedTarget) => f.write_str("${escaped_request_uri}")?,
                Part::Variable(Fill::Now) => f.write_str("${msec}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_denied_stays_out_and_where_some_are_allowed_nobody_else_comes_in() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        for (deny, allow, client, admitted) in [
            (&["10.0.0.0/8"][..], &[][..], "10.1.2.3", false),
            (&["10.0.0.0/8"], &[], "11.1.2.3", true),
            (&[], &["10.0.0.0/8"], "10.1.2.3", true),
            (&[], &["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&[], &["10.0.0.0/8"], "2001:db8::1", false),
            (&[], &["2001:db8::/32", "192.0.2.1/32"], "2001:db8::1", true),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.1.2.3", false),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.2.2.3", true),
        ] {
            let list = AccessList { deny: networks(deny), allow: networks(allow) };
            assert_eq!(list.admits(client.parse().unwrap()), admitted, "{deny:?} {allow:?} {client}");
        }
    }

    #[test]
    fn hashes_are_told_by_their_kind_and_form() {
        let a = |n: usize| "a".repeat(n);
        for (text, expected) in [
            (format!("$apr1$salt${}", a(22)), None),
            (format!("$1$salt${}", a(22)), None),
            (format!("$apr1$saltsalts${}", a(22)), Some(HashError::Form)),
            (format!("$apr1$salt${}", a(21)), Some(HashError::Form)),
            (format!("$apr1$salt${}!", a(21)), Some(HashError::Form)),
            (format!("$2y$05${}", a(53)), None),
            (format!("$2b$14${}", a(53)), None),
            (format!("$2b$15${}", a(53)), Some(HashError::Cost)),
            (format!("$2b$03${}", a(53)), Some(HashError::Cost)),
            (format!("$2b$05${}", a(52)), Some(HashError::Form)),
            (format!("$2x$05${}", a(53)), Some(HashError::Kind)),
            (format!("$5$salt${}", a(43)), None),
            (format!("$6$salt${}", a(86)), None),
            (format!("$6$rounds=10000$salt${}", a(86)), None),
            (format!("$6$rounds=1000001$salt${}", a(86)), Some(HashError::Cost)),
            (format!("$6$rounds=999$salt${}", a(86)), Some(HashError::Cost)),
            (format!("$6$rounds=x$salt${}", a(86)), Some(HashError::Form)),
            (format!("$6$salt${}", a(43)), Some(HashError::Form)),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), None),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g".to_owned(), Some(HashError::Form)),
            ("{SHA}ä6ph5Mm5Pz8GgiULbPgzG37mj9gä=".to_owned(), Some(HashError::Form)),
            ("{PLAIN}secret".to_owned(), Some(HashError::Kind)),
            ("rl.3StKT.4T8M".to_owned(), Some(HashError::Kind)),
            ("secret".to_owned(), Some(HashError::Kind)),
            (String::new(), Some(HashError::Kind)),
        ] {
            assert_eq!(PasswordHash::parse(&text).err(), expected, "{text}");
        }
    }

    #[test]
    fn one_wrong_line_makes_a_list_unusable() {
        let hash = format!("$apr1$salt${}", "a".repeat(22));
        let wrong = |number| UsersError::Hash { place: "line", number, why: HashError::Kind };
        for (text, expected) in [
            (format!("foo:{hash}\n"), Ok(1)),
            (format!("# users\r\n\r\nfoo:{hash}\r\nbar:{hash}:a comment"), Ok(2)),
            (format!("foo:{hash}\nfoo:{hash}\n"), Err(UsersError::Repeated(2))),
            (format!("foo:{hash}\nbar\n"), Err(UsersError::Line(2))),
            (format!(":{hash}\n"), Err(UsersError::Line(1))),
            (format!("foo:{hash}\nbar:plain\n"), Err(wrong(2))),
            ("foo:\n".to_owned(), Err(wrong(1))),
            ("\n".to_owned(), Err(UsersError::Empty)),
        ] {
            assert_eq!(Users::parse_lines(text.as_bytes()).map(|users| users.len()), expected, "{text:?}");
        }
        assert_eq!(Users::parse_lines(b"foo:\xff"), Err(UsersError::NotText));
    }

    #[test]
    fn nothing_of_a_password_is_printed() {
        let users = Users::parse_lines(b"foo:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nbar:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=");
        let auth =
            Auth { basic: Some(BasicAuth { realm: "r".into(), users: Arc::new(users.unwrap()) }), ..Auth::default() };
        for text in [format!("{auth:?}"), serde_json::to_string(&auth).unwrap()] {
            assert!(!text.contains("W6ph") && !text.contains("foo") && text.contains('2'), "{text}");
        }
    }

    #[test]
    fn templates_are_text_and_known_variables() {
        for (text, expected) in [
            ("", Ok("")),
            ("plain", Ok("plain")),
            ("t=${msec}", Ok("t=${msec}")),
            ("a$hostb", Err(TemplateError::Unknown("hostb".to_owned()))),
            ("a${host}b$uri", Ok("a${host}b${uri}")),
            ("$scheme://$http_host$escaped_request_uri", Ok("${scheme}://${http_host}${escaped_request_uri}")),
            ("$http_x_user", Ok("${http_x_user}")),
            ("$http_x_forwarded_for", Err(TemplateError::Unknown("http_x_forwarded_for".to_owned()))),
            ("$", Err(TemplateError::NoName)),
            ("$$host", Err(TemplateError::NoName)),
            ("${host", Err(TemplateError::NoName)),
            ("${}", Err(TemplateError::NoName)),
            ("$upstream_addr", Err(TemplateError::Unknown("upstream_addr".to_owned()))),
            ("a\r\nb", Err(TemplateError::Control)),
            ("ä", Err(TemplateError::Control)),
        ] {
            assert_eq!(
                Template::parse(text).map(|template| template.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
        assert_eq!(Template::parse(&"a".repeat(MAX_TEMPLATE + 1)), Err(TemplateError::TooLong));
    }
}
