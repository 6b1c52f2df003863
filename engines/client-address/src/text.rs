//! Addresses and numbers as text, without intermediate strings.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// `::ffff:a.b.c.d` as `a.b.c.d`; anything else unchanged but for the IPv6 scope and flow, which mean nothing elsewhere.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// An address as text (IPv6 in the form of RFC 5952), on the stack.
#[derive(Clone, Copy)]
pub(crate) struct AddrText {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl AddrText {
    /// Longest IPv6 address; mapped ones (45 bytes) never come here uncanonical, but fit.
    const MAX: usize = 45;

    pub(crate) fn new(addr: IpAddr) -> Self {
        let mut text = Self { bytes: [0; Self::MAX], len: 0 };
        match addr {
            IpAddr::V4(v4) => {
                for (index, octet) in v4.octets().into_iter().enumerate() {
                    if index > 0 {
                        text.push(b'.');
                    }
                    text.push_number(u16::from(octet));
                }
            }
            IpAddr::V6(v6) => write!(text, "{v6}").expect("an IPv6 address is at most 45 bytes of text"),
        }
        text
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.len)] = byte;
        self.len += 1;
    }

    fn push_number(&mut self, number: u16) {
        let (digits, start) = decimal(number);
        for digit in &digits[start..] {
            self.push(*digit);
        }
    }
}

impl std::fmt::Write for AddrText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = usize::from(self.len) + text.len();
        let Some(room) = self.bytes.get_mut(usize::from(self.len)..end) else { return Err(std::fmt::Error) };
        room.copy_from_slice(text.as_bytes());
        self.len = u8::try_from(end).map_err(|_| std::fmt::Error)?;
        Ok(())
    }
}

/// Appends `number` in decimal.
pub(crate) fn push_u16(number: u16, out: &mut Vec<u8>) {
    let (digits, start) = decimal(number);
    out.extend_from_slice(&digits[start..]);
}

/// Digits, right-aligned, and where they start.
fn decimal(mut number: u16) -> ([u8; 5], usize) {
    let mut digits = [b'0'; 5];
    let mut start = 5;
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return (digits, start);
        }
    }
}

/// Decimal digits only, no sign, at most five; `None` above 65535.
pub(crate) fn parse_u16(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 5 {
        return None;
    }
    let mut number = 0u32;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u32::from(byte - b'0');
    }
    u16::try_from(number).ok()
}

/// Without leading and trailing spaces and tabs (RFC 9110 section 5.6.3).
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_numbers_are_written_like_the_standard_library_does() {
        for addr in
            ["0.0.0.0", "255.255.255.255", "10.1.20.100", "::", "2001:db8::1", "::1.2.3.4", "ffff:1:2:3:4:5:6:7"]
        {
            let addr: IpAddr = addr.parse().unwrap();
            assert_eq!(AddrText::new(addr).as_bytes(), addr.to_string().as_bytes());
        }
        for number in [0u16, 1, 9, 10, 99, 100, 1000, 10000, 65535] {
            let mut out = Vec::new();
            push_u16(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
            assert_eq!(parse_u16(&out), Some(number));
        }
        for text in ["", "65536", "+1", "-1", "1 ", "000001", "1a"] {
            assert_eq!(parse_u16(text.as_bytes()), None, "{text:?}");
        }
    }
}
