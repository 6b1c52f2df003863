//! `headwater node` as its users run it, on a host of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use headwater_testkit::dir::ManifestDir;
use headwater_testkit::lab::{self, Host, Process};
use headwater_testkit::wait::{self, DEADLINE};
use serde_json::Value;

const MANIFESTS: &str = r#"apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, annotations: {headwater.dev/tunnel: '{"address": "192.0.2.2"}'}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, clusterIP: 172.16.0.1, clusterIPs: [172.16.0.1], ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.1.7], nodeName: node-1}, {addresses: [10.1.2.7], nodeName: node-2}]
"#;

/// A host with the address of node-1.
fn host(lab: &lab::Lab) -> Result<Host> {
    let (host, peer) = (lab.host("node-1")?, lab.host("node-2")?);
    host.wire("eth0", &peer, "eth0")?;
    host.address("eth0", "192.0.2.1/24")?;
    peer.address("eth0", "192.0.2.2/24")?;
    host.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    Ok(host)
}

fn node(directory: &ManifestDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.arg("node").arg(directory.path()).args(["--node-name", "node-1"]);
    command
}

fn start(host: &Host, directory: &ManifestDir) -> Result<Process> {
    let mut process = host.spawn_process(&node(directory))?;
    let ready = || get(host, 9181, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    wait::until(DEADLINE, || process.ended().is_some() || ready())?;
    ensure!(process.ended().is_none(), "{}", process.stderr());
    Ok(process)
}

fn get(host: &Host, port: u16, path: &str) -> Result<String> {
    host.run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

fn json(host: &Host, path: &str) -> Result<Value> {
    let answer = get(host, 9181, path)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
    Ok(serde_json::from_str(body)?)
}

/// What is in the kernel by which traffic flows: rules, the tunnel's device, and routing rules.
fn kernel(host: &Host) -> Result<[String; 3]> {
    let tables = host.exec("nft", &["list", "tables"])?;
    // Who made a rule is told, but of no effect.
    let rules = host.ip("rule")?.replace(" proto static", "");
    Ok([tables, host.ip("-brief link show type vxlan")?, rules])
}

#[test]
fn the_kernel_keeps_what_it_has_when_the_agent_ends_and_cleanup_takes_it_all() -> Result<()> {
    lab::test(|lab| {
        let host = host(lab)?;
        let before = kernel(&host)?;
        let directory = ManifestDir::new()?;
        directory.write("all.yaml", MANIFESTS)?;
        let mut agent = start(&host, &directory)?;

        let status = json(&host, "/status")?;
        ensure!(status["kernel"]["node"] == "node-1" && status["findings"] == serde_json::json!([]), "{status:#}");
        let snapshot = json(&host, "/snapshot")?;
        ensure!(snapshot["services"][0]["origin"]["name"] == "web", "{snapshot:#}");
        ensure!(snapshot["node"]["pod_cidrs"] == serde_json::json!(["10.1.1.0/24"]), "{snapshot:#}");
        ensure!(get(&host, 9181, "/metrics")?.contains("\nheadwater_node_services 1\n"), "no metric");
        let healthy = get(&host, 10_256, "/healthz")?;
        ensure!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");

        let during = kernel(&host)?;
        ensure!(during[0].contains("headwater") && during[1].contains("hwvx"), "{during:?}");
        agent.signal("SIGTERM")?;
        let ended = agent.wait(DEADLINE)?;
        ensure!(ended.success(), "{ended}: {}", agent.stderr());
        let after = kernel(&host)?;
        ensure!(after == during || after[1].contains("hwvx") && after[0] == during[0], "{after:?}");

        let mut command = node(&directory);
        command.arg("--cleanup");
        let mut cleanup = host.spawn_process(&command)?;
        let ended = cleanup.wait(DEADLINE)?;
        ensure!(ended.success(), "{ended}: {}", cleanup.stderr());
        let left = kernel(&host)?;
        ensure!(left == before, "{left:?}");
        Ok(())
    })
}

#[test]
fn an_agent_that_comes_again_adopts_what_is_there() -> Result<()> {
    lab::test(|lab| {
        let host = host(lab)?;
        let directory = ManifestDir::new()?;
        directory.write("all.yaml", MANIFESTS)?;
        let mut first = start(&host, &directory)?;
        let device = host.ip("-o link show hwvx")?;
        first.signal("SIGKILL")?;
        first.wait(DEADLINE)?;
        let second = start(&host, &directory)?;
        ensure!(host.ip("-o link show hwvx")? == device, "another device: {}", second.stderr());
        Ok(())
    })
}

#[test]
fn without_the_capability_it_says_which_is_missing() -> Result<()> {
    lab::test(|lab| {
        let host = host(lab)?;
        let directory = ManifestDir::new()?;
        directory.write("all.yaml", MANIFESTS)?;
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"]);
        command.arg(env!("CARGO_BIN_EXE_headwater"));
        command.args(node(&directory).get_args());
        let mut agent = host.spawn_process(&command)?;
        let ended = agent.wait(DEADLINE)?;
        ensure!(!ended.success() && agent.stderr().contains("CAP_NET_ADMIN"), "{ended}: {}", agent.stderr());
        Ok(())
    })
}

#[test]
fn flags_that_cannot_be_obeyed_are_refused_by_name() {
    for (arguments, said) in [
        (&["--cluster-cidr", "10.0.0.0"][..], "ADDRESS/BITS"),
        (&["--node-port-addresses", "all"], "or `primary`"),
        (&["--source-ip", "keep"], "preserve-direct"),
        (&["--tunnel-port", "0"], "1..=65535"),
        (&["--tunnel-mtu", "576"], "1280"),
        (&["/tmp", "--kubeconfig", "/tmp/x"], "cannot be used with"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_headwater")).arg("node").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(said), "{arguments:?}: {text}");
    }
}
