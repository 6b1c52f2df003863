//! What the kernel says -> messages, answers, elements. Every length is checked; no bytes make it panic.
//!
//! [`messages`] splits what a socket received. What does not fit into the bytes that are there is [`Malformed`]; what is
//! well formed but not known here is skipped.

use crate::encode::read_tuple;
use crate::error::Malformed;
use crate::kernel::Generation;
use crate::types::{Data, Element, Key, Name, Set, SetData, Tuple, Verdict};
use crate::wire::{self, NFGEN_HEADER, NLA_HEADER, NLMSG_HEADER};

/// A text of the kernel is kept up to this length, in bytes.
const MAX_TEXT_BYTES: usize = 255;

/// A netlink message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`: the subsystem in the upper byte.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// The number that the request had.
    pub sequence: u32,
    /// Whose request this answers, or whose change this event tells: the port of a netlink socket.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Splits bytes into messages; ends after the first that does not fit.
pub fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { bytes, at: 0 }
}

/// The messages of a datagram, see [`messages`].
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let malformed = Malformed { what: "message", at: self.at };
        let parsed = (|| {
            let length = usize::try_from(u32::from_ne_bytes(array(rest, 0)?)).ok()?;
            let payload = rest.get(NLMSG_HEADER..length)?;
            let kind = u16::from_ne_bytes(array(rest, 4)?);
            let flags = u16::from_ne_bytes(array(rest, 6)?);
            let sequence = u32::from_ne_bytes(array(rest, 8)?);
            let port = u32::from_ne_bytes(array(rest, 12)?);
            Some((length, Message { kind, flags, sequence, port, payload }))
        })();
        let Some((length, message)) = parsed else {
            self.at = self.bytes.len();
            return Some(Err(malformed));
        };
        self.at = self.at.saturating_add(length.next_multiple_of(4));
        Some(Ok(message))
    }
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// Its number, without flags.
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
    /// Where its header starts in the bytes that were split.
    pub(crate) at: usize,
}

/// The attributes of a list.
pub(crate) struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { bytes, at: 0 }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let at = self.at;
        let parsed = (|| {
            let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
            let kind = u16::from_ne_bytes(array(rest, 2)?) & wire::NLA_TYPE_MASK;
            let value = rest.get(NLA_HEADER..length)?;
            Some((length, Attribute { kind, value, at }))
        })();
        let Some((length, attribute)) = parsed else {
            self.at = self.bytes.len();
            return Some(Err(Malformed { what: "attribute", at }));
        };
        self.at = at.saturating_add(length.next_multiple_of(4));
        Some(Ok(attribute))
    }
}

/// The first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attribute in attributes(bytes) {
        let attribute = attribute?;
        if attribute.kind == kind {
            return Ok(Some(attribute.value));
        }
    }
    Ok(None)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A text that ends at its NUL, or where the bytes end.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(MAX_TEXT_BYTES);
    let visible = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    String::from_utf8_lossy(&bytes[..end]).chars().map(visible).collect()
}

/// The attributes of a message of nfnetlink, behind its own header.
pub(crate) fn body<'a>(message: &Message<'a>) -> Result<&'a [u8], Malformed> {
    message.payload.get(NFGEN_HEADER..).ok_or(Malformed { what: "header of nfnetlink", at: 0 })
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was refused.
    Refused {
        /// The kernel's number, positive.
        errno: i32,
        /// Where in the message the attribute starts that the kernel did not like, in bytes from its header.
        offset: Option<u32>,
        /// What the kernel says of it.
        text: Option<String>,
    },
}

/// The end that a message tells of, if it does.
///
/// # Errors
/// When the message is cut off.
pub fn answer(message: &Message<'_>) -> Result<Option<Answer>, Malformed> {
    let malformed = Malformed { what: "error number", at: 0 };
    let (errno, rest) = match message.kind {
        wire::NLMSG_ERROR => {
            let errno = i32::from_ne_bytes(array(message.payload, 0).ok_or(malformed)?);
            let length = u32::from_ne_bytes(array(message.payload, 4).ok_or(malformed)?);
            let original = if message.flags & wire::NLM_F_CAPPED != 0 || errno == 0 {
                NLMSG_HEADER
            } else {
                usize::try_from(length).unwrap_or(usize::MAX)
            };
            let behind = original.checked_add(4).and_then(|end| end.checked_next_multiple_of(4)).ok_or(malformed)?;
            (errno, message.payload.get(behind..).unwrap_or_default())
        }
        wire::NLMSG_DONE => {
            // A dump without a number has ended well.
            let errno = array(message.payload, 0).map_or(0, i32::from_ne_bytes);
            (errno, message.payload.get(4..).unwrap_or_default())
        }
        _ => return Ok(None),
    };
    if errno >= 0 {
        return Ok(Some(Answer::Done));
    }
    let (mut offset, mut said) = (None, None);
    if message.flags & wire::NLM_F_ACK_TLVS != 0 {
        for attribute in attributes(rest) {
            let attribute = attribute?;
            match attribute.kind {
                wire::NLMSGERR_ATTR_OFFS => offset = attribute.value.try_into().ok().map(u32::from_ne_bytes),
                wire::NLMSGERR_ATTR_MSG => said = Some(text(attribute.value)),
                _ => {}
            }
        }
    }
    Ok(Some(Answer::Refused { errno: errno.saturating_neg(), offset, text: said }))
}

