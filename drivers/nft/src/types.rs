//! The nouns: tables, sets, and what their elements are made of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::{NameError, ShapeError};

/// The longest name of a table, set or chain, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// What fits into a key, and into the data of an element, in bytes with padding.
pub(crate) const MAX_VALUE_BYTES: usize = 64;

/// A name of a table, set or chain: 1 to 255 visible ASCII characters. Clones are cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// A name, if it is one.
    ///
    /// # Errors
    /// When it is empty, too long, or has a blank, a control character or a letter outside ASCII.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NameError { name: text.chars().take(MAX_NAME_BYTES).collect(), most: MAX_NAME_BYTES });
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The family of a table: which packets its chains see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Hooks of one device.
    Netdev,
}

impl Family {
    /// The kernel's number, an `NFPROTO_*`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
            Self::Netdev => 5,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Netdev => "netdev",
        })
    }
}

/// A table, by family and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Which packets it is for.
    pub family: Family,
    /// Its name; another family may have a table of the same name.
    pub name: Name,
}

impl Table {
    /// The table of this family and name.
    pub const fn new(family: Family, name: Name) -> Self {
        Self { family, name }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// The kind of one field of a key or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `ipv4_addr`: 4 bytes.
    Ipv4,
    /// `ipv6_addr`: 16 bytes.
    Ipv6,
    /// `inet_proto`: 1 byte.
    Proto,
    /// `inet_service`: 2 bytes, big-endian.
    Port,
    /// `mark`: 4 bytes in the byte order of the machine.
    Mark,
    /// `ether_addr`: 6 bytes.
    Ether,
}

impl Kind {
    /// Bytes of the value, without padding.
    pub const fn width(self) -> usize {
        match self {
            Self::Proto => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Mark => 4,
            Self::Ether => 6,
            Self::Ipv6 => 16,
        }
    }

    /// The name of nft's type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Proto => "inet_proto",
            Self::Port => "inet_service",
            Self::Mark => "mark",
            Self::Ether => "ether_addr",
        }
    }
}

/// A transport protocol, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proto(pub u8);

impl Proto {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

/// A mark of a packet or connection; also a number that rules keep in one, such as that of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(pub u32);

/// One field of a key or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// An address; its kind is that of its family.
    Addr(IpAddr),
    /// A transport protocol.
    Proto(Proto),
    /// A port.
    Port(Port),
    /// A mark.
    Mark(Mark),
    /// A MAC address.
    Ether([u8; 6]),
}

impl Field {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Addr(IpAddr::V4(_)) => Kind::Ipv4,
            Self::Addr(IpAddr::V6(_)) => Kind::Ipv6,
            Self::Proto(_) => Kind::Proto,
            Self::Port(_) => Kind::Port,
            Self::Mark(_) => Kind::Mark,
            Self::Ether(_) => Kind::Ether,
        }
    }
}

impl From<IpAddr> for Field {
    fn from(address: IpAddr) -> Self {
        Self::Addr(address)
    }
}

impl From<Ipv4Addr> for Field {
    fn from(address: Ipv4Addr) -> Self {
        Self::Addr(address.into())
    }
}

impl From<Ipv6Addr> for Field {
    fn from(address: Ipv6Addr) -> Self {
        Self::Addr(address.into())
    }
}

impl From<Proto> for Field {
    fn from(proto: Proto) -> Self {
        Self::Proto(proto)
    }
}

impl From<Port> for Field {
    fn from(port: Port) -> Self {
        Self::Port(port)
    }
}

impl From<Mark> for Field {
    fn from(mark: Mark) -> Self {
        Self::Mark(mark)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(address) => write!(f, "{address}"),
            Self::Proto(Proto::TCP) => f.write_str("tcp"),
            Self::Proto(Proto::UDP) => f.write_str("udp"),
            Self::Proto(Proto::SCTP) => f.write_str("sctp"),
            Self::Proto(Proto(number)) => write!(f, "{number}"),
            Self::Port(Port(port)) => write!(f, "{port}"),
            Self::Mark(Mark(mark)) => write!(f, "{mark:#x}"),
            Self::Ether([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
        }
    }
}

/// Fields in their order, concatenated: a key, or the data of an element. Written `10.96.0.10 . tcp . 80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple(SmallVec<[Field; 4]>);

impl Tuple {
    /// Its fields.
    pub fn fields(&self) -> &[Field] {
        &self.0
    }

    pub(crate) fn fits(&self, shape: &[Kind]) -> bool {
        self.0.len() == shape.len() && self.0.iter().zip(shape).all(|(field, kind)| field.kind() == *kind)
    }
}

impl<const N: usize> From<[Field; N]> for Tuple {
    fn from(fields: [Field; N]) -> Self {
        fields.into_iter().collect()
    }
}

impl FromIterator<Field> for Tuple {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            write!(f, "{field}")?;
        }
        Ok(())
    }
}

/// The key of an element: one value or, in a set with `flags interval`, a range in each field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    start: Tuple,
    end: Option<Box<Tuple>>,
}

impl Key {
    /// From `start` to `end`, both included, field by field. Only for concatenations.
    pub fn range(start: Tuple, end: Tuple) -> Self {
        let end = (end != start).then(|| Box::new(end));
        Self { start, end }
    }

    /// The value, or the lower end of the range.
    pub fn start(&self) -> &Tuple {
        &self.start
    }

