//! What a good request head says, and what is derived from it.

use headwater_http1::{BodyFraming, HeaderId, Limits, Method, RequestHead, Scheme, Status, Target, Version};
use headwater_http1::{RequestError, parse_request};

fn parse(bytes: &str) -> RequestHead {
    let mut head = RequestHead::new();
    let outcome = parse_request(bytes.as_bytes(), &Limits::DEFAULT, &mut head);
    assert_eq!(outcome, Ok(Status::Complete(bytes.len())), "{bytes:?}");
    head
}

#[test]
fn a_head_ends_at_its_empty_line_and_leaves_the_body() {
    let head =
        "POST /a/b?c=d&e HTTP/1.1\r\nHost: shop.example:8080\r\nContent-Length: 5\r\nX-A:  v w\t\r\nx-empty:\r\n\r\n";
    let bytes = format!("{head}helloGET / HTTP/1.1\r\n");
    let buf = bytes.as_bytes();
    let mut parsed = RequestHead::new();
    assert_eq!(parse_request(buf, &Limits::DEFAULT, &mut parsed), Ok(Status::Complete(head.len())));
    assert_eq!((parsed.method(), parsed.method_text(buf)), (Method::Post, b"POST".as_slice()));
    assert_eq!(parsed.target_text(buf), b"/a/b?c=d&e");
    assert_eq!((parsed.path(buf), parsed.query(buf)), (b"/a/b".as_slice(), Some(b"c=d&e".as_slice())));
    assert_eq!(parsed.version(), Version::Http11);
    assert_eq!(parsed.host(buf), Some(b"shop.example:8080".as_slice()));
    assert_eq!(parsed.authority(buf).and_then(|authority| authority.port), Some(8080));
    assert_eq!(parsed.framing(), BodyFraming::Length(5));
    let lines: Vec<_> = parsed.headers().iter().map(|h| (h.name.of(buf), h.value.of(buf), h.id)).collect();
    assert_eq!(
        lines,
        [
            (b"Host".as_slice(), b"shop.example:8080".as_slice(), HeaderId::Host),
            (b"Content-Length", b"5", HeaderId::ContentLength),
            (b"X-A", b"v w", HeaderId::Other),
            (b"x-empty", b"", HeaderId::Other),
        ]
    );
    assert_eq!(parsed.value_of(buf, HeaderId::ContentLength), Some(b"5".as_slice()));
    assert_eq!(parsed.values(buf, b"X-EMPTY").collect::<Vec<_>>(), [b""]);
}

#[test]
fn target_forms_are_told_apart() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n", "origin", "/", None),
        ("GET /? HTTP/1.1\r\nHost: a\r\n", "origin", "/", Some("")),
        ("GET //b/c?d?e HTTP/1.1\r\nHost: a\r\n", "origin", "//b/c", Some("d?e")),
        ("GET /{[|]}^`\\\"<> HTTP/1.1\r\nHost: a\r\n", "origin", "/{[|]}^`\\\"<>", None),
        ("GET http://A HTTP/1.1\r\nHost: a\r\n", "http", "/", None),
        ("GET http://a?q HTTP/1.1\r\nHost: a\r\n", "http", "/", Some("q")),
        ("GET http://a:80/b HTTP/1.1\r\nHost: A\r\n", "http", "/b", None),
        ("GET HTTP://a/b HTTP/1.1\r\nHost: a:80\r\n", "http", "/b", None),
        ("GET https://a:443/b?c HTTP/1.1\r\nHost: a\r\n", "https", "/b", Some("c")),
        ("GET http://[::1]:8080/ HTTP/1.1\r\nHost: [::1]:8080\r\n", "http", "/", None),
        ("GET http://a/http://b/ HTTP/1.1\r\nHost: a\r\n", "http", "/http://b/", None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n", "asterisk", "*", None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n", "authority", "", None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: A\r\n", "authority", "", None),
    ];
    for (lines, form, path, query) in cases {
        let bytes = format!("{lines}\r\n");
        let head = parse(&bytes);
        let seen = match head.target() {
            Target::Origin { .. } => "origin",
            Target::Absolute { scheme: Scheme::Http, .. } => "http",
            Target::Absolute { scheme: Scheme::Https, .. } => "https",
            Target::Authority { .. } => "authority",
            Target::Asterisk => "asterisk",
        };
        assert_eq!(seen, *form, "{lines:?}");
        assert_eq!(head.path(bytes.as_bytes()), path.as_bytes(), "{lines:?}");
        assert_eq!(head.query(bytes.as_bytes()), query.map(str::as_bytes), "{lines:?}");
    }
}

