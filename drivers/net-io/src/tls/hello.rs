//! The ClientHello as it stands on the wire, for whoever must know the name that is asked for before TLS is answered.
//!
//! RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1. Nothing is decided here about whether the
//! rest is good TLS: that is for who answers it.

use std::ops::Range;

/// Longest ClientHello that is read. Real ones have 200 bytes to 2 KiB.
pub const MAX_HELLO: usize = 16 << 10;
/// Most bytes of records that it may be spread over.
pub const MAX_RECORDS: usize = 32 << 10;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
/// Longest fragment of a plaintext record.
const MAX_FRAGMENT: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// More is needed: ask again when there are at least so many bytes in all, which is never more than
    /// [`MAX_RECORDS`].
    Incomplete(usize),
    /// No ClientHello, or one that is too long or malformed.
    Other,
    Hello(Hello),
}

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// In lower case, without trailing dot.
    pub server_name: Option<Box<str>>,
    /// First protocol that it offers.
    pub alpn: Option<Box<[u8]>>,
}

/// Reads the first bytes of a connection, all of them since its start. Linear in their number.
pub fn peek(bytes: &[u8]) -> Peeked {
    let mut message = Vec::new();
    let mut at = 0;
    // Handshake messages may be cut anywhere, even inside their header.
    let whole = loop {
        if let [CLIENT_HELLO, a, b, c, ..] = *message {
            let length = 4 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
            if length > MAX_HELLO {
                return Peeked::Other;
            }
            if message.len() >= length {
                break length;
            }
        } else if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Peeked::Other;
        }
        let fragment = match record(bytes, at) {
            Ok(fragment) => fragment,
            Err(wrong) => return wrong,
        };
        at = fragment.end;
        message.extend_from_slice(&bytes[fragment]);
    };
    match hello(&message[4..whole]) {
        Some(hello) => Peeked::Hello(hello),
        None => Peeked::Other,
    }
}

/// The fragment of the record that begins at `at`.
fn record(bytes: &[u8], at: usize) -> Result<Range<usize>, Peeked> {
    let need = |length: usize| if length > MAX_RECORDS { Peeked::Other } else { Peeked::Incomplete(length) };
    let header = &bytes[at..bytes.len().min(at + RECORD_HEADER)];
    // A stranger is known by its first byte.
    if header.first().is_some_and(|kind| *kind != HANDSHAKE) || header.get(1).is_some_and(|major| *major != 3) {
        return Err(Peeked::Other);
    }
    let [_, _, _, high, low] = *header else { return Err(need(at + RECORD_HEADER)) };
    let length = usize::from(high) * 256 + usize::from(low);
    if length == 0 || length > MAX_FRAGMENT {
        return Err(Peeked::Other);
    }
    let (start, end) = (at + RECORD_HEADER, at + RECORD_HEADER + length);
    if end > MAX_RECORDS {
        return Err(Peeked::Other);
    }
    if bytes.len() < end { Err(need(end)) } else { Ok(start..end) }
}

/// Bytes that are taken from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number * 256 + usize::from(*byte)))
    }

    /// A vector with its length ahead in so many bytes.
    fn vector(&mut self, bytes: usize) -> Option<Rest<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Rest)
    }
}

/// The body of the message; `None` when it is malformed.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Rest(body);
    // Version and random.
    body.take(2 + 32)?;
    let _session = body.vector(1)?;
    let _suites = body.vector(2)?;
    let _compression = body.vector(1)?;
    let mut found = Hello::default();
    if body.0.is_empty() {
        // Extensions are optional before TLS 1.3.
        return Some(found);
    }
    let mut extensions = body.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut data = extensions.vector(2)?;
        match u16::try_from(kind).ok()? {
            SERVER_NAME if found.server_name.is_none() => found.server_name = server_name(data.vector(2)?)?,
            ALPN if found.alpn.is_none() => {
                let first = data.vector(2)?.vector(1)?;
                found.alpn = Some(first.0.into());
            }
            _ => {}
        }
    }
    Some(found)
}

/// The host name of the list; `Some(None)` when there is none.
fn server_name(mut list: Rest<'_>) -> Option<Option<Box<str>>> {
    while !list.0.is_empty() {
        let kind = list.number(1)?;
        let name = list.vector(2)?.0;
        if kind == 0 {
            let name = std::str::from_utf8(name).ok()?.trim_end_matches('.');
            let is_name = !name.is_empty()
                && name.len() <= 253
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            return is_name.then(|| Some(name.to_ascii_lowercase().into()));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What rustls says first.
    fn first_flight(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(super::super::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The message of a flight, in records of `size` bytes.
    fn fragmented(flight: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1], &length[..], part].concat()
        };
        flight[RECORD_HEADER..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_found_however_the_bytes_are_cut() {
        let flight = first_flight("Shop.Example.com", &[b"h2", b"http/1.1"]);
        let expected = Hello { server_name: Some("shop.example.com".into()), alpn: Some((*b"h2").into()) };
        for size in [1, 2, 3, 7, 100, 16_000] {
            let bytes = fragmented(&flight, size);
            assert_eq!(peek(&bytes), Peeked::Hello(expected.clone()), "{size}");
            assert_eq!(peek(&[&bytes[..], b"more"].concat()), Peeked::Hello(expected.clone()), "{size}");
            for end in 0..bytes.len() {
                match peek(&bytes[..end]) {
                    Peeked::Incomplete(need) => assert!(need > end && need <= bytes.len(), "{size} {end} {need}"),
                    other => panic!("{size} {end}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_client_without_a_name_has_none() {
        let hello = peek(&first_flight("192.0.2.1", &[]));
        assert_eq!(hello, Peeked::Hello(Hello::default()));
    }

    #[test]
    fn what_is_no_hello_is_told_at_once() {
        let flight = first_flight("a.test", &[]);
        let with = |at: usize, byte: u8| {
            let mut bytes = flight.clone();
            bytes[at] = byte;
            bytes
        };
        for (name, bytes) in [
            ("plain HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
            ("a PROXY header", b"PROXY TCP4".to_vec()),
            ("one byte of something else", b"S".to_vec()),
            ("another version", with(1, 2)),
            ("an empty record", vec![HANDSHAKE, 3, 1, 0, 0]),
            ("a record that is too long", vec![HANDSHAKE, 3, 1, 0x40, 1]),
            ("another message", with(5, 2)),
            ("a message that is too long", with(6, 1)),
            ("a session id past the end", with(5 + 4 + 34, 255)),
        ] {
            assert_eq!(peek(&bytes), Peeked::Other, "{name}");
        }
        let dribble = fragmented(&first_flight(&format!("{}.test", "a".repeat(60)), &[&[b'x'; 250][..]; 60]), 1);
        assert!(dribble.len() > MAX_RECORDS);
        assert_eq!(peek(&dribble), Peeked::Other, "more records than are read");
    }
}