    /// The upper end of a range.
    pub fn end(&self) -> Option<&Tuple> {
        self.end.as_deref()
    }
}

impl From<Tuple> for Key {
    fn from(start: Tuple) -> Self {
        Self { start, end: None }
    }
}

impl<const N: usize> From<[Field; N]> for Key {
    fn from(fields: [Field; N]) -> Self {
        Tuple::from(fields).into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(end) = &self.end else { return write!(f, "{}", self.start) };
        for (index, (low, high)) in self.start.fields().iter().zip(end.fields()).enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            write!(f, "{low}")?;
            if low != high {
                write!(f, "-{high}")?;
            }
        }
        Ok(())
    }
}

/// What a verdict map tells the rule to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet passes this hook.
    Accept,
    /// The packet ends here.
    Drop,
    /// On with the next rule.
    Continue,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back at its end.
    Jump(Name),
    /// To a chain, for good.
    Goto(Name),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// What an element of a map maps to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// Fields, as a rule reads them.
    Fields(Tuple),
    /// A verdict.
    Verdict(Verdict),
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(tuple) => write!(f, "{tuple}"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

/// An element of a set or map. Written as nft writes it: `10.96.0.10 . tcp . 80 : goto n_2`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// What it is found by; a set holds each key once.
    pub key: Key,
    /// What a map maps it to; `None` in a set.
    pub data: Option<Data>,
}

impl Element {
    /// An element of a plain set.
    pub fn member(key: impl Into<Key>) -> Self {
        Self { key: key.into(), data: None }
    }

    /// An element of a map to fields.
    pub fn fields(key: impl Into<Key>, data: impl Into<Tuple>) -> Self {
        Self { key: key.into(), data: Some(Data::Fields(data.into())) }
    }

    /// An element of a verdict map.
    pub fn verdict(key: impl Into<Key>, verdict: Verdict) -> Self {
        Self { key: key.into(), data: Some(Data::Verdict(verdict)) }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Some(data) => write!(f, "{} : {data}", self.key),
            None => write!(f, "{}", self.key),
        }
    }
}

/// What the elements of a set carry beside their key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SetData {
    /// Nothing: a plain set.
    None,
    /// A verdict.
    Verdict,
    /// Fields of these kinds.
    Fields(Box<[Kind]>),
}

/// A set or map as the ruleset declares it: where it is, and what its elements look like. Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set(Arc<Declared>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Declared {
    table: Table,
    name: Name,
    key: Box<[Kind]>,
    data: SetData,
}

impl Set {
    /// `set NAME { type KEY; }`
    ///
    /// # Errors
    /// When a key has no field or more than 64 bytes.
    pub fn plain(table: &Table, name: Name, key: &[Kind]) -> Result<Self, ShapeError> {
        Self::declared(table, name, key, SetData::None)
    }

    /// `map NAME { type KEY : DATA; }`
    ///
    /// # Errors
    /// When key or data have no field or more than 64 bytes.
    pub fn map(table: &Table, name: Name, key: &[Kind], data: &[Kind]) -> Result<Self, ShapeError> {
        Self::declared(table, name, key, SetData::Fields(data.into()))
    }

    /// `map NAME { type KEY : verdict; }`
    ///
    /// # Errors
    /// When a key has no field or more than 64 bytes.
    pub fn verdict_map(table: &Table, name: Name, key: &[Kind]) -> Result<Self, ShapeError> {
        Self::declared(table, name, key, SetData::Verdict)
    }

    fn declared(table: &Table, name: Name, key: &[Kind], data: SetData) -> Result<Self, ShapeError> {
        let fits = |kinds: &[Kind]| (1..=MAX_VALUE_BYTES).contains(&width(kinds));
        let data_fits = match &data {
            SetData::Fields(kinds) => fits(kinds),
            SetData::None | SetData::Verdict => true,
        };
        if !fits(key) || !data_fits {
            return Err(ShapeError { table: table.clone(), set: name, most: MAX_VALUE_BYTES });
        }
        Ok(Self(Arc::new(Declared { table: table.clone(), name, key: key.into(), data })))
    }

    /// Its table.
    pub fn table(&self) -> &Table {
        &self.0.table
    }

    /// Its name in the table.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// The kinds of a key's fields.
    pub fn key(&self) -> &[Kind] {
        &self.0.key
    }

    /// What an element carries beside its key.
    pub fn data(&self) -> &SetData {
        &self.0.data
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }

    pub(crate) fn fits_key(&self, key: &Key) -> bool {
        key.start().fits(self.key()) && key.end().is_none_or(|end| self.key().len() > 1 && end.fits(self.key()))
    }

    pub(crate) fn fits(&self, element: &Element) -> bool {
        self.fits_key(&element.key)
            && match (self.data(), &element.data) {
                (SetData::None, None) | (SetData::Verdict, Some(Data::Verdict(_))) => true,
                (SetData::Fields(kinds), Some(Data::Fields(tuple))) => tuple.fits(kinds),
                _ => false,
            }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table(), self.name())
    }
}

/// Bytes of a value of these kinds: a field alone has no padding, in a concatenation each is padded to 4 bytes.
pub(crate) fn width(kinds: &[Kind]) -> usize {
    match kinds {
        [alone] => alone.width(),
        _ => kinds.iter().map(|kind| kind.width().next_multiple_of(4)).sum(),
    }
}
