//! Neighbour solicitations and advertisements of IPv6 over Ethernet (RFC 4861).

use std::net::Ipv6Addr;

use super::{HEADER, IPV6, Mac, array, ends, expect, header};
use crate::error::FrameError;

/// A neighbour solicitation: asks whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// Whom the frame is for.
    pub destination: Mac,
    /// Whom the frame is from.
    pub source: Mac,
    /// Whom the packet is from; unspecified while its sender looks for duplicates (RFC 4862).
    pub from: Ipv6Addr,
    /// Whom the packet is for.
    pub to: Ipv6Addr,
    /// The address that it asks for.
    pub target: Ipv6Addr,
    /// Hardware address of the sender, by its own account.
    pub sender: Option<Mac>,
}

/// A neighbour advertisement: says whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// Whom the frame is for.
    pub destination: Mac,
    /// Whom the frame is from.
    pub source: Mac,
    /// Whom the packet is from.
    pub from: Ipv6Addr,
    /// Whom the packet is for.
    pub to: Ipv6Addr,
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// Whether it is the answer to a solicitation.
    pub solicited: bool,
    /// Whether it counts more than what was known.
    pub overrides: bool,
    /// Hardware address of the target.
    pub owner: Option<Mac>,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// Type 135.
    Solicitation(Solicitation),
    /// Type 136.
    Advertisement(Advertisement),
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;
const ICMPV6: u8 = 58;
/// Where the header of IPv6 ends.
const PAYLOAD: usize = HEADER + 40;
/// Bytes of the message without options.
const MESSAGE: usize = 24;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The group in which those listen that have the address, and the hardware address of the group (RFC 4291 section 2.7.1,
/// RFC 2464 section 7).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

impl Neighbour {
    /// Reads a frame. Packets with extension headers are passed over: no sender of these messages needs any, and with
    /// fragments they are forbidden (RFC 6980).
    ///
    /// # Errors
    /// [`FrameError`] if it is no such message, or breaks a rule of RFC 4861 sections 7.1.1 and 7.1.2.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        const WHAT: &str = "neighbour message";
        if bytes.len() < PAYLOAD + MESSAGE {
            return Err(FrameError::Short { what: WHAT, bytes: bytes.len(), least: PAYLOAD + MESSAGE });
        }
        let (destination, source) = ends(bytes)?;
        let half = |at| array(bytes, at, WHAT).map(|pair| u32::from(u16::from_be_bytes(pair)));
        expect("type of the frame", half(12)?, IPV6.into())?;
        expect("version of IP", u32::from(bytes[HEADER] >> 4), 6)?;
        expect("next header", bytes[HEADER + 6].into(), ICMPV6.into())?;
        expect("hop limit", bytes[HEADER + 7].into(), 255)?;
        let length = half(HEADER + 4)? as usize;
        let message = bytes.get(PAYLOAD..PAYLOAD + length);
        let message = message.ok_or(FrameError::Short { what: WHAT, bytes: bytes.len(), least: PAYLOAD + length })?;
        let ip = |at| array::<16>(bytes, at, WHAT).map(Ipv6Addr::from);
        let (from, to) = (ip(HEADER + 8)?, ip(HEADER + 24)?);
        if message.len() < MESSAGE {
            return Err(FrameError::Short { what: WHAT, bytes: message.len(), least: MESSAGE });
        }
        expect("code of ICMPv6", message[1].into(), 0)?;
        if checksum(from, to, message) != 0 {
            return Err(FrameError::Invalid("the checksum of the neighbour message is wrong"));
        }
        let target = Ipv6Addr::from(array::<16>(message, 8, WHAT)?);
        if target.is_multicast() {
            return Err(FrameError::Invalid("the target of the neighbour message is a group"));
        }
        match message[0] {
            SOLICITATION => {
                let sender = option(&message[MESSAGE..], SOURCE_OPTION)?;
                if from.is_unspecified() && (sender.is_some() || to != solicited_node(target)) {
                    return Err(FrameError::Invalid(
                        "a solicitation from nobody names its sender or is for somebody else",
                    ));
                }
                Ok(Self::Solicitation(Solicitation { destination, source, from, to, target, sender }))
            }
            ADVERTISEMENT => {
                let (solicited, overrides) = (message[4] & 0x40 != 0, message[4] & 0x20 != 0);
                if solicited && to.is_multicast() {
                    return Err(FrameError::Invalid("an answer to a solicitation is for a group"));
                }
                let owner = option(&message[MESSAGE..], TARGET_OPTION)?;
                let advertisement =
                    Advertisement { destination, source, from, to, target, solicited, overrides, owner };
                Ok(Self::Advertisement(advertisement))
            }
            other => {
                Err(FrameError::Other { what: "type of ICMPv6", value: other.into(), expected: SOLICITATION.into() })
            }
        }
    }
}

