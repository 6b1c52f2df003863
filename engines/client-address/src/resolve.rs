//! Who the client is: steps 3 and 4 of the algorithm.

use std::net::{IpAddr, SocketAddr};

use headwater_model::client::{ClientAddressPolicy, ForwardedHeader, Provenance};
use smallvec::SmallVec;

use crate::forwarded::{self, Element};
use crate::headers::{HeaderSource, NoHeaders};
use crate::sender::Sender;
use crate::text::{parse_u16, trim};

/// Entries of a forwarding header that are looked at, from the right. More end the walk.
pub const MAX_ENTRIES: usize = 64;

/// The answer for one request, or for one connection without headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `R`, canonical: never `::ffff:a.b.c.d`.
    pub addr: IpAddr,
    /// Port of `R` where it is known.
    pub port: Option<u16>,
    pub provenance: Provenance,
    /// The verified entries, leftmost first: `R`, every verified entry to its right, `S`. Never empty.
    pub chain: SmallVec<[IpAddr; 4]>,
    /// How the client spoke.
    pub scheme: Scheme,
    /// The host a trusted sender says the client asked for; `None`: the request's own authority.
    pub forwarded_host: Option<Box<str>>,
    /// Port the client connected to.
    pub server_port: u16,
    /// Whether `S` may speak for somebody else.
    pub trusted_sender: bool,
    /// The entries left of `R`, comma-separated, to be passed on in front of the chain. Only with `keepUnverified`, and
    /// only from a trusted sender: of what anybody else says nothing is passed on.
    pub unverified: Option<Box<[u8]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Case does not matter; `ws` and `wss` are what some proxies say of WebSockets.
    fn parse(text: &[u8]) -> Option<Self> {
        if text.eq_ignore_ascii_case(b"https") || text.eq_ignore_ascii_case(b"wss") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case(b"http") || text.eq_ignore_ascii_case(b"ws") {
            Some(Self::Http)
        } else {
            None
        }
    }
}

impl Client {
    /// The client where there are no headers (TCP, TLS passthrough, UDP): the sender itself.
    pub fn of_sender(policy: &ClientAddressPolicy, sender: &Sender) -> Self {
        resolve(policy, sender, &NoHeaders)
    }

    /// `R` with its port, 0 when that is not known: the source of an outbound PROXY header.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port.unwrap_or(0))
    }

    /// The host the client asked for, when the request's own authority is `authority`.
    pub fn host<'a>(&'a self, authority: &'a [u8]) -> &'a [u8] {
        self.forwarded_host.as_deref().map_or(authority, str::as_bytes)
    }

    fn from_connection(policy: &ClientAddressPolicy, sender: &Sender) -> Self {
        let mut chain = SmallVec::new();
        chain.push(sender.addr);
        Self {
            addr: sender.addr,
            port: Some(sender.port),
            provenance: sender.provenance.clone(),
            chain,
            scheme: if sender.tls { Scheme::Https } else { Scheme::Http },
            forwarded_host: None,
            server_port: sender.destination.port(),
            trusted_sender: sender.trusted(&policy.trust),
            unverified: None,
        }
    }
}

/// Names the client of one request.
///
/// Reads no header unless `S` is trusted and the policy names a forwarding header. No heap allocation then, nor
/// otherwise while at most three entries are verified and the sender names no host.
pub fn resolve<H: HeaderSource + ?Sized>(policy: &ClientAddressPolicy, sender: &Sender, headers: &H) -> Client {
    let mut client = Client::from_connection(policy, sender);
    let Some(name) = policy.forwarded_header.name().filter(|_| client.trusted_sender) else { return client };
    let mut walk = Walk { policy, hop: sender.hop, client: &mut client, looked_at: 0, said: Said::default() };
    match &policy.forwarded_header {
        ForwardedHeader::None => {}
        ForwardedHeader::XForwardedFor => {
            walk.list(forwarded::entries_from_the_right(headers.values(name)));
        }
        ForwardedHeader::Forwarded => {
            walk.elements(forwarded::elements_from_the_right(headers.values(name)));
        }
        ForwardedHeader::XRealIp | ForwardedHeader::Other(_) => {
            let mut lines = headers.values(name);
            match (lines.next(), lines.next()) {
                (Some(line), None) => walk.list(Some(trim(line)).filter(|entry| !entry.is_empty()).into_iter()),
                (Some(_), Some(_)) => walk.refuse(headers.values(name).rev().map(trim)),
                (None, _) => {}
            }
        }
    }
    let said = walk.said;
    if client.chain.len() > 1 {
        client.chain.reverse();
        client.provenance = match &policy.forwarded_header {
            ForwardedHeader::XForwardedFor => Provenance::XForwardedFor,
            ForwardedHeader::Forwarded => Provenance::Forwarded,
            ForwardedHeader::XRealIp => Provenance::XRealIp,
            ForwardedHeader::Other(name) => Provenance::Header(name.clone()),
            ForwardedHeader::None => client.provenance,
        };
    }
    if policy.trust_scheme {
        let said = match &policy.forwarded_header {
            ForwardedHeader::Forwarded => said,
            _ => Said::read(headers, client.chain.len() - 1),
        };
        client.scheme = said.scheme.unwrap_or(client.scheme);
        client.server_port = said.port.unwrap_or(client.server_port);
        client.forwarded_host = said.host;
    }
    client
}

