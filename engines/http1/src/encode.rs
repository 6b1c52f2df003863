//! Writing heads and chunks. Nothing here checks bytes: what was parsed by this crate is safe to write, anything else
//! goes through [`crate::is_token`], [`crate::is_field_value`] and [`crate::is_target`] first.

use crate::fields::Version;

/// Behind the data of every chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The end of the data of a chunked body with trailers; trailer lines and an empty line follow.
pub const LAST_CHUNK_BEFORE_TRAILERS: &[u8] = b"0\r\n";

/// Writes the size line of a chunk of `length` bytes; the data and [`CHUNK_END`] follow.
///
/// A length of 0 writes nothing, because a chunk of that size would end the body.
pub fn write_chunk_header(length: u64, out: &mut Vec<u8>) {
    if length == 0 {
        return;
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (67 - length.leading_zeros() as usize) / 4;
    for digit in (0..digits).rev() {
        out.push(HEX[(length >> (4 * digit)) as usize & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes `data` as one chunk; empty data writes nothing.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        write_chunk_header(data.len() as u64, out);
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

/// Writes the end of a chunked body with these trailers.
pub fn write_trailers<'a>(trailers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    out.extend_from_slice(LAST_CHUNK_BEFORE_TRAILERS);
    for (name, value) in trailers {
        write_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes `name: value` and CRLF.
#[inline]
pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a `content-length` line.
pub fn write_content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes `method SP target SP version CRLF`.
pub fn write_request_line(method: &[u8], target: &[u8], version: Version, out: &mut Vec<u8>) {
    out.reserve(method.len() + target.len() + 12);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(match version {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 => b" HTTP/1.1\r\n",
    });
}

/// Writes `HTTP/1.1 status reason CRLF`; statuses without a standard phrase get an empty one.
///
/// A status outside 100 to 999 is not a status: it is written as 500.
pub fn write_status_line(status: u16, out: &mut Vec<u8>) {
    let status = if (100..=999).contains(&status) { status } else { 500 };
    write_status_line_with_reason(status, reason_phrase(status).as_bytes(), out);
}

/// [`write_status_line`] with a reason of one's own, for example the upstream's.
pub fn write_status_line_with_reason(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    let status = if (100..=999).contains(&status) { status } else { 500 };
    let digit = |number: u16| b'0' + (number % 10) as u8;
    out.reserve(reason.len() + 15);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// The phrase of RFC 9110 section 15 (and 425, 426, 428, 429, 431, 451, 507, 511 of their own RFCs); else empty.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}