/// The hardware address in the first option of a kind.
pub(super) fn option(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, FrameError> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        if units == 0 {
            return Err(FrameError::Invalid("an option of the neighbour message has no length"));
        }
        let Some((option, rest)) = options.split_at_checked(usize::from(units) * 8) else {
            return Err(FrameError::Invalid("an option of the neighbour message is cut off"));
        };
        if kind == wanted && units == 1 && found.is_none() {
            found = Some(Mac(array(option, 2, "option")?));
        }
        options = rest;
    }
    match options {
        [] => Ok(found),
        _ => Err(FrameError::Invalid("an option of the neighbour message is cut off")),
    }
}

impl Solicitation {
    /// Asks whether anybody has an address, without saying that we do (RFC 4862 section 5.4.2).
    pub fn probe(from: Mac, address: Ipv6Addr) -> Self {
        let to = solicited_node(address);
        Self {
            destination: group_mac(to),
            source: from,
            from: Ipv6Addr::UNSPECIFIED,
            to,
            target: address,
            sender: None,
        }
    }

    /// The answer, from an interface with these addresses; `None`: it does not say whom to answer.
    ///
    /// One who looks for duplicates is answered by telling everybody (RFC 4861 section 7.2.4). Whoever else asks hears it
    /// from the address itself, as Linux answers for its own: there are tools that believe nobody else.
    pub fn answer(&self, mac: Mac, link_local: Ipv6Addr) -> Option<Advertisement> {
        if self.from.is_unspecified() {
            return Some(Advertisement { overrides: true, ..Advertisement::unsolicited(mac, link_local, self.target) });
        }
        let sender = self.sender.filter(|sender| sender.is_unicast())?;
        Some(Advertisement {
            destination: sender,
            source: mac,
            from: self.target,
            to: self.from,
            target: self.target,
            solicited: true,
            overrides: false,
            owner: Some(mac),
        })
    }

    /// The frame as bytes.
    pub fn render(&self) -> Vec<u8> {
        let ends = Ends { destination: self.destination, source: self.source, from: self.from, to: self.to };
        ends.render(SOLICITATION, 0, self.target, self.sender.map(|sender| (SOURCE_OPTION, sender)))
    }
}

impl Advertisement {
    /// Tells everybody whose an address is.
    pub fn unsolicited(mac: Mac, link_local: Ipv6Addr, address: Ipv6Addr) -> Self {
        Self {
            destination: group_mac(ALL_NODES),
            source: mac,
            from: link_local,
            to: ALL_NODES,
            target: address,
            solicited: false,
            overrides: true,
            owner: Some(mac),
        }
    }

    /// The frame as bytes.
    pub fn render(&self) -> Vec<u8> {
        let ends = Ends { destination: self.destination, source: self.source, from: self.from, to: self.to };
        let flags = u8::from(self.solicited) << 6 | u8::from(self.overrides) << 5;
        ends.render(ADVERTISEMENT, flags, self.target, self.owner.map(|owner| (TARGET_OPTION, owner)))
    }
}

/// Who sends to whom.
struct Ends {
    destination: Mac,
    source: Mac,
    from: Ipv6Addr,
    to: Ipv6Addr,
}

impl Ends {
    fn render(&self, kind: u8, flags: u8, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        if let Some((kind, mac)) = option {
            message.extend_from_slice(&[kind, 1]);
            message.extend_from_slice(&mac.0);
        }
        let sum = checksum(self.from, self.to, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = header(self.destination, self.source, IPV6);
        bytes.extend_from_slice(&[0x60, 0, 0, 0, 0]);
        bytes.push(u8::try_from(message.len()).expect("a message has 32 bytes at most"));
        bytes.extend_from_slice(&[ICMPV6, 255]);
        bytes.extend_from_slice(&self.from.octets());
        bytes.extend_from_slice(&self.to.octets());
        bytes.extend_from_slice(&message);
        bytes
    }
}

/// The checksum of a message of ICMPv6; 0 of one that has its own and is whole (RFC 4443 section 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let parts: [&[u8]; 5] = [&from.octets(), &to.octets(), &length, &[0, 0, 0, ICMPV6], message];
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEM: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn link_local() -> Ipv6Addr {
        "fe80::1".parse().unwrap()
    }

    fn vip() -> Ipv6Addr {
        "2001:db8::12:3456".parse().unwrap()
    }

    fn solicitation() -> Solicitation {
        let to = solicited_node(vip());
        let (destination, from) = (group_mac(to), "fe80::2".parse().unwrap());
        Solicitation { destination, source: THEM, from, to, target: vip(), sender: Some(THEM) }
    }

