//! TCP and UDP listeners over real sockets: bytes, ends, endpoints, limits, changes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::port::{self, Refusing};
use headwater_testkit::proxy;
use headwater_testkit::response::Seen;
use headwater_testkit::wait;

/// A listener `l4` of the protocol towards the Service `test/app`; `more` are fields of it, `spec` of the gateway.
fn gateway(protocol: &str, more: &str, spec: &str) -> String {
    Stand::gateway_with(&format!(
        "listeners:\n  - {{name: l4, port: 0, protocol: {protocol}, backends: [{{service: test/app, port: 80}}]{more}}}\n{spec}"
    ))
}

fn tcp(more: &str, spec: &str, endpoints: &[SocketAddr]) -> Result<Stand> {
    Stand::start(&[("gateway.yaml", gateway("TCP", more, spec)), ("app.yaml", Stand::service("app", "", endpoints))])
}

fn udp(more: &str, spec: &str, endpoints: &[SocketAddr]) -> Result<Stand> {
    let service = Stand::datagrams(&Stand::service("app", "", endpoints));
    Stand::start(&[("gateway.yaml", gateway("UDP", more, spec)), ("app.yaml", service)])
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(wait::DEADLINE))?;
    stream.set_write_timeout(Some(wait::DEADLINE))?;
    Ok(stream)
}

/// What a read says of a connection that nobody takes.
fn read_error(address: SocketAddr) -> Result<ErrorKind> {
    let mut stream = connect(address)?;
    match stream.read(&mut [0; 16]) {
        Ok(n) => anyhow::bail!("{n} bytes came, not a reset"),
        Err(error) => Ok(error.kind()),
    }
}

/// Says a name at once, then repeats what it hears.
fn echo(name: &'static str) -> Result<RawOrigin> {
    RawOrigin::start(move |conn| {
        conn.write_all(name.as_bytes())?;
        let mut buffer = vec![0; 65_536];
        loop {
            match { conn.socket() }.read(&mut buffer)? {
                0 => return Ok(()),
                n => conn.write_all(&buffer[..n])?,
            }
        }
    })
}

fn greeting(stream: &mut TcpStream, length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).context("no greeting")?;
    Ok(String::from_utf8(bytes)?)
}

#[test]
fn bytes_pass_both_ways_and_each_side_ends_by_itself() -> Result<()> {
    const SIZE: usize = 8 << 20;
    // Answers only when it has heard everything.
    let origin = RawOrigin::start(|conn| {
        let heard = conn.read_to_end()?;
        conn.write_all(&heard)
    })?;
    let stand = tcp("", "", &[origin.address()])?;
    let mut stream = connect(stand.address("l4"))?;
    let sent: Vec<u8> = (0..SIZE).map(|at| (at * 31 % 251) as u8).collect();
    let mut writer = stream.try_clone()?;
    let wrote = sent.clone();
    let writing = std::thread::spawn(move || -> std::io::Result<()> {
        writer.write_all(&wrote)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    writing.join().expect("the writer does not panic")?;
    assert!(heard == sent, "{} bytes came back", heard.len());
    let line = stand.log_line(|line| line["listener"] == "l4")?;
    assert_eq!((&line["received_bytes"], &line["sent_bytes"]), (&SIZE.into(), &SIZE.into()), "{line}");
    assert_eq!((&line["end"], &line["protocol"]), (&"closed".into(), &"TCP".into()), "{line}");
    assert_eq!(line["route"], "GatewaySettings test/gateway", "{line}");
    let labels = "kind=\"GatewaySettings\",namespace=\"test\",name=\"gateway\",protocol=\"TCP\"";
    for direction in ["received", "sent"] {
        let series = format!("headwater_gateway_stream_bytes_total{{{labels},direction=\"{direction}\"}}");
        assert_eq!(stand.metric(&series), SIZE as f64, "{}", stand.metrics());
    }
    assert_eq!(stand.metric(&format!("headwater_gateway_streams_total{{{labels}}}")), 1.0);
    assert_eq!(stand.metric(&format!("headwater_gateway_streams_ended_total{{{labels},end=\"closed\"}}")), 1.0);
    Ok(())
}

#[test]
fn a_server_may_speak_first_and_many_connections_share_the_listener() -> Result<()> {
    let origin = echo("hello ")?;
    let stand = tcp("", "", &[origin.address()])?;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(stand.address("l4"))?;
        assert_eq!(greeting(&mut stream, 6)?, "hello ");
        streams.push(stream);
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let text = format!("{index:04}");
        stream.write_all(text.as_bytes())?;
        assert_eq!(greeting(stream, 4)?, text);
    }
    Ok(())
}

#[test]
fn a_reset_is_passed_on_as_a_reset() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.write_all(b"half")?;
        conn.read_until(b"!")?;
        conn.reset_on_close()
    })?;
    let stand = tcp("", "", &[origin.address()])?;
    let mut stream = connect(stand.address("l4"))?;
    assert_eq!(greeting(&mut stream, 4)?, "half");
    stream.write_all(b"!")?;
    let error = stream.read(&mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(stand.log_line(|line| line["listener"] == "l4")?["end"], "reset");
    Ok(())
}

