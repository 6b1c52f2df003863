//! Type-length-value fields of a version 2 header (section 2.2).

use std::fmt;

use super::ProxyError;

pub const ALPN: u8 = 0x01;
pub const AUTHORITY: u8 = 0x02;
pub const CRC32C: u8 = 0x03;
pub const NOOP: u8 = 0x04;
pub const UNIQUE_ID: u8 = 0x05;
pub const SSL: u8 = 0x20;
pub const SSL_VERSION: u8 = 0x21;
pub const SSL_CN: u8 = 0x22;
pub const SSL_CIPHER: u8 = 0x23;
pub const NETNS: u8 = 0x30;

/// The TLVs of one header, as they came: at most 4096 bytes, well-formed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tlvs(Box<[u8]>);

impl Tlvs {
    /// Type and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        Walk(&self.0).map_while(Result::ok)
    }

    /// Value of the first TLV of type `kind`.
    pub fn find(&self, kind: u8) -> Option<&[u8]> {
        self.iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the sender's TLS connection was, when it says so.
    pub fn tls(&self) -> Option<PassedTls> {
        match self.find(SSL)? {
            [client, v0, v1, v2, v3, ..] => {
                Some(PassedTls { client: *client, verify: u32::from_be_bytes([*v0, *v1, *v2, *v3]) })
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Tlvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(kind, value)| (format!("0x{kind:02x}"), format!("{}", value.escape_ascii()))))
            .finish()
    }
}

/// The fixed part of `PP2_TYPE_SSL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedTls {
    /// Bits `PP2_CLIENT_SSL` 1, `PP2_CLIENT_CERT_CONN` 2, `PP2_CLIENT_CERT_SESS` 4.
    pub client: u8,
    /// 0 when the client presented a certificate that was verified.
    pub verify: u32,
}

/// Walks raw TLVs; an error ends it.
pub(super) struct Walk<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.0.split_first()?;
        let cut = match rest {
            [high, low, rest @ ..] => rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        };
        let Some((value, rest)) = cut else {
            self.0 = &[];
            return Some(Err(ProxyError::TlvCut { kind }));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

/// Keeps `raw`, the bytes behind the addresses of `header`, after checking their shape and the checksum of all of
/// `header` when they hold one.
pub(super) fn check(header: &[u8], raw: &[u8]) -> Result<Tlvs, ProxyError> {
    let mut sum: Option<&[u8]> = None;
    for tlv in Walk(raw) {
        let (kind, value) = tlv?;
        if kind == CRC32C && sum.replace(value).is_some() {
            return Err(ProxyError::ChecksumTwice);
        }
    }
    if let Some(value) = sum {
        let found: [u8; 4] = value.try_into().map_err(|_| ProxyError::ChecksumLength { length: value.len() })?;
        // Where the value lies in the header: both are slices of the same bytes.
        let at = header.len() - raw.len() + offset_of_sum(raw);
        let computed = crc32c::crc32c(&header[..at]);
        let computed = crc32c::crc32c_append(computed, &[0; 4]);
        let computed = crc32c::crc32c_append(computed, &header[at + 4..]);
        let found = u32::from_be_bytes(found);
        if found != computed {
            return Err(ProxyError::ChecksumMismatch { found, computed });
        }
    }
    Ok(Tlvs(raw.into()))
}

/// Where in `raw` the value of the CRC32C TLV begins; there is exactly one.
fn offset_of_sum(raw: &[u8]) -> usize {
    let mut walk = Walk(raw);
    while let Some(Ok((kind, value))) = walk.next() {
        if kind == CRC32C {
            return raw.len() - walk.0.len() - value.len();
        }
    }
    raw.len()
}
