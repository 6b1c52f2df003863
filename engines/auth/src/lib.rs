//! Passwords against hashes, and texts filled in for a request.
//!
//! 1. [`Credentials::parse`] reads what a client says of itself, [`verify`] checks it, which may take a second; what was
//!    right before is remembered by [`Proofs`];
//! 2. [`render`] fills a [`Template`](headwater_model::gateway::Template) in, from [`Facts`].
//!
//! Pure: no clock, no sockets, no randomness. Untrusted bytes never panic and cost linear time.

mod credentials;
mod md5_crypt;
mod proofs;
mod sha_crypt;
mod template;
mod verify;

pub use credentials::{Credentials, Rejected};
pub use proofs::{Proof, Proofs};
pub use template::{Facts, RenderError, escape, render};
pub use verify::{is_costly, verify};

/// The alphabet of `crypt(3)`.
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Three bytes as `length` characters of `crypt(3)`, the least significant bits first.
fn encode(bytes: [u8; 3], length: usize, out: &mut String) {
    let mut bits = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
    for _ in 0..length {
        out.push(char::from(ALPHABET[(bits & 63) as usize]));
        bits >>= 6;
    }
}

/// Cycles `pattern` until `length` bytes are there.
fn cycled(pattern: &[u8], length: usize) -> Vec<u8> {
    pattern.iter().copied().cycle().take(length).collect()
}
