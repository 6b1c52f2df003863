//! Response heads: RFC 9112 section 6.3 as a table, and what is refused.

use headwater_http1::FramingError::*;
use headwater_http1::{
    FieldError, FramingError, HeaderId, Limits, Method, ResponseError, ResponseFraming, ResponseHead,
};
use headwater_http1::{Status, Version, parse_response};

fn parse(bytes: &[u8], method: Method, head: &mut ResponseHead) -> Result<Status, ResponseError> {
    parse_response(bytes, &Limits::DEFAULT, method, head)
}

#[test]
fn body_framing_follows_the_table_of_rfc_9112() {
    use Method::{Connect, Get, Head};
    use ResponseFraming::{Chunked, Length, None, UntilClose};
    const LENGTH: &str = "Content-Length: 5\r\n";
    const ZERO: &str = "Content-Length: 0\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let cases: &[(Method, u16, &str, Result<ResponseFraming, FramingError>)] = &[
        (Get, 200, LENGTH, Ok(Length(5))),
        (Get, 200, ZERO, Ok(Length(0))),
        (Get, 200, CHUNKED, Ok(Chunked)),
        (Get, 200, "", Ok(UntilClose)),
        (Get, 404, "", Ok(UntilClose)),
        (Get, 205, LENGTH, Ok(Length(5))),
        (Get, 999, LENGTH, Ok(Length(5))),
        (Head, 200, LENGTH, Ok(None)),
        (Head, 200, CHUNKED, Ok(None)),
        (Head, 200, "", Ok(None)),
        (Head, 404, LENGTH, Ok(None)),
        (Get, 304, LENGTH, Ok(None)),
        (Get, 304, CHUNKED, Ok(None)),
        (Get, 304, "", Ok(None)),
        (Get, 204, "", Ok(None)),
        (Get, 204, ZERO, Ok(None)),
        (Get, 204, LENGTH, Err(BodyNotAllowed)),
        (Get, 204, CHUNKED, Err(BodyNotAllowed)),
        (Get, 100, "", Ok(None)),
        (Get, 103, "Link: x\r\n", Ok(None)),
        (Get, 101, "", Ok(None)),
        (Get, 100, LENGTH, Err(BodyNotAllowed)),
        (Get, 101, CHUNKED, Err(BodyNotAllowed)),
        (Connect, 200, "", Ok(None)),
        (Connect, 200, LENGTH, Ok(None)),
        (Connect, 299, CHUNKED, Ok(None)),
        (Connect, 300, LENGTH, Ok(Length(5))),
        (Connect, 502, "", Ok(UntilClose)),
        // as strict as for requests, whatever the status
        (Get, 200, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(LengthAndTransferEncoding)),
        (Head, 200, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(LengthAndTransferEncoding)),
        (Get, 200, "Content-Length: 5\r\nContent-Length: 5\r\n", Err(RepeatedContentLength)),
        (Get, 200, "Content-Length: 5, 5\r\n", Err(InvalidContentLength)),
        (Get, 200, "Transfer-Encoding: gzip, chunked\r\n", Err(UnsupportedTransferCoding)),
        (Get, 200, "Transfer-Encoding: identity\r\n", Err(UnsupportedTransferCoding)),
        (Get, 200, "Transfer-Encoding: chunked, gzip\r\n", Err(InvalidTransferEncoding)),
        (Get, 200, "Transfer_Encoding: chunked\r\n", Err(DisguisedFramingHeader)),
        (Get, 304, "Content-Length: x\r\n", Err(InvalidContentLength)),
    ];
    for (method, status, lines, expected) in cases {
        let bytes = format!("HTTP/1.1 {status} Some Reason\r\n{lines}\r\n");
        let mut head = ResponseHead::new();
        let outcome = parse(bytes.as_bytes(), *method, &mut head).map(|_| head.framing());
        assert_eq!(outcome, expected.map_err(ResponseError::Framing), "{method:?} {bytes:?}");
    }
    let bytes = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let outcome = parse(bytes, Get, &mut ResponseHead::new());
    assert_eq!(outcome, Err(ResponseError::Framing(TransferEncodingInHttp10)));
}

