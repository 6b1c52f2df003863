//! Endpoints that see the client's own address and port, though the gateway connects.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_model::transparent::{NFT_TABLE, commands};
use headwater_testkit::lab::{self, Host};
use headwater_testkit::origin::{Kind, Origin};
use headwater_testkit::response::Seen;
use headwater_testkit::{Whoami, proxy, wait};

use crate::{Family, Hosts, Packets, families};

const LISTENERS: &str = "timeouts: {connect: 700ms}
retries: {attempts: 1}
listeners:
  - {name: http, port: 0, protocol: HTTP}
  - {name: tcp4, port: 0, protocol: TCP, backends: [{service: test/tcp4, port: 80}], clientAddress: CLIENT}
  - {name: tcp6, port: 0, protocol: TCP, backends: [{service: test/tcp6, port: 80}], clientAddress: CLIENT}
  - {name: udp4, port: 0, protocol: UDP, backends: [{service: test/udp4, port: 80}], clientAddress: CLIENT}
  - {name: udp6, port: 0, protocol: UDP, backends: [{service: test/udp6, port: 80}], clientAddress: CLIENT}
";

fn gateway(transparent: bool) -> String {
    let client = format!(
        "{{transparent: {transparent}, proxyProtocol: Optional, trustedProxies: [10.2.0.0/24, \"fd02::/64\"]}}"
    );
    Stand::gateway_with(&LISTENERS.replace("CLIENT", &client))
}

/// Whom the backend sees, and from where the client asked.
fn ask_tcp(from: &Host, target: SocketAddr, ahead: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    from.run(|| {
        let mut stream = TcpStream::connect(target)?;
        stream.set_read_timeout(Some(wait::DEADLINE))?;
        stream.write_all(&[ahead, b"hello"].concat())?;
        let mut line = Vec::new();
        BufReader::new(&stream).read_until(b'\n', &mut line)?;
        Ok((Seen::parse(&line)?.peer()?, stream.local_addr()?))
    })
}

fn ask_udp(from: &Host, target: SocketAddr, ahead: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    from.run(|| {
        let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { "::".parse()? };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(wait::DEADLINE))?;
        socket.send(&[ahead, b"hello"].concat())?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer).context("no answer")?;
        Ok((Seen::parse(&answer[..length])?.peer()?, socket.local_addr()?))
    })
}

#[test]
fn endpoints_see_the_client_itself_or_nobody() -> Result<()> {
    lab::test(|lab| {
        let hosts = Hosts::new(lab)?;
        let families = families()?;
        let mut files = vec![("gateway.yaml".to_owned(), gateway(false))];
        let mut origins = Vec::new();
        for (Family { client, balancer, towards_backend, backend, prefix, .. }, number) in
            families.iter().zip(["4", "6"])
        {
            // What the backend answers to clients passes the gateway.
            for far in [client, balancer] {
                hosts
                    .backend
                    .route(&format!("{far}/{}", if *prefix == 24 { 32 } else { 128 }), &towards_backend.to_string())?;
            }
            for (kind, name) in [(Kind::Tcp, format!("tcp{number}")), (Kind::Udp, format!("udp{number}"))] {
                let listen = SocketAddr::new(*backend, 8080);
                let origin = hosts.backend.run(|| Origin::start(kind, Whoami::new(name.clone(), [listen])))?;
                let service = Stand::service(&name, "", &[origin.address()]);
                let service = if kind == Kind::Udp { Stand::datagrams(&service) } else { service };
                files.push((format!("{name}.yaml"), service));
                origins.push(origin);
            }
        }
        let files: Vec<(&str, String)> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        let stand = hosts.gateway.run(|| Stand::start(&files))?;
        let at_backend = Packets::of(&hosts.backend, "eth0")?;
        let at = |family: &Family, listener: &str| SocketAddr::new(family.towards_client, stand.port(listener));

        // Where the rules are missing nothing is served, rather than served from the gateway's address.
        let applied = stand.change(|dir| dir.write("gateway.yaml", &gateway(true)))?;
        for listener in &applied.listeners {
            let error = listener.error.as_deref().unwrap_or_default();
            let is_carried = &*listener.name != "http";
            assert_eq!(is_carried, listener.address.is_none(), "{listener:?}");
            assert_eq!(
                is_carried,
                error.contains("ip -4 rule add priority 91 fwmark 0x1858/0xffff lookup 18520"),
                "{error}"
            );
        }

        // The gateway goes on by itself once they are there.
        hosts.gateway.exec("sh", &["-ec", &commands()])?;
        wait::until(wait::DEADLINE, || stand.applied().listeners.iter().all(|listener| listener.error.is_none()))
            .with_context(|| format!("{:?}", stand.applied()))?;
        for (family, number) in families.iter().zip(["4", "6"]) {
            let (tcp, udp) = (format!("tcp{number}"), format!("udp{number}"));
            for _ in 0..3 {
                let (seen, client) = ask_tcp(&hosts.client, at(family, &tcp), b"")?;
                assert_eq!(seen, client, "TCP");
                let (seen, client) = ask_udp(&hosts.client, at(family, &udp), b"")?;
                assert_eq!(seen, client, "UDP");
            }
            // The client that a trusted sender names, and that nobody sees at the gateway's own socket.
            let client = SocketAddr::new(family.client, 50_123);
            for (listener, is_tcp) in [(&tcp, true), (&udp, false)] {
                let target = SocketAddr::new(family.towards_balancer, stand.port(listener));
                let (seen, _) = match is_tcp {
                    true => ask_tcp(&hosts.balancer, target, &proxy::V2::tcp(client, target).build())?,
                    false => ask_udp(&hosts.balancer, target, &proxy::V2::udp(client, target).build())?,
                };
                assert_eq!(seen, client, "{listener}");
            }
            let untrusted = proxy::V2::tcp(SocketAddr::new(family.balancer, 50_123), at(family, &tcp)).build();
            assert!(ask_tcp(&hosts.client, at(family, &tcp), &untrusted).is_err(), "a stranger named another client");
        }

        // Somebody takes a rule away: connections end, and none comes from the gateway.
        hosts.gateway.nft(&format!("delete table inet {NFT_TABLE}"))?;
        for (family, listener) in families.iter().zip(["tcp4", "tcp6"]) {
            let target = at(family, listener);
            let ended = hosts.client.run(|| -> Result<_> {
                let mut stream = TcpStream::connect(target)?;
                stream.set_read_timeout(Some(wait::DEADLINE))?;
                stream.write_all(b"hello")?;
                Ok(stream.read(&mut [0; 16]))
            })?;
            let error = ended.err().context("bytes came")?;
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        let line = stand.log_line(|line| line["fault"] == "connect_timeout")?;
        assert_eq!(line["client"], families[0].client.to_string(), "{line}");
        let seen = at_backend.0.stdout();
        for family in &families {
            ensure!(seen.contains(&format!(" {}.", family.client)), "{seen}");
            ensure!(!seen.contains(&format!(" {}.", family.towards_backend)), "the gateway asked for itself: {seen}");
        }
        Ok(())
    })
}
