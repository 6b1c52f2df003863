//! Passwords that were right a short while ago, so that not every request pays for a hash.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashMap as HashMap;
use headwater_model::gateway::PasswordHash;
use sha2::{Digest, Sha256};

/// Stands for one password and the hash that it fits. Neither can be read from it, and another hash of the same password
/// makes another proof: what a Secret says no more counts no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof([u8; 32]);

impl Proof {
    pub fn of(hash: &PasswordHash, password: &[u8]) -> Self {
        let mut context = Sha256::new();
        let mut part = |bytes: &[u8]| {
            context.update((bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        match hash {
            PasswordHash::Md5 { apache, salt, digest } => {
                part(if *apache { b"apr1" } else { b"1" });
                part(salt.as_bytes());
                part(digest.as_bytes());
            }
            PasswordHash::Sha256 { rounds, salt, digest } | PasswordHash::Sha512 { rounds, salt, digest } => {
                part(b"sha");
                part(&rounds.to_be_bytes());
                part(salt.as_bytes());
                part(digest.as_bytes());
            }
            PasswordHash::Bcrypt(text) => {
                part(b"bcrypt");
                part(text.as_bytes());
            }
            PasswordHash::Sha1(digest) => {
                part(b"sha1");
                part(digest.as_bytes());
            }
        }
        part(password);
        Self(context.finalize().into())
    }
}

/// Proofs with the times until which they count, on a clock of the caller's.
#[derive(Default)]
pub struct Proofs {
    until: HashMap<Proof, Duration>,
    /// Oldest first; each proof once.
    order: VecDeque<Proof>,
}

impl Proofs {
    /// Most proofs that are remembered; the oldest gives way.
    pub const MOST: usize = 4096;
    /// For how long a proof counts, from the check that made it.
    pub const LIFETIME: Duration = Duration::from_secs(300);

    /// Whether the password was right within the [lifetime](Self::LIFETIME).
    pub fn holds(&self, proof: &Proof, now: Duration) -> bool {
        self.until.get(proof).is_some_and(|until| now < *until)
    }

    /// Remembers that the password was right.
    pub fn add(&mut self, proof: Proof, now: Duration) {
        if self.until.insert(proof, now + Self::LIFETIME).is_some() {
            // It lasts longer than its place says; then it goes a little early.
            return;
        }
        self.order.push_back(proof);
        while let Some(oldest) = self.order.front() {
            let expired = self.until.get(oldest).is_none_or(|until| *until <= now);
            if !expired && self.order.len() <= Self::MOST {
                break;
            }
            self.until.remove(oldest);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> PasswordHash {
        PasswordHash::parse(text).unwrap()
    }

    #[test]
    fn a_proof_counts_for_one_hash_and_one_password_and_for_its_lifetime() {
        let one = hash("$apr1$saltsalt$HZb7DO9JU4769Nu3n58bv.");
        let other = hash("$apr1$saltsals$HZb7DO9JU4769Nu3n58bv.");
        let second = Duration::from_secs(1);
        let mut proofs = Proofs::default();
        proofs.add(Proof::of(&one, b"bar"), second);
        assert!(proofs.holds(&Proof::of(&one, b"bar"), second));
        assert!(proofs.holds(&Proof::of(&one, b"bar"), Proofs::LIFETIME));
        assert!(!proofs.holds(&Proof::of(&one, b"bar"), Proofs::LIFETIME + second));
        assert!(!proofs.holds(&Proof::of(&one, b"baz"), second));
        assert!(!proofs.holds(&Proof::of(&other, b"bar"), second));
    }

    #[test]
    fn the_oldest_proof_gives_way() {
        let hash = hash("$apr1$saltsalt$HZb7DO9JU4769Nu3n58bv.");
        let proof = |number: usize| Proof::of(&hash, &number.to_be_bytes());
        let mut proofs = Proofs::default();
        (0..=Proofs::MOST).for_each(|number| proofs.add(proof(number), Duration::ZERO));
        assert!(!proofs.holds(&proof(0), Duration::ZERO));
        assert!((1..=Proofs::MOST).all(|number| proofs.holds(&proof(number), Duration::ZERO)));
        assert_eq!((proofs.until.len(), proofs.order.len()), (Proofs::MOST, Proofs::MOST));
        // When they have expired, one that comes makes room of all of them.
        proofs.add(proof(0), Proofs::LIFETIME);
        assert_eq!((proofs.until.len(), proofs.order.len()), (1, 1));
    }
}