/// What trusted senders say of the client's own request.
#[derive(Default)]
struct Said {
    scheme: Option<Scheme>,
    host: Option<Box<str>>,
    port: Option<u16>,
}

impl Said {
    /// `X-Forwarded-Proto`, `-Host` and `-Port`.
    ///
    /// Where proxies append to these as they do to `X-Forwarded-For`, the value of the client's hop stands as far from
    /// the right as the client does (`verified` entries), and what is left of it is unverified.
    fn read<H: HeaderSource + ?Sized>(headers: &H, verified: usize) -> Self {
        let value =
            |name| forwarded::entries_from_the_right(headers.values(name)).take(verified.clamp(1, MAX_ENTRIES)).last();
        Self {
            scheme: value("x-forwarded-proto").and_then(Scheme::parse),
            host: value("x-forwarded-host").and_then(parse_host),
            port: value("x-forwarded-port").and_then(parse_u16).filter(|port| *port != 0),
        }
    }
}

/// A host, perhaps with a port: the characters of RFC 3986 section 3.2.2 but no percent-encoding, at most 261 bytes.
fn parse_host(text: &[u8]) -> Option<Box<str>> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte);
    if text.is_empty() || text.len() > 261 || !text.iter().all(allowed) {
        return None;
    }
    std::str::from_utf8(text).ok().map(Into::into)
}

/// From `S` to the left. While it lasts the chain stands rightmost first, and `client.addr` is `cur`.
struct Walk<'a> {
    policy: &'a ClientAddressPolicy,
    hop: u32,
    client: &'a mut Client,
    looked_at: usize,
    said: Said,
}

impl Walk<'_> {
    /// Whether `cur` is trusted, so that the next entry is its word.
    fn goes_on(&self) -> bool {
        let hop = self.hop.saturating_add(u32::try_from(self.client.chain.len() - 1).unwrap_or(u32::MAX));
        self.looked_at < MAX_ENTRIES && self.policy.trust.contains(self.client.addr, hop)
    }

    /// Takes an entry; false when it is no address.
    fn take(&mut self, address: Option<(IpAddr, Option<u16>)>) -> bool {
        self.looked_at += 1;
        let Some((addr, port)) = address else { return false };
        self.client.addr = addr;
        self.client.port = port;
        self.client.chain.push(addr);
        true
    }

    fn list<'h>(&mut self, mut entries: impl Iterator<Item = &'h [u8]>) {
        while self.goes_on() {
            let Some(entry) = entries.next() else { return };
            if !self.take(forwarded::parse_address(entry)) {
                return self.refuse(std::iter::once(entry).chain(entries));
            }
        }
        self.refuse(entries);
    }

    fn elements<'h>(&mut self, mut elements: impl Iterator<Item = &'h [u8]>) {
        while self.goes_on() {
            let Some(text) = elements.next() else { return };
            let element = Element::parse(text);
            let taken = self.take(element.as_ref().and_then(Element::address));
            if let Some(element) = element {
                // Said by a trusted hop, even where it hides who it speaks for. Further left is nearer to the client.
                self.said.scheme = element.proto.as_deref().and_then(Scheme::parse).or(self.said.scheme);
                if let Some(host) = element.host.as_deref().and_then(parse_host) {
                    self.said.host = Some(host);
                }
            }
            if !taken {
                return self.refuse_elements(std::iter::once(text).chain(elements));
            }
        }
        self.refuse_elements(elements);
    }

    /// What is left is not verified. Entries come last first.
    fn refuse<'h>(&mut self, entries: impl Iterator<Item = &'h [u8]>) {
        if self.policy.keep_unverified {
            let entries: SmallVec<[&[u8]; 8]> = entries.collect();
            self.keep(entries.iter().rev().copied());
        }
    }

    /// The same for `Forwarded`, whose nodes are passed on without the rest.
    fn refuse_elements<'h>(&mut self, elements: impl Iterator<Item = &'h [u8]>) {
        if self.policy.keep_unverified {
            let nodes: Vec<_> = elements.filter_map(|text| Element::parse(text)?.node).collect();
            self.keep(nodes.iter().rev().map(|node| match forwarded::parse_address(node) {
                // Brackets are not customary in X-Forwarded-For.
                Some((_, None)) => node.strip_prefix(b"[").and_then(|node| node.strip_suffix(b"]")).unwrap_or(node),
                _ => node,
            }));
        }
    }

    /// Printable entries only, left to right.
    fn keep<'h>(&mut self, entries: impl Iterator<Item = &'h [u8]>) {
        let mut text = Vec::new();
        for entry in entries {
            let printable = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b',';
            if entry.is_empty() || !entry.iter().all(printable) {
                continue;
            }
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(entry);
        }
        self.client.unverified = (!text.is_empty()).then(|| text.into_boxed_slice());
    }
}

#[cfg(test)]
mod tests;
