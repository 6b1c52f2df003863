//! Frames of ARP and NDP, as bytes from the destination's hardware address on; and router advertisements, from the type on.

mod arp;
mod ndp;
mod router;

use std::fmt;

pub use arp::{Arp, Operation};
pub use ndp::{Advertisement, Neighbour, Solicitation, solicited_node};
pub use router::{RouterAdvertisement, fuzz as fuzz_router_advertisement};

use crate::error::FrameError;

/// A hardware address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it can be one interface's own: not several's, and not all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        parts.next().is_none().then_some(Self(mac)).ok_or(())
    }
}

/// Bytes before the payload: both hardware addresses and the type.
const HEADER: usize = 14;

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A protocol that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// ARP.
    Arp(Arp),
    /// A neighbour solicitation or advertisement.
    Neighbour(Neighbour),
}

impl Frame {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError`] if it is of another protocol, cut off, or breaks a rule of its protocol.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        match bytes.get(12..HEADER) {
            Some(&[a, b]) if u16::from_be_bytes([a, b]) == ARP => Arp::parse(bytes).map(Self::Arp),
            Some(&[a, b]) if u16::from_be_bytes([a, b]) == IPV6 => Neighbour::parse(bytes).map(Self::Neighbour),
            Some(&[a, b]) => {
                let value = u16::from_be_bytes([a, b]).into();
                Err(FrameError::Other { what: "type of the frame", value, expected: ARP.into() })
            }
            _ => Err(FrameError::Short { what: "frame", bytes: bytes.len(), least: HEADER }),
        }
    }
}

/// The bytes at a place.
fn array<const N: usize>(bytes: &[u8], at: usize, what: &'static str) -> Result<[u8; N], FrameError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(FrameError::Short { what, bytes: bytes.len(), least: at + N })
}

/// Destination and source.
fn ends(bytes: &[u8]) -> Result<(Mac, Mac), FrameError> {
    Ok((Mac(array(bytes, 0, "frame")?), Mac(array(bytes, 6, "frame")?)))
}

fn header(destination: Mac, source: Mac, kind: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.extend_from_slice(&destination.0);
    bytes.extend_from_slice(&source.0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes
}

fn expect(what: &'static str, value: u32, expected: u32) -> Result<(), FrameError> {
    if value == expected { Ok(()) } else { Err(FrameError::Other { what, value, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_survives_its_text_and_nothing_else_is_one() {
        let mac = Mac([2, 0, 0xab, 0, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for text in
            ["", "02:00:ab:00:00", "02:00:ab:00:00:01:02", "2:0:ab:0:0:1", "02-00-ab-00-00-01", "zz:00:00:00:00:00"]
        {
            assert_eq!(text.parse::<Mac>(), Err(()), "{text}");
        }
    }

    #[test]
    fn several_and_nobody_are_not_one_interface() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        for mac in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1]), Mac([0; 6])] {
            assert!(!mac.is_unicast(), "{mac}");
        }
    }

    #[test]
    fn a_frame_of_another_protocol_is_passed_over() {
        let mut bytes = header(Mac::BROADCAST, Mac([2; 6]), 0x0800);
        bytes.resize(60, 0);
        assert!(matches!(Frame::parse(&bytes), Err(FrameError::Other { value: 0x0800, .. })));
        assert!(matches!(Frame::parse(&[0; 5]), Err(FrameError::Short { .. })));
    }
}
