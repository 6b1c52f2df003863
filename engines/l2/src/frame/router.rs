//! Router advertisements: how two routers on a cable learn each other's address. RFC 4861 sections 4.2 and 6.1.2.

use super::ndp::option;
use super::{Mac, array, expect};
use crate::error::FrameError;

/// What is used of an advertisement: that it is one.
///
/// Shape: the message of ICMPv6, without the header of IPv6. Whoever receives it has looked at the checksum, at the hop limit
/// (255) and at the sender (link-local).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// For how many seconds hosts may use the sender as their default router; 0: not at all.
    pub lifetime: u16,
    /// Hardware address of the sender.
    pub sender: Option<Mac>,
}

const ADVERTISEMENT: u8 = 134;
const SOURCE_OPTION: u8 = 1;
/// Bytes of the message without options.
const MESSAGE: usize = 16;

impl RouterAdvertisement {
    /// Reads a message.
    ///
    /// # Errors
    /// [`FrameError`] if it is another message, or breaks a rule of RFC 4861 section 6.1.2.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        const WHAT: &str = "router advertisement";
        if bytes.len() < MESSAGE {
            return Err(FrameError::Short { what: WHAT, bytes: bytes.len(), least: MESSAGE });
        }
        expect("type of ICMPv6", bytes[0].into(), ADVERTISEMENT.into())?;
        expect("code of ICMPv6", bytes[1].into(), 0)?;
        let lifetime = u16::from_be_bytes(array(bytes, 6, WHAT)?);
        Ok(Self { lifetime, sender: option(&bytes[MESSAGE..], SOURCE_OPTION)? })
    }

    /// The message as bytes, without checksum: the kernel makes it.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = vec![ADVERTISEMENT, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.lifetime.to_be_bytes());
        // How long neighbours are reachable, and when to ask again, is left to whoever reads it.
        bytes.resize(MESSAGE, 0);
        if let Some(mac) = self.sender {
            bytes.extend_from_slice(&[SOURCE_OPTION, 1]);
            bytes.extend_from_slice(&mac.0);
        }
        bytes
    }
}

/// Any bytes are read without a panic, and what was read survives the way back to bytes.
///
/// # Panics
/// When this does not hold.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(read) = RouterAdvertisement::parse(bytes) {
        let written = read.render();
        assert!(written.len() <= bytes.len(), "{read:?} grew");
        assert_eq!(RouterAdvertisement::parse(&written), Ok(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hop limit 64, lifetime 30 s, and the sender's hardware address.
    const THEIRS: [u8; 24] = [
        0x86, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x1e, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
        0x7a, 0xdc, 0x6d, 0x0e, 0xf2, 0xe8,
    ];

    #[test]
    fn an_advertisement_is_read_and_ours_promises_nothing() {
        let sender = Some(Mac([0x7a, 0xdc, 0x6d, 0x0e, 0xf2, 0xe8]));
        assert_eq!(RouterAdvertisement::parse(&THEIRS), Ok(RouterAdvertisement { lifetime: 30, sender }));
        let ours = RouterAdvertisement { lifetime: 0, sender };
        let bytes = ours.render();
        assert_eq!((bytes[0], bytes[5..8].to_vec(), bytes.len()), (134, vec![0, 0, 0], 24));
        assert_eq!(RouterAdvertisement::parse(&bytes), Ok(ours));
    }

    #[test]
    fn rules_of_rfc_4861_are_kept() {
        for (what, at, value) in [
            ("a solicitation", 0, 133),
            ("code", 1, 1),
            ("option without length", 17, 0),
            ("option longer than the message", 17, 2),
        ] {
            let mut bytes = THEIRS;
            bytes[at] = value;
            assert!(RouterAdvertisement::parse(&bytes).is_err(), "{what}");
        }
        for length in (0..MESSAGE).chain(17..24) {
            assert!(RouterAdvertisement::parse(&THEIRS[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(RouterAdvertisement::parse(&THEIRS[..16]).map(|read| read.sender), Ok(None));
    }
}
