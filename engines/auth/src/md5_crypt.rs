//! MD5 crypt: `$1$` of FreeBSD, `$apr1$` of Apache.

use md5::{Digest, Md5};

use crate::{cycled, encode};

/// The digest as `crypt(3)` writes it, 22 characters. `magic` is `$1$` or `$apr1$`.
pub(crate) fn digest(password: &[u8], magic: &[u8], salt: &[u8]) -> String {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    outer.update(cycled(&inner, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        match bits & 1 {
            1 => outer.update([0]),
            _ => outer.update(&password[..1]),
        }
        bits >>= 1;
    }
    let mut last = outer.finalize();
    for round in 0..1000 {
        let mut context = Md5::new();
        let odd = round & 1 == 1;
        if odd {
            context.update(password)
        } else {
            context.update(&last[..])
        }
        if round % 3 != 0 {
            context.update(salt);
        }
        if round % 7 != 0 {
            context.update(password);
        }
        if odd {
            context.update(&last[..])
        } else {
            context.update(password)
        }
        last = context.finalize();
    }
    let mut text = String::with_capacity(22);
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        encode([last[a], last[b], last[c]], 4, &mut text);
    }
    encode([0, 0, last[11]], 2, &mut text);
    text
}
