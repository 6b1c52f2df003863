//! A manifest as a tree whose every value knows its line.

/// Deepest nesting of mappings and lists that is read.
pub(crate) const MAX_DEPTH: usize = 128;

/// Most values (mappings, lists, scalars) read from one file.
pub(crate) const MAX_NODES: usize = 2_000_000;

/// One value and the line (from 1) on which it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// Scalars other than text keep their spelling, so that a message can quote what the user wrote.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool {
        value: bool,
        written: Box<str>,
    },
    Number {
        value: Number,
        written: Box<str>,
    },
    Text(Box<str>),
    List(Vec<Node>),
    /// In document order; a key may stand twice, which the decoder reports.
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Unsigned(u64),
    Negative(i64),
    Float(f64),
}

/// A key, the line on which it stands, and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) line: u32,
    pub(crate) value: Node,
}

/// Why a text is neither YAML nor JSON, or more than is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

impl SyntaxError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

impl Node {
    /// The value under a key of a mapping; the first, if the key stands twice.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }
}
