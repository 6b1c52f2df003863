//! Properties over generated and mutilated messages: never looser than httparse, the same however bytes arrive,
//! no panic, and what is written is read back.

use headwater_http1::{ChunkError, ChunkedDecoder, Limits, Method, RequestHead, ResponseHead, Status, Step, encode};
use headwater_http1::{RequestError, ResponseError, Version, parse_request, parse_response};
use proptest::collection::vec;
use proptest::prelude::*;

const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}";

/// Small, so that generated messages reach them.
const TIGHT: Limits = Limits {
    max_head_bytes: 400,
    max_start_line_bytes: 60,
    max_headers: 8,
    max_connection_options: 2,
    max_chunk_extension_bytes: 12,
    max_chunk_extensions_total_bytes: 20,
    max_trailer_bytes: 60,
    max_trailers: 3,
};

fn limits() -> impl Strategy<Value = Limits> {
    prop_oneof![3 => Just(Limits::DEFAULT), 1 => Just(TIGHT)]
}

/// A header line that is good by itself; names are often ones that matter.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let value = vec(prop_oneof![6 => 0x20u8..0x7f, 1 => Just(b'\t'), 1 => 0x80u8..], 0..40);
    let plain = (TOKEN, "[ \t]{0,3}", value, "[ \t]{0,3}").prop_map(|(name, before, value, after)| {
        [name.as_bytes(), b":", before.as_bytes(), &value, after.as_bytes()].concat()
    });
    let known = prop::sample::select(vec![
        "Content-Length: 5",
        "content-length:0",
        "Transfer-Encoding: chunked",
        "transfer-encoding: Chunked ",
        "Connection: close",
        "Connection: keep-alive, x-hop",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "X-Hop: 1",
        "Expect: 100-continue",
        "TE: trailers",
        "Keep-Alive: timeout=5",
        "X_Under: 1",
    ]);
    prop_oneof![3 => plain, 1 => known.prop_map(|text| text.as_bytes().to_vec())]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "/[!-\"$-~]{0,40}",
        1 => "http://a\\.example(:80)?(/[!-\"$-~]{0,20})?",
        1 => Just("*".to_owned()),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), Just("OPTIONS".to_owned()), TOKEN];
    (method, target(), prop::bool::ANY, vec(line(), 0..8)).prop_map(|(method, target, newer, lines)| {
        let version = if newer { "1.1" } else { "1.0" };
        let first = format!("{method} {target} HTTP/{version}\r\nHost: a.example\r\n");
        let rest = lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat());
        first.into_bytes().into_iter().chain(rest).chain(*b"\r\n").collect()
    })
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    let first = "HTTP/1\\.[01] [1-5][0-9][0-9]( [ -~]{0,20})?";
    (first, vec(line(), 0..8)).prop_map(|(first, lines)| {
        let rest = lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat());
        first.into_bytes().into_iter().chain(*b"\r\n").chain(rest).chain(*b"\r\n").collect()
    })
}

fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![3 => Just(String::new()), 1 => "(;[a-z]{1,3}(=[a-z]{1,3}|=\"[ -!#-Z]{0,4}\")?){1,3}"];
    let chunk = (vec(any::<u8>(), 1..30), extension).prop_map(|(data, extension)| {
        [format!("{:x}{extension}\r\n", data.len()).as_bytes(), data.as_slice(), b"\r\n"].concat()
    });
    (vec(chunk, 0..5), vec(line(), 0..3)).prop_map(|(chunks, trailers)| {
        let trailers = trailers.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat());
        chunks.concat().into_iter().chain(*b"0\r\n").chain(trailers).chain(*b"\r\n").collect()
    })
}

/// Up to four edits with bytes that parsers trip over.
fn mutilated(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let nasty = prop_oneof![
        4 => prop::sample::select(b"\r\n\t \0:,;\x0b\x7f\x80_#\"0".to_vec()),
        1 => any::<u8>(),
    ];
    let edit = (any::<prop::sample::Index>(), nasty, 0u8..4);
    (message, vec(edit, 0..5)).prop_map(|(mut message, edits)| {
        for (place, byte, kind) in edits {
            let at = place.index(message.len() + 1);
            match kind {
                0 if at < message.len() => message[at] = byte,
                1 if at < message.len() => drop(message.remove(at)),
                2 => message.truncate(at.max(message.len() / 2)),
                _ => message.insert(at, byte),
            }
        }
        message
    })
}

fn cuts(length: usize, places: &[prop::sample::Index]) -> Vec<usize> {
    let mut ends: Vec<usize> = places.iter().map(|place| place.index(length + 1)).chain([length]).collect();
    ends.sort_unstable();
    ends
}

type HeaderLines = Vec<(Vec<u8>, Vec<u8>)>;

fn lines_of(headers: &[headwater_http1::Header], buf: &[u8]) -> HeaderLines {
    headers.iter().map(|h| (h.name.of(buf).to_vec(), h.value.of(buf).to_vec())).collect()
}

