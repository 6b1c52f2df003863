//! FNV-1a: the same in every process, version and machine, which the standard library's hasher does not promise.
//!
//! Source: draft-eastlake-fnv. Not against those who choose what is hashed.

/// Where a hash of 64 bits begins.
pub const FNV_64: u64 = 0xcbf2_9ce4_8422_2325;

/// Of 32 bits.
pub fn fnv1a_32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.into_iter().fold(0x811c_9dc5, step)
}

/// Of 64 bits.
pub fn fnv1a_64(bytes: impl IntoIterator<Item = u8>) -> u64 {
    fnv1a_64_on(FNV_64, bytes)
}

/// The hash of what was hashed before with these bytes behind it.
pub fn fnv1a_64_on(hash: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(hash, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_have_the_hashes_of_the_draft() {
        for (text, short, long) in [
            ("", 0x811c_9dc5, FNV_64),
            ("a", 0xe40c_292c, 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0xbf9c_f968, 0x8594_4171_f739_67e8),
        ] {
            assert_eq!((fnv1a_32(text.bytes()), fnv1a_64(text.bytes())), (short, long), "{text}");
        }
    }
}
