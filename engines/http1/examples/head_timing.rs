//! Prints nanoseconds per parsed head, and per decoded chunked body. Run with `--release`.
#![allow(clippy::disallowed_methods, reason = "a timing needs a clock")]

use std::hint::black_box;
use std::time::Instant;

use headwater_http1::{ChunkedDecoder, Limits, Method, RequestHead, ResponseHead, Status, Step, encode};
use headwater_http1::{parse_request, parse_response};

const PLAIN: &[u8] = b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: wrk/4.1.0\r\n\
Accept: */*\r\nAccept-Encoding: gzip, deflate, br\r\nX-Request-Id: 3f2c9a10-9a64-4c6e-8f0e-0a1b2c3d4e5f\r\n\
Connection: keep-alive\r\n\r\n";

const BROWSER: &[u8] = b"GET /wp-content/uploads/2010/03/hello-kitty-darth-vader-pink.jpg HTTP/1.1\r\n\
Host: www.kittyhell.com\r\nUser-Agent: Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) \
Gecko/20100401 Firefox/3.6.3 Pathtraq/0.9\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: ja,en-us;q=0.7,en;q=0.3\r\nAccept-Encoding: gzip,deflate\r\n\
Accept-Charset: Shift_JIS,utf-8;q=0.7,*;q=0.7\r\nKeep-Alive: 115\r\nConnection: keep-alive\r\n\
Cookie: wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; __utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx\
.xxxxxxxxxx.x; __utmz=xxxxxxxxx.xxxxxxxxxx.x.x.utmccn=(referral)|utmcsr=reader.livedoor.com|utmcct=/reader/\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sat, 21 Nov 2026 07:00:00 GMT\r\n\
Content-Type: application/json\r\nContent-Length: 1024\r\nCache-Control: no-store\r\nConnection: keep-alive\r\n\r\n";

/// Best of many short rounds, so that a busy machine disturbs it little.
fn nanoseconds(mut work: impl FnMut()) -> f64 {
    const PER_ROUND: u32 = 2_000;
    (0..300)
        .map(|_| {
            let start = Instant::now();
            (0..PER_ROUND).for_each(|_| work());
            start.elapsed().as_nanos() as f64 / f64::from(PER_ROUND)
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let limits = Limits::DEFAULT;
    let mut head = RequestHead::new();
    for (name, bytes) in [("request, 6 headers", PLAIN), ("browser request, 9 headers", BROWSER)] {
        let ours = nanoseconds(|| {
            let status = parse_request(black_box(bytes), &limits, &mut head);
            assert_eq!(black_box(status), Ok(Status::Complete(bytes.len())));
        });
        let httparse = nanoseconds(|| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            assert!(black_box(request.parse(black_box(bytes))).is_ok());
        });
        println!("{name}, {} bytes: {ours:.0} ns (httparse, syntax only: {httparse:.0} ns)", bytes.len());
    }
    let mut response = ResponseHead::new();
    let ours = nanoseconds(|| {
        let status = parse_response(black_box(RESPONSE), &limits, Method::Get, &mut response);
        assert_eq!(black_box(status), Ok(Status::Complete(RESPONSE.len())));
    });
    println!("response, 6 headers, {} bytes: {ours:.0} ns", RESPONSE.len());

    let mut body = Vec::new();
    (0..16).for_each(|_| encode::write_chunk(&[b'x'; 4096], &mut body));
    body.extend_from_slice(encode::LAST_CHUNK);
    let mut decoder = ChunkedDecoder::new(&limits);
    let ours = nanoseconds(|| {
        decoder.reset();
        let mut at = 0;
        loop {
            match decoder.decode(black_box(&body[at..])) {
                Ok(Step::Data { consumed, .. }) => at += consumed,
                Ok(Step::Done { .. }) => break,
                other => panic!("{other:?}"),
            }
        }
    });
    println!("chunked body of 16 chunks: {:.0} ns per chunk", ours / 16.0);
}
