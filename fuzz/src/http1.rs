//! HTTP/1 heads and bodies: the same however bytes arrive, never looser than httparse, written back with the same
//! meaning.

use headwater_http1::{
    ChunkError, ChunkedDecoder, Header, Limits, Method, RequestHead, ResponseHead, Status, Step, encode, parse_request,
    parse_response,
};

/// Small, so that short inputs reach them.
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

/// For what was written back: `a:b` has become `a: b`.
const ROOMY: Limits = Limits { max_head_bytes: 128 * 1024, max_trailer_bytes: 32 * 1024, ..Limits::DEFAULT };

/// Splitting at each byte is quadratic; longer inputs arrive in larger pieces.
const PIECES: usize = 1024;

/// A request, and what follows it.
pub fn http1_request(bytes: &[u8]) {
    for limits in [&Limits::DEFAULT, &TIGHT] {
        let (mut whole, mut split) = (RequestHead::new(), RequestHead::new());
        let expected = parse_request(bytes, limits, &mut whole);
        let mut outcome = Ok(Status::Partial);
        for end in ends(bytes) {
            outcome = parse_request(&bytes[..end], limits, &mut split);
            if outcome != Ok(Status::Partial) {
                break;
            }
        }
        assert_eq!(outcome, expected);
        assert_eq!(format!("{split:?}"), format!("{whole:?}"));
    }

    let mut head = RequestHead::new();
    let Ok(Status::Complete(length)) = parse_request(bytes, &Limits::DEFAULT, &mut head) else { return };
    let mut headers = vec![httparse::EMPTY_HEADER; Limits::DEFAULT.max_headers];
    let mut oracle = httparse::Request::new(&mut headers);
    assert_eq!(oracle.parse(bytes), Ok(httparse::Status::Complete(length)));
    assert_eq!(oracle.method.map(str::as_bytes), Some(head.method_text(bytes)));
    assert_eq!(oracle.path.map(str::as_bytes), Some(head.target_text(bytes)));
    assert_eq!(oracle_lines(oracle.headers), lines(head.headers(), bytes));

    let mut again = Vec::new();
    encode::write_request_line(head.method_text(bytes), head.target_text(bytes), head.version(), &mut again);
    for (name, value) in lines(head.headers(), bytes) {
        encode::write_field(name, value, &mut again);
    }
    again.extend_from_slice(b"\r\n");
    let mut reread = RequestHead::new();
    assert_eq!(parse_request(&again, &ROOMY, &mut reread), Ok(Status::Complete(again.len())));
    assert_eq!(lines(reread.headers(), &again), lines(head.headers(), bytes));
    let facts = |head: &RequestHead| (head.framing(), head.keep_alive(), head.expect_continue());
    assert_eq!(facts(&reread), facts(&head));
    assert_eq!((reread.path(&again), reread.host(&again)), (head.path(bytes), head.host(bytes)));
}

/// A response, and what follows it.
pub fn http1_response(bytes: &[u8]) {
    for limits in [&Limits::DEFAULT, &TIGHT] {
        for method in [Method::Get, Method::Head, Method::Connect] {
            let (mut whole, mut split) = (ResponseHead::new(), ResponseHead::new());
            let expected = parse_response(bytes, limits, method, &mut whole);
            let mut outcome = Ok(Status::Partial);
            for end in ends(bytes) {
                outcome = parse_response(&bytes[..end], limits, method, &mut split);
                if outcome != Ok(Status::Partial) {
                    break;
                }
            }
            assert_eq!(outcome, expected);
            assert_eq!(format!("{split:?}"), format!("{whole:?}"));
        }
    }

    let mut head = ResponseHead::new();
    let Ok(Status::Complete(length)) = parse_response(bytes, &Limits::DEFAULT, Method::Get, &mut head) else { return };
    let mut headers = vec![httparse::EMPTY_HEADER; Limits::DEFAULT.max_headers];
    let mut oracle = httparse::Response::new(&mut headers);
    assert_eq!(oracle.parse(bytes), Ok(httparse::Status::Complete(length)));
    assert_eq!(oracle.code, Some(head.status()));
    assert_eq!(oracle_lines(oracle.headers), lines(head.headers(), bytes));
}

/// A chunked body, and what follows it.
pub fn http1_chunked(bytes: &[u8]) {
    for limits in [&Limits::DEFAULT, &TIGHT] {
        let whole = decode(bytes, &mut std::iter::once(bytes.len()), limits);
        assert_eq!(decode(bytes, &mut ends(bytes), limits), whole);
        // Odd pieces as well, so that a piece ends inside of everything.
        assert_eq!(
            decode(bytes, &mut (1..).map(|n| n * 7).take_while(|end| *end < bytes.len()).chain([bytes.len()]), limits),
            whole
        );
        let Ok(Some(end)) = whole.end else { continue };
        assert!(whole.body.len() < end && end <= bytes.len());

        let mut again = Vec::new();
        encode::write_chunk(&whole.body, &mut again);
        encode::write_trailers(whole.trailers.iter().map(|(name, value)| (&name[..], &value[..])), &mut again);
        let reread = decode(&again, &mut std::iter::once(again.len()), &ROOMY);
        assert_eq!((&reread.body, &reread.trailers), (&whole.body, &whole.trailers));
        assert_eq!(reread.end, Ok(Some(again.len())));
    }
}

#[derive(Debug, PartialEq)]
struct Decoded {
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the body ended, if it did.
    end: Result<Option<usize>, ChunkError>,
}

/// Decodes `bytes` as they arrive up to each of `ends`.
fn decode(bytes: &[u8], ends: &mut dyn Iterator<Item = usize>, limits: &Limits) -> Decoded {
    let mut decoder = ChunkedDecoder::new(limits);
    let (mut body, mut at) = (Vec::new(), 0);
    let mut outcome = Ok(None);
    'pieces: for end in ends {
        loop {
            match decoder.decode(&bytes[at..end]) {
                Ok(Step::Data { data, consumed }) => {
                    assert!(!data.is_empty() && data.end == consumed);
                    body.extend_from_slice(&bytes[at..end][data]);
                    at += consumed;
                }
                Ok(Step::NeedMore { consumed }) => {
                    at += consumed;
                    assert_eq!(at, end);
                    break;
                }
                Ok(Step::Done { consumed }) => {
                    outcome = Ok(Some(at + consumed));
                    break 'pieces;
                }
                Err(error) => {
                    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(error), "an error is for good");
                    outcome = Err(error);
                    break 'pieces;
                }
            }
        }
    }
    let trailers = decoder.trailers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    Decoded { body, trailers, end: outcome }
}

/// Where pieces end: at each byte of a short input.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let step = bytes.len() / PIECES + 1;
    (step..bytes.len()).step_by(step).chain([bytes.len()])
}

fn lines<'b>(headers: &[Header], buf: &'b [u8]) -> Vec<(&'b [u8], &'b [u8])> {
    headers.iter().map(|header| (header.name.of(buf), header.value.of(buf))).collect()
}

fn oracle_lines<'b>(headers: &[httparse::Header<'b>]) -> Vec<(&'b [u8], &'b [u8])> {
    headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect()
}