#[test]
fn an_endpoint_that_refuses_is_passed_over() -> Result<()> {
    let origin = echo("here")?;
    let dead = [Refusing::at(Ipv4Addr::LOCALHOST)?, Refusing::at(Ipv4Addr::LOCALHOST)?];
    let endpoints = [dead[0].address(), origin.address(), dead[1].address()];
    let stand = tcp("", "balancing: {algorithm: RoundRobin}", &endpoints)?;
    for _ in 0..12 {
        assert_eq!(greeting(&mut connect(stand.address("l4"))?, 4)?, "here");
    }
    Ok(())
}

#[test]
fn what_nobody_takes_is_reset_after_five_tries() -> Result<()> {
    let dead = Refusing::at(Ipv4Addr::LOCALHOST)?;
    let stand = tcp("", "passiveHealth: {consecutiveFailures: 0}", &[dead.address()])?;
    assert_eq!(read_error(stand.address("l4"))?, ErrorKind::ConnectionReset);
    let line = stand.log_line(|line| line["listener"] == "l4")?;
    assert_eq!(
        (&line["fault"], &line["attempts"], &line["end"]),
        (&"connect_failed".into(), &5.into(), &"refused".into())
    );

    let stand = tcp("", "", &[])?;
    assert_eq!(read_error(stand.address("l4"))?, ErrorKind::ConnectionReset);
    assert_eq!(stand.log_line(|line| line["listener"] == "l4")?["fault"], "no_endpoints");
    let found = stand.findings();
    assert!(found.iter().any(|finding| finding.reason == "NoEndpoints"), "{found:?}");
    Ok(())
}

#[test]
fn a_proxy_header_comes_in_and_another_goes_out() -> Result<()> {
    let origin = RawOrigin::start(|conn| conn.read_to_end().map(drop))?;
    let policy = ", clientAddress: {trustedProxies: [127.0.0.5], proxyProtocol: Required, emitProxyProtocol: V1}";
    let stand = tcp(policy, "", &[origin.address()])?;
    let (client, target): (SocketAddr, SocketAddr) = ("192.0.2.7:4711".parse()?, "192.0.2.80:5432".parse()?);
    let trusted: IpAddr = [127, 0, 0, 5].into();
    let dial = Dial::to(stand.address("l4")).source(trusted).preamble(&proxy::v1(client, target));
    let mut stream = dial.tcp()?;
    stream.write_all(b"payload")?;
    let expected = b"PROXY TCP4 192.0.2.7 192.0.2.80 4711 5432\r\npayload";
    origin.wait_for(0, |record| record.bytes == expected)?;
    drop(stream);
    let line = stand.log_line(|line| line["client"] == "192.0.2.7")?;
    assert_eq!(line["provenance"], "proxy-v1", "{line}");

    let stranger = Dial::to(stand.address("l4")).source([127, 0, 0, 66].into()).preamble(&proxy::v1(client, target));
    assert_eq!(RawClient::open(&stranger)?.closed()?, b"");
    assert_eq!(origin.connections().len(), 1, "a stranger gets nowhere");
    Ok(())
}

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() -> Result<()> {
    let origin = echo("")?;
    let stand = tcp(", idleTimeout: 1s", "", &[origin.address()])?;
    let (mut silent, mut busy) = (connect(stand.address("l4"))?, connect(stand.address("l4"))?);
    let mut closed = false;
    silent.set_nonblocking(true)?;
    while !closed {
        busy.write_all(b"x")?;
        assert_eq!(greeting(&mut busy, 1)?, "x");
        closed = matches!(silent.read(&mut [0; 1]), Ok(0));
    }
    assert_eq!(stand.log_line(|line| line["end"] == "idle")?["received_bytes"], 0);
    Ok(())
}

