//! Changes -> one batch of netlink messages.

use std::net::IpAddr;

use crate::decode;
use crate::error::{EncodeError, Place};
use crate::rule::{self, Remember};
use crate::types::{self, Data, Element, Field, Key, Kind, Mark, Name, Port, Proto, Set, Table, Tuple, Verdict, width};
use crate::wire::{self, Writer};

/// The largest batch, in bytes: more than a million elements.
pub const MAX_BATCH_BYTES: usize = 128 << 20;

/// What a nested list may have behind its header: the length of an attribute is a u16.
const MAX_LIST_BYTES: usize = 65_532 - wire::NLA_HEADER;

/// Changes that hold together or not at all, in their order.
///
/// What is wrong with a change is told when it is added; what the kernel thinks of it, by
/// [`Kernel::apply`](crate::Kernel::apply).
#[derive(Debug)]
pub struct Batch {
    writer: Writer,
    generation: Option<u32>,
    messages: Vec<Sent>,
    open: Option<Open>,
    elements: usize,
}

#[derive(Debug)]
struct Sent {
    start: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Table(Table),
    /// Elements, or all of them.
    Set(Set),
}

/// The message whose list of elements may still grow.
#[derive(Debug)]
struct Open {
    kind: u16,
    set: Set,
    message: usize,
    list: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self::begin(None)
    }
}

