//! The PROXY protocol, version 1 (text) and 2 (binary), both directions.
//!
//! Source: "The PROXY protocol, versions 1 & 2", <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::SocketAddr;

pub mod tlv;
mod v1;
mod v2;

pub use tlv::{PassedTls, Tlvs};
pub use v1::{MAX_V1, write_v1};
pub use v2::{MAX_V2_LENGTH, TlsFacts, V2Extras, write_v2};

pub(crate) const V1_SIGNATURE: [u8; 5] = *b"PROXY";
pub(crate) const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What a prefix of a connection's bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Cannot become a PROXY header, whatever follows. Told at the first byte that rules both signatures out.
    NotProxy,
    /// May become one, or is one that has not fully arrived.
    Incomplete,
    Header(ProxyHeader),
}

/// A PROXY header, fully arrived and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the header; payload begins there.
    pub consumed: usize,
    pub version: Version,
    pub command: Command,
    pub transport: Transport,
    /// Who connected, `::ffff:a.b.c.d` as `a.b.c.d`. `None` for `UNKNOWN`, `LOCAL`, `UNSPEC` and `UNIX`.
    pub source: Option<SocketAddr>,
    /// Where to; present exactly when `source` is.
    pub destination: Option<SocketAddr>,
    /// Version 2 only, in the order received.
    pub tlvs: Tlvs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// The sender speaks for itself: a health check.
    Local,
    /// The sender speaks for the source.
    Proxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Not said (`UNKNOWN`, `UNSPEC`), or not ours to know (`LOCAL`).
    Unspecified,
    Stream,
    Datagram,
}

/// What is wrong with bytes that carry a PROXY signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    #[error("v1 line has no end in its first {MAX_V1} bytes")]
    LineTooLong,
    #[error("v1 line does not end in CR LF")]
    LineEnd,
    #[error("v1 line names neither TCP4, TCP6 nor UNKNOWN after one space")]
    UnknownProtocol,
    #[error("v1 line must hold two addresses and two ports with one space between them")]
    FieldCount,
    #[error("v1 line holds an address that its protocol does not allow")]
    Address,
    #[error("v1 line holds a port that is no decimal number of 0 to 65535 without leading zeros")]
    Port,
    #[error("v2 header has version {version}, not 2")]
    UnsupportedVersion { version: u8 },
    #[error("v2 header has command {command}, neither LOCAL (0) nor PROXY (1)")]
    UnknownCommand { command: u8 },
    #[error("v2 header has family and transport 0x{family:02x}, which means nothing")]
    UnknownFamily { family: u8 },
    #[error("v2 header announces {length} bytes, more than {MAX_V2_LENGTH}")]
    TooLong { length: u16 },
    #[error("v2 header announces {length} bytes, too few for addresses of family 0x{family:02x}")]
    AddressesCut { family: u8, length: u16 },
    #[error("v2 TLV of type 0x{kind:02x} is longer than the header")]
    TlvCut { kind: u8 },
    #[error("v2 CRC32C TLV has {length} bytes, not 4")]
    ChecksumLength { length: usize },
    #[error("v2 header has more than one CRC32C TLV")]
    ChecksumTwice,
    #[error("v2 CRC32C is 0x{found:08x}, but the header sums to 0x{computed:08x}")]
    ChecksumMismatch { found: u32, computed: u32 },
}

/// What the first bytes say, before anything else is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    Absent,
    Undecided,
    V1,
    V2,
}

pub(crate) fn signature(bytes: &[u8]) -> Signature {
    if bytes.starts_with(&V1_SIGNATURE) {
        Signature::V1
    } else if bytes.starts_with(&V2_SIGNATURE) {
        Signature::V2
    } else if V1_SIGNATURE.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        Signature::Undecided
    } else {
        Signature::Absent
    }
}

/// Parses the PROXY header at the start of `bytes`, all that came so far. Bytes after the header are not looked at.
///
/// # Errors
/// [`ProxyError`] when a signature is there and what follows is wrong; more bytes will not mend it.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    match signature(bytes) {
        Signature::Absent => Ok(Parsed::NotProxy),
        Signature::Undecided => Ok(Parsed::Incomplete),
        Signature::V1 => v1::parse(bytes),
        Signature::V2 => v2::parse(bytes),
    }
}

#[cfg(test)]
mod tests;
