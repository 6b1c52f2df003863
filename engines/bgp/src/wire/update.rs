//! UPDATEs of a peer: checked by RFC 4271 section 6.3, and dropped.

use std::net::Ipv4Addr;

use crate::error::Notification;
use crate::wire::reader::Reader;

/// What a checked UPDATE had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) withdrawn: usize,
    pub(crate) announced: usize,
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// Codes of path attributes, as IANA lists them.
pub(crate) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MULTI_EXIT_DISC: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH_NLRI: u8 = 14;
    pub(crate) const MP_UNREACH_NLRI: u8 = 15;
    pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const LARGE_COMMUNITY: u8 = 32;
}

/// How the peer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) four_octet: bool,
    pub(crate) internal: bool,
}

struct Attribute<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// Flags, code, length and value.
    whole: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The next one; `None`: lengths that do not fit.
    fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let start = reader.0;
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let value = if flags & EXTENDED_LENGTH != 0 {
            reader.block()?
        } else {
            let length = reader.u8()?;
            reader.take(usize::from(length))?
        };
        Some(Self { flags, code, value, whole: &start[..start.len() - reader.0.len()] })
    }

    fn error(&self, subcode: u8) -> Notification {
        Notification::with(3, subcode, self.whole)
    }

    /// Flags that the code demands; `None`: an unknown code.
    fn category(&self) -> Option<u8> {
        use self::code::*;
        Some(match self.code {
            ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => TRANSITIVE,
            MULTI_EXIT_DISC | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH_NLRI | MP_UNREACH_NLRI => OPTIONAL,
            AGGREGATOR | COMMUNITIES | EXTENDED_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR | LARGE_COMMUNITY => {
                OPTIONAL | TRANSITIVE
            }
            _ => return None,
        })
    }

    fn length_fits(&self, manner: Manner) -> bool {
        use self::code::*;
        let length = self.value.len();
        match self.code {
            ORIGIN => length == 1,
            NEXT_HOP | MULTI_EXIT_DISC | LOCAL_PREF | ORIGINATOR_ID => length == 4,
            ATOMIC_AGGREGATE => length == 0,
            AGGREGATOR => length == if manner.four_octet { 8 } else { 6 },
            AS4_AGGREGATOR => length == 8,
            COMMUNITIES | CLUSTER_LIST => length.is_multiple_of(4),
            EXTENDED_COMMUNITIES => length.is_multiple_of(8),
            LARGE_COMMUNITY => length.is_multiple_of(12),
            _ => true,
        }
    }

    /// Checks everything but whether it comes twice; announced and withdrawn prefixes of other families.
    fn check(&self, manner: Manner) -> Result<Seen, Notification> {
        let Some(category) = self.category() else {
            return if self.flags & OPTIONAL == 0 { Err(self.error(2)) } else { Ok(Seen::default()) };
        };
        let kept = OPTIONAL | TRANSITIVE | if category == OPTIONAL | TRANSITIVE { 0 } else { PARTIAL };
        if self.flags & kept != category {
            return Err(self.error(4));
        }
        if !self.length_fits(manner) {
            return Err(self.error(5));
        }
        let mut seen = Seen::default();
        match self.code {
            code::ORIGIN if self.value[0] > 2 => return Err(self.error(6)),
            code::AS_PATH if !is_path(self.value, if manner.four_octet { 4 } else { 2 }) => {
                return Err(Notification::new(3, 11));
            }
            code::AS4_PATH if !is_path(self.value, 4) => return Err(self.error(9)),
            code::NEXT_HOP if !is_host(self.value) => return Err(self.error(8)),
            code::MP_REACH_NLRI => seen.announced = reached(self.value).ok_or_else(|| self.error(9))?,
            code::MP_UNREACH_NLRI => seen.withdrawn = unreached(self.value).ok_or_else(|| self.error(9))?,
            _ => {}
        }
        Ok(seen)
    }
}