#[test]
fn a_change_is_for_new_connections_and_old_ones_live_on() -> Result<()> {
    let (one, two) = (echo("one")?, echo("two")?);
    let stand = tcp("", "", &[one.address()])?;
    let port = stand.port("l4");
    let mut before = connect(stand.address("l4"))?;
    assert_eq!(greeting(&mut before, 3)?, "one");
    stand.change(|dir| dir.write("app.yaml", &Stand::service("app", "", &[two.address()])))?;
    assert_eq!(greeting(&mut connect(stand.address("l4"))?, 3)?, "two");
    // The listener goes away: its port is free, and what was open stays.
    stand.change(|dir| dir.write("gateway.yaml", &Stand::gateway("")))?;
    wait::until(wait::DEADLINE, || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())?;
    before.write_all(b"still")?;
    assert_eq!(greeting(&mut before, 5)?, "still");
    Ok(())
}

#[test]
fn backends_share_by_weight_and_a_client_that_is_hashed_keeps_its_own() -> Result<()> {
    let (one, two) = (echo("one")?, echo("two")?);
    let listener = |balancing: &str| {
        Stand::gateway_with(&format!(
            "listeners:\n  - {{name: l4, port: 0, protocol: TCP, backends: [{{service: test/one, port: 80}}, \
             {{service: test/two, port: 80, weight: 3}}, {{service: test/two, port: 80, weight: 0}}]}}\n{balancing}"
        ))
    };
    let services =
        format!("{}---\n{}", Stand::service("one", "", &[one.address()]), Stand::service("two", "", &[two.address()]));
    let stand = Stand::start(&[("gateway.yaml", listener("")), ("app.yaml", services)])?;
    let mut twos = 0;
    for _ in 0..200 {
        twos += i32::from(greeting(&mut connect(stand.address("l4"))?, 3)? == "two");
    }
    assert!((110..190).contains(&twos), "{twos} of 200 to a backend with three shares of four");

    stand.change(|dir| dir.write("gateway.yaml", &listener("balancing: {algorithm: Hash}")))?;
    let mut found = std::collections::BTreeSet::new();
    for host in 1..40 {
        let ask = || -> Result<String> {
            let dial = Dial::to(stand.address("l4")).source([127, 0, 1, host].into());
            greeting(&mut dial.tcp()?, 3)
        };
        let first = ask()?;
        assert_eq!(ask()?, first, "client 127.0.1.{host}");
        found.insert(first);
    }
    assert_eq!(found.len(), 2, "clients are spread");
    Ok(())
}