#[test]
fn status_lines_are_version_status_and_reason_or_refused() {
    use ResponseError::*;
    type Outcome = Result<(u16, &'static [u8]), ResponseError>;
    let cases: &[(&[u8], Outcome)] = &[
        (b"HTTP/1.1 200 OK", Ok((200, b"OK"))),
        (b"HTTP/1.0 404 Not Found", Ok((404, b"Not Found"))),
        (b"HTTP/1.1 200 ", Ok((200, b""))),
        (b"HTTP/1.1 200", Ok((200, b""))),
        (b"HTTP/1.1 200 Pr\xc3\xaat\t!", Ok((200, b"Pr\xc3\xaat\t!"))),
        (b"HTTP/1.1 099 x", Err(InvalidStatus)),
        (b"HTTP/1.1 2000 x", Err(InvalidStatus)),
        (b"HTTP/1.1 20x x", Err(InvalidStatus)),
        (b"HTTP/1.1 +20 x", Err(InvalidStatus)),
        (b"HTTP/1.1 20", Err(MalformedStatusLine)),
        (b"HTTP/1.1  200 x", Err(InvalidStatus)),
        (b"HTTP/1.1\t200 x", Err(MalformedStatusLine)),
        (b"HTTP/1.1 200\tx", Err(MalformedStatusLine)),
        (b"HTTP/1.1", Err(MalformedStatusLine)),
        (b"HTTP/2.0 200 x", Err(UnsupportedVersion)),
        (b"HTTP/1.2 200 x", Err(UnsupportedVersion)),
        (b"http/1.1 200 x", Err(MalformedStatusLine)),
        (b"HTTPS/1.1 200 x", Err(MalformedStatusLine)),
        (b"\r\nHTTP/1.1 200 x", Err(MalformedStatusLine)),
        (b" HTTP/1.1 200 x", Err(MalformedStatusLine)),
        (b"HTTP/1.1 200 a\0b", Err(InvalidReason)),
        (b"HTTP/1.1 200 a\x7fb", Err(InvalidReason)),
        (b"HTTP/1.1 200 a\rb", Err(Field(FieldError::BareCarriageReturn))),
        (b"HTTP/1.1 200 a\nb", Err(Field(FieldError::BareLineFeed))),
        (b"HTTP/1.1 200 a\r\n b", Err(Field(FieldError::ObsoleteFold))),
        (b"HTTP/1.1 200 a\r\nb : c", Err(Field(FieldError::SpaceBeforeColon))),
        (b"HTTP/1.1 200 a\r\nb: c\r\n d", Err(Field(FieldError::ObsoleteFold))),
        (b"<html>", Err(MalformedStatusLine)),
    ];
    for (line, expected) in cases {
        let bytes = [line, b"\r\n\r\n".as_slice()].concat();
        let mut head = ResponseHead::new();
        let outcome = parse(&bytes, Method::Get, &mut head).map(|_| (head.status(), head.reason(&bytes)));
        assert_eq!(outcome, *expected, "{:?}", line.escape_ascii().to_string());
        assert!(outcome.err().is_none_or(|error| error.status() == 502));
    }
}

#[test]
fn an_upstream_connection_persists_only_where_the_end_of_the_body_is_known() {
    let cases = [
        ("1.1", "Content-Length: 5\r\n", true),
        ("1.1", "Transfer-Encoding: chunked\r\n", true),
        ("1.1", "Content-Length: 5\r\nConnection: close\r\n", false),
        ("1.1", "", false),
        ("1.1", "Connection: keep-alive\r\n", false),
        ("1.0", "Content-Length: 5\r\n", false),
        ("1.0", "Content-Length: 5\r\nConnection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive\r\n", false),
    ];
    for (version, lines, expected) in cases {
        let bytes = format!("HTTP/{version} 200 OK\r\n{lines}\r\n");
        let mut head = ResponseHead::new();
        parse(bytes.as_bytes(), Method::Get, &mut head).unwrap();
        assert_eq!(head.keep_alive(), expected, "{bytes:?}");
        assert_eq!(head.version() == Version::Http10, version == "1.0");
    }
}

#[test]
fn a_101_switches_only_to_a_protocol_named_in_both_headers() {
    let both = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let twice = "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n";
    type Outcome = Result<Option<&'static [u8]>, FramingError>;
    let cases: [(u16, &str, Outcome); 6] = [
        (101, both, Ok(Some(b"websocket"))),
        (101, "Upgrade: websocket\r\n", Ok(None)),
        (101, "Connection: upgrade\r\n", Ok(None)),
        (101, twice, Err(RepeatedUpgrade)),
        (200, both, Ok(None)),
        (200, twice, Ok(None)),
    ];
    for (status, lines, expected) in cases {
        let bytes = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
        let mut head = ResponseHead::new();
        let outcome = parse(bytes.as_bytes(), Method::Get, &mut head).map(|_| head.upgrade(bytes.as_bytes()));
        assert_eq!(outcome, expected.map_err(ResponseError::Framing), "{bytes:?}");
    }
}

#[test]
fn headers_of_one_hop_and_lengths_without_a_body_are_marked() {
    let cases: &[(Method, &str, &[&str])] = &[
        (Method::Get, "204 No Content\r\nContent-Length: 0\r\nServer: x", &["Server"]),
        (Method::Connect, "200 OK\r\nContent-Length: 5\r\nServer: x", &["Server"]),
        (Method::Head, "200 OK\r\nContent-Length: 5\r\nServer: x", &["Content-Length", "Server"]),
        (Method::Get, "304 X\r\nContent-Length: 5\r\nKeep-Alive: 5", &["Content-Length"]),
        (
            Method::Get,
            "200 OK\r\nX-Hop: 1\r\nConnection: x-hop, content-length, set-cookie\r\nContent-Length: 5\r\nSet-Cookie: c",
            &["Content-Length"],
        ),
    ];
    for (method, text, expected) in cases {
        let bytes = format!("HTTP/1.1 {text}\r\n\r\n");
        let mut head = ResponseHead::new();
        parse(bytes.as_bytes(), *method, &mut head).unwrap();
        let kept: Vec<_> = head.headers().iter().enumerate().filter(|(index, _)| !head.is_hop_by_hop(*index)).collect();
        let kept: Vec<_> =
            kept.iter().map(|(_, h)| std::str::from_utf8(h.name.of(bytes.as_bytes())).unwrap()).collect();
        assert_eq!(kept, *expected, "{bytes:?}");
    }
}

#[test]
fn an_interim_head_is_followed_by_the_final_one_in_the_same_buffer() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    let bytes = [interim.as_slice(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"].concat();
    let mut head = ResponseHead::new();
    assert_eq!(parse(&bytes, Method::Get, &mut head), Ok(Status::Complete(interim.len())));
    let rest = &bytes[interim.len()..];
    assert_eq!(parse(rest, Method::Get, &mut head), Ok(Status::Complete(rest.len() - 2)));
    assert_eq!((head.status(), head.content_length(), head.headers().len()), (200, Some(2), 1));
    assert_eq!(head.value_of(rest, HeaderId::ContentLength), Some(b"2".as_slice()));
}

#[test]
fn limits_of_responses_are_errors_of_their_own() {
    let limits = Limits { max_head_bytes: 60, max_start_line_bytes: 20, max_headers: 2, ..Limits::DEFAULT };
    let cases = [
        (format!("HTTP/1.1 200 {}\r\n\r\n", "r".repeat(7)), None),
        (format!("HTTP/1.1 200 {}\r\n\r\n", "r".repeat(8)), Some(ResponseError::StatusLineTooLong)),
        ("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n".to_owned(), None),
        ("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: 3\r\n".to_owned(), Some(FieldError::TooManyFields.into())),
        (format!("HTTP/1.1 200 OK\r\nA: {}", "v".repeat(60)), Some(ResponseError::HeadTooLarge)),
    ];
    for (bytes, expected) in cases {
        let outcome = parse_response(bytes.as_bytes(), &limits, Method::Get, &mut ResponseHead::new());
        assert_eq!(outcome, expected.map_or(Ok(Status::Complete(bytes.len())), Err), "{bytes:?}");
    }
}