/// Segments of a known type, with as many numbers as they say.
fn is_path(value: &[u8], octets: usize) -> bool {
    let mut reader = Reader(value);
    while !reader.is_empty() {
        let (Some(kind), Some(count)) = (reader.u8(), reader.u8()) else { return false };
        // 3 and 4 are of confederations, RFC 5065.
        if !(1..=4).contains(&kind) || count == 0 || reader.take(usize::from(count) * octets).is_none() {
            return false;
        }
    }
    true
}

fn is_host(value: &[u8]) -> bool {
    let Ok(octets) = <[u8; 4]>::try_from(value) else { return false };
    let address = Ipv4Addr::from(octets);
    octets[0] != 0 && octets[0] < 224 && !address.is_loopback()
}

/// How many prefixes these are; `None`: one is longer than its family has bits, or cut off.
fn prefixes(bytes: &[u8], bits: u8) -> Option<usize> {
    let mut reader = Reader(bytes);
    let mut count = 0;
    while !reader.is_empty() {
        let length = reader.u8()?;
        if length > bits {
            return None;
        }
        reader.take(usize::from(length.div_ceil(8)))?;
        count += 1;
    }
    Some(count)
}

/// Bits of the unicast family; `None`: another family, whose form is not known here.
fn bits(afi: u16, safi: u8) -> Option<u8> {
    match (afi, safi) {
        (1, 1) => Some(32),
        (2, 1) => Some(128),
        _ => None,
    }
}

/// MP_REACH_NLRI: RFC 4760 section 3, next hops by RFC 2545 and RFC 8950.
fn reached(value: &[u8]) -> Option<usize> {
    let mut reader = Reader(value);
    let (afi, safi) = (reader.u16()?, reader.u8()?);
    let length = reader.u8()?;
    let next_hop = reader.take(usize::from(length))?;
    reader.u8()?;
    let Some(bits) = bits(afi, safi) else { return Some(0) };
    let fits = matches!(next_hop.len(), 16 | 32) || (afi == 1 && next_hop.len() == 4);
    if !fits {
        return None;
    }
    prefixes(reader.0, bits)
}

/// MP_UNREACH_NLRI: RFC 4760 section 4.
fn unreached(value: &[u8]) -> Option<usize> {
    let mut reader = Reader(value);
    let (afi, safi) = (reader.u16()?, reader.u8()?);
    match bits(afi, safi) {
        Some(bits) => prefixes(reader.0, bits),
        None => Some(0),
    }
}

/// Checks the body of an UPDATE.
///
/// # Errors
/// What RFC 4271 section 6.3 refuses.
pub(crate) fn check(body: &[u8], manner: Manner) -> Result<Seen, Notification> {
    let malformed = || Notification::new(3, 1);
    let network = || Notification::new(3, 10);
    let mut reader = Reader(body);
    let withdrawn = reader.block().ok_or_else(malformed)?;
    let attributes = reader.block().ok_or_else(malformed)?;
    let mut seen = Seen { withdrawn: prefixes(withdrawn, 32).ok_or_else(network)?, announced: 0 };
    let mut present = [false; 256];
    let mut attributes = Reader(attributes);
    while !attributes.is_empty() {
        let attribute = Attribute::take(&mut attributes).ok_or_else(malformed)?;
        let here = &mut present[usize::from(attribute.code)];
        if std::mem::replace(here, true) {
            return Err(malformed());
        }
        let more = attribute.check(manner)?;
        seen.announced += more.announced;
        seen.withdrawn += more.withdrawn;
    }
    let nlri = prefixes(reader.0, 32).ok_or_else(network)?;
    let mut mandatory = vec![];
    if nlri + seen.announced > 0 {
        mandatory.extend([code::ORIGIN, code::AS_PATH]);
        if manner.internal {
            mandatory.push(code::LOCAL_PREF);
        }
    }
    if nlri > 0 {
        mandatory.push(code::NEXT_HOP);
    }
    if let Some(missing) = mandatory.into_iter().find(|code| !present[usize::from(*code)]) {
        return Err(Notification::with(3, 3, [missing]));
    }
    seen.announced += nlri;
    Ok(seen)
}
