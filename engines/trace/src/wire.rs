//! The little of Protocol Buffers that OTLP needs: <https://protobuf.dev/programming-guides/encoding/>.

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// Bytes that a varint takes.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes that a field of this many bytes takes, its tag and length included. For fields up to 15.
pub(crate) fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// Tag and length of a field of bytes, a text or a message.
pub(crate) fn open(field: u32, length: usize, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | BYTES), out);
    varint(length as u64, out);
}

pub(crate) fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    open(field, value.len(), out);
    out.extend_from_slice(value);
}

pub(crate) fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | VARINT), out);
    varint(value, out);
}

pub(crate) fn fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | FIXED64), out);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn fixed32(field: u32, value: u32, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | FIXED32), out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A field as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of fixed length; nothing that is read here has one.
    Fixed,
}

/// The next field and what follows it; `None` at the end and where there is no field.
pub(crate) fn next(input: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    let (tag, rest) = read_varint(input)?;
    let (value, rest) = match u32::try_from(tag & 7).ok()? {
        VARINT => {
            let (value, rest) = read_varint(rest)?;
            (Value::Number(value), rest)
        }
        FIXED64 => (Value::Fixed, rest.get(8..)?),
        BYTES => {
            let (length, rest) = read_varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(value), rest)
        }
        FIXED32 => (Value::Fixed, rest.get(4..)?),
        _ => return None,
    };
    Some((tag >> 3, value, rest))
}

fn read_varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &input[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_is_said_and_read_again() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            number(3, value, &mut out);
            assert_eq!(out.len(), 1 + varint_len(value), "{value}");
            assert_eq!(next(&out), Some((3, Value::Number(value), &[][..])), "{value}");
        }
    }

    #[test]
    fn fields_that_end_early_are_none() {
        let mut out = Vec::new();
        bytes(2, b"text", &mut out);
        assert_eq!((out.len(), next(&out)), (field_len(4), Some((2, Value::Bytes(b"text"), &[][..]))));
        fixed64(1, 7, &mut out);
        fixed32(1, 7, &mut out);
        for cut in 0..6 {
            assert_eq!(next(&out[..cut]), None, "{cut}");
        }
        assert_eq!(next(&[0x80; 11]), None);
        assert_eq!(next(&[0x0b]), None, "groups are not read");
    }
}
