//! Terms of a rule, as hosts, a path and conditions of the common model.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ahash::AHashSet;
use headwater_model::alb::dslx::Term;
use headwater_model::gateway::{Condition, HostPattern, Match, PathMatch, ValueMatch};
use headwater_model::object::PathType;
use thiserror::Error;

use super::order::Weight;
use super::pattern::{self, PatternError};

/// Most arguments of all rows of a rule.
pub const MAX_ARGUMENTS: usize = 10_000;

/// Longest argument, in bytes.
pub const MAX_ARGUMENT: usize = 4096;

/// What a rule asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// Hosts that the rule stands at; none for a rule that matches no request.
    pub hosts: Vec<HostPattern>,
    pub matches: Match,
    pub weight: Weight,
    /// What is allowed, but hardly meant.
    pub doubts: Vec<Doubt>,
}

/// Why a rule cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DslxError {
    #[error("rule without matcher: spec.dslx says which requests it is for")]
    Missing,
    #[error(
        "{field}: {kind} has the unknown operator {operator:?}; use EQ, IN, EXIST, STARTS_WITH, ENDS_WITH, REGEX or RANGE"
    )]
    Operator { field: String, kind: String, operator: String },
    #[error("{field}: {kind} has a row without operator")]
    EmptyRow { field: String, kind: String },
    /// Upstream skips such rules, too.
    #[error(
        "{field}: {kind} has several rows, and {operator} has no argument; it can only be the single row of a term"
    )]
    ShortRow { field: String, kind: String, operator: String },
    #[error("{field}: {kind} has the regular expression {pattern:?}: {cause}")]
    Pattern { field: String, kind: String, pattern: String, cause: Box<PatternError> },
    #[error("{field}: an argument of {length} bytes is longer than {MAX_ARGUMENT}")]
    LongArgument { field: String, length: usize },
    #[error("spec.dslx has {count} arguments, which is more than {MAX_ARGUMENTS}")]
    ManyArguments { count: usize },
}

/// What is allowed in a rule, but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Doubt {
    #[error("spec.dslx has no values, so the rule matches no request")]
    Empty,
    #[error(
        "{field}: type {kind:?} is unknown and never matches; use METHOD, URL, HOST, PARAM, HEADER, COOKIE or SRC_IP"
    )]
    Kind { field: String, kind: String },
    #[error("{field}: {kind} has neither key nor arguments, and never matches")]
    Key { field: String, kind: String },
    #[error("{field}: {operator} with {found} arguments never matches; it takes {expected}")]
    Arguments { field: String, operator: String, expected: &'static str, found: usize },
    #[error("{field}: no request has the host {host:?}, which is a name without port; for a wildcard use ENDS_WITH")]
    Host { field: String, host: String },
}

/// Compiles the terms of a rule.
///
/// All terms must hold, and of each one row; a term without rows says nothing. An empty list matches no request, nor
/// does an operator with a wrong number of arguments, or a type that is unknown. Other than upstream: hosts are compared
/// without regard to case, `-` and `_` are the same in the name of a header, `ENDS_WITH app.com` on a host is `*.app.com`,
/// `RANGE` compares IPv6 addresses as numbers, and `SRC_IP` is the client of the listener's policy, whatever headers say.
///
/// # Errors
/// [`DslxError`] for a rule that upstream would skip or stumble over, and for regular expressions that take more than
/// linear time.
pub fn compile(terms: Option<&[Term]>) -> Result<Compiled, DslxError> {
    Compiler { lenient: false, doubts: Vec::new() }.compile(terms.ok_or(DslxError::Missing)?)
}

/// Where the requests go that a rule which does not compile may be meant for: rows with a fault hold always. `None` when
/// that cannot be told. Without other terms that is every request.
pub fn cover(terms: Option<&[Term]>) -> Option<Compiled> {
    Compiler { lenient: true, doubts: Vec::new() }.compile(terms?).ok()
}

/// What the default backend and the redirect of a Frontend ask for, at [`HostPattern::Any`].
pub fn every_request() -> Match {
    Match { path: PathMatch::StartsWith("/".into()), conditions: Vec::new() }
}

