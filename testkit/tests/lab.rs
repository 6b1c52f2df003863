//! Three hosts in a row: connections cross the router, and the server sees who the client is. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use headwater_testkit::client::RawClient;
use headwater_testkit::lab::{self, Host, Lab};
use headwater_testkit::origin::{Kind, Origin};
use headwater_testkit::wait::{DEADLINE, until};
use headwater_testkit::{Whoami, dial::Dial};

/// client 10.0.1.2, fd01::2 - router - server 10.0.2.2, fd02::2
fn row(lab: &Lab) -> Result<[Host; 3]> {
    let (client, router, server) = (lab.host("client")?, lab.host("router")?, lab.host("server")?);
    client.wire("eth0", &router, "left")?;
    router.wire("right", &server, "eth0")?;
    router.forward()?;
    for (host, interface, addresses) in [
        (&client, "eth0", ["10.0.1.2/24", "fd01::2/64"]),
        (&router, "left", ["10.0.1.1/24", "fd01::1/64"]),
        (&router, "right", ["10.0.2.1/24", "fd02::1/64"]),
        (&server, "eth0", ["10.0.2.2/24", "fd02::2/64"]),
    ] {
        for address in addresses {
            host.address(interface, address)?;
        }
    }
    for (host, four, six) in [(&client, "10.0.1.1", "fd01::1"), (&server, "10.0.2.1", "fd02::1")] {
        host.route("0.0.0.0/0", four)?;
        host.route("::/0", six)?;
    }
    Ok([client, router, server])
}

#[test]
fn a_connection_crosses_the_router_and_keeps_its_source() -> Result<()> {
    lab::test(|lab| {
        let [client, _router, server] = row(lab)?;
        for (bind, source) in [("10.0.2.2:80", "10.0.1.2"), ("[fd02::2]:80", "fd01::2")] {
            let address: SocketAddr = bind.parse()?;
            let _origin = server.run(|| Origin::start(Kind::Http, Whoami::new("server", [address])))?;
            let seen = client.run(|| -> Result<_> {
                RawClient::open(&Dial::to(address))?.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?.seen()
            })?;
            assert_eq!(seen.peer()?.ip(), source.parse::<IpAddr>()?);
        }
        Ok(())
    })
}

#[test]
fn address_translation_and_packets_show_in_the_description() -> Result<()> {
    lab::test(|lab| {
        let [client, router, server] = row(lab)?;
        router.nft(
            "table ip lab { chain post { type nat hook postrouting priority 100; oifname right masquerade; }; }",
        )?;
        let capture = lab.capture(&server, "eth0")?;
        let address: SocketAddr = "10.0.2.2:80".parse()?;
        let origin = server.run(|| Origin::start(Kind::Http, Whoami::new("server", [address])))?;
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let seen = client.run(|| RawClient::connect(origin.address())?.request(get)?.seen())?;
        assert_eq!(seen.peer()?.ip(), "10.0.2.1".parse::<IpAddr>()?);
        until(DEADLINE, || capture.stdout().contains("> 10.0.2.2.80: Flags [S]"))?;
        let text = lab.describe();
        for part in ["=== host router ===", "masquerade", "fd02::1/64", "> 10.0.2.2.80: Flags [S]"] {
            assert!(text.contains(part), "{part:?} is absent from {text}");
        }
        Ok(())
    })
}

#[test]
fn processes_live_in_their_host_and_end_with_it() -> Result<()> {
    let lab = Lab::new();
    let host = lab.host("alone")?;
    let mut command = Command::new("sh");
    command.args(["-c", "ip -brief link; echo $MARK; exec sleep 1000"]).env("MARK", "from-the-test");
    let mut running = host.spawn_process(&command)?;
    until(DEADLINE, || running.stdout().contains("from-the-test"))?;
    assert!(running.stdout().starts_with("lo "), "{}", running.stdout());
    assert!(!running.stdout().contains("eth0"), "{}", running.stdout());
    running.signal("SIGTERM")?;
    assert!(!running.wait(DEADLINE)?.success());

    // Not even dropping the handle: the kernel kills the process when the host's thread ends.
    let left = host.spawn_process(&command)?;
    let proc = format!("/proc/{}/stat", left.id());
    std::mem::forget(left);
    assert!(Path::new(&proc).exists());
    drop((host, lab));
    // Nobody waits for it any more, so that it stays as a zombie.
    until(DEADLINE, || std::fs::read_to_string(&proc).is_ok_and(|stat| stat.contains(") Z ")))
}

#[test]
fn a_failed_command_is_told_with_host_and_message() -> Result<()> {
    let lab = Lab::new();
    let host = lab.host("alone")?;
    let error = format!("{:#}", host.ip("link set dev absent up").unwrap_err());
    assert!(error.contains("host alone: ip link set dev absent up") && error.contains("absent"), "{error}");
    let error = format!("{:#}", host.spawn_process(&Command::new("no-such-program")).unwrap_err());
    assert!(error.contains("host alone: start no-such-program: setpriv:"), "{error}");
    let error = host.sysctl("kernel.hostname", "x").unwrap_err().to_string();
    assert!(error.contains("kernel.hostname"), "{error}");
    Ok(())
}
