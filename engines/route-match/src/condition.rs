//! Conditions besides the path.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use headwater_model::gateway::{Condition, ValueMatch};
use smallvec::SmallVec;

use crate::fault::FaultReason;
use crate::index::MAX_DEPTH;
use crate::path::{decode_normal, decode_pattern};
use crate::plain::{Plain, plain};
use crate::query;
use crate::request::RequestView;
use crate::value::{ClientValue, Value};

/// A compiled [`Condition`].
#[derive(Debug)]
pub(crate) enum Check {
    Value {
        source: Source,
        value: Value,
    },
    /// The query has a parameter of the name.
    Parameter(Box<str>),
    Client(ClientValue),
    Any(Box<[Check]>),
    All(Box<[Check]>),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Method,
    Host,
    /// Decoded.
    Path,
    /// Text of the address (RFC 5952).
    Client,
    /// Name in lower case.
    Header(Box<str>),
    /// First parameter of the name.
    Query(Box<str>),
    /// Only parameter of the name.
    Param(Box<str>),
    Cookie(Box<str>),
}

/// A request, and what is worked out about it once.
pub(crate) struct Subject<'r, R> {
    pub(crate) request: &'r R,
    host: &'r str,
    decoded: OnceCell<Cow<'r, [u8]>>,
}

impl<'r, R: RequestView> Subject<'r, R> {
    pub(crate) fn new(request: &'r R, host: &'r str) -> Self {
        Self { request, host, decoded: OnceCell::new() }
    }

    pub(crate) fn path(&self) -> &'r [u8] {
        self.request.path().as_bytes()
    }

    /// The path, with its percent-encoding decoded but for `%2F` and `%25`.
    pub(crate) fn decoded_path(&self) -> &[u8] {
        self.decoded.get_or_init(|| decode_normal(self.request.path()))
    }
}

/// What a condition asks of one value, in a form that an index can answer.
#[derive(Debug)]
pub(crate) enum Key {
    /// Of the client its [`number`], the first byte first.
    Exact(Box<[u8]>),
    Starts(Box<[u8]>),
    Regex(Box<str>),
    /// Of clients alone, by [`number`]; inclusive.
    Range(u128, u128),
}

/// An address as a number: IPv4 as IPv6 has it, so that the two do not meet.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Source and keys of a condition that holds only where the value of the source has one of the keys; `None` for others.
pub(crate) fn keys(condition: &Condition) -> Option<(Source, Vec<Key>)> {
    if let Condition::Any(conditions) = condition {
        let mut all = conditions.iter().map(keys);
        let (source, mut found) = all.next()??;
        for other in all {
            let (at, more) = other?;
            if at != source {
                return None;
            }
            found.extend(more);
        }
        return Some((source, found));
    }
    let (source, value) = split(condition)?;
    let text = |text: &str| -> Box<[u8]> { source.text(text) };
    let exact = |text: &str| match &source {
        // an address has several spellings, and what is none never matches
        Source::Client => Some(Key::Exact(number(text.parse().ok()?).to_be_bytes().into())),
        source => Some(Key::Exact(source.text(text))),
    };
    let keys = match value {
        ValueMatch::Exact(text) => exact(text).into_iter().collect(),
        ValueMatch::In(texts) => texts.iter().filter_map(|text| exact(text)).collect(),
        ValueMatch::StartsWith(start) => vec![Key::Starts(text(start))],
        ValueMatch::Regex(pattern) => vec![match plain(pattern) {
            Some(Plain::Exact(text)) if source != Source::Client => Key::Exact(text.into()),
            Some(Plain::Starts(text) | Plain::Element(text)) => Key::Starts(text.into()),
            _ => Key::Regex(pattern.clone()),
        }],
        ValueMatch::Range(low, high) if source == Source::Client => {
            let bound = |text: &str| text.parse::<IpAddr>().ok().map(number);
            bound(low).zip(bound(high)).map(|(low, high)| Key::Range(low, high)).into_iter().collect()
        }
        ValueMatch::Cidr(networks) if source == Source::Client => {
            networks.iter().map(|network| Key::Range(number(network.network()), number(network.broadcast()))).collect()
        }
        _ => return None,
    };
    Some((source, keys))
}