/// The terms of an Ingress path. None when neither host nor path is given; such a rule is not served.
///
/// `ImplementationSpecific`, and a type that is not given, is a regular expression where the path has a character of one.
pub fn ingress_terms(host: &str, path: &str, kind: Option<PathType>) -> Vec<Term> {
    let term = |kind: &str, operator: &str, argument: String| Term {
        kind: kind.to_owned(),
        key: String::new(),
        values: vec![vec![operator.to_owned(), argument]],
    };
    let mut terms = Vec::with_capacity(2);
    if !path.is_empty() {
        terms.push(match kind {
            Some(PathType::Exact) => term("URL", "EQ", path.to_owned()),
            Some(PathType::Prefix) => term("URL", "STARTS_WITH", path.to_owned()),
            Some(PathType::ImplementationSpecific) | None => {
                if path.contains(['^', '$', '(', ')', ':', '?', '[', ']', '*', '\\']) {
                    let anchor = if path.starts_with('^') { "" } else { "^" };
                    term("URL", "REGEX", format!("{anchor}{path}"))
                } else {
                    term("URL", "STARTS_WITH", path.to_owned())
                }
            }
        });
    }
    if !host.is_empty() {
        let operator = if host.starts_with('*') { "ENDS_WITH" } else { "EQ" };
        terms.push(term("HOST", operator, host.to_owned()));
    }
    terms
}

/// A value of the request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Method,
    Host,
    Url,
    Client,
    Header(Box<str>),
    Cookie(Box<str>),
    Param(Box<str>),
}

enum Row {
    Never,
    Always,
    Asks(Subject, ValueMatch),
}

struct Compiler {
    /// Rows with a fault hold always.
    lenient: bool,
    doubts: Vec<Doubt>,
}

impl Compiler {
    fn compile(mut self, terms: &[Term]) -> Result<Compiled, DslxError> {
        check_size(terms)?;
        let mut hosts = None;
        let mut path = None;
        let mut conditions = Vec::new();
        let mut never = terms.iter().all(|term| term.values.is_empty());
        if never {
            self.doubts.push(Doubt::Empty);
        }
        for (index, term) in terms.iter().enumerate().filter(|(_, term)| !term.values.is_empty()) {
            let Some(rows) = self.rows(index, term)? else { continue };
            if rows.is_empty() {
                never = true;
            } else if path.is_none()
                && let Some(found) = path_of(&rows)
            {
                path = Some(found);
            } else if hosts.is_none()
                && let Some(found) = hosts_of(&rows)
            {
                hosts = Some(found);
            } else {
                conditions.push(condition_of(rows));
            }
        }
        let hosts = if never { Vec::new() } else { hosts.unwrap_or_else(|| vec![HostPattern::Any]) };
        let matches = Match { path: path.unwrap_or(PathMatch::Any), conditions };
        Ok(Compiled { hosts, matches, weight: Weight::of(terms), doubts: self.doubts })
    }

    /// The rows of a term that can hold; `None` when one holds always.
    fn rows(&mut self, index: usize, term: &Term) -> Result<Option<Vec<(Subject, ValueMatch)>>, DslxError> {
        let mut rows = Vec::with_capacity(term.values.len());
        let mut always = false;
        for (at, row) in term.values.iter().enumerate() {
            let field = format!("spec.dslx[{index}].values[{at}]");
            match self.row(term, &field, row) {
                Ok(Row::Never) => {}
                Ok(Row::Always) => always = true,
                Ok(Row::Asks(subject, value)) => rows.push((subject, value)),
                Err(_) if self.lenient => always = true,
                Err(error) => return Err(error),
            }
        }
        Ok((!always).then_some(rows))
    }