#[test]
fn connection_facts_follow_version_and_tokens() {
    // lines behind the request line; keep-alive; upgrade; waits for 100; framing
    type Facts = (bool, Option<&'static str>, bool, BodyFraming);
    let none = BodyFraming::None;
    let five = BodyFraming::Length(5);
    let cases: &[(&str, &str, Facts)] = &[
        ("1.1", "", (true, None, false, none)),
        ("1.1", "Connection: close\r\n", (false, None, false, none)),
        ("1.1", "Connection: keep-alive, CLOSE\r\n", (false, None, false, none)),
        ("1.1", "Connection: x\r\nConnection: ,, Close ,\r\n", (false, None, false, none)),
        ("1.1", "Connection:\r\n", (true, None, false, none)),
        ("1.1", "Connection: closed\r\n", (true, None, false, none)),
        ("1.1", "Proxy-Connection: close\r\n", (true, None, false, none)),
        ("1.0", "", (false, None, false, none)),
        ("1.0", "Connection: Keep-Alive\r\n", (true, None, false, none)),
        ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", (false, None, false, none)),
        ("1.0", "Proxy-Connection: keep-alive\r\n", (false, None, false, none)),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", (true, Some("websocket"), false, none)),
        ("1.1", "Upgrade: h2c, foo/2\r\nConnection: a, upgrade\r\n", (true, Some("h2c, foo/2"), false, none)),
        ("1.1", "Upgrade: websocket\r\n", (true, None, false, none)),
        ("1.1", "Connection: upgrade\r\n", (true, None, false, none)),
        ("1.1", "Connection: upgrade\r\nUpgrade: ,\r\n", (true, None, false, none)),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", (false, None, false, none)),
        ("1.1", "Expect: 100-Continue\r\nContent-Length: 5\r\n", (true, None, true, five)),
        ("1.1", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", (true, None, true, BodyFraming::Chunked)),
        ("1.1", "Expect: 100-continue\r\n", (true, None, false, none)),
        ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", (true, None, false, BodyFraming::Length(0))),
        ("1.0", "Expect: 100-continue\r\nContent-Length: 5\r\n", (false, None, false, five)),
        ("1.0", "Expect: anything\r\n", (false, None, false, none)),
        ("1.1", "Transfer-Encoding: \tCHUNKED \r\n", (true, None, false, BodyFraming::Chunked)),
        ("1.1", "Content-Length: 9223372036854775807\r\n", (true, None, false, BodyFraming::Length(i64::MAX as u64))),
    ];
    for (version, lines, expected) in cases {
        let bytes = format!("POST / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let head = parse(&bytes);
        let upgrade = head.upgrade(bytes.as_bytes()).map(|text| std::str::from_utf8(text).unwrap());
        assert_eq!((head.keep_alive(), upgrade, head.expect_continue(), head.framing()), *expected, "{bytes:?}");
    }
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_nominates_are_marked() {
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\nX-Before: 1\r\nConnection: X-Before, te, X-AFTER, close\r\nTE: gzip, Trailers\r\n\
        Keep-Alive: 5\r\nx-after: 2\r\nX-AFTER: 3\r\nX-After-All: 4\r\nUpgrade: x\r\nProxy-Authorization: y\r\n\
        Transfer-Encoding: chunked\r\nTrailer: z\r\nHTTP2-Settings: a\r\nProxy-Connection: b\r\nclose: c\r\n\r\n";
    let head = parse(bytes);
    let buf = bytes.as_bytes();
    let kept: Vec<_> = (0..head.headers().len())
        .filter(|&index| !head.is_hop_by_hop(index))
        .map(|index| std::str::from_utf8(head.headers()[index].name.of(buf)).unwrap())
        .collect();
    assert_eq!(kept, ["Host", "X-After-All", "Trailer", "close"]);
    let nominated: Vec<_> = head.nominated().iter().map(|span| span.of(buf)).collect();
    assert_eq!(nominated, [b"X-Before".as_slice(), b"X-AFTER"]);
    assert!(head.accepts_trailers());
    assert!(!head.is_hop_by_hop(999));
}

#[test]
fn names_with_underscores_are_kept_and_marked() {
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nX-Forwarded-For: 2\r\n\r\n";
    let marks: Vec<_> = parse(bytes).headers().iter().map(|h| (h.id, h.has_underscore())).collect();
    assert_eq!(marks, [(HeaderId::Host, false), (HeaderId::Other, true), (HeaderId::XForwardedFor, false)]);
}

#[test]
fn one_empty_line_before_the_request_line_is_ignored() {
    let bytes = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(parse(bytes).method_text(bytes.as_bytes()), b"GET");
}

#[test]
fn http_1_0_without_host_has_none_unless_the_target_names_it() {
    for (target, host) in [("/", None), ("http://a.example:81/", Some("a.example:81"))] {
        let bytes = format!("GET {target} HTTP/1.0\r\n\r\n");
        assert_eq!(parse(&bytes).host(bytes.as_bytes()), host.map(str::as_bytes));
    }
}

#[test]
fn methods_are_case_sensitive_tokens() {
    for (text, method) in [("GET", Method::Get), ("get", Method::Other), ("M-SEARCH", Method::Other)] {
        let bytes = format!("{text} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = parse(&bytes);
        assert_eq!((head.method(), head.method_text(bytes.as_bytes())), (method, text.as_bytes()));
    }
}

/// Nothing of one head may show in the next, also after an error in the middle.
#[test]
fn a_reused_head_keeps_nothing_of_the_one_before() {
    let rich =
        b"\r\nPOST http://a/?q HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade, x\r\nUpgrade: y\r\nTE: trailers\r\n\
        Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    let wrong = &[&rich[..rich.len() - 2], b"bad line\r\n"].concat();
    let plain = b"GET / HTTP/1.0\r\nContent-Length: 5\r\n\r\n";
    let limits = Limits::DEFAULT;
    let mut head = RequestHead::new();
    let fresh = parse(std::str::from_utf8(plain).unwrap());
    for before in [&rich[..], &wrong[..]] {
        let _ = parse_request(before, &limits, &mut head);
        assert_eq!(parse_request(plain, &limits, &mut head), Ok(Status::Complete(plain.len())));
        assert_eq!(format!("{head:?}"), format!("{fresh:?}"));
    }
    assert_eq!(parse_request(&rich[..60], &limits, &mut head), Ok(Status::Partial));
    head.reset();
    assert_eq!(parse_request(plain, &limits, &mut head), Ok(Status::Complete(plain.len())));
    assert_eq!(format!("{head:?}"), format!("{fresh:?}"));
}

/// Complete lines are overwritten as soon as they were seen; a parser that read them again would stumble.
#[test]
fn complete_lines_are_not_read_again_when_more_arrives() {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 7\r\n".to_vec();
    (0..200).for_each(|n| bytes.extend_from_slice(format!("X-{n}: {}\r\n", "v".repeat(300)).as_bytes()));
    bytes.extend_from_slice(b"\r\n");
    let mut head = RequestHead::new();
    let mut outcome: Result<Status, RequestError> = Ok(Status::Partial);
    for end in 1..=bytes.len() {
        outcome = parse_request(&bytes[..end], &Limits::DEFAULT, &mut head);
        if bytes[end - 1] == b'\n' {
            bytes[..end].fill(b'\n');
        }
    }
    assert_eq!(outcome, Ok(Status::Complete(bytes.len())));
    assert_eq!((head.headers().len(), head.framing()), (203, BodyFraming::Length(7)));
    assert!(!head.keep_alive());
}