#[test]
fn tcp_and_udp_share_a_port() -> Result<()> {
    let (stream, datagrams) = (Origin::tcp("stream")?, Origin::udp("datagrams")?);
    let port = port::unused()?;
    let listener = |name: &str, protocol: &str| {
        format!(
            "  - {{name: {name}, port: {port}, protocol: {protocol}, backends: [{{service: test/{name}, port: 80}}]}}\n"
        )
    };
    let gateway = Stand::gateway_with(&format!("listeners:\n{}{}", listener("tcp", "TCP"), listener("udp", "UDP")));
    let services = format!(
        "{}---\n{}",
        Stand::service("tcp", "", &[stream.address()]),
        Stand::datagrams(&Stand::service("udp", "", &[datagrams.address()]))
    );
    let stand = Stand::start(&[("gateway.yaml", gateway), ("app.yaml", services)])?;
    assert_eq!(ask(&client([127, 0, 0, 1], stand.address("udp"))?, b"x")?.name(), "datagrams");
    let mut line = Vec::new();
    let mut stream = connect(stand.address("tcp"))?;
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    assert_eq!(Seen::parse(&line)?.name(), "stream");
    Ok(())
}

#[test]
fn a_listener_without_backends_or_with_wrong_ones_is_a_finding() -> Result<()> {
    let spec = "listeners:\n  - {name: none, port: 0, protocol: TCP}\n  \
                - {name: wrong, port: 0, protocol: TCP, backends: [{service: app, port: 80}]}\n  \
                - {name: gone, port: 0, protocol: UDP, backends: [{service: test/gone, port: 80}]}\n  \
                - {name: http, port: 0, protocol: HTTP, backends: [{service: test/app, port: 80}]}\n";
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway_with(spec))])?;
    let findings = stand.findings();
    for (reason, field) in [
        ("InvalidValue", "spec.listeners[0].backends"),
        ("InvalidValue", "spec.listeners[1].backends[0].service"),
        ("MissingReference", "spec.listeners[2].backends[0]"),
        ("NoEffect", "spec.listeners[3].backends"),
    ] {
        let found = findings.iter().any(|finding| finding.reason == reason && finding.field == field);
        assert!(found, "{reason} at {field}: {findings:?}");
    }
    for listener in ["none", "wrong"] {
        assert_eq!(read_error(stand.address(listener))?, ErrorKind::ConnectionReset, "{listener}");
    }
    Ok(())
}

