//! Each client against each origin: what goes out is what is seen, and what is wrong is told apart.

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::certs::Authority;
use headwater_testkit::client::{RawClient, ask_udp};
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::http2::{self, Request};
use headwater_testkit::origin::{Kind, LOOPBACK, Origin, RawOrigin};
use headwater_testkit::proxy::{self, V2};
use headwater_testkit::response::Seen;
use headwater_testkit::websocket::WebSocket;
use headwater_testkit::{Whoami, grpc};

#[test]
fn every_protocol_reports_its_peer_its_proxy_header_and_its_tls() -> Result<()> {
    let leaf = Authority::new("authority")?.leaf(&["a.test"])?;
    let origin = Origin::https("one", &leaf)?;
    let source: IpAddr = "127.0.0.5".parse()?;
    let header = V2::tcp("192.0.2.7:1234".parse()?, "198.51.100.1:443".parse()?).authority("b.test").crc().build();
    let plain = Dial::to(origin.address()).source(source).preamble(&header);
    for dial in [plain.clone(), plain.tls(Tls::new("a.test"))] {
        for protocol in Protocol::ALL {
            let what = format!("{protocol:?} {:?}", dial.tls);
            let seen = ask(protocol, &dial, "a.test", &[("X-Mark", "m"), ("X-Mark", "n")])?;
            let proto = if protocol.alpn() == "h2" { "HTTP/2" } else { "HTTP/1.1" };
            assert_eq!(seen.text("proto"), proto, "{what}");
            assert_eq!(seen.text("host"), "a.test", "{what}");
            assert_eq!(seen.peer()?.ip(), source, "{what}");
            assert_eq!(seen.proxy_source(), Some("192.0.2.7:1234".parse()?), "{what}");
            assert_eq!(seen.0["proxy"]["tlvs"][0]["text"], "b.test", "{what}");
            assert_eq!(seen.header("x-mark").as_deref(), Some("m, n"), "{what}");
            if dial.tls.is_some() {
                assert_eq!(seen.0["tls"]["sni"], "a.test", "{what}");
                assert_eq!(seen.0["tls"]["alpn"], protocol.alpn(), "{what}");
            } else {
                assert!(seen.0["tls"].is_null(), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_answer_that_is_no_report_is_an_error_with_its_status() -> Result<()> {
    let origin = RawOrigin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
    for protocol in [Protocol::Http1, Protocol::WebSocket] {
        let error = format!("{:#}", ask(protocol, &Dial::to(origin.address()), "a.test", &[]).unwrap_err());
        assert!(error.contains("403"), "{protocol:?}: {error}");
    }
    Ok(())
}

#[test]
fn the_leaf_and_alpn_of_a_server_can_be_looked_at() -> Result<()> {
    let leaf = Authority::new("authority")?.leaf(&["a.test", "*.b.test", "192.0.2.1"])?;
    let origin = Origin::https("one", &leaf)?;
    let client = RawClient::open(&Dial::to(origin.address()).tls(Tls::without_sni().alpn(&["h2"])))?;
    assert_eq!(client.stream().leaf(), Some(leaf.cert_der.clone()));
    assert_eq!(client.stream().alpn().as_deref(), Some("h2"));
    assert!(leaf.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(leaf.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    Ok(())
}

#[test]
fn proxy_headers_are_taken_or_refused_as_built() -> Result<()> {
    let origin = Origin::http_behind_proxy("one")?;
    let (four, six) = ("192.0.2.7:1", "[2001:db8::7]:1");
    let v2 = |text: &str| -> Result<V2> { Ok(V2::tcp(text.parse()?, text.parse()?)) };
    for (what, header, source) in [
        ("v1 TCP4", proxy::v1(four.parse()?, four.parse()?), Some(Some(four))),
        ("v1 TCP6", proxy::v1(six.parse()?, six.parse()?), Some(Some(six))),
        ("v1 UNKNOWN", proxy::v1_unknown(), Some(None)),
        ("v1 too long", proxy::v1_too_long(), None),
        ("v2 TCP4", v2(four)?.build(), Some(Some(four))),
        ("v2 TCP6 with checksum", v2(six)?.crc().build(), Some(Some(six))),
        ("v2 padded", v2(four)?.crc().pad_to(4096).build(), Some(Some(four))),
        ("v2 LOCAL", V2::local().build(), Some(None)),
        ("v2 UNSPEC", V2::unspec().build(), Some(None)),
        ("v2 UNIX", V2::unix().build(), Some(None)),
        ("v2 bad checksum", v2(four)?.bad_crc().build(), None),
        ("v2 oversized", v2(four)?.oversized().build(), None),
        ("v2 unknown command", V2::raw(0x22, 0x11, &[0; 12]).build(), None),
    ] {
        let mut client = RawClient::open(&Dial::to(origin.address()).preamble(&header))?;
        match source {
            Some(source) => {
                let seen = client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?.seen()?;
                assert_eq!(seen.proxy_source(), source.map(|text| text.parse()).transpose()?, "{what}");
                assert!(seen.0["proxy"].is_object(), "{what}");
            }
            None => assert_eq!(client.closed()?, b"", "{what}"),
        }
    }
    Ok(())
}

#[test]
fn http_2_streams_share_a_connection_and_fail_alone() -> Result<()> {
    let origin = Origin::http("one")?;
    let mut trailing = Request::post("a.test", "/echo", &[b'x'; 200_000]);
    trailing.trailers = vec![("x-sum".to_owned(), "1".to_owned())];
    let responses = http2::exchange(
        &Dial::to(origin.address()),
        vec![
            trailing,
            Request::get("a.test", "/?fail=reset"),
            Request::get("a.test", "/status/418?trailers"),
            Request::get("a.test", "/?bytes=300000"),
            Request::get("a.test", "/?fail=partial"),
            Request::new("HEAD", "a.test", "/?bytes=5"),
            Request::get("a.test", "/?bytes=x"),
        ],
    )?;
    let [echoed, reset, teapot, digits, partial, head, refused] = &responses[..] else { panic!("{responses:?}") };
    let echoed = echoed.as_ref().unwrap();
    assert_eq!((echoed.body.len(), echoed.trailer("x-sum").as_deref()), (200_000, Some("1")));
    assert!(reset.is_err() && partial.is_err());
    let teapot = teapot.as_ref().unwrap();
    assert_eq!((teapot.status, teapot.trailer("x-whoami-name").as_deref()), (418, Some("one")));
    assert_eq!(digits.as_ref().unwrap().body.len(), 300_000);
    let head = head.as_ref().unwrap();
    assert_eq!((head.header("content-length").as_deref(), head.body.len()), (Some("5"), 0));
    assert_eq!(refused.as_ref().unwrap().status, 400);
    Ok(())
}

#[test]
fn grpc_calls_end_with_their_status() -> Result<()> {
    let origin = Origin::http("one")?;
    let dial = Dial::to(origin.address());
    let call = |path: &str, messages: &[&[u8]]| grpc::call(&dial, "a.test", path, messages, &[]);
    assert_eq!(call(grpc::HEALTH, &[b""])?.messages, [[8, 1]]);
    let chat = call(grpc::CHAT, &[b"one", b"", b"three"])?;
    assert_eq!((chat.status, chat.messages), (0, vec![b"one".to_vec(), vec![], b"three".to_vec()]));
    assert_eq!(call("/no.Such/Method", &[b""])?.status, 12);
    assert_eq!(call(grpc::ASK, &[])?.status, 3);
    assert_eq!(call(grpc::ASK, &[b"", b""])?.status, 3);
    Ok(())
}

#[test]
fn websocket_messages_come_back_and_the_close_is_answered() -> Result<()> {
    let origin = Origin::http("one")?;
    let mut socket = WebSocket::open(&Dial::to(origin.address()), "a.test", "/", &[])?;
    assert_eq!(socket.seen()?.name(), "one");
    for length in [0, 125, 126, 65_535, 65_536, 1_000_000] {
        socket.send_text(&"x".repeat(length))?;
        assert_eq!(socket.receive()?.len(), length);
        socket.send_binary(&vec![7; length])?;
        assert_eq!(socket.receive()?.len(), length);
    }
    socket.close()
}

#[test]
fn datagrams_and_raw_connections_name_their_peer() -> Result<()> {
    let source: IpAddr = "127.0.0.6".parse()?;
    let udp = Origin::udp("udp")?;
    let mut datagram = V2::udp("192.0.2.7:5".parse()?, "192.0.2.8:6".parse()?).build();
    datagram.extend(b"question");
    let seen = Seen::parse(&ask_udp(Some(source), udp.address(), &datagram)?)?;
    assert_eq!((seen.peer()?.ip(), seen.text("body")), (source, "question"));
    assert_eq!(seen.proxy_source(), Some("192.0.2.7:5".parse()?));

    let tcp = Origin::tcp("tcp")?;
    let mut client = RawClient::connect_from(source, tcp.address())?;
    assert_eq!(Seen::parse(&client.read_until(b"\n")?)?.peer()?, client.local_addr()?);
    client.send("echo")?;
    client.finish()?;
    assert_eq!(client.read_to_end()?, b"echo");
    Ok(())
}

#[test]
fn a_scripted_origin_records_requests_and_answers_byte_by_byte() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        while let Some(request) = conn.read_request()? {
            assert!(request.ends_with(b"\r\n\r\n") || request.ends_with(b"body"));
            conn.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            conn.write_all(b"2\r\nok\r\n0\r\nX-T: t\r\n\r\n")?;
        }
        Ok(())
    })?;
    let mut client = RawClient::connect(origin.address())?;
    let posts = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ];
    for post in posts {
        let response = client.request(post)?;
        assert_eq!((response.text().as_str(), response.trailer("x-t").as_deref()), ("ok", Some("t")));
        assert_eq!(response.interim, [100]);
    }
    client.finish()?;
    let record = origin.wait_for(0, |record| record.ended.is_some())?;
    assert_eq!(record.ended, Some(Ok(())));
    assert_eq!(String::from_utf8(record.bytes)?, posts.concat());
    assert_eq!(record.peer, client.local_addr()?);
    Ok(())
}

#[test]
fn malformed_and_cut_responses_are_errors() -> Result<()> {
    for response in [
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    ] {
        let origin = RawOrigin::start(move |conn| {
            conn.read_request()?;
            conn.write_all(response.as_bytes())
        })?;
        let mut client = RawClient::connect(origin.address())?;
        let result = client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(result.is_err(), "{response:?} read as {result:?}");
    }
    Ok(())
}

#[test]
fn a_silent_server_is_an_error_at_the_deadline() -> Result<()> {
    let origin = RawOrigin::start(|conn| conn.read_to_end().map(drop))?;
    let mut dial = Dial::to(origin.address());
    dial.deadline = std::time::Duration::from_millis(50);
    let mut client = RawClient::open(&dial)?;
    let error = format!("{:#}", client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err());
    assert!(error.contains("deadline has passed"), "{error}");
    assert!(client.closed().is_err());
    Ok(())
}

#[test]
fn an_address_in_use_is_told_by_name() -> Result<()> {
    let first = Origin::http("first")?;
    let error = Origin::start(Kind::Http, Whoami::new("second", [first.address()])).unwrap_err();
    assert!(error.to_string().contains(&format!("whoami second: cannot listen on {}", first.address())), "{error}");
    assert_eq!(LOOPBACK.port(), 0);
    Ok(())
}
