//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::{ARP, HEADER, Mac, array, ends, expect, header};
use crate::error::FrameError;

/// What an ARP packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Asks whose the target's address is.
    Request,
    /// Says whose the sender's address is.
    Reply,
}

/// A frame with an ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Whom the frame is for.
    pub destination: Mac,
    /// Whom the frame is from.
    pub source: Mac,
    /// What it does.
    pub operation: Operation,
    /// Hardware address of the sender, by its own account.
    pub sender: Mac,
    /// Address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target; of no meaning in a request.
    pub target: Mac,
    /// Address of the target.
    pub target_ip: Ipv4Addr,
}

/// Bytes of the packet.
const LENGTH: usize = 28;

impl Arp {
    /// Reads a frame; what comes after the packet is padding.
    ///
    /// # Errors
    /// [`FrameError`] if it is no ARP request or reply for IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        const WHAT: &str = "ARP packet";
        if bytes.len() < HEADER + LENGTH {
            return Err(FrameError::Short { what: WHAT, bytes: bytes.len(), least: HEADER + LENGTH });
        }
        let (destination, source) = ends(bytes)?;
        let half = |at| array(bytes, at, WHAT).map(|pair| u32::from(u16::from_be_bytes(pair)));
        expect("type of the frame", half(12)?, ARP.into())?;
        expect("hardware type of ARP", half(HEADER)?, 1)?;
        expect("protocol type of ARP", half(HEADER + 2)?, 0x0800)?;
        expect("lengths of addresses of ARP", half(HEADER + 4)?, 0x0604)?;
        let operation = match half(HEADER + 6)? {
            1 => Operation::Request,
            2 => Operation::Reply,
            value => return Err(FrameError::Other { what: "operation of ARP", value, expected: 1 }),
        };
        let ip = |at| array::<4>(bytes, at, WHAT).map(Ipv4Addr::from);
        Ok(Self {
            destination,
            source,
            operation,
            sender: Mac(array(bytes, HEADER + 8, WHAT)?),
            sender_ip: ip(HEADER + 14)?,
            target: Mac(array(bytes, HEADER + 18, WHAT)?),
            target_ip: ip(HEADER + 24)?,
        })
    }

    /// The frame as bytes.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = header(self.destination, self.source, ARP);
        bytes.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0]);
        bytes.push(match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        });
        bytes.extend_from_slice(&self.sender.0);
        bytes.extend_from_slice(&self.sender_ip.octets());
        bytes.extend_from_slice(&self.target.0);
        bytes.extend_from_slice(&self.target_ip.octets());
        bytes
    }

    /// Asks whether anybody has an address, without saying that we do (RFC 5227 section 2.1.1).
    pub fn probe(from: Mac, address: Ipv4Addr) -> Self {
        Self {
            destination: Mac::BROADCAST,
            source: from,
            operation: Operation::Request,
            sender: from,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target: Mac::default(),
            target_ip: address,
        }
    }

    /// Tells everybody whose an address is: both forms, since some listen to one only.
    pub fn gratuitous(from: Mac, address: Ipv4Addr) -> [Self; 2] {
        [Operation::Request, Operation::Reply].map(|operation| Self {
            destination: Mac::BROADCAST,
            source: from,
            operation,
            sender: from,
            sender_ip: address,
            target: Mac::BROADCAST,
            target_ip: address,
        })
    }

    /// The answer to a request.
    pub fn answer(&self, from: Mac) -> Self {
        Self {
            destination: self.sender,
            source: from,
            operation: Operation::Reply,
            sender: from,
            sender_ip: self.target_ip,
            target: self.sender,
            target_ip: self.sender_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn gratuitous_frames_are_the_bytes_of_rfc_826() {
        let [request, reply] = Arp::gratuitous(US, Ipv4Addr::new(192, 0, 2, 7)).map(|frame| frame.render());
        let mut expected = vec![0xff; 6];
        expected.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 7]);
        expected.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(request, expected);
        expected[21] = 2;
        assert_eq!(reply, expected);
    }

    #[test]
    fn a_frame_survives_the_wire_with_its_padding() {
        for frame in
            Arp::gratuitous(US, Ipv4Addr::new(192, 0, 2, 7)).into_iter().chain([Arp::probe(US, [192, 0, 2, 8].into())])
        {
            let mut bytes = frame.render();
            assert_eq!(Arp::parse(&bytes), Ok(frame));
            bytes.resize(60, 0xaa);
            assert_eq!(Arp::parse(&bytes), Ok(frame));
            for length in 0..42 {
                assert!(matches!(Arp::parse(&bytes[..length]), Err(FrameError::Short { .. })), "{length}");
            }
        }
    }

    #[test]
    fn packets_of_other_networks_are_passed_over() {
        let good = Arp::probe(US, Ipv4Addr::new(192, 0, 2, 7)).render();
        for at in [13, 15, 17, 18, 19, 21] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            assert!(matches!(Arp::parse(&bytes), Err(FrameError::Other { .. })), "byte {at}");
        }
    }
}
