//! Headwater as the Ingress behind a Service.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use headwater_services_tests::implementation::Implementation;
use headwater_services_tests::object::{Endpoint, Frontend, Service, TARGET_PORT};
use headwater_services_tests::stand::CHANGE;
use headwater_testkit::client::RawClient;
use headwater_testkit::cluster::headwater;
use headwater_testkit::dir::ManifestDir;
use headwater_testkit::lab::{Host, Process};
use headwater_testkit::origin::{Kind, Origin};
use headwater_testkit::response::Seen;
use headwater_testkit::services::{Entry, Family};
use headwater_testkit::{Whoami, proxy, wait};

use super::{SHORT, Story};

const WHOAMI_PORT: u16 = 8000;

/// Headwater in a pod, and whoami in another that it sends to.
struct Edge {
    service: Service,
    _headwater: Process,
    _whoami: Origin,
    _manifests: ManifestDir,
}

fn edge(stand: &Story, service: Service, client_address: &str) -> Result<Edge> {
    let (pod, backend) = (stand.topology.pod(1, &format!("{}-edge", service.name))?, stand.pod(2)?);
    let at = SocketAddr::new(backend.address(Family::V4), WHOAMI_PORT);
    let whoami = backend.host().run(|| Origin::start(Kind::Http, Whoami::new("backend", [at])))?;
    let manifests = ManifestDir::new()?;
    manifests.write(
        "all.yaml",
        &format!(
            "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: headwater}}
spec:
  controller: headwater.dev/ingress
  parameters: {{apiGroup: headwater.dev, kind: GatewaySettings, scope: Namespace, namespace: default, name: edge}}
---
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata: {{name: edge, namespace: default}}
spec:
  listeners: [{{name: http, port: {TARGET_PORT}, protocol: HTTP}}]
  clientAddress: {client_address}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: app, namespace: default}}
spec:
  ingressClassName: headwater
  defaultBackend: {{service: {{name: app, port: {{number: 80}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: app, namespace: default}}
spec: {{ports: [{{port: 80, targetPort: {WHOAMI_PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: app, namespace: default, labels: {{kubernetes.io/service-name: app}}}}
addressType: IPv4
ports: [{{port: {WHOAMI_PORT}, protocol: TCP}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]
",
            at.ip()
        ),
    )?;
    let mut command = Command::new(headwater()?);
    command.arg("up").arg(manifests.path()).args(["--workers", "1"]);
    let process = pod.host().spawn_process(&command)?;
    stand.post(&service, &[Endpoint::of(&pod)])?;
    for (shell, family) in stand.pods().shells.iter().flat_map(|shell| Family::ALL.map(|family| (shell, family))) {
        let vip = service.address(&stand.topology, Frontend::LoadBalancer, shell.node(), family);
        let connects = || shell.host().run(|| TcpStream::connect_timeout(&vip, SHORT).is_ok());
        wait::until(CHANGE, connects).with_context(|| format!("{} to {vip}: {}", shell.name(), process.stderr()))?;
    }
    Ok(Edge { service, _headwater: process, _whoami: whoami, _manifests: manifests })
}

/// What whoami sees of a request.
fn whoami(from: &Host, source: IpAddr, at: SocketAddr) -> Result<Seen> {
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let answer = from.run(|| RawClient::connect_from(source, at)?.request(request)?.seen());
    answer.with_context(|| format!("{source} to {at}"))
}

pub(super) fn an_ingress_behind_a_local_service_tells_the_client(stand: &Story) -> Result<()> {
    let local = edge(stand, stand.service("edge").local(), "{}")?;
    let cluster = edge(stand, stand.service("far"), "{}")?;
    let client = stand.topology.client();
    for (family, entry) in
        Family::ALL.into_iter().flat_map(|family| [Entry::Router(1), Entry::Balancer(1)].map(|entry| (family, entry)))
    {
        let address = entry.client(family);
        let at = |edge: &Edge| edge.service.address(&stand.topology, Frontend::LoadBalancer, 1, family);
        let told = whoami(client, address, at(&local))?.header("x-forwarded-for");
        ensure!(told.as_deref() == Some(&address.to_string()), "{address} by {entry:?}: {told:?}");
        // With policy Cluster kube-proxy tells of the node instead, though the endpoint is here.
        let told = whoami(client, address, at(&cluster))?.header("x-forwarded-for");
        let node = stand.topology.node(1);
        let expected = match stand.implementation {
            Implementation::Headwater => address,
            Implementation::Nftables | Implementation::Iptables => node.gateway(family),
        };
        ensure!(told.as_deref() == Some(&expected.to_string()), "{address} by {entry:?}: {told:?}");
    }
    Ok(())
}

/// How a load balancer that terminates connections tells of the client.
#[derive(Clone, Copy)]
enum Tells {
    ProxyHeader,
    /// By its entry at the end of `X-Forwarded-For`, behind what the client wrote there.
    ForwardedFor,
}

pub(super) fn an_ingress_behind_a_terminating_load_balancer_tells_the_client(stand: &Story) -> Result<()> {
    let (topology, balancer) = (&stand.topology, stand.topology.balancer());
    let trusted = "trustedProxies: [192.0.2.0/24, 10.244.0.0/16]";
    for (name, settings, tells) in [
        ("terminated", format!("{{{trusted}, proxyProtocol: Required}}"), Tells::ProxyHeader),
        ("forwarded", format!("{{{trusted}, forwardedHeader: X-Forwarded-For}}"), Tells::ForwardedFor),
    ] {
        let edge = edge(stand, stand.service(name), &settings)?;
        // By a node without the endpoint, so that kube-proxy masquerades: the client is in what the balancer says alone.
        let node_port = edge.service.address(topology, Frontend::NodePort, 2, Family::V4);
        let client = topology.client_address(Family::V4);
        let at = SocketAddr::new(topology.balancer_address(Family::V4), edge.service.node_port());
        let listener = balancer.run(|| TcpListener::bind(at))?;
        let connect = || balancer.run(|| TcpStream::connect(node_port));
        thread::scope(|scope| {
            let terminated = scope.spawn(|| terminate(&listener, at, tells, connect));
            let told = whoami(topology.client(), client, at)?.header("x-forwarded-for");
            terminated.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            // Proxies that are believed follow; what the client wrote is gone.
            let first = told.as_deref().and_then(|told| told.split(", ").next());
            ensure!(first == Some(&client.to_string()), "{client} by {at}, {name}: {told:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Passes one request and its answer on by a connection of its own.
fn terminate(
    listener: &TcpListener,
    at: SocketAddr,
    tells: Tells,
    connect: impl Fn() -> std::io::Result<TcpStream>,
) -> Result<()> {
    let (mut inside, source) = listener.accept()?;
    let (mut request, mut answer) = ([0; 4096], Vec::new());
    let length = inside.read(&mut request)?;
    let mut outside = connect()?;
    let head = std::str::from_utf8(&request[..length])?;
    match tells {
        Tells::ProxyHeader => {
            outside.write_all(&proxy::V2::tcp(source, at).build())?;
            outside.write_all(head.as_bytes())?;
        }
        Tells::ForwardedFor => {
            let (line, rest) = head.split_once("\r\n").context("a request line")?;
            let forged = "203.0.113.66";
            write!(outside, "{line}\r\nX-Forwarded-For: {forged}, {}\r\n{rest}", source.ip())?;
        }
    }
    outside.read_to_end(&mut answer)?;
    Ok(inside.write_all(&answer)?)
}
