//! Request heads that two recipients could read differently, and what exactly is refused in them.

use FieldError::*;
use FramingError::*;
use headwater_http1::RequestError::{self, *};
use headwater_http1::{FieldError, FramingError, Limits, RequestHead, Status, parse_request};

fn parse(bytes: &[u8]) -> Result<Status, RequestError> {
    parse_request(bytes, &Limits::DEFAULT, &mut RequestHead::new())
}

/// A POST with these lines behind a good `Host`.
fn post(lines: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

#[test]
fn header_lines_of_smuggling_attempts_are_refused_for_their_own_reason() {
    let framing = |error: FramingError| RequestError::Framing(error);
    let field = |error: FieldError| RequestError::Field(error);
    let cases: &[(&str, RequestError)] = &[
        // both framings
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", framing(LengthAndTransferEncoding)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", framing(LengthAndTransferEncoding)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", framing(LengthAndTransferEncoding)),
        ("TRANSFER-ENCODING: chunked\r\ncontent-length: 5\r\n", framing(LengthAndTransferEncoding)),
        // content-length
        ("Content-Length: 5\r\nContent-Length: 5\r\n", framing(RepeatedContentLength)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", framing(RepeatedContentLength)),
        ("Content-Length: 5\r\nContent-Length: x\r\n", framing(RepeatedContentLength)),
        ("Content-Length: 5,5\r\n", framing(InvalidContentLength)),
        ("Content-Length: 5, 5\r\n", framing(InvalidContentLength)),
        ("Content-Length: +5\r\n", framing(InvalidContentLength)),
        ("Content-Length: -5\r\n", framing(InvalidContentLength)),
        ("Content-Length: 0x5\r\n", framing(InvalidContentLength)),
        ("Content-Length: 05\r\n", framing(InvalidContentLength)),
        ("Content-Length: 00\r\n", framing(InvalidContentLength)),
        ("Content-Length: 5 5\r\n", framing(InvalidContentLength)),
        ("Content-Length: 5.0\r\n", framing(InvalidContentLength)),
        ("Content-Length: 5e1\r\n", framing(InvalidContentLength)),
        ("Content-Length: 1_0\r\n", framing(InvalidContentLength)),
        ("Content-Length: \"5\"\r\n", framing(InvalidContentLength)),
        ("Content-Length: 5;\r\n", framing(InvalidContentLength)),
        ("Content-Length:\r\n", framing(InvalidContentLength)),
        ("Content-Length: \t \r\n", framing(InvalidContentLength)),
        ("Content-Length: \u{665}\r\n", framing(InvalidContentLength)),
        ("Content-Length: 9223372036854775808\r\n", framing(InvalidContentLength)),
        ("Content-Length: 18446744073709551617\r\n", framing(InvalidContentLength)),
        ("Content-Length: 100000000000000000000000000000005\r\n", framing(InvalidContentLength)),
        // transfer-encoding
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", framing(RepeatedTransferEncoding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", framing(RepeatedTransferEncoding)),
        ("Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n", framing(RepeatedTransferEncoding)),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", framing(UnsupportedTransferCoding)),
        ("Transfer-Encoding: chunked, chunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked, identity\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked,gzip\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked,\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: ,chunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: xchunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunkedx\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: x-chunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked;q=1\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: \"chunked\"\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: 'chunked'\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked chunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: chunked foo\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: \u{ff}chunked\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: cHuNKe\u{212a}d\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding:\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: \r\nContent-Length: 5\r\n", framing(InvalidTransferEncoding)),
        ("Transfer-Encoding: gzip, chunked\r\n", framing(UnsupportedTransferCoding)),
        ("Transfer-Encoding: gzip\r\n", framing(UnsupportedTransferCoding)),
        ("Transfer-Encoding: identity\r\n", framing(UnsupportedTransferCoding)),
        ("Transfer-Encoding: identity, chunked\r\n", framing(UnsupportedTransferCoding)),
        // disguises of names
        ("Transfer-Encoding : chunked\r\n", field(SpaceBeforeColon)),
        ("Transfer-Encoding\t: chunked\r\n", field(SpaceBeforeColon)),
        ("Transfer Encoding: chunked\r\n", field(SpaceBeforeColon)),
        ("Content-Length : 5\r\n", field(SpaceBeforeColon)),
        (" Transfer-Encoding: chunked\r\n", field(ObsoleteFold)),
        ("\tTransfer-Encoding: chunked\r\n", field(ObsoleteFold)),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", field(ObsoleteFold)),
        ("Transfer-Encoding:\r\n chunked\r\n", framing(InvalidTransferEncoding)),
        ("X: y\r\n \r\n", field(ObsoleteFold)),
        ("Transfer_Encoding: chunked\r\n", framing(DisguisedFramingHeader)),
        ("content_length: 5\r\n", framing(DisguisedFramingHeader)),
        ("Content_Length: 5\r\nContent-Length: 6\r\n", framing(DisguisedFramingHeader)),
        ("\u{b}Transfer-Encoding: chunked\r\n", field(InvalidName)),
        ("Transfer-Encoding\u{b}: chunked\r\n", field(InvalidName)),
        ("Transfer-Encoding\0: chunked\r\n", field(InvalidName)),
        ("Transfer-Encoding\u{a0}: chunked\r\n", field(InvalidName)),
        ("\"Content-Length\": 5\r\n", field(InvalidName)),
        ("Content-Length=5: 5\r\n", field(InvalidName)),
        ("(X): y\r\n", field(InvalidName)),
        (": y\r\n", field(EmptyName)),
        ("Content-Length\r\n", field(MissingColon)),
        // disguises of values
        ("Transfer-Encoding: \u{b}chunked\r\n", field(InvalidValue)),
        ("Transfer-Encoding: chunked\u{b}\r\n", field(InvalidValue)),
        ("Transfer-Encoding: chunked\u{c}\r\n", field(InvalidValue)),
        ("Transfer-Encoding: chunked\0\r\n", field(InvalidValue)),
        ("X: a\0b\r\n", field(InvalidValue)),
        ("X: a\u{7f}b\r\n", field(InvalidValue)),
        ("X: a\u{1b}b\r\n", field(InvalidValue)),
        // line ends
        ("X: y\nContent-Length: 5\r\n", field(BareLineFeed)),
        ("X: y\n\r\n", field(BareLineFeed)),
        ("\nX: y\r\n", field(BareLineFeed)),
        ("X: y\rContent-Length: 5\r\n", field(BareCarriageReturn)),
        ("X: y\r\r\n", field(BareCarriageReturn)),
        ("X\r: y\r\n", field(BareCarriageReturn)),
        ("\rX: y\r\n", field(BareCarriageReturn)),
        // connection options
        ("Connection: content-length\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: close, Host\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: X-Forwarded-For\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: x_real_ip\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: Forwarded\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: Authorization\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: Cookie\r\n", framing(ForbiddenConnectionOption)),
        ("Connection: close;x\r\n", framing(InvalidConnection)),
        ("Connection: a b\r\n", framing(InvalidConnection)),
        ("Connection: \"close\"\r\n", framing(InvalidConnection)),
        ("Upgrade: websocket\r\nUpgrade: h2c\r\n", framing(RepeatedUpgrade)),
        ("Upgrade: web socket\r\n", framing(InvalidUpgrade)),
        ("Upgrade: /1\r\n", framing(InvalidUpgrade)),
        ("Upgrade: a/b/c\r\n", framing(InvalidUpgrade)),
        ("Upgrade:\r\nUpgrade: h2c\r\n", framing(RepeatedUpgrade)),
        ("Expect: 200-ok\r\n", UnsupportedExpectation),
        ("Expect: 100-continue, x\r\n", UnsupportedExpectation),
        // host
        ("Host: a.example\r\n", RepeatedHost),
        ("Host: b.example\r\n", RepeatedHost),
        ("hOST: b.example\r\n", RepeatedHost),
        ("Host:\r\n", RepeatedHost),
    ];
    for (lines, expected) in cases {
        let outcome = parse(post(lines).as_bytes());
        assert_eq!(outcome, Err(*expected), "{lines:?}");
    }
}

#[test]
fn whole_heads_that_are_not_exactly_http_are_refused_for_their_own_reason() {
    let cases: &[(&str, RequestError)] = &[
        // line ends and leading lines
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EmptyRequestLine),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::Field(BareLineFeed)),
        ("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::Field(BareLineFeed)),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::Field(BareCarriageReturn)),
        ("GET / HTTP/1.1\nHost: a\n\n", RequestError::Field(BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", RequestError::Field(BareLineFeed)),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", RequestError::Field(BareCarriageReturn)),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", RequestError::Field(BareCarriageReturn)),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", RequestError::Field(ObsoleteFold)),
        // method
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidMethod),
        ("G\u{0}T / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidMethod),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidMethod),
        ("\u{16}\u{3}\u{1}\u{2}", InvalidMethod),
        // request line
        ("GET\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET /\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET  HTTP/1.1\r\nHost: a\r\n\r\n", MalformedRequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", InvalidVersion),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidMethod),
        ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", MalformedRequestLine),
        // version
        ("GET / http/1.1\r\nHost: a\r\n\r\n", InvalidVersion),
        ("GET / HTTP/1.1x\r\nHost: a\r\n\r\n", InvalidVersion),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", InvalidVersion),
        ("GET / HTTP/11\r\nHost: a\r\n\r\n", InvalidVersion),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", UnsupportedVersion),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", UnsupportedVersion),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UnsupportedVersion),
        // target
        ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET /a\u{7f}b HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET /a\u{b}b HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", AsteriskNeedsOptions),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("GET \\a HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("GET http:/a/ HTTP/1.1\r\nHost: a\r\n\r\n", UnknownTargetForm),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", UnsupportedScheme),
        ("GET ://a/ HTTP/1.1\r\nHost: a\r\n\r\n", UnsupportedScheme),
        ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", InvalidAuthority),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidAuthority),
        ("GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidAuthority),
        ("GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidAuthority),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", ConnectNeedsAuthority),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", ConnectNeedsAuthority),
        ("CONNECT http://a:80 HTTP/1.1\r\nHost: a\r\n\r\n", ConnectNeedsAuthority),
        ("CONNECT * HTTP/1.1\r\nHost: a\r\n\r\n", ConnectNeedsAuthority),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\n", RequestError::Framing(BodyNotAllowed)),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            RequestError::Framing(BodyNotAllowed),
        ),
        // target against host
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", HostMismatch),
        ("GET http://a/ HTTP/1.0\r\nHost: b\r\n\r\n", HostMismatch),
        ("GET http://a:8080/ HTTP/1.1\r\nHost: a\r\n\r\n", HostMismatch),
        ("GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", HostMismatch),
        ("GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", HostMismatch),
        ("GET http://a/ HTTP/1.1\r\nHost: a.\r\n\r\n", HostMismatch),
        ("CONNECT a:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", HostMismatch),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:443\r\n\r\n", HostMismatch),
        // host
        ("GET / HTTP/1.1\r\n\r\n", MissingHost),
        ("GET http://a/ HTTP/1.1\r\n\r\n", MissingHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.0\r\nHost: \r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", InvalidHost),
        // HTTP/1.0
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", RequestError::Framing(TransferEncodingInHttp10)),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", RequestError::Framing(TransferEncodingInHttp10)),
        (
            "POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            RequestError::Framing(TransferEncodingInHttp10),
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(parse(bytes.as_bytes()), Err(*expected), "{bytes:?}");
    }
}

