//! What the kernel says -> messages, attributes, answers. Every length is checked; no bytes make it panic.

use netlink_packet_core::ParseableParametrized as _;
use netlink_packet_route::RouteNetlinkMessage;

use crate::wire::{self, NLA_HEADER, NLMSG_HEADER};

/// A text of the kernel is kept up to this length, in bytes.
const MAX_TEXT_BYTES: usize = 255;

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

pub(crate) fn malformed(what: &str) -> Malformed {
    Malformed(format!("{what} does not fit into what is there"))
}

/// A netlink message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// The number that the request had.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// As a message of rtnetlink.
    pub(crate) fn route(&self) -> Result<RouteNetlinkMessage, Malformed> {
        RouteNetlinkMessage::parse_with_param(self.payload, self.kind).map_err(|error| Malformed(error.to_string()))
    }
}

/// The messages of a datagram; ends after the first that does not fit.
pub(crate) struct Messages<'a> {
    bytes: &'a [u8],
    at: usize,
}

pub(crate) fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { bytes, at: 0 }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let parsed = (|| {
            let length = usize::try_from(u32::from_ne_bytes(array(rest, 0)?)).ok()?;
            let payload = rest.get(NLMSG_HEADER..length)?;
            let kind = u16::from_ne_bytes(array(rest, 4)?);
            let flags = u16::from_ne_bytes(array(rest, 6)?);
            let sequence = u32::from_ne_bytes(array(rest, 8)?);
            Some((length, Message { kind, flags, sequence, payload }))
        })();
        let Some((length, message)) = parsed else {
            self.at = self.bytes.len();
            return Some(Err(malformed("message")));
        };
        self.at = self.at.saturating_add(length.next_multiple_of(4));
        Some(Ok(message))
    }
}

/// The attributes of a list: number without flags, value.
pub(crate) struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { bytes, at: 0 }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let parsed = (|| {
            let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
            let kind = u16::from_ne_bytes(array(rest, 2)?) & wire::NLA_TYPE_MASK;
            Some((length, kind, rest.get(NLA_HEADER..length)?))
        })();
        let Some((length, kind, value)) = parsed else {
            self.at = self.bytes.len();
            return Some(Err(malformed("attribute")));
        };
        self.at = self.at.saturating_add(length.next_multiple_of(4));
        Some(Ok((kind, value)))
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A text that ends at its NUL, or where the bytes end.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(MAX_TEXT_BYTES);
    let visible = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    String::from_utf8_lossy(&bytes[..end]).chars().map(visible).collect()
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// The kernel's number, positive, and what it says beside it.
    Refused {
        errno: i32,
        text: Option<String>,
    },
}

/// The end that a message tells of, if it does.
pub(crate) fn answer(message: &Message<'_>) -> Result<Option<Answer>, Malformed> {
    let number = |at| array(message.payload, at).ok_or_else(|| malformed("error number"));
    let (errno, rest) = match message.kind {
        wire::NLMSG_ERROR => {
            let errno = i32::from_ne_bytes(number(0)?);
            let length = u32::from_ne_bytes(number(4)?);
            let original = if message.flags & wire::NLM_F_CAPPED != 0 || errno == 0 {
                NLMSG_HEADER
            } else {
                usize::try_from(length).unwrap_or(usize::MAX)
            };
            let behind = original.checked_add(4).and_then(|end| end.checked_next_multiple_of(4));
            (errno, behind.and_then(|behind| message.payload.get(behind..)).unwrap_or_default())
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
    let mut said = None;
    if message.flags & wire::NLM_F_ACK_TLVS != 0 {
        for attribute in attributes(rest) {
            let (kind, value) = attribute?;
            if kind == wire::NLMSGERR_ATTR_MSG {
                said = Some(text(value));
            }
        }
    }
    Ok(Some(Answer::Refused { errno: errno.saturating_neg(), text: said }))
}