fn client(from: [u8; 4], to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((IpAddr::from(from), 0))?;
    socket.set_read_timeout(Some(wait::DEADLINE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket, text: &[u8]) -> Result<Seen> {
    socket.send(text)?;
    let mut answer = vec![0; 65_536];
    let n = socket.recv(&mut answer).context("no answer")?;
    Seen::parse(&answer[..n])
}

#[test]
fn a_flow_keeps_its_endpoint_until_that_leaves() -> Result<()> {
    let (one, two) = (Origin::udp("one")?, Origin::udp("two")?);
    let stand = udp("", "balancing: {algorithm: RoundRobin}", &[one.address(), two.address()])?;
    let sockets: Vec<UdpSocket> =
        (1..9).map(|host| client([127, 0, 2, host], stand.address("l4"))).collect::<Result<_>>()?;
    let names = |sockets: &[UdpSocket]| -> Result<Vec<String>> {
        sockets.iter().map(|socket| Ok(ask(socket, b"x")?.name().to_owned())).collect()
    };
    let before = names(&sockets)?;
    assert!(before.iter().any(|name| name == "one") && before.iter().any(|name| name == "two"), "{before:?}");
    for _ in 0..3 {
        assert_eq!(names(&sockets)?, before);
    }
    assert_eq!(stand.metric("headwater_gateway_udp_flows"), 8.0);
    stand.change(|dir| dir.write("app.yaml", &Stand::datagrams(&Stand::service("app", "", &[two.address()]))))?;
    assert_eq!(names(&sockets)?, vec!["two"; 8]);
    assert!(stand.metric("headwater_gateway_udp_flows_moved_total") >= 1.0);
    Ok(())
}

#[test]
fn a_datagram_that_an_endpoint_refuses_goes_to_another() -> Result<()> {
    let origin = Origin::udp("here")?;
    let dead = SocketAddr::from((Ipv4Addr::LOCALHOST, port::unused()?));
    let stand = udp("", "balancing: {algorithm: RoundRobin}", &[dead, origin.address()])?;
    for host in 1..9 {
        assert_eq!(ask(&client([127, 0, 3, host], stand.address("l4"))?, b"only once")?.name(), "here");
    }
    assert!(stand.metric("headwater_gateway_udp_flows_moved_total") >= 1.0, "{}", stand.metrics());
    Ok(())
}

#[test]
fn silent_flows_are_forgotten_and_told() -> Result<()> {
    let origin = Origin::udp("here")?;
    let stand = udp(", idleTimeout: 1s", "", &[origin.address()])?;
    let socket = client([127, 0, 0, 7], stand.address("l4"))?;
    let peer = ask(&socket, b"12345")?.peer()?;
    let line = stand.log_line(|line| line["protocol"] == "UDP")?;
    assert_eq!(
        (&line["end"], &line["client"], &line["received_bytes"]),
        (&"idle".into(), &"127.0.0.7".into(), &5.into())
    );
    wait::until(wait::DEADLINE, || stand.metric("headwater_gateway_udp_flows") == 0.0)?;
    assert_ne!(ask(&socket, b"again")?.peer()?, peer, "a flow of its own");
    Ok(())
}

#[test]
fn past_the_limit_of_flows_new_ones_are_dropped_and_counted() -> Result<()> {
    let origin = Origin::udp("here")?;
    let stand = udp("", "limits: {udpFlows: 3}", &[origin.address()])?;
    let sockets: Vec<UdpSocket> =
        (1..4).map(|host| client([127, 0, 4, host], stand.address("l4"))).collect::<Result<_>>()?;
    for socket in &sockets {
        ask(socket, b"x")?;
    }
    client([127, 0, 4, 9], stand.address("l4"))?.send(b"too many")?;
    let dropped = "headwater_gateway_udp_datagrams_dropped_total{reason=\"flow_limit\"}";
    wait::until(wait::DEADLINE, || stand.metric(dropped) == 1.0)?;
    for socket in &sockets {
        ask(socket, b"still here")?;
    }
    Ok(())
}

#[test]
fn a_hundred_thousand_flows_leave_nothing_behind() -> Result<()> {
    const FLOWS: usize = 100_000;
    const AT_ONCE: f64 = 15_000.0;
    headwater_net_io::limits::raise_open_file_limit()?;
    let descriptors = || std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    // Hears nothing and answers nothing: what matters is who remembers.
    let sink = UdpSocket::bind("127.0.0.1:0")?;
    let stand =
        udp(", idleTimeout: 1s", "limits: {udpFlows: 20000}\naccessLog: {format: \"Off\"}", &[sink.local_addr()?])?;
    let before = descriptors()?;
    let labels = "kind=\"GatewaySettings\",namespace=\"test\",name=\"gateway\",protocol=\"UDP\"";
    let began = format!("headwater_gateway_streams_total{{{labels}}}");
    let open = || stand.metric("headwater_gateway_udp_flows");
    for index in 0..FLOWS {
        let [_, a, b, c] = u32::try_from(index)?.to_be_bytes();
        let socket = UdpSocket::bind((IpAddr::from([127, 10 + a, b, c]), 0))?;
        socket.send_to(b"x", stand.address("l4"))?;
        // The kernel's queue has room for some hundreds.
        if index % 100 == 99 {
            wait::until(wait::DEADLINE, || stand.metric(&began) == (index + 1) as f64)?;
            wait::until(wait::DEADLINE, || open() < AT_ONCE)?;
        }
    }
    wait::until(wait::DEADLINE, || open() == 0.0)?;
    assert_eq!(stand.metric(&format!("headwater_gateway_streams_ended_total{{{labels},end=\"idle\"}}")), FLOWS as f64);
    wait::until(wait::DEADLINE, || descriptors().is_ok_and(|now| now <= before))?;
    assert!(!stand.metrics().contains("headwater_gateway_udp_datagrams_dropped_total{"), "{}", stand.metrics());
    Ok(())
}

#[test]
fn datagrams_that_nobody_takes_are_dropped_and_counted() -> Result<()> {
    let stand = udp("", "", &[])?;
    client([127, 0, 0, 1], stand.address("l4"))?.send(b"x")?;
    let dropped = "headwater_gateway_udp_datagrams_dropped_total{reason=\"no_endpoints\"}";
    wait::until(wait::DEADLINE, || stand.metric(dropped) == 1.0)?;
    assert_eq!(stand.metric("headwater_gateway_udp_flows"), 0.0);
    Ok(())
}

#[test]
fn a_datagram_behind_a_proxy_header_is_of_whom_that_names() -> Result<()> {
    let origin = Origin::udp("here")?;
    let policy = ", clientAddress: {trustedProxies: [127.0.0.5], proxyProtocol: Required, emitProxyProtocol: V2}";
    let stand = udp(policy, "", &[origin.address()])?;
    let behind = |client: &str, payload: &[u8]| -> Result<Vec<u8>> {
        let header = proxy::V2::udp(client.parse()?, "192.0.2.80:53".parse()?).build();
        Ok([&header[..], payload].concat())
    };
    let balancer = client([127, 0, 0, 5], stand.address("l4"))?;
    let first = ask(&balancer, &behind("192.0.2.7:4711", b"one")?)?;
    assert_eq!(first.proxy_source(), Some("192.0.2.7:4711".parse()?), "{first:?}");
    // The same client again, with and without a header: its flow goes on.
    for again in [behind("192.0.2.7:4711", b"two")?, b"three".to_vec()] {
        let seen = ask(&balancer, &again)?;
        assert_eq!((seen.proxy_source(), seen.peer()?), (None, first.peer()?), "{seen:?}");
    }
    let other = ask(&balancer, &behind("192.0.2.8:4711", b"four")?)?;
    assert_eq!(other.proxy_source(), Some("192.0.2.8:4711".parse()?), "{other:?}");
    client([127, 0, 0, 66], stand.address("l4"))?.send(&behind("192.0.2.7:4711", b"evil")?)?;
    let refused = "headwater_gateway_proxy_protocol_refused_total{reason=\"peer-not-trusted\"}";
    wait::until(wait::DEADLINE, || stand.metric(refused) == 1.0)
}

#[test]
fn a_drain_waits_for_connections_and_lets_answers_out() -> Result<()> {
    let (origin, datagrams) = (echo("")?, Origin::udp("here")?);
    let gateway = Stand::gateway_with(
        "listeners:\n  - {name: tcp, port: 0, protocol: TCP, backends: [{service: test/tcp, port: 80}]}\n  \
         - {name: udp, port: 0, protocol: UDP, backends: [{service: test/udp, port: 80}]}\n",
    );
    let services = format!(
        "{}---\n{}",
        Stand::service("tcp", "", &[origin.address()]),
        Stand::datagrams(&Stand::service("udp", "", &[datagrams.address()]))
    );
    let mut stand = Stand::start(&[("gateway.yaml", gateway), ("app.yaml", services)])?;
    let mut stream = connect(stand.address("tcp"))?;
    stream.write_all(b"before")?;
    assert_eq!(greeting(&mut stream, 6)?, "before");
    let socket = client([127, 0, 0, 1], stand.address("udp"))?;
    ask(&socket, b"before")?;
    let address = stand.address("tcp");
    let ending = std::thread::spawn(move || -> Result<()> {
        wait::until(wait::DEADLINE, || TcpStream::connect(address).is_err())?;
        ask(&socket, b"a flow that is known")?;
        stream.write_all(b"after")?;
        ensure!(greeting(&mut stream, 5)? == "after");
        Ok(())
    });
    assert!(stand.drain(2 * wait::DEADLINE), "everything came to its end");
    ending.join().expect("the client does not panic")
}