    fn row(&mut self, term: &Term, field: &str, row: &[String]) -> Result<Row, DslxError> {
        let (field, kind) = (|| field.to_owned(), || shown(&term.kind));
        let Some((operator, arguments)) = row.split_first() else {
            return Err(DslxError::EmptyRow { field: field(), kind: kind() });
        };
        if term.values.len() > 1 && arguments.is_empty() {
            return Err(DslxError::ShortRow { field: field(), kind: kind(), operator: shown(operator) });
        }
        let expected = match operator.as_str() {
            "EQ" | "STARTS_WITH" | "ENDS_WITH" | "REGEX" => "one",
            "RANGE" => "two",
            "EXIST" => "none",
            "IN" => "at least one",
            _ => return Err(DslxError::Operator { field: field(), kind: kind(), operator: shown(operator) }),
        };
        // upstream writes a key, where there is one, before the arguments, and reads it back by the type
        let mut flat: Vec<&str> = Vec::with_capacity(arguments.len() + 1);
        flat.extend((!term.key.is_empty()).then_some(term.key.as_str()));
        flat.extend(arguments.iter().map(String::as_str));
        let named: fn(&str) -> Subject = match term.kind.as_str() {
            "METHOD" => |_| Subject::Method,
            "HOST" => |_| Subject::Host,
            "URL" => |_| Subject::Url,
            "SRC_IP" => |_| Subject::Client,
            "HEADER" => |name| Subject::Header(name.to_ascii_lowercase().replace('_', "-").into()),
            "COOKIE" => |name| Subject::Cookie(name.to_ascii_lowercase().into()),
            "PARAM" => |name| Subject::Param(name.into()),
            _ => {
                self.doubts.push(Doubt::Kind { field: field(), kind: kind() });
                return Ok(Row::Never);
            }
        };
        let (subject, arguments) = match (term.kind.as_str(), flat.as_slice()) {
            ("HEADER" | "COOKIE" | "PARAM", []) => {
                self.doubts.push(Doubt::Key { field: field(), kind: kind() });
                return Ok(Row::Never);
            }
            ("HEADER" | "COOKIE" | "PARAM", [name, arguments @ ..]) => (named(name), arguments),
            (_, arguments) => (named(""), arguments),
        };
        if subject == Subject::Host && matches!(operator.as_str(), "EQ" | "IN") {
            for host in arguments.iter().filter(|host| host.contains(['*', '/', ' ']) || has_port(host)) {
                self.doubts.push(Doubt::Host { field: field(), host: shown(host) });
            }
        }
        let text = |text: &str| -> Box<str> { if subject == Subject::Host { host_text(text) } else { text.into() } };
        let value = match (operator.as_str(), arguments) {
            ("EQ", [argument]) => ValueMatch::Exact(text(argument)),
            ("IN", [_, ..]) => ValueMatch::In(arguments.iter().map(|argument| text(argument)).collect()),
            ("EXIST", []) => ValueMatch::Exists,
            ("STARTS_WITH", [argument]) => ValueMatch::StartsWith(text(argument)),
            ("ENDS_WITH", [argument]) => {
                let ending = match subject {
                    Subject::Host => host_ending(argument),
                    _ => after_first(argument).map(str::to_owned),
                };
                let Some(ending) = ending else { return Ok(Row::Never) };
                ValueMatch::EndsWithLabel(ending.into())
            }
            ("RANGE", [low, high]) => ValueMatch::Range(text(low), text(high)),
            ("REGEX", [pattern]) => match pattern::to_regex(pattern) {
                Ok(respelt) => ValueMatch::Regex(respelt.into()),
                Err(_) if self.lenient && subject == Subject::Url => match pattern::beginning(pattern) {
                    "" => return Ok(Row::Always),
                    beginning => ValueMatch::StartsWith(beginning.into()),
                },
                Err(cause) => {
                    let cause = Box::new(cause);
                    return Err(DslxError::Pattern { field: field(), kind: kind(), pattern: shown(pattern), cause });
                }
            },
            _ => {
                let (operator, found) = (operator.clone(), arguments.len());
                self.doubts.push(Doubt::Arguments { field: field(), operator, expected, found });
                return Ok(Row::Never);
            }
        };
        Ok(Row::Asks(subject, value))
    }
}

fn check_size(terms: &[Term]) -> Result<(), DslxError> {
    let rows = || terms.iter().flat_map(|term| &term.values);
    let count = terms.len() + rows().map(|row| row.len().max(1)).sum::<usize>();
    if count > MAX_ARGUMENTS {
        return Err(DslxError::ManyArguments { count });
    }
    for (index, term) in terms.iter().enumerate() {
        let texts = term.values.iter().flatten().chain([&term.key, &term.kind]);
        if let Some(length) = texts.map(String::len).find(|length| *length > MAX_ARGUMENT) {
            return Err(DslxError::LongArgument { field: format!("spec.dslx[{index}]"), length });
        }
    }
    Ok(())
}

