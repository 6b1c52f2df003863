//! One password against one hash.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headwater_model::gateway::PasswordHash;
use sha1::{Digest, Sha1};

use crate::{md5_crypt, sha_crypt};

/// Whether the password is the one that was hashed. The time it takes does not depend on where they differ.
///
/// bcrypt looks at the first 72 bytes, as it does everywhere.
pub fn verify(hash: &PasswordHash, password: &[u8]) -> bool {
    let (found, known) = match hash {
        PasswordHash::Md5 { apache, salt, digest } => {
            let magic: &[u8] = if *apache { b"$apr1$" } else { b"$1$" };
            (md5_crypt::digest(password, magic, salt.as_bytes()), digest)
        }
        PasswordHash::Sha256 { rounds, salt, digest } => {
            (sha_crypt::sha256(password, salt.as_bytes(), *rounds), digest)
        }
        PasswordHash::Sha512 { rounds, salt, digest } => {
            (sha_crypt::sha512(password, salt.as_bytes(), *rounds), digest)
        }
        PasswordHash::Sha1(digest) => (STANDARD.encode(Sha1::digest(password)), digest),
        PasswordHash::Bcrypt(text) => return bcrypt::verify(password, text).unwrap_or(false),
    };
    is_same(found.as_bytes(), known.as_bytes())
}

/// Whether checking takes longer than a request should hold a thread that serves others.
pub fn is_costly(hash: &PasswordHash) -> bool {
    !matches!(hash, PasswordHash::Sha1(_))
}

/// Looks at every byte, whatever the ones before said.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "a:long passwörd that is more than thirty-two bytes long, and more than sixty-four at that";

    #[test]
    fn hashes_made_by_other_programs_are_verified() {
        // `openssl passwd` and `crypt(3)`; the last is of Drepper's own list.
        for (password, hash) in [
            ("bar", "$apr1$saltsalt$HZb7DO9JU4769Nu3n58bv."),
            ("bar", "$1$saltsalt$56ibbfTGLAsNdA0n6U1Nn/"),
            ("bar", "$5$saltsalt$/CnP1OkUPI/YYxBjMGRYh.bV5VNRz1I7OKD4GRMrHm4"),
            (
                "bar",
                "$6$saltsalt$13ZWs86TCGWlKvPnoiZ5uGRk0I6FWQWsoBjy.0NUb9IUt/pnMWcsVBWPeXm2zbrm1/3NvnFsJFn2dIliX8SAJ/",
            ),
            (
                "bar",
                "$6$rounds=1234$salt$NLUyNvHZMLFeHpOFVOuVCaUtyrx8hU1QsPlzbj/TcjxjPEuue90T3jo21B0MqHf6lXvIG4wkocxRP2isn6.Es0",
            ),
            ("bar", "$2b$05$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6"),
            ("bar", "$2y$05$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6"),
            ("bar", "{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00="),
            (
                LONG,
                "$6$1234567890123456$3q/jYBFjONlXoJ/qhaDO9e2PFOmRu2SD1T4Ff2CmmsMuRp.tYiavzfC53PdydyuhMxu6yMcDJ6Y4KOJX227yn/",
            ),
            (LONG, "$5$ab$b9MwrwJ9a7Ls/cseAv6xGtkyTjZ5AF4hB4lY1ydPKg/"),
            ("a:long passwörd that is more than thirty-two bytes long", "$apr1$ab$LLHNiCbToegicnp7hLyxy0"),
            ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ] {
            let parsed = PasswordHash::parse(hash).unwrap();
            assert!(verify(&parsed, password.as_bytes()), "{hash}");
            for wrong in ["", "ba", "Bar", "barr", " bar"] {
                assert!(!verify(&parsed, wrong.as_bytes()), "{hash} {wrong:?}");
            }
        }
    }

    #[test]
    fn texts_are_the_same_only_as_a_whole() {
        for (a, b, same) in
            [("", "", true), ("ab", "ab", true), ("ab", "aa", false), ("ab", "a", false), ("", "a", false)]
        {
            assert_eq!(is_same(a.as_bytes(), b.as_bytes()), same, "{a:?} {b:?}");
        }
    }
}
