//! PROXY protocol headers to send, right and wrong ones.

use std::net::{IpAddr, SocketAddr};

/// `PP2_TYPE_ALPN`.
pub const ALPN: u8 = 0x01;
/// `PP2_TYPE_AUTHORITY`: the SNI or Host of the client.
pub const AUTHORITY: u8 = 0x02;
/// `PP2_TYPE_CRC32C`.
pub const CRC32C: u8 = 0x03;
/// `PP2_TYPE_NOOP`: padding.
pub const NOOP: u8 = 0x04;
/// `PP2_TYPE_UNIQUE_ID`.
pub const UNIQUE_ID: u8 = 0x05;
/// `PP2_TYPE_SSL`.
pub const SSL: u8 = 0x20;

/// A version 1 line; the family is that of `source`.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// `PROXY UNKNOWN`.
pub fn v1_unknown() -> Vec<u8> {
    b"PROXY UNKNOWN\r\n".to_vec()
}

/// A version 1 line of 108 bytes, one more than allowed.
pub fn v1_too_long() -> Vec<u8> {
    format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes()
}

#[derive(Clone, Copy, Debug)]
enum Checksum {
    None,
    Right,
    Wrong,
}

/// A version 2 header under construction.
#[derive(Clone, Debug)]
pub struct V2 {
    command: u8,
    family: u8,
    addresses: Vec<u8>,
    tlvs: Vec<u8>,
    checksum: Checksum,
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl V2 {
    /// Any command (`0x20` LOCAL, `0x21` PROXY), family and address bytes, also nonsense.
    pub fn raw(command: u8, family: u8, addresses: &[u8]) -> Self {
        Self { command, family, addresses: addresses.to_vec(), tlvs: Vec::new(), checksum: Checksum::None }
    }

    fn inet(transport: u8, source: SocketAddr, destination: SocketAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one header has one address family");
        let family = if source.is_ipv4() { 0x10 } else { 0x20 };
        let mut addresses = octets(source.ip());
        addresses.extend(octets(destination.ip()));
        addresses.extend(source.port().to_be_bytes());
        addresses.extend(destination.port().to_be_bytes());
        Self::raw(0x21, family | transport, &addresses)
    }

    /// A TCP client. Both addresses have the same family.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::inet(1, source, destination)
    }

    /// A UDP client. Both addresses have the same family.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::inet(2, source, destination)
    }

    /// `LOCAL`: a health check of the proxy itself.
    pub fn local() -> Self {
        Self::raw(0x20, 0, &[])
    }

    /// `PROXY` with family UNSPEC.
    pub fn unspec() -> Self {
        Self::raw(0x21, 0, &[])
    }

    /// `PROXY` with family UNIX and empty paths.
    pub fn unix() -> Self {
        Self::raw(0x21, 0x31, &[0; 216])
    }

    /// Adds an extension.
    #[must_use]
    pub fn tlv(mut self, kind: u8, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).expect("an extension is shorter than 64 KiB");
        self.tlvs.push(kind);
        self.tlvs.extend(length.to_be_bytes());
        self.tlvs.extend(value);
        self
    }

    /// Adds the name the client asked for.
    #[must_use]
    pub fn authority(self, name: &str) -> Self {
        self.tlv(AUTHORITY, name.as_bytes())
    }

    /// Adds a right checksum, as last extension.
    #[must_use]
    pub fn crc(mut self) -> Self {
        self.checksum = Checksum::Right;
        self
    }

    /// Adds a wrong checksum, as last extension.
    #[must_use]
    pub fn bad_crc(mut self) -> Self {
        self.checksum = Checksum::Wrong;
        self
    }

    /// Pads so that the length field says `length`.
    #[must_use]
    pub fn pad_to(self, length: u16) -> Self {
        let crc = if matches!(self.checksum, Checksum::None) { 0 } else { 7 };
        let present = self.addresses.len() + self.tlvs.len() + crc + 3;
        let padding = usize::from(length).checked_sub(present).expect("the header is shorter than its padded length");
        self.tlv(NOOP, &vec![0; padding])
    }

    /// Pads to a length field of 4097, one more than accepted.
    #[must_use]
    pub fn oversized(self) -> Self {
        self.pad_to(4097)
    }

    /// The bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut this = self.clone();
        if !matches!(self.checksum, Checksum::None) {
            this = this.tlv(CRC32C, &[0; 4]);
        }
        let length = u16::try_from(this.addresses.len() + this.tlvs.len()).expect("a header is shorter than 64 KiB");
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([this.command, this.family]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(this.addresses);
        bytes.extend(this.tlvs);
        let crc = crc32c::crc32c(&bytes);
        let at = bytes.len() - 4;
        match self.checksum {
            Checksum::None => {}
            Checksum::Right => bytes[at..].copy_from_slice(&crc.to_be_bytes()),
            Checksum::Wrong => bytes[at..].copy_from_slice(&(!crc).to_be_bytes()),
        }
        bytes
    }
}
