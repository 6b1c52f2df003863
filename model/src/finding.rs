//! What is wrong with an object, said so that a person can mend it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::origin::ObjectKey;

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Obeyed, but worth knowing.
    Info,
    /// Would not be obeyed, or is dangerous.
    Warning,
    /// The object, or the named part of it, is refused.
    Error,
}

/// File and line (from 1) of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Location {
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One thing wrong with one object (or with a file that is not an object yet).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Stable word for machines: `UnknownField`, `MissingReference`, `Conflict`, ...
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Path of the field, as in `spec.rules[0].http.paths[1].backend`; empty when the object as a whole is meant.
    pub field: String,
    /// What is wrong, in lower case, with the values.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub mend: String,
}

impl Finding {
    pub fn new(severity: Severity, reason: &'static str, object: ObjectKey, message: impl Into<String>) -> Self {
        Self {
            severity,
            reason,
            object: Some(object),
            location: None,
            field: String::new(),
            message: message.into(),
            mend: String::new(),
        }
    }

    pub fn error(reason: &'static str, object: ObjectKey, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, reason, object, message)
    }

    pub fn warning(reason: &'static str, object: ObjectKey, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, reason, object, message)
    }

    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = mend.into();
        self
    }
}

impl fmt::Display for Finding {
    /// `shop.yaml:12: Ingress shop/web: spec.rules[0].host: "a b" is not a host name (mend: ...)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.mend.is_empty() {
            write!(f, " (mend: {})", self.mend)?;
        }
        Ok(())
    }
}
