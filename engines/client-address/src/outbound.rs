//! What the backend receives: which inbound headers go, and which are written in their place.

use std::net::IpAddr;

use headwater_model::client::{ClientAddressPolicy, ForwardedHeader};

use crate::forwarded::is_token;
use crate::headers::HeaderSource;
use crate::resolve::Client;
use crate::text::{AddrText, push_u16, trim};

/// What becomes of one inbound header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Drop,
}

/// Whether the backend may see the inbound header called `name`; case does not matter, and `_` is `-`.
///
/// Whatever [`Outbound`] writes is dropped from everybody. What backends are known to believe, and the header the
/// policy itself believes, is dropped from untrusted senders.
#[inline]
pub fn verdict(policy: &ClientAddressPolicy, name: &[u8], trusted_sender: bool) -> Verdict {
    let drop = match name.first() {
        Some(b'x' | b'X' | b'f' | b'F' | b't' | b'T' | b'c' | b'C' | b'p' | b'P') => listed(name, trusted_sender),
        _ => false,
    };
    let drop = drop
        || match &policy.forwarded_header {
            ForwardedHeader::Other(own) => !trusted_sender && same_name(name, own.as_bytes()),
            _ => false,
        };
    if drop { Verdict::Drop } else { Verdict::Keep }
}

fn listed(name: &[u8], trusted_sender: bool) -> bool {
    let (always, untrusted): (&[&str], &[&str]) = match name.len() {
        5 => (&[], &["proxy"]),
        8 => (&["x-scheme"], &[]),
        9 => (&["x-real-ip", "forwarded"], &["client-ip"]),
        11 => (&[], &["x-client-ip", "x-forwarded"]),
        12 => (&["x-request-id"], &[]),
        13 => (&[], &["forwarded-for"]),
        14 => (&[], &["true-client-ip"]),
        15 => (&["x-forwarded-for"], &[]),
        16 => {
            (&["x-forwarded-host", "x-forwarded-port"], &["cf-connecting-ip", "fastly-client-ip", "x-azure-clientip"])
        }
        17 => (&["x-forwarded-proto"], &[]),
        18 => (&["x-forwarded-scheme"], &["cf-connecting-ipv6"]),
        19 => (&[], &["x-cluster-client-ip"]),
        24 => (&["x-original-forwarded-for"], &["x-envoy-external-address"]),
        _ => return false,
    };
    let is = |listed: &&str| same_name(name, listed.as_bytes());
    always.iter().any(is) || (!trusted_sender && untrusted.iter().any(is))
}

/// Equal but for case and `_` for `-`.
fn same_name(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fold(*a) == fold(*b))
}

/// The headers that tell the backend about the client, for one request.
pub struct Outbound<'a, H: ?Sized> {
    pub policy: &'a ClientAddressPolicy,
    pub client: &'a Client,
    /// The inbound headers.
    pub headers: &'a H,
    /// Host or `:authority` as received; empty when there is none.
    pub authority: &'a [u8],
    /// Sent unless a trusted sender gave an id: exactly one, of 1 to 128 visible ASCII bytes.
    pub fresh_request_id: &'a str,
}

impl<H: HeaderSource + ?Sized> Outbound<'_, H> {
    /// Appends them as HTTP/1 field lines, `Name: value` CR LF each.
    pub fn write_http1(&self, out: &mut Vec<u8>) {
        self.write(&mut Wire(out));
    }

    /// Calls `each` with name (lower case) and value of each; `scratch` holds one value at a time.
    pub fn write_pairs(&self, scratch: &mut Vec<u8>, each: impl FnMut(&'static str, &[u8])) {
        self.write(&mut Pairs { scratch, each });
    }

    /// The request id the backend gets; for logs and traces.
    pub fn request_id(&self) -> &[u8] {
        let sane = |id: &[u8]| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        if self.client.trusted_sender {
            let mut ids = self.headers.values("x-request-id").map(trim);
            if let (Some(id), None) = (ids.next(), ids.next())
                && sane(id)
            {
                return id;
            }
        }
        self.fresh_request_id.as_bytes()
    }

    fn write(&self, sink: &mut impl Sink) {
        let client = self.client;
        let addr = AddrText::new(client.addr);
        let scheme = client.scheme.as_str().as_bytes();
        let host = client.host(self.authority);
        let host = (!host.is_empty() && is_clean(host)).then_some(host);
        sink.header(&REQUEST_ID, |out| out.extend_from_slice(self.request_id()));
        sink.header(&REAL_IP, |out| out.extend_from_slice(addr.as_bytes()));
        sink.header(&FORWARDED_FOR, |out| client.write_forwarded_for_with(&addr, out));
        if let Some(host) = host {
            sink.header(&FORWARDED_HOST, |out| out.extend_from_slice(host));
        }
        sink.header(&FORWARDED_PORT, |out| push_u16(client.server_port, out));
        sink.header(&FORWARDED_PROTO, |out| out.extend_from_slice(scheme));
        sink.header(&FORWARDED_SCHEME, |out| out.extend_from_slice(scheme));
        sink.header(&SCHEME, |out| out.extend_from_slice(scheme));
        let mut original = self.headers.values("x-forwarded-for").filter(|line| is_clean(line)).peekable();
        if original.peek().is_some() {
            sink.header(&ORIGINAL_FORWARDED_FOR, |out| {
                let start = out.len();
                for line in original {
                    if out.len() > start {
                        out.extend_from_slice(b", ");
                    }
                    out.extend_from_slice(line);
                }
            });
        }
        if self.policy.emit_forwarded {
            sink.header(&FORWARDED, |out| write_forwarded(client, host, out));
        }
    }
}