/// Enough of a text to recognise it in a message.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// The path, when all rows ask for one that can be looked up.
fn path_of(rows: &[(Subject, ValueMatch)]) -> Option<PathMatch> {
    let mut paths = Vec::with_capacity(rows.len());
    for (subject, value) in rows {
        if *subject != Subject::Url {
            return None;
        }
        match value {
            ValueMatch::Exact(path) => paths.push(PathMatch::Exact(path.clone())),
            ValueMatch::In(all) => paths.extend(all.iter().cloned().map(PathMatch::Exact)),
            ValueMatch::StartsWith(start) => paths.push(PathMatch::StartsWith(start.clone())),
            ValueMatch::Regex(pattern) => paths.push(PathMatch::Regex(pattern.clone())),
            _ => return None,
        }
    }
    match paths.len() {
        1 => paths.pop(),
        _ => Some(PathMatch::AnyOf(paths)),
    }
}

/// The hosts, when all rows ask for some that can be looked up.
fn hosts_of(rows: &[(Subject, ValueMatch)]) -> Option<Vec<HostPattern>> {
    let mut hosts = Vec::with_capacity(rows.len());
    // a request without host has "_", which is no host that can be looked up
    let exact = |host: &str| (!matches!(host, "" | "_")).then(|| HostPattern::Exact(host.into()));
    for (subject, value) in rows {
        if *subject != Subject::Host {
            return None;
        }
        match value {
            ValueMatch::Exact(host) => hosts.push(exact(host)?),
            ValueMatch::In(all) => {
                for host in all {
                    hosts.push(exact(host)?);
                }
            }
            ValueMatch::EndsWithLabel(ending) => {
                let suffix = ending.strip_prefix('.').filter(|suffix| !suffix.is_empty())?;
                hosts.push(HostPattern::OneLabel(suffix.into()));
            }
            _ => return None,
        }
    }
    let mut seen = AHashSet::with_capacity(hosts.len());
    hosts.retain(|host| seen.insert(host.clone()));
    Some(hosts)
}

/// At least one row; exact values of one subject become one condition.
fn condition_of(rows: Vec<(Subject, ValueMatch)>) -> Condition {
    let mut any = Vec::new();
    let mut exact: BTreeMap<Subject, Vec<Box<str>>> = BTreeMap::new();
    for (subject, value) in rows {
        match value {
            ValueMatch::Exact(text) => exact.entry(subject).or_default().push(text),
            ValueMatch::In(texts) => exact.entry(subject).or_default().extend(texts),
            value => any.push(subject.asks(value)),
        }
    }
    for (subject, mut texts) in exact {
        let value = match texts.len() {
            1 => ValueMatch::Exact(texts.remove(0)),
            _ => ValueMatch::In(texts),
        };
        any.push(subject.asks(value));
    }
    match any.len() {
        1 => any.remove(0),
        _ => Condition::Any(any),
    }
}

impl Subject {
    fn asks(self, value: ValueMatch) -> Condition {
        match self {
            Self::Method => Condition::Method(value),
            Self::Host => Condition::Host(value),
            Self::Url => Condition::Path(value),
            Self::Client => Condition::Client(value),
            Self::Header(name) => Condition::Header { name, value },
            Self::Cookie(name) => Condition::Cookie { name, value },
            Self::Param(name) => Condition::Param { name, value },
        }
    }
}

/// A host as requests have it: lower case, an IPv6 address in brackets.
fn host_text(text: &str) -> Box<str> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return format!("[{}]", text.to_ascii_lowercase()).into();
    }
    text.to_ascii_lowercase().into()
}

fn has_port(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.contains(':') && address.parse::<Ipv6Addr>().is_err()
}

/// What of a host follows the label that the star stands for: `.app.com` for `*.app.com`, `.app.com` and `app.com`.
fn host_ending(argument: &str) -> Option<String> {
    let lower = argument.to_ascii_lowercase();
    match lower.as_bytes() {
        [] | b"." => None,
        [b'*', ..] => after_first(&lower).map(str::to_owned),
        [b'.', ..] => Some(lower),
        _ => Some(format!(".{lower}")),
    }
}

/// Without its first character, whatever that is: upstream never looks at it.
fn after_first(argument: &str) -> Option<&str> {
    let mut characters = argument.chars();
    characters.next().map(|_| characters.as_str())
}

#[cfg(test)]
mod tests;
