//! Nodes -> typed objects: a serde deserializer that knows path and line of everything, and what is unknown or double.
//!
//! `null` reads as Go reads it: a field that is null is a field that is absent.

use std::cell::RefCell;
use std::fmt;

use ahash::AHashMap;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::node::{Entry, Node, Number, Value};
use super::path::{self, Segment};

/// One thing that keeps a node from being an object of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A field that the API does not have; `known` are those it has there.
    Unknown { known: &'static [&'static str] },
    /// A key that stands twice in one mapping.
    Duplicate { first: u32 },
    /// A required field; the path names it.
    Missing,
    /// Another type, or another range, than the field takes; `expected` in serde's words.
    Type { found: Found, expected: String },
    /// A word that is none of those the field takes.
    Variant { found: Found, expected: &'static [&'static str] },
    /// What a type's own parser says. It may quote the value.
    Refused { found: Found, message: String },
}

/// A value as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Null,
    Bool(String),
    Number(String),
    Text(String),
    List,
    Mapping,
}

impl Found {
    fn of(node: &Node) -> Self {
        match &node.value {
            Value::Null => Self::Null,
            Value::Bool { written, .. } => Self::Bool(written.to_string()),
            Value::Number { written, .. } => Self::Number(written.to_string()),
            Value::Text(text) => Self::Text(text.to_string()),
            Value::List(_) => Self::List,
            Value::Mapping(_) => Self::Mapping,
        }
    }
}

/// Reads `T` from a node.
///
/// # Errors
/// Every unknown field and double key before the first value that does not fit, and that value.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Fault>> {
    decode_in(Context::default(), node)
}

/// The same for a node from an API server, which may be newer than we are: unknown fields are passed over.
pub(crate) fn decode_known<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Fault>> {
    decode_in(Context { lenient: true, ..Context::default() }, node)
}

fn decode_in<'de, T: DeserializeOwned>(context: Context<'de>, node: &'de Node) -> Result<T, Vec<Fault>> {
    let decoded = T::deserialize(Decoder { node, context: &context });
    let mut faults = context.faults.into_inner();
    match decoded {
        Ok(object) if faults.is_empty() => Ok(object),
        Ok(_) => Err(faults),
        Err(error) => {
            faults.push(error.into_fault(node));
            Err(faults)
        }
    }
}

/// Most faults that are kept of one object.
const MAX_FAULTS: usize = 32;

#[derive(Default)]
struct Context<'de> {
    /// Unknown fields are no fault.
    lenient: bool,
    path: RefCell<Vec<Segment<'de>>>,
    faults: RefCell<Vec<Fault>>,
}

impl<'de> Context<'de> {
    /// Deserializes what lies one step down; an error learns here where it came from.
    fn step<S: DeserializeSeed<'de>>(
        &self,
        segment: Segment<'de>,
        line: u32,
        node: &'de Node,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        self.path.borrow_mut().push(segment);
        let result = seed.deserialize(Decoder { node, context: self }).map_err(|mut error| {
            error.place.get_or_insert_with(|| Place {
                path: path::render(&self.path.borrow()),
                line,
                found: Found::of(node),
            });
            error
        });
        self.path.borrow_mut().pop();
        result
    }

    fn report(&self, key: &'de str, line: u32, what: What) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < MAX_FAULTS {
            let mut path = self.path.borrow().clone();
            path.push(Segment::Key(key));
            faults.push(Fault { path: path::render(&path), line, what });
        }
    }

    fn report_duplicates(&self, entries: &'de [Entry]) {
        let mut seen: AHashMap<&str, u32> = AHashMap::with_capacity(entries.len());
        for entry in entries {
            if let Some(&first) = seen.get(&*entry.key) {
                self.report(&entry.key, entry.line, What::Duplicate { first });
            } else {
                seen.insert(&entry.key, entry.line);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'c, 'de> {
    node: &'de Node,
    context: &'c Context<'de>,
}

impl<'c, 'de> Decoder<'c, 'de> {
    fn entries<V: Visitor<'de>>(
        self,
        entries: &'de [Entry],
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.context.report_duplicates(entries);
        visitor.visit_map(Entries { rest: entries.iter(), value: None, known, context: self.context })
    }

    fn items<V: Visitor<'de>>(self, items: &'de [Node], visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Items { rest: items.iter().enumerate(), context: self.context })
    }
}

impl<'de> Deserializer<'de> for Decoder<'_, 'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool { value, .. } => visitor.visit_bool(*value),
            Value::Number { value: Number::Unsigned(number), .. } => visitor.visit_u64(*number),
            Value::Number { value: Number::Negative(number), .. } => visitor.visit_i64(*number),
            Value::Number { value: Number::Float(number), .. } => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => self.items(items, visitor),
            Value::Mapping(entries) => self.entries(entries, None, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Null => self.entries(&[], Some(fields), visitor),
            Value::Mapping(entries) => self.entries(entries, Some(fields), visitor),
            // serde would fill a struct from a list by position.
            Value::List(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &"a map")),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { self.entries(&[], None, visitor) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { self.items(&[], visitor) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_borrowed_str("") } else { self.deserialize_any(visitor) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Text(text) => {
                let text: StrDeserializer<'_, DecodeError> = (&**text).into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(serde::de::Error::unknown_variant("", variants)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Entries<'c, 'de> {
    rest: std::slice::Iter<'de, Entry>,
    value: Option<&'de Entry>,
    /// The fields of a struct; `None` for a map, which takes any key.
    known: Option<&'static [&'static str]>,
    context: &'c Context<'de>,
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        for entry in self.rest.by_ref() {
            if let Some(known) = self.known {
                if !known.contains(&&*entry.key) {
                    if self.context.lenient {
                        continue;
                    }
                    self.context.report(&entry.key, entry.line, What::Unknown { known });
                    continue;
                }
                if entry.value.is_null() {
                    continue;
                }
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, DecodeError> = (&*entry.key).into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let entry = self.value.take().expect("serde asks for a value after its key");
        self.context.step(Segment::Key(&entry.key), entry.line, &entry.value, seed)
    }
}

struct Items<'c, 'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    context: &'c Context<'de>,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some((index, item)) = self.rest.next() else { return Ok(None) };
        self.context.step(Segment::Index(index), item.line, item, seed).map(Some)
    }
}

/// A fault on its way up to the place that knows its path.
#[derive(Debug)]
struct DecodeError {
    kind: ErrorKind,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    path: String,
    line: u32,
    found: Found,
}

#[derive(Debug)]
enum ErrorKind {
    Type(String),
    Variant(&'static [&'static str]),
    Missing(&'static str),
    Custom(String),
}

impl DecodeError {
    fn new(kind: ErrorKind) -> Self {
        Self { kind, place: None }
    }

    fn into_fault(self, root: &Node) -> Fault {
        let Place { mut path, line, found } =
            self.place.unwrap_or_else(|| Place { path: String::new(), line: root.line, found: Found::of(root) });
        let what = match self.kind {
            ErrorKind::Type(expected) => What::Type { found, expected },
            ErrorKind::Variant(expected) => What::Variant { found, expected },
            ErrorKind::Custom(message) => What::Refused { found, message },
            ErrorKind::Missing(field) => {
                path::push_key(&mut path, field);
                What::Missing
            }
        };
        Fault { path, line, what }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(ErrorKind::Custom(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(ErrorKind::Type(expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(ErrorKind::Type(expected.to_string()))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(ErrorKind::Variant(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(ErrorKind::Missing(field))
    }
}