#[test]
fn a_refusal_is_answered_with_the_status_that_fits_it() {
    let cases: &[(RequestError, u16, &str)] = &[
        (RequestLineTooLong, 414, "request_line_too_long"),
        (UnsupportedExpectation, 417, "unsupported_expectation"),
        (HeadTooLarge, 431, "head_too_large"),
        (RequestError::Field(TooManyFields), 431, "too_many_headers"),
        (RequestError::Framing(UnsupportedTransferCoding), 501, "unsupported_transfer_coding"),
        (RequestError::Framing(InvalidTransferEncoding), 400, "invalid_transfer_encoding"),
        (UnsupportedVersion, 505, "unsupported_version"),
        (HostMismatch, 400, "host_mismatch"),
    ];
    for (error, status, reason) in cases {
        assert_eq!((error.status(), error.reason()), (*status, *reason));
    }
}

/// Each limit exactly reached is fine, and one more is its own error; the same when bytes arrive one by one.
#[test]
fn limits_hold_to_the_byte_however_the_head_arrives() {
    let limits = Limits { max_head_bytes: 100, max_start_line_bytes: 30, max_headers: 3, ..Limits::DEFAULT };
    let limits = Limits { max_connection_options: 2, ..limits };
    let request = |path: usize, lines: &str| format!("GET /{} HTTP/1.1\r\nHost: a\r\n{lines}\r\n", "p".repeat(path));
    let cases: &[(String, Option<RequestError>)] = &[
        (request(16, ""), None),
        (request(17, ""), Some(RequestLineTooLong)),
        (format!("\r\n{}", request(16, "")), None),
        (format!("\r\n{}", request(17, "")), Some(RequestLineTooLong)),
        (format!("GET /{}", "p".repeat(500)), Some(RequestLineTooLong)),
        (request(0, &format!("X: {}\r\n", "v".repeat(68))), None),
        (request(0, &format!("X: {}\r\n", "v".repeat(69))), Some(HeadTooLarge)),
        (request(0, &"v".repeat(500)), Some(HeadTooLarge)),
        (request(0, "A: 1\r\nB: 2\r\n"), None),
        (request(0, "A: 1\r\nB: 2\r\nC: 3\r\n"), Some(RequestError::Field(TooManyFields))),
        (request(0, "Connection: a, b, close\r\n"), None),
        (request(0, "Connection: a, b, c\r\n"), Some(RequestError::Framing(TooManyConnectionOptions))),
    ];
    for (bytes, expected) in cases {
        let expected = expected.map_or(Ok(Status::Complete(bytes.len())), Err);
        let mut head = RequestHead::new();
        assert_eq!(parse_request(bytes.as_bytes(), &limits, &mut head), expected, "{bytes:?}");
        let bytewise = (0..=bytes.len())
            .map(|end| parse_request(&bytes.as_bytes()[..end], &limits, &mut head))
            .find(|outcome| *outcome != Ok(Status::Partial));
        assert_eq!(bytewise, Some(expected), "{bytes:?}");
        if bytes.len() > limits.max_head_bytes {
            // No need to wait for a byte that would not be read anyway.
            let full = parse_request(&bytes.as_bytes()[..limits.max_head_bytes], &limits, &mut RequestHead::new());
            assert_eq!(full, expected, "{bytes:?}");
        }
    }
}