impl Client {
    /// Appends the value of the outbound `X-Forwarded-For`: the chain, behind the unverified entries where they are kept.
    pub fn write_forwarded_for(&self, out: &mut Vec<u8>) {
        self.write_forwarded_for_with(&AddrText::new(self.addr), out);
    }

    /// `addr` is the text of the chain's first entry.
    fn write_forwarded_for_with(&self, addr: &AddrText, out: &mut Vec<u8>) {
        if let Some(unverified) = &self.unverified {
            out.extend_from_slice(unverified);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(addr.as_bytes());
        for hop in self.chain.iter().skip(1) {
            out.extend_from_slice(b", ");
            out.extend_from_slice(AddrText::new(*hop).as_bytes());
        }
    }
}

/// One element per verified hop (RFC 7239); who received it is obfuscated: `_headwater` for ourselves, `_proxy` for the
/// hops before us.
fn write_forwarded(client: &Client, host: Option<&[u8]>, out: &mut Vec<u8>) {
    let last = client.chain.len() - 1;
    for (index, hop) in client.chain.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        let (open, close): (&[u8], &[u8]) = match hop {
            IpAddr::V4(_) => (b"for=", b""),
            IpAddr::V6(_) => (b"for=\"[", b"]\""),
        };
        out.extend_from_slice(open);
        out.extend_from_slice(AddrText::new(*hop).as_bytes());
        out.extend_from_slice(close);
        out.extend_from_slice(if index == last { b";by=_headwater" } else { b";by=_proxy" });
        if let Some(host) = host {
            out.extend_from_slice(b";host=");
            if host.iter().all(|byte| is_token(*byte)) {
                out.extend_from_slice(host);
            } else {
                out.push(b'"');
                for byte in host {
                    if matches!(byte, b'"' | b'\\') {
                        out.push(b'\\');
                    }
                    out.push(*byte);
                }
                out.push(b'"');
            }
        }
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(client.scheme.as_str().as_bytes());
    }
}

/// Nothing that could end a field line. Parsers refuse such values; should one not, they do not get further.
fn is_clean(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
}

struct Name {
    /// With colon and space.
    wire: &'static str,
    lower: &'static str,
}

const REQUEST_ID: Name = Name { wire: "X-Request-ID: ", lower: "x-request-id" };
const REAL_IP: Name = Name { wire: "X-Real-IP: ", lower: "x-real-ip" };
const FORWARDED_FOR: Name = Name { wire: "X-Forwarded-For: ", lower: "x-forwarded-for" };
const FORWARDED_HOST: Name = Name { wire: "X-Forwarded-Host: ", lower: "x-forwarded-host" };
const FORWARDED_PORT: Name = Name { wire: "X-Forwarded-Port: ", lower: "x-forwarded-port" };
const FORWARDED_PROTO: Name = Name { wire: "X-Forwarded-Proto: ", lower: "x-forwarded-proto" };
const FORWARDED_SCHEME: Name = Name { wire: "X-Forwarded-Scheme: ", lower: "x-forwarded-scheme" };
const SCHEME: Name = Name { wire: "X-Scheme: ", lower: "x-scheme" };
const ORIGINAL_FORWARDED_FOR: Name = Name { wire: "X-Original-Forwarded-For: ", lower: "x-original-forwarded-for" };
const FORWARDED: Name = Name { wire: "Forwarded: ", lower: "forwarded" };

trait Sink {
    fn header(&mut self, name: &Name, value: impl FnOnce(&mut Vec<u8>));
}

struct Wire<'a>(&'a mut Vec<u8>);

impl Sink for Wire<'_> {
    #[inline]
    fn header(&mut self, name: &Name, value: impl FnOnce(&mut Vec<u8>)) {
        self.0.extend_from_slice(name.wire.as_bytes());
        value(self.0);
        self.0.extend_from_slice(b"\r\n");
    }
}

struct Pairs<'a, F> {
    scratch: &'a mut Vec<u8>,
    each: F,
}

impl<F: FnMut(&'static str, &[u8])> Sink for Pairs<'_, F> {
    fn header(&mut self, name: &Name, value: impl FnOnce(&mut Vec<u8>)) {
        self.scratch.clear();
        value(self.scratch);
        (self.each)(name.lower, self.scratch);
    }
}

#[cfg(test)]
mod tests;