impl Batch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that the kernel refuses, as [`NftError::Stale`](crate::NftError::Stale), if anybody has changed anything
    /// since this generation (never 0) of the ruleset.
    pub fn at(generation: u32) -> Self {
        Self::begin(Some(generation))
    }

    fn begin(generation: Option<u32>) -> Self {
        let mut writer = Writer::default();
        let start = writer.begin(wire::NFNL_MSG_BATCH_BEGIN, wire::NLM_F_REQUEST, 0, wire::NFNL_SUBSYS_NFTABLES);
        if let Some(generation) = generation {
            writer.attribute(wire::NFNL_BATCH_GENID, &generation.to_be_bytes());
        }
        writer.end(start);
        Self { writer, generation, messages: Vec::new(), open: None, elements: 0 }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Elements added and deleted so far.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Messages that say what is to change; their batch has a beginning and an end besides.
    pub(crate) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Makes a table, or leaves the one that is there.
    pub fn add_table(&mut self, table: &Table) {
        self.table(wire::NFT_MSG_NEWTABLE, wire::NLM_F_REQUEST | wire::NLM_F_CREATE, table);
    }

    /// Deletes a table with all that is in it. Refused if there is none; after [`Batch::add_table`] there always is.
    pub fn delete_table(&mut self, table: &Table) {
        self.table(wire::NFT_MSG_DELTABLE, wire::NLM_F_REQUEST, table);
    }

    fn table(&mut self, kind: u16, flags: u16, table: &Table) {
        self.close();
        let start = self.writer.begin(kind, flags, table.family.number(), 0);
        self.writer.text(wire::NFTA_TABLE_NAME, table.name.as_str());
        self.writer.end(start);
        self.messages.push(Sent { start, what: What::Table(table.clone()) });
    }

    /// Adds an element. One that is there with the same data stays; with other data it must be deleted first, in the
    /// same batch.
    ///
    /// # Errors
    /// When the element does not have the fields of the set, or the batch is full; the batch is as it was.
    pub fn add(&mut self, set: &Set, element: &Element) -> Result<(), EncodeError> {
        if !set.fits(element) {
            return Err(EncodeError::Misfit { set: set.clone(), element: element.to_string() });
        }
        self.element(wire::NFT_MSG_NEWSETELEM, set, &element.key, element.data.as_ref())
    }

    /// Deletes the element with this key. Refused if there is none.
    ///
    /// # Errors
    /// When the key does not have the fields of the set, or the batch is full; the batch is as it was.
    pub fn delete(&mut self, set: &Set, key: &Key) -> Result<(), EncodeError> {
        if !set.fits_key(key) {
            return Err(EncodeError::Misfit { set: set.clone(), element: key.to_string() });
        }
        self.element(wire::NFT_MSG_DELSETELEM, set, key, None)
    }

    /// Makes this the only rule of a chain that is there.
    ///
    /// # Errors
    /// When the rule's key or data are not those of its map.
    pub fn only_rule(&mut self, chain: &Name, rule: &Remember) -> Result<(), EncodeError> {
        if !rule.fits() {
            return Err(EncodeError::Misfit {
                set: rule.map.clone(),
                element: format!("{:?} : {:?}", rule.key, rule.data),
            });
        }
        self.close();
        let table = rule.map.table();
        let family = table.family.number();
        let start = self.writer.begin(wire::NFT_MSG_DELRULE, wire::NLM_F_REQUEST, family, 0);
        rule::write_chain(&mut self.writer, table.name.as_str(), chain.as_str());
        self.writer.end(start);
        self.messages.push(Sent { start, what: What::Set(rule.map.clone()) });
        let flags = wire::NLM_F_REQUEST | wire::NLM_F_CREATE | wire::NLM_F_APPEND;
        let start = self.writer.begin(wire::NFT_MSG_NEWRULE, flags, family, 0);
        rule.write(&mut self.writer, chain.as_str());
        self.writer.end(start);
        self.messages.push(Sent { start, what: What::Set(rule.map.clone()) });
        Ok(())
    }

    /// Deletes all elements of a set.
    pub fn flush(&mut self, set: &Set) {
        self.close();
        let start = self.start(wire::NFT_MSG_DELSETELEM, wire::NLM_F_REQUEST, set);
        self.writer.end(start);
    }

    fn start(&mut self, kind: u16, flags: u16, set: &Set) -> usize {
        let start = self.writer.begin(kind, flags, set.table().family.number(), 0);
        self.writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, set.table().name.as_str());
        self.writer.text(wire::NFTA_SET_ELEM_LIST_SET, set.name().as_str());
        self.messages.push(Sent { start, what: What::Set(set.clone()) });
        start
    }

    fn element(&mut self, kind: u16, set: &Set, key: &Key, data: Option<&Data>) -> Result<(), EncodeError> {
        let bytes = self.writer.bytes.len();
        if bytes >= MAX_BATCH_BYTES {
            return Err(EncodeError::Full { bytes, most: MAX_BATCH_BYTES });
        }
        let list = match &self.open {
            Some(open) if open.kind == kind && open.set.is(set) => open.list,
            _ => self.open(kind, set),
        };
        let before = self.writer.bytes.len();
        write_element(&mut self.writer, key, data);
        if self.writer.bytes.len() - list > MAX_LIST_BYTES {
            self.writer.bytes.truncate(before);
            self.open(kind, set);
            write_element(&mut self.writer, key, data);
        }
        self.elements += 1;
        Ok(())
    }

    fn open(&mut self, kind: u16, set: &Set) -> usize {
        self.close();
        let create = if kind == wire::NFT_MSG_NEWSETELEM { wire::NLM_F_CREATE } else { 0 };
        let message = self.start(kind, wire::NLM_F_REQUEST | create, set);
        let list = self.writer.nest(wire::NFTA_SET_ELEM_LIST_ELEMENTS | wire::NLA_F_NESTED);
        self.open = Some(Open { kind, set: set.clone(), message, list });
        list
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.writer.close(open.list);
            self.writer.end(open.message);
        }
    }

    /// The batch as bytes. Its first message has the sequence number `first`, each other the one that follows; the last
    /// one before the end asks for an answer.
    pub fn encode(mut self, first: u32) -> Encoded {
        self.close();
        if let Some(last) = self.messages.last() {
            self.writer.add_flags(last.start, wire::NLM_F_ACK);
        }
        let end = self.writer.begin(wire::NFNL_MSG_BATCH_END, wire::NLM_F_REQUEST, 0, wire::NFNL_SUBSYS_NFTABLES);
        self.writer.end(end);
        let starts = std::iter::once(0).chain(self.messages.iter().map(|sent| sent.start)).chain([end]);
        let mut sequence = first;
        for start in starts {
            self.writer.set_sequence(start, sequence);
            sequence = sequence.wrapping_add(1);
        }
        Encoded {
            bytes: self.writer.bytes,
            generation: self.generation,
            messages: self.messages,
            elements: self.elements,
            first,
        }
    }
}

/// A batch as it is sent, and what its messages are about.
#[derive(Debug)]
pub struct Encoded {
    bytes: Vec<u8>,
    generation: Option<u32>,
    messages: Vec<Sent>,
    elements: usize,
    first: u32,
}

impl Encoded {
    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Messages that say what is to change; their batch has a beginning and an end besides.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    pub(crate) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Which of its messages has this sequence number: 0 is the beginning of the batch, the last is its end.
    pub(crate) fn index(&self, sequence: u32) -> Option<usize> {
        let index = usize::try_from(sequence.wrapping_sub(self.first)).ok()?;
        (index <= self.messages.len() + 1).then_some(index)
    }

    /// What a message is about, from its index and the offset of the attribute that the kernel did not like.
    pub(crate) fn place(&self, index: usize, offset: Option<u32>) -> Place {
        let Some(sent) = index.checked_sub(1).and_then(|index| self.messages.get(index)) else { return Place::Batch };
        match &sent.what {
            What::Table(table) => Place::Table(table.clone()),
            What::Set(set) => {
                let found = decode::messages(&self.bytes[sent.start..])
                    .next()
                    .and_then(Result::ok)
                    .and_then(|message| decode::element_at(set, &message, offset));
                match found {
                    Some(element) => Place::Element(set.clone(), Box::new(element)),
                    None => Place::Set(set.clone()),
                }
            }
        }
    }

