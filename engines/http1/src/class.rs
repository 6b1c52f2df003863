//! Byte classes of the HTTP grammar, as one table, and scans that look at eight bytes at a time.

pub(crate) const TOKEN: u8 = 1;
/// Set beside `TOKEN` for `_`, which some servers read as `-`.
pub(crate) const UNDERSCORE: u8 = 2;
/// Field values: HTAB, SP, VCHAR, obs-text.
pub(crate) const VALUE: u8 = 4;
/// Request targets: VCHAR without `#`.
pub(crate) const TARGET: u8 = 8;
/// Host names: unreserved of RFC 3986.
pub(crate) const HOST: u8 = 16;
/// Inside a quoted string, without quote and backslash.
pub(crate) const QUOTED: u8 = 32;

pub(crate) static CLASS: [u8; 256] = build();

const fn build() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() {
            class |= TOKEN | HOST;
        }
        if matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        ) {
            class |= TOKEN;
        }
        if matches!(byte, b'-' | b'.' | b'_' | b'~') {
            class |= HOST;
        }
        if byte == b'_' {
            class |= UNDERSCORE;
        }
        if matches!(byte, b'\t' | 0x20..=0x7e | 0x80..) {
            class |= VALUE;
            if byte != b'"' && byte != b'\\' {
                class |= QUOTED;
            }
        }
        if matches!(byte, 0x21..=0x7e) && byte != b'#' {
            class |= TARGET;
        }
        table[index] = class;
        index += 1;
    }
    table
}

#[inline]
pub(crate) fn is(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

/// Length of the longest prefix whose bytes all carry `class`.
#[inline]
pub(crate) fn run_length(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&byte| CLASS[byte as usize] & class == 0).unwrap_or(bytes.len())
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// High bits set where a byte is below `bound` (at most 0x80); exact for the lowest byte that is, and for "none".
#[inline]
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGH
}

#[inline]
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

/// Applies `suspect` to every eight bytes; a suspicious word is looked at byte by byte.
#[inline]
fn all_in(bytes: &[u8], class: u8, suspect: impl Fn(u64) -> bool) -> bool {
    let slow = |part: &[u8]| part.iter().all(|&byte| CLASS[byte as usize] & class != 0);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        if suspect(u64::from_le_bytes(*word)) && !slow(word) {
            return false;
        }
    }
    if rest.is_empty() {
        return true;
    }
    // The last eight bytes once more, overlapping, cost less than a loop over the remainder.
    match bytes.last_chunk::<8>() {
        Some(last) => !suspect(u64::from_le_bytes(*last)) || slow(last),
        None => slow(rest),
    }
}

/// Whether all bytes may stand in a field value: no control bytes but HTAB, no DEL. RFC 9110 section 5.5.
#[inline]
pub fn is_field_value(bytes: &[u8]) -> bool {
    all_in(bytes, VALUE, |word| below(word, 0x20) | equal(word, 0x7f) != 0)
}

/// Whether all bytes may stand in a request target: visible ASCII without `#`.
///
/// This is wider than RFC 3986 (browsers send `|`, `[` and the like unescaped) and narrower than what some servers
/// take: bytes of 0x80 and above are refused.
#[inline]
pub fn is_target(bytes: &[u8]) -> bool {
    all_in(bytes, TARGET, |word| below(word, 0x21) | equal(word, 0x7f) | equal(word, b'#') | (word & HIGH) != 0)
}

/// Whether `bytes` is a token, as header names and methods must be: RFC 9110 section 5.6.2.
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && run_length(bytes, TOKEN) == bytes.len()
}

/// Without SP and HTAB at both ends.
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every offset of words and remainders, against the table.
    #[test]
    fn word_scans_agree_with_the_table_for_every_byte_and_offset() {
        for (class, scan) in [(VALUE, is_field_value as fn(&[u8]) -> bool), (TARGET, is_target)] {
            for length in 0..=25 {
                for at in 0..length {
                    for byte in 0..=255u8 {
                        for fill in [b'!', b'~', 0x80] {
                            let mut bytes = vec![fill; length];
                            bytes[at] = byte;
                            let expected = bytes.iter().all(|&b| is(b, class));
                            assert_eq!(scan(&bytes), expected, "{bytes:?}");
                        }
                    }
                }
            }
        }
    }
}