fn oracle_lines(headers: &[httparse::Header<'_>]) -> HeaderLines {
    headers.iter().map(|h| (h.name.as_bytes().to_vec(), h.value.to_vec())).collect()
}

/// What decoding in the given pieces yields; the pieces are concatenated with what was left over.
fn decode_in_pieces(
    bytes: &[u8],
    ends: &[usize],
    limits: &Limits,
) -> (Vec<u8>, HeaderLines, Result<Option<usize>, ChunkError>) {
    let mut decoder = ChunkedDecoder::new(limits);
    let (mut body, mut at, mut outcome) = (Vec::new(), 0, Ok(None));
    'pieces: for &end in ends {
        loop {
            match decoder.decode(&bytes[at..end]) {
                Ok(Step::Data { data, consumed }) => {
                    body.extend_from_slice(&bytes[at..end][data]);
                    at += consumed;
                }
                Ok(Step::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(Step::Done { consumed }) => {
                    outcome = Ok(Some(at + consumed));
                    break 'pieces;
                }
                Err(error) => {
                    outcome = Err(error);
                    break 'pieces;
                }
            }
        }
    }
    (body, decoder.trailers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(), outcome)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn httparse_accepts_every_request_we_accept_and_sees_the_same(bytes in mutilated(request())) {
        let mut head = RequestHead::new();
        if let Ok(Status::Complete(length)) = parse_request(&bytes, &Limits::DEFAULT, &mut head) {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut oracle = httparse::Request::new(&mut headers);
            prop_assert_eq!(oracle.parse(&bytes), Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(oracle.method.unwrap().as_bytes(), head.method_text(&bytes));
            prop_assert_eq!(oracle.path.unwrap().as_bytes(), head.target_text(&bytes));
            prop_assert_eq!(oracle.version, Some(u8::from(head.version() == Version::Http11)));
            prop_assert_eq!(oracle_lines(oracle.headers), lines_of(head.headers(), &bytes));
        }
    }

    #[test]
    fn httparse_accepts_every_response_we_accept_and_sees_the_same(bytes in mutilated(response())) {
        let mut head = ResponseHead::new();
        if let Ok(Status::Complete(length)) = parse_response(&bytes, &Limits::DEFAULT, Method::Get, &mut head) {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut oracle = httparse::Response::new(&mut headers);
            prop_assert_eq!(oracle.parse(&bytes), Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(oracle.code, Some(head.status()));
            prop_assert_eq!(oracle_lines(oracle.headers), lines_of(head.headers(), &bytes));
        }
    }

    /// What the grammar allows is refused only for what it means, never for how it is written.
    #[test]
    fn requests_from_the_grammar_are_refused_for_their_meaning_only(bytes in request()) {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let oracle = httparse::Request::new(&mut headers).parse(&bytes);
        prop_assert_eq!(oracle, Ok(httparse::Status::Complete(bytes.len())));
        match parse_request(&bytes, &Limits::DEFAULT, &mut RequestHead::new()) {
            Ok(status) => prop_assert_eq!(status, Status::Complete(bytes.len())),
            Err(RequestError::Framing(_) | RequestError::AsteriskNeedsOptions | RequestError::RepeatedHost) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn responses_from_the_grammar_are_refused_for_their_meaning_only(bytes in response()) {
        match parse_response(&bytes, &Limits::DEFAULT, Method::Get, &mut ResponseHead::new()) {
            Ok(status) => prop_assert_eq!(status, Status::Complete(bytes.len())),
            Err(ResponseError::Framing(_)) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn a_request_head_reads_the_same_however_it_is_split(
        bytes in mutilated(request()), places in vec(any::<prop::sample::Index>(), 0..12), limits in limits(),
    ) {
        let (mut whole, mut split) = (RequestHead::new(), RequestHead::new());
        let expected = parse_request(&bytes, &limits, &mut whole);
        let mut outcome = Ok(Status::Partial);
        for end in cuts(bytes.len(), &places) {
            outcome = parse_request(&bytes[..end], &limits, &mut split);
            if outcome != Ok(Status::Partial) {
                break;
            }
        }
        prop_assert_eq!(outcome, expected);
        prop_assert_eq!(format!("{split:?}"), format!("{whole:?}"));
    }

    #[test]
    fn a_response_head_reads_the_same_however_it_is_split(
        bytes in mutilated(response()), places in vec(any::<prop::sample::Index>(), 0..12), limits in limits(),
    ) {
        let (mut whole, mut split) = (ResponseHead::new(), ResponseHead::new());
        let expected = parse_response(&bytes, &limits, Method::Get, &mut whole);
        let mut outcome = Ok(Status::Partial);
        for end in cuts(bytes.len(), &places) {
            outcome = parse_response(&bytes[..end], &limits, Method::Get, &mut split);
            if outcome != Ok(Status::Partial) {
                break;
            }
        }
        prop_assert_eq!(outcome, expected);
        prop_assert_eq!(format!("{split:?}"), format!("{whole:?}"));
    }

    #[test]
    fn a_chunked_body_decodes_the_same_however_it_is_split(
        bytes in mutilated(chunked()), places in vec(any::<prop::sample::Index>(), 0..12), limits in limits(),
    ) {
        let whole = decode_in_pieces(&bytes, &[bytes.len()], &limits);
        prop_assert_eq!(decode_in_pieces(&bytes, &cuts(bytes.len(), &places), &limits), whole);
    }

    #[test]
    fn well_formed_chunks_are_accepted(bytes in chunked()) {
        let (_, _, outcome) = decode_in_pieces(&bytes, &[bytes.len()], &Limits::DEFAULT);
        prop_assert_eq!(outcome, Ok(Some(bytes.len())));
    }

    #[test]
    fn decoding_undoes_encoding(
        pieces in vec(vec(any::<u8>(), 0..300), 0..6),
        trailers in vec(("x-[a-z]{1,8}", "[!-~]{0,10}"), 0..4),
        places in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let trailers: HeaderLines = trailers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut bytes = Vec::new();
        pieces.iter().for_each(|piece| encode::write_chunk(piece, &mut bytes));
        encode::write_trailers(trailers.iter().map(|(name, value)| (&name[..], &value[..])), &mut bytes);
        let decoded = decode_in_pieces(&bytes, &cuts(bytes.len(), &places), &Limits::DEFAULT);
        let kept = trailers.into_iter().filter(|(name, _)| !headwater_http1::is_forbidden_trailer(name)).collect();
        prop_assert_eq!(decoded, (pieces.concat(), kept, Ok(Some(bytes.len()))));
    }

    /// What we accept and write out again is accepted again, with the same meaning.
    #[test]
    fn a_head_written_back_means_the_same(bytes in mutilated(request())) {
        let mut head = RequestHead::new();
        if let Ok(Status::Complete(_)) = parse_request(&bytes, &Limits::DEFAULT, &mut head) {
            let mut out = Vec::new();
            encode::write_request_line(head.method_text(&bytes), head.target_text(&bytes), head.version(), &mut out);
            for (name, value) in lines_of(head.headers(), &bytes) {
                encode::write_field(&name, &value, &mut out);
            }
            out.extend_from_slice(b"\r\n");
            let mut again = RequestHead::new();
            prop_assert_eq!(parse_request(&out, &Limits::DEFAULT, &mut again), Ok(Status::Complete(out.len())));
            prop_assert_eq!(lines_of(again.headers(), &out), lines_of(head.headers(), &bytes));
            let facts = |h: &RequestHead| (h.framing(), h.keep_alive(), h.expect_continue(), h.accepts_trailers());
            prop_assert_eq!(facts(&again), facts(&head));
            prop_assert_eq!((again.path(&out), again.host(&out)), (head.path(&bytes), head.host(&bytes)));
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in vec(any::<u8>(), 0..300), limits in limits()) {
        let _ = parse_request(&bytes, &limits, &mut RequestHead::new());
        let _ = parse_response(&bytes, &limits, Method::Head, &mut ResponseHead::new());
        let (body, _, outcome) = decode_in_pieces(&bytes, &[bytes.len()], &limits);
        prop_assert!(body.len() <= bytes.len() && outcome.is_ok_and(|end| end.is_none_or(|end| end <= bytes.len())) || outcome.is_err());
    }

    /// A caller that breaks the rule to keep the buffer gets wrong answers, but no panic.
    #[test]
    fn a_buffer_that_changes_between_calls_causes_no_panic(buffers in vec(mutilated(request()), 1..5), limits in limits()) {
        let mut head = RequestHead::new();
        for buffer in &buffers {
            let half = parse_request(&buffer[..buffer.len() / 2], &limits, &mut head);
            prop_assert!(half != Ok(Status::Complete(0)));
            let _ = (head.path(b"x"), head.query(buffer), head.host(b""), lines_of(head.headers(), b"yz"));
        }
    }
}

#[test]
fn chunk_headers_and_lengths_are_written_as_numbers_read_them() {
    for length in
        [1u64, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, u32::MAX.into(), i64::MAX as u64, u64::MAX]
    {
        let mut out = Vec::new();
        encode::write_chunk_header(length, &mut out);
        assert_eq!(out, format!("{length:x}\r\n").into_bytes());
        out.clear();
        encode::write_content_length(length, &mut out);
        assert_eq!(out, format!("content-length: {length}\r\n").into_bytes());
    }
    let mut out = Vec::new();
    encode::write_chunk_header(0, &mut out);
    encode::write_chunk(b"", &mut out);
    assert!(out.is_empty());
}

#[test]
fn status_lines_are_written_with_three_digits_and_their_phrase() {
    for (status, line) in [
        (200, "HTTP/1.1 200 OK\r\n"),
        (431, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        (599, "HTTP/1.1 599 \r\n"),
        (99, "HTTP/1.1 500 Internal Server Error\r\n"),
        (1000, "HTTP/1.1 500 Internal Server Error\r\n"),
    ] {
        let mut out = Vec::new();
        encode::write_status_line(status, &mut out);
        assert_eq!(std::str::from_utf8(&out), Ok(line));
    }
}