    /// Whether a message deletes.
    pub(crate) fn deletes(&self, index: usize) -> bool {
        index.checked_sub(1).and_then(|index| self.messages.get(index)).is_some_and(|sent| {
            let kind = u16::from_ne_bytes([self.bytes[sent.start + 4], self.bytes[sent.start + 5]]);
            kind == wire::NFT_MSG_DELSETELEM || kind == wire::NFT_MSG_DELTABLE
        })
    }
}

fn write_element(writer: &mut Writer, key: &Key, data: Option<&Data>) {
    let element = writer.nest(wire::NFTA_LIST_ELEM | wire::NLA_F_NESTED);
    write_tuple(writer, wire::NFTA_SET_ELEM_KEY, key.start());
    if let Some(end) = key.end() {
        write_tuple(writer, wire::NFTA_SET_ELEM_KEY_END, end);
    }
    match data {
        None => {}
        Some(Data::Fields(tuple)) => write_tuple(writer, wire::NFTA_SET_ELEM_DATA, tuple),
        Some(Data::Verdict(verdict)) => write_verdict(writer, verdict),
    }
    writer.close(element);
}

fn write_tuple(writer: &mut Writer, kind: u16, tuple: &Tuple) {
    let outer = writer.nest(kind | wire::NLA_F_NESTED);
    let value = writer.nest(wire::NFTA_DATA_VALUE);
    // The length of a value counts the padding between and behind the fields of a concatenation, but not that of a
    // field alone, which belongs to the attribute.
    let concatenation = tuple.fields().len() > 1;
    for field in tuple.fields() {
        write_field(&mut writer.bytes, field);
        if concatenation {
            writer.pad();
        }
    }
    writer.close(value);
    writer.close(outer);
}

fn write_field(bytes: &mut Vec<u8>, field: &Field) {
    match field {
        Field::Addr(IpAddr::V4(address)) => bytes.extend_from_slice(&address.octets()),
        Field::Addr(IpAddr::V6(address)) => bytes.extend_from_slice(&address.octets()),
        Field::Proto(Proto(number)) => bytes.push(*number),
        Field::Port(Port(port)) => bytes.extend_from_slice(&port.to_be_bytes()),
        Field::Mark(Mark(mark)) => bytes.extend_from_slice(&mark.to_ne_bytes()),
        Field::Ether(address) => bytes.extend_from_slice(address),
    }
}

fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (wire::NF_ACCEPT, None),
        Verdict::Drop => (wire::NF_DROP, None),
        Verdict::Continue => (wire::NFT_CONTINUE, None),
        Verdict::Return => (wire::NFT_RETURN, None),
        Verdict::Jump(chain) => (wire::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (wire::NFT_GOTO, Some(chain)),
    };
    let outer = writer.nest(wire::NFTA_SET_ELEM_DATA | wire::NLA_F_NESTED);
    let inner = writer.nest(wire::NFTA_DATA_VERDICT | wire::NLA_F_NESTED);
    writer.attribute(wire::NFTA_VERDICT_CODE, &code.to_be_bytes());
    if let Some(chain) = chain {
        writer.text(wire::NFTA_VERDICT_CHAIN, chain.as_str());
    }
    writer.close(inner);
    writer.close(outer);
}

/// A value of these kinds from its bytes; `None` if the length is another one.
pub(crate) fn read_tuple(kinds: &[Kind], bytes: &[u8]) -> Option<Tuple> {
    if bytes.len() != width(kinds) || bytes.len() > types::MAX_VALUE_BYTES {
        return None;
    }
    let mut rest = bytes;
    kinds
        .iter()
        .map(|kind| {
            let (value, _) = rest.split_at_checked(kind.width())?;
            rest = rest.get(kind.width().next_multiple_of(4)..).unwrap_or_default();
            read_field(*kind, value)
        })
        .collect()
}

fn read_field(kind: Kind, bytes: &[u8]) -> Option<Field> {
    Some(match kind {
        Kind::Ipv4 => Field::Addr(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Kind::Ipv6 => Field::Addr(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        Kind::Proto => Field::Proto(Proto(*bytes.first()?)),
        Kind::Port => Field::Port(Port(u16::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Mark => Field::Mark(Mark(u32::from_ne_bytes(bytes.try_into().ok()?))),
        Kind::Ether => Field::Ether(bytes.try_into().ok()?),
    })
}
