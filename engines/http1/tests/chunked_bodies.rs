//! Chunked bodies: what is taken, what is refused, what becomes of extensions and trailers.

use headwater_http1::ChunkError::{self, *};
use headwater_http1::{ChunkedDecoder, FieldError, Limits, Step};

type Trailers = Vec<(String, String)>;

/// Body, trailers and how much of `input` belonged to the body (`None` if it is not complete).
fn decode(input: &[u8], limits: &Limits) -> Result<(Vec<u8>, Trailers, Option<usize>), ChunkError> {
    let mut decoder = ChunkedDecoder::new(limits);
    let (mut body, mut at) = (Vec::new(), 0);
    let end = loop {
        match decoder.decode(&input[at..])? {
            Step::Data { data, consumed } => {
                assert!(!data.is_empty() && data.end == consumed);
                body.extend_from_slice(&input[at..][data]);
                at += consumed;
            }
            Step::NeedMore { consumed } => {
                assert_eq!(at + consumed, input.len());
                break None;
            }
            Step::Done { consumed } => break Some(at + consumed),
        }
    };
    assert_eq!(decoder.is_done(), end.is_some());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((body, decoder.trailers().map(|(name, value)| (text(name), text(value))).collect(), end))
}

#[test]
fn well_formed_bodies_decode_and_end_where_they_end() {
    let cases: &[(&str, &str)] = &[
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", "hello!"),
        ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
        ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("5;a\r\nhello\r\n0;b=c;d=\"e\"\r\n\r\n", "hello"),
        ("1;a=\"x; y=\\\"\\\\ \t\u{e9}\"\r\nz\r\n0\r\n\r\n", "z"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
    ];
    for (input, body) in cases {
        let bytes = format!("{input}GET / HTTP/1.1\r\n");
        let outcome = decode(bytes.as_bytes(), &Limits::DEFAULT);
        assert_eq!(outcome, Ok((body.as_bytes().to_vec(), vec![], Some(input.len()))), "{input:?}");
    }
}

#[test]
fn malformed_chunks_are_refused_for_their_own_reason() {
    let cases: &[(&str, ChunkError)] = &[
        // size
        ("\r\n", InvalidSize),
        ("g\r\n", InvalidSize),
        ("-1\r\n", InvalidSize),
        ("+5\r\n", InvalidSize),
        ("0x5\r\n", InvalidSize),
        ("5h\r\n", InvalidSize),
        ("5_0\r\n", InvalidSize),
        (" 5\r\n", InvalidSize),
        ("5 \r\n", InvalidSize),
        ("5\t\r\n", InvalidSize),
        ("5 ;a\r\n", InvalidSize),
        ("5\0\r\n", InvalidSize),
        ("5,5\r\n", InvalidSize),
        (";a\r\n", InvalidSize),
        ("\u{665}\r\n", InvalidSize),
        ("00000000000000005\r\n", SizeTooLarge),
        ("10000000000000000\r\n", SizeTooLarge),
        ("ffffffffffffffff\r\n", SizeTooLarge),
        ("8000000000000000\r\n", SizeTooLarge),
        ("ffffffffffffffff5\r\n", SizeTooLarge),
        // line ends
        ("5\nhello\r\n", BareLineFeed),
        ("\n", BareLineFeed),
        ("5\rhello\r\n", BareCarriageReturn),
        ("5\r\r\nhello\r\n", BareCarriageReturn),
        ("5\r\nhello\n0\r\n\r\n", MissingDataEnd),
        ("5\r\nhello0\r\n\r\n", MissingDataEnd),
        ("5\r\nhello\r0\r\n\r\n", MissingDataEnd),
        ("5\r\nhello!\r\n", MissingDataEnd),
        ("5\r\nhello\r\n\r\n", InvalidSize),
        ("0\n\r\n", BareLineFeed),
        ("0\r\n\n", Trailer(FieldError::BareLineFeed)),
        ("0\r\n\rX\n", Trailer(FieldError::BareLineFeed)),
        ("0\r\n\rX\r\n", Trailer(FieldError::BareCarriageReturn)),
        // extensions
        ("5;\r\n", InvalidExtension),
        ("5;;a\r\n", InvalidExtension),
        ("5; a\r\n", InvalidExtension),
        ("5;a \r\n", InvalidExtension),
        ("5;a =b\r\n", InvalidExtension),
        ("5;a= b\r\n", InvalidExtension),
        ("5;a=\r\n", InvalidExtension),
        ("5;=b\r\n", InvalidExtension),
        ("5;a=b=c\r\n", InvalidExtension),
        ("5;a=b\"c\"\r\n", InvalidExtension),
        ("5;a=\"b\"c\r\n", InvalidExtension),
        ("5;a=\"b\r\n", InvalidExtension),
        ("5;a=\"b\\\r\n", InvalidExtension),
        ("5;a=\"b\0\"\r\n", InvalidExtension),
        ("5;a\0\r\n", InvalidExtension),
        ("5;\u{e9}\r\n", InvalidExtension),
        ("5;\nhello\r\n", BareLineFeed),
        ("5;a\nhello\r\n", BareLineFeed),
        ("5;a=b\nhello\r\n", BareLineFeed),
        ("5;a=\"\nhello\"\r\n", BareLineFeed),
        ("5;a=\"\\\nhello\"\r\n", BareLineFeed),
        ("5;a=\"b\"\nhello\r\n", BareLineFeed),
        ("5;a\rhello\r\n", BareCarriageReturn),
        // trailers
        ("0\r\nX : y\r\n\r\n", Trailer(FieldError::SpaceBeforeColon)),
        ("0\r\nX: y\r\n z\r\n\r\n", Trailer(FieldError::ObsoleteFold)),
        ("0\r\nX: y\n\r\n", Trailer(FieldError::BareLineFeed)),
        ("0\r\nX: \0\r\n\r\n", Trailer(FieldError::InvalidValue)),
        ("0\r\nX\r\n\r\n", Trailer(FieldError::MissingColon)),
        ("0\r\n: y\r\n\r\n", Trailer(FieldError::EmptyName)),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", Trailer(FieldError::SpaceBeforeColon)),
        ("0\r\nContent-Length : 5\r\n\r\n", Trailer(FieldError::SpaceBeforeColon)),
    ];
    for (input, expected) in cases {
        assert_eq!(decode(input.as_bytes(), &Limits::DEFAULT).map(|_| ()), Err(*expected), "{input:?}");
    }
}

#[test]
fn forbidden_trailers_are_dropped_and_the_others_kept_in_order() {
    let input =
        b"0\r\ngrpc-status: 0\r\nContent-Length: 5\r\ntransfer-encoding: chunked\r\nHost: b\r\nAuthorization: c\r\n\
        X-Forwarded-For: d\r\nX_Real_IP: e\r\nForwarded: f\r\nX-Checksum:  g \r\nCookie: h\r\nX-Checksum: i\r\n\r\n";
    let (_, trailers, end) = decode(input, &Limits::DEFAULT).unwrap();
    let expected = [("grpc-status", "0"), ("X-Checksum", "g"), ("X-Checksum", "i")];
    assert_eq!(trailers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(end, Some(input.len()));
}

#[test]
fn limits_of_extensions_and_trailers_hold_to_the_byte() {
    let limits = Limits {
        max_chunk_extension_bytes: 4,
        max_chunk_extensions_total_bytes: 9,
        max_trailer_bytes: 20,
        max_trailers: 2,
        ..Limits::DEFAULT
    };
    let cases: &[(&str, Result<(), ChunkError>)] = &[
        ("1;abc\r\nx\r\n0\r\n\r\n", Ok(())),
        ("1;abcd\r\nx\r\n0\r\n\r\n", Err(ExtensionsTooLarge)),
        ("1;abc\r\nx\r\n1;abc\r\nx\r\n0\r\n\r\n", Ok(())),
        ("1;abc\r\nx\r\n1;abc\r\nx\r\n1;a\r\nx\r\n0\r\n\r\n", Err(ExtensionsTooLarge)),
        ("0\r\nA: 1\r\nB: 12345678\r\n\r\n", Err(TrailersTooLarge)),
        ("0\r\nA: 1\r\nB: 1234567\r\n\r\n", Ok(())),
        ("0\r\nTe: 1\r\nTe: 2\r\nTe: 3\r\n\r\n", Err(TrailersTooLarge)),
        ("0\r\nA:\r\nTe:\r\nC:\r\n\r\n", Err(Trailer(FieldError::TooManyFields))),
        ("0\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Err(TrailersTooLarge)),
    ];
    for (input, expected) in cases {
        assert_eq!(decode(input.as_bytes(), &limits).map(|_| ()), *expected, "{input:?}");
    }
}

#[test]
fn an_error_is_final() {
    let mut decoder = ChunkedDecoder::new(&Limits::DEFAULT);
    assert_eq!(decoder.decode(b"x"), Err(InvalidSize));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(InvalidSize));
    decoder.reset();
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Ok(Step::Done { consumed: 5 }));
    assert_eq!(decoder.decode(b"more"), Ok(Step::Done { consumed: 0 }));
}

#[test]
fn skipped_bytes_count_as_decoded() {
    let mut decoder = ChunkedDecoder::new(&Limits::DEFAULT);
    assert_eq!(decoder.decode(b"a\r\n01"), Ok(Step::Data { data: 3..5, consumed: 5 }));
    assert_eq!(decoder.remaining_in_chunk(), 8);
    decoder.skip(7);
    assert_eq!(decoder.decode(b"9\r\n"), Ok(Step::Data { data: 0..1, consumed: 1 }));
    assert_eq!(decoder.remaining_in_chunk(), 0);
    assert_eq!(decoder.decode(b"\r\n0\r\n\r\n"), Ok(Step::Done { consumed: 7 }));
}

#[test]
fn a_reused_decoder_keeps_no_trailers() {
    let mut decoder = ChunkedDecoder::new(&Limits::DEFAULT);
    let input = b"0\r\nA: 1\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(decoder.decode(input), Ok(Step::Done { consumed: input.len() }));
        assert_eq!(decoder.trailers().collect::<Vec<_>>(), [(b"A".as_slice(), b"1".as_slice())]);
        decoder.reset();
        assert_eq!(decoder.trailers().len(), 0);
    }
}