/// Appends the elements of a message to `out`. Returns how many more there are that the set cannot have as it is declared:
/// of another size, with other data, a catch-all.
///
/// # Errors
/// When an attribute is cut off; what came before it has been appended.
pub fn elements(set: &Set, message: &Message<'_>, out: &mut Vec<Element>) -> Result<usize, Malformed> {
    let mut foreign = 0;
    let Some(list) = find(body(message)?, wire::NFTA_SET_ELEM_LIST_ELEMENTS)? else { return Ok(0) };
    for attribute in attributes(list) {
        match element(set, attribute?.value)? {
            Some(element) => out.push(element),
            None => foreign += 1,
        }
    }
    Ok(foreign)
}

/// The element at an offset in a message of ours; without an offset, the only one.
pub(crate) fn element_at(set: &Set, message: &Message<'_>, offset: Option<u32>) -> Option<Element> {
    let body = body(message).ok()?;
    let list = attributes(body).flatten().find(|attribute| attribute.kind == wire::NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let start = NLMSG_HEADER + NFGEN_HEADER + list.at + NLA_HEADER;
    let mut found = attributes(list.value).flatten();
    let attribute = match offset {
        Some(offset) => {
            let offset = usize::try_from(offset).ok()?.checked_sub(start)?;
            found
                .find(|attribute| (attribute.at..attribute.at + NLA_HEADER + attribute.value.len()).contains(&offset))?
        }
        None => found.next().filter(|_| found.next().is_none())?,
    };
    let (key, data) = parts(set, attribute.value).ok()??;
    Some(Element { key, data })
}

fn element(set: &Set, bytes: &[u8]) -> Result<Option<Element>, Malformed> {
    let Some((key, data)) = parts(set, bytes)? else { return Ok(None) };
    let element = Element { key, data };
    Ok(set.fits(&element).then_some(element))
}

/// Key and data of an element; those of one to be deleted lack the data.
fn parts(set: &Set, bytes: &[u8]) -> Result<Option<(Key, Option<Data>)>, Malformed> {
    let (mut start, mut end, mut data) = (None, None, None);
    let mut fits = true;
    for attribute in attributes(bytes) {
        let attribute = attribute?;
        match attribute.kind {
            wire::NFTA_SET_ELEM_KEY => start = tuple(set.key(), attribute.value)?,
            wire::NFTA_SET_ELEM_KEY_END => {
                end = tuple(set.key(), attribute.value)?;
                fits &= end.is_some();
            }
            wire::NFTA_SET_ELEM_DATA => {
                data = match set.data() {
                    SetData::None => None,
                    SetData::Verdict => verdict(attribute.value)?.map(Data::Verdict),
                    SetData::Fields(kinds) => tuple(kinds, attribute.value)?.map(Data::Fields),
                };
                fits &= data.is_some();
            }
            _ => {}
        }
    }
    let key = match (start, end) {
        (Some(start), Some(end)) => Some(Key::range(start, end)),
        (start, _) => start.map(Key::from),
    };
    Ok(key.filter(|_| fits).map(|key| (key, data)))
}

fn tuple(kinds: &[crate::Kind], bytes: &[u8]) -> Result<Option<Tuple>, Malformed> {
    Ok(find(bytes, wire::NFTA_DATA_VALUE)?.and_then(|value| read_tuple(kinds, value)))
}

fn verdict(bytes: &[u8]) -> Result<Option<Verdict>, Malformed> {
    let Some(bytes) = find(bytes, wire::NFTA_DATA_VERDICT)? else { return Ok(None) };
    let code = find(bytes, wire::NFTA_VERDICT_CODE)?.and_then(number).map(u32::cast_signed);
    let chain = find(bytes, wire::NFTA_VERDICT_CHAIN)?;
    let chain =
        chain.and_then(|bytes| Name::new(std::str::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes)).ok()?).ok());
    Ok(match (code, chain) {
        (Some(wire::NF_ACCEPT), None) => Some(Verdict::Accept),
        (Some(wire::NF_DROP), None) => Some(Verdict::Drop),
        (Some(wire::NFT_CONTINUE), None) => Some(Verdict::Continue),
        (Some(wire::NFT_RETURN), None) => Some(Verdict::Return),
        (Some(wire::NFT_JUMP), Some(chain)) => Some(Verdict::Jump(chain)),
        (Some(wire::NFT_GOTO), Some(chain)) => Some(Verdict::Goto(chain)),
        _ => None,
    })
}

/// The generation that a message tells, if it is one that does: the answer to a request, or the end of a commit.
///
/// # Errors
/// When it is cut off, or has no generation.
pub fn generation(message: &Message<'_>) -> Result<Option<Generation>, Malformed> {
    if message.kind != wire::NFT_MSG_NEWGEN {
        return Ok(None);
    }
    let (mut id, mut pid, mut program) = (None, None, String::new());
    for attribute in attributes(body(message)?) {
        let attribute = attribute?;
        match attribute.kind {
            wire::NFTA_GEN_ID => id = number(attribute.value),
            wire::NFTA_GEN_PROC_PID => pid = number(attribute.value),
            wire::NFTA_GEN_PROC_NAME => program = text(attribute.value),
            _ => {}
        }
    }
    let id = id.ok_or(Malformed { what: "generation", at: 0 })?;
    Ok(Some(Generation { id, pid, program }))
}