    #[test]
    fn a_solicitation_of_linux_is_read_and_written_alike() {
        // Taken from the wire.
        let bytes = [
            0x33, 0x33, 0xff, 0x00, 0x00, 0x01, 0x7a, 0xdc, 0x6d, 0x0e, 0xf2, 0xe8, 0x86, 0xdd, 0x60, 0x01, 0x00, 0xd6,
            0x00, 0x20, 0x3a, 0xff, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x78, 0xdc, 0x6d, 0xff, 0xfe, 0x0e,
            0xf2, 0xe8, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xff, 0x00, 0x00, 0x01,
            0x87, 0x00, 0xcb, 0x73, 0x00, 0x00, 0x00, 0x00, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x01, 0x7a, 0xdc, 0x6d, 0x0e, 0xf2, 0xe8,
        ];
        let mac = Mac([0x7a, 0xdc, 0x6d, 0x0e, 0xf2, 0xe8]);
        let to = "ff02::1:ff00:1".parse().unwrap();
        let expected = Solicitation {
            destination: group_mac(to),
            source: mac,
            from: "fe80::78dc:6dff:fe0e:f2e8".parse().unwrap(),
            to,
            target: "fd00::1".parse().unwrap(),
            sender: Some(mac),
        };
        assert_eq!(Neighbour::parse(&bytes), Ok(Neighbour::Solicitation(expected)));
        // All but the flow label.
        let rendered = expected.render();
        assert_eq!(rendered[..15], bytes[..15]);
        assert_eq!(rendered[18..], bytes[18..]);
    }

    #[test]
    fn an_answer_says_whose_the_address_is_to_the_one_who_asked() {
        let answer = solicitation().answer(US, link_local()).unwrap();
        assert_eq!((answer.destination, answer.to, answer.from), (THEM, "fe80::2".parse().unwrap(), vip()));
        assert_eq!((answer.solicited, answer.overrides, answer.owner), (true, false, Some(US)));
        assert_eq!(Neighbour::parse(&answer.render()), Ok(Neighbour::Advertisement(answer)));
    }

    #[test]
    fn one_who_looks_for_duplicates_hears_with_everybody_else() {
        let answer = Solicitation::probe(THEM, vip()).answer(US, link_local()).unwrap();
        assert_eq!(answer, Advertisement::unsolicited(US, link_local(), vip()));
        assert_eq!(
            (answer.destination, answer.solicited, answer.overrides),
            (Mac([0x33, 0x33, 0, 0, 0, 1]), false, true)
        );
    }

    #[test]
    fn who_does_not_say_its_hardware_address_is_not_answered() {
        for sender in [None, Some(Mac::BROADCAST)] {
            assert_eq!(Solicitation { sender, ..solicitation() }.answer(US, link_local()), None);
        }
    }

    #[test]
    fn every_broken_bit_of_a_message_is_noticed() {
        let good = solicitation().render();
        for at in PAYLOAD..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                assert!(Neighbour::parse(&bytes).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    /// The solicitation with something changed and the checksum made right again.
    fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Result<Neighbour, FrameError> {
        let mut bytes = solicitation().render();
        change(&mut bytes);
        bytes[PAYLOAD + 2..PAYLOAD + 4].fill(0);
        let ip = |at: usize| Ipv6Addr::from(*bytes[at..].first_chunk::<16>().unwrap());
        let length = usize::from(u16::from_be_bytes([bytes[HEADER + 4], bytes[HEADER + 5]]));
        let end = bytes.len().min(PAYLOAD + length);
        let sum = checksum(ip(HEADER + 8), ip(HEADER + 24), &bytes[PAYLOAD..end]);
        bytes[PAYLOAD + 2..PAYLOAD + 4].copy_from_slice(&sum.to_be_bytes());
        Neighbour::parse(&bytes)
    }

    /// What is done to a good message.
    type Change = fn(&mut Vec<u8>);

    #[test]
    fn rules_of_rfc_4861_are_kept() {
        assert!(altered(|_| {}).is_ok());
        let cases: [(&str, Change); 9] = [
            ("a router was passed", |bytes| bytes[HEADER + 7] = 254),
            ("another protocol", |bytes| bytes[HEADER + 6] = 17),
            ("code", |bytes| bytes[PAYLOAD + 1] = 1),
            ("type", |bytes| bytes[PAYLOAD] = 134),
            ("target is a group", |bytes| bytes[PAYLOAD + 8] = 0xff),
            ("option without length", |bytes| bytes[PAYLOAD + MESSAGE + 1] = 0),
            ("option longer than the message", |bytes| bytes[PAYLOAD + MESSAGE + 1] = 2),
            ("from nobody, with its name", |bytes| bytes[HEADER + 8..HEADER + 24].fill(0)),
            ("length of less than a message", |bytes| bytes[HEADER + 5] = 16),
        ];
        for (what, change) in cases {
            assert!(altered(change).is_err(), "{what}");
        }
        let mut answer = solicitation().answer(US, link_local()).unwrap();
        answer.to = ALL_NODES;
        assert!(matches!(Neighbour::parse(&answer.render()), Err(FrameError::Invalid(_))));
    }
}
