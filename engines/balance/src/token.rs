//! Names of endpoints that do not show their addresses.

use std::fmt;

use headwater_model::gateway::EndpointAddress;
use headwater_model::origin::NamespacedName;
use sha2::{Digest, Sha256};

/// Name of an endpoint: 128 bits of a SHA-256 over the Service, its port and the endpoint's address, so that every worker
/// and every gateway has the same. 32 hexadecimal digits as text.
///
/// No secret is in it: who knows namespace and name of the Service can find the address by trying all there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u128);

impl Token {
    pub fn of(service: &NamespacedName, port: u16, address: &EndpointAddress) -> Self {
        let mut hash = Sha256::new();
        // A space is part of no name.
        hash.update(format!("headwater endpoint {} {} {port} {address}", service.namespace, service.name));
        let digest = hash.finalize();
        Self(digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
    }

    /// Reads 32 digits in lower case; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let text = Some(text).filter(|text| text.len() == 32 && text.iter().all(is_digit))?;
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, port: u16, address: &str) -> Token {
        Token::of(&NamespacedName::new("shop", name), port, &EndpointAddress::Ip(address.parse().unwrap()))
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_never_changes() {
        let cart = token("cart", 80, "10.0.0.1:8080");
        assert_eq!(Token::parse(cart.to_string().as_bytes()), Some(cart));
        // written down once: a new value would end every session of a running fleet
        assert_eq!(cart.to_string(), "aa32e0cdad85373b9d18e5ae1ccb2275");
        for other in [
            token("carts", 80, "10.0.0.1:8080"),
            token("cart", 81, "10.0.0.1:8080"),
            token("cart", 80, "10.0.0.1:8081"),
        ] {
            assert_ne!(cart, other);
        }
        let text = cart.to_string();
        for text in [&text[1..], &text.to_uppercase(), &format!("{text}0"), "", &format!("+{}", &text[1..])] {
            assert_eq!(Token::parse(text.as_bytes()), None, "{text}");
        }
    }
}