/// The condition's source and what it asks of the value; `None` for conditions that are no single value.
fn split(condition: &Condition) -> Option<(Source, &ValueMatch)> {
    Some(match condition {
        Condition::Method(value) => (Source::Method, value),
        Condition::Host(value) => (Source::Host, value),
        Condition::Path(value) => (Source::Path, value),
        Condition::Client(value) => (Source::Client, value),
        Condition::Header { name, value } => (Source::Header(name.to_ascii_lowercase().into()), value),
        Condition::Query { name, value } => (Source::Query(name.clone()), value),
        Condition::Param { name, value } => (Source::Param(name.clone()), value),
        Condition::Cookie { name, value } => (Source::Cookie(name.to_ascii_lowercase().into()), value),
        _ => return None,
    })
}

impl Check {
    /// `depth` counts from 0.
    pub(crate) fn compile(condition: &Condition, depth: usize) -> Result<Self, FaultReason> {
        if depth > MAX_DEPTH {
            return Err(FaultReason::Depth);
        }
        let inner = |conditions: &[Condition]| -> Result<Box<[Self]>, FaultReason> {
            conditions.iter().map(|condition| Self::compile(condition, depth + 1)).collect()
        };
        Ok(match condition {
            Condition::Client(value) => Self::Client(ClientValue::compile(value)?),
            Condition::Param { name, value: ValueMatch::Exists } => Self::Parameter(name.clone()),
            Condition::Any(conditions) => Self::Any(inner(conditions)?),
            Condition::All(conditions) => Self::All(inner(conditions)?),
            condition => {
                let (source, value) = split(condition).ok_or(FaultReason::Condition)?;
                let value = Value::compile(value, |text| source.text(text))?;
                Self::Value { source, value }
            }
        })
    }

    pub(crate) fn holds<R: RequestView>(&self, subject: &Subject<'_, R>) -> bool {
        match self {
            Self::Value { source, value } => source.read(subject).is_some_and(|text| value.holds(&text)),
            Self::Parameter(name) => subject.request.query().is_some_and(|query| query::has_parameter(query, name)),
            Self::Client(value) => value.holds(subject.request.client()),
            Self::Any(checks) => checks.iter().any(|check| check.holds(subject)),
            Self::All(checks) => checks.iter().all(|check| check.holds(subject)),
        }
    }
}

impl Source {
    /// A text of a rule in the form that values of the source have.
    fn text(&self, text: &str) -> Box<[u8]> {
        match self {
            Self::Path => decode_pattern(text).into(),
            _ => text.as_bytes().into(),
        }
    }

    /// The value in this request. Allocates only to decode, to join several lines of a header, and to print an address.
    pub(crate) fn read<'s, R: RequestView>(&self, subject: &'s Subject<'_, R>) -> Option<Cow<'s, [u8]>> {
        let request = subject.request;
        match self {
            Self::Method => Some(Cow::Borrowed(request.method().as_bytes())),
            Self::Host if subject.host.is_empty() => Some(Cow::Borrowed(b"_")),
            Self::Host => Some(Cow::Borrowed(subject.host.as_bytes())),
            Self::Path => Some(Cow::Borrowed(subject.decoded_path())),
            Self::Client => Some(Cow::Owned(request.client().to_canonical().to_string().into_bytes())),
            Self::Query(name) => query::parameter(request.query()?, name),
            Self::Param(name) => query::only_parameter(request.query()?, name),
            Self::Header(name) => {
                let mut lines: SmallVec<[&[u8]; 4]> = SmallVec::new();
                request.header(name, |line| lines.push(line));
                match lines.as_slice() {
                    [] => None,
                    [line] => Some(Cow::Borrowed(line)),
                    lines => Some(Cow::Owned(lines.join(&b", "[..]))),
                }
            }
            Self::Cookie(name) => {
                let mut found = None;
                request.header("cookie", |line| {
                    if found.is_none() {
                        found = query::cookie(line, name);
                    }
                });
                found.map(Cow::Borrowed)
            }
        }
    }
}
