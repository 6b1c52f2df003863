//! SHA crypt, `$5$` and `$6$`: U. Drepper, "Unix crypt using SHA-256 and SHA-512".

use sha2::{Digest, Sha256, Sha512};

use crate::{cycled, encode};

/// 43 characters.
pub(crate) fn sha256(password: &[u8], salt: &[u8], rounds: u32) -> String {
    let last = rounds_of::<Sha256>(password, salt, rounds);
    let mut text = String::with_capacity(43);
    let mut place = [0, 10, 20];
    for _ in 0..10 {
        encode(place.map(|at| last[at]), 4, &mut text);
        place = [(place[2] + 1) % 30, (place[0] + 1) % 30, (place[1] + 1) % 30];
    }
    encode([0, last[31], last[30]], 3, &mut text);
    text
}

/// 86 characters.
pub(crate) fn sha512(password: &[u8], salt: &[u8], rounds: u32) -> String {
    let last = rounds_of::<Sha512>(password, salt, rounds);
    let mut text = String::with_capacity(86);
    let mut place = [0, 21, 42];
    for _ in 0..21 {
        encode(place.map(|at| last[at]), 4, &mut text);
        place = [(place[1] + 1) % 63, (place[2] + 1) % 63, (place[0] + 1) % 63];
    }
    encode([0, 0, last[63]], 2, &mut text);
    text
}

fn rounds_of<D: Digest>(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
    let b = D::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut context = D::new().chain_update(password).chain_update(salt);
    context.update(cycled(&b, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        if bits & 1 == 1 {
            context.update(&b)
        } else {
            context.update(password)
        }
        bits >>= 1;
    }
    let mut last = context.finalize().to_vec();
    let mut context = D::new();
    for _ in 0..password.len() {
        context.update(password);
    }
    let p = cycled(&context.finalize(), password.len());
    let mut context = D::new();
    for _ in 0..16 + usize::from(last[0]) {
        context.update(salt);
    }
    let s = cycled(&context.finalize(), salt.len());
    for round in 0..rounds {
        let mut context = D::new();
        let odd = round & 1 == 1;
        if odd {
            context.update(&p)
        } else {
            context.update(&last)
        }
        if round % 3 != 0 {
            context.update(&s);
        }
        if round % 7 != 0 {
            context.update(&p);
        }
        if odd {
            context.update(&last)
        } else {
            context.update(&p)
        }
        last.clear();
        last.extend_from_slice(&context.finalize());
    }
    last
}
