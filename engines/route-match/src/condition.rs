//! Conditions besides the path.

use std::borrow::Cow;

use headwater_model::gateway::{Condition, ValueMatch};
use smallvec::SmallVec;

use crate::fault::FaultReason;
use crate::index::MAX_DEPTH;
use crate::query;
use crate::request::RequestView;
use crate::value::{ClientValue, Value};

/// A compiled [`Condition`].
#[derive(Debug)]
pub(crate) enum Check {
    Value { source: Source, value: Value },
    Client(ClientValue),
    Any(Box<[Check]>),
    All(Box<[Check]>),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Method,
    /// Name in lower case.
    Header(Box<str>),
    Query(Box<str>),
    Cookie(Box<str>),
}

/// The condition's source and what it asks of the value; `None` for conditions that are no single value.
pub(crate) fn split(condition: &Condition) -> Option<(Source, &ValueMatch)> {
    Some(match condition {
        Condition::Method(value) => (Source::Method, value),
        Condition::Header { name, value } => (Source::Header(name.to_ascii_lowercase().into()), value),
        Condition::Query { name, value } => (Source::Query(name.clone()), value),
        Condition::Cookie { name, value } => (Source::Cookie(name.clone()), value),
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
            Condition::Any(conditions) => Self::Any(inner(conditions)?),
            Condition::All(conditions) => Self::All(inner(conditions)?),
            condition => {
                let (source, value) = split(condition).ok_or(FaultReason::Condition)?;
                Self::Value { source, value: Value::compile(value)? }
            }
        })
    }

    pub(crate) fn holds<R: RequestView>(&self, request: &R) -> bool {
        match self {
            Self::Value { source, value } => source.read(request).is_some_and(|text| value.holds(&text)),
            Self::Client(value) => value.holds(request.client()),
            Self::Any(checks) => checks.iter().any(|check| check.holds(request)),
            Self::All(checks) => checks.iter().all(|check| check.holds(request)),
        }
    }
}

impl Source {
    /// The value in this request. Allocates only to decode a query, and to join several lines of a header.
    pub(crate) fn read<'r, R: RequestView>(&self, request: &'r R) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Method => Some(Cow::Borrowed(request.method().as_bytes())),
            Self::Query(name) => query::parameter(request.query()?, name),
            Self::Header(name) => {
                let mut lines: SmallVec<[&'r [u8]; 4]> = SmallVec::new();
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
