//! The way of the API server to Services: it asks a proxy to connect to a Service's address, and the proxy connects to
//! one of its endpoints from the network of the nodes. So webhooks may name a Service, as in any cluster.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::api::call;
use crate::lab::Host;

/// Until a request is there, and until an endpoint is connected to.
const DEADLINE: Duration = Duration::from_secs(5);

/// A request is a line and a header.
const LARGEST_HEAD: usize = 4096;

/// Where the proxy listens in a cluster's directory.
fn socket(dir: &Path) -> PathBuf {
    dir.join("egress.sock")
}

/// The socket that the API server connects to.
///
/// # Errors
/// When another network of the same cluster has it.
pub(super) fn listen(dir: &Path) -> Result<std::os::unix::net::UnixListener> {
    let listener = std::os::unix::net::UnixListener::bind(socket(dir));
    let listener = listener.context("egress socket; a cluster has one network at most")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What the API server is told of it (EgressSelectorConfiguration).
pub(super) fn configuration(dir: &Path) -> Value {
    json!({
        "apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
        "egressSelections": [{ "name": "cluster", "connection": {
            "proxyProtocol": "HTTPConnect", "transport": { "uds": { "udsName": socket(dir) } },
        } }],
    })
}

/// Serves the API server for ever.
pub(super) async fn run(listener: UnixListener, client: Client, fabric: Host) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (client, fabric) = (client.clone(), fabric.clone());
        tokio::spawn(async move {
            match connect(&mut stream, &client, fabric).await {
                Ok(mut endpoint) => {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                        // Either end may break; the other is closed with it.
                        let _ = copy_bidirectional(&mut stream, &mut endpoint).await;
                    }
                }
                Err(error) => {
                    let reason = format!("{error:#}").replace(['\r', '\n'], " ");
                    // The API server may have given up.
                    let _ = stream.write_all(format!("HTTP/1.1 503 {reason}\r\n\r\n").as_bytes()).await;
                }
            }
        });
    }
}

async fn connect(stream: &mut UnixStream, client: &Client, fabric: Host) -> Result<TcpStream> {
    let wanted = timeout(DEADLINE, request(stream)).await.context("no request")??;
    let services = call(client, Method::GET, "/api/v1/services", "", None).await?;
    let address = match service_port(&services, wanted) {
        None => wanted,
        Some(port) => {
            let slices = format!(
                "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{}",
                port.namespace, port.service
            );
            let slices = call(client, Method::GET, &slices, "", None).await?;
            endpoint(&slices, &port.port, wanted.ip())
                .with_context(|| format!("service {}/{} has no ready endpoint", port.namespace, port.service))?
        }
    };
    let connected = spawn_blocking(move || fabric.run(|| std::net::TcpStream::connect_timeout(&address, DEADLINE)));
    let connected = connected.await?.with_context(|| format!("connect to {address}"))?;
    connected.set_nonblocking(true)?;
    Ok(TcpStream::from_std(connected)?)
}

/// The address that the API server wants a connection to.
async fn request(stream: &mut UnixStream) -> Result<SocketAddr> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < LARGEST_HEAD, "request has more than {LARGEST_HEAD} bytes");
        // Byte by byte: what follows belongs to the connection.
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let line = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    line.with_context(|| format!("request {head:?}"))?.parse().with_context(|| format!("request {head:?}"))
}

/// A port of a Service.
#[derive(Debug, PartialEq, Eq)]
struct ServicePort {
    namespace: String,
    service: String,
    /// Its name; empty where the Service has but one.
    port: String,
}

/// The port of the Service that has this address.
fn service_port(services: &Value, address: SocketAddr) -> Option<ServicePort> {
    services["items"].as_array()?.iter().find_map(|service| {
        let (metadata, spec) = (&service["metadata"], &service["spec"]);
        let own = |ip: &Value| ip.as_str().and_then(|ip| ip.parse().ok()) == Some(address.ip());
        spec["clusterIPs"].as_array()?.iter().any(own).then_some(())?;
        let port = spec["ports"].as_array()?.iter().find(|port| port["port"] == address.port())?;
        Some(ServicePort {
            namespace: metadata["namespace"].as_str()?.to_owned(),
            service: metadata["name"].as_str()?.to_owned(),
            port: port["name"].as_str().unwrap_or_default().to_owned(),
        })
    })
}

/// A ready endpoint of a Service for the port of that name, of the family of its address, as a service proxy has it.
fn endpoint(slices: &Value, port: &str, wanted: IpAddr) -> Option<SocketAddr> {
    slices["items"].as_array()?.iter().find_map(|slice| {
        let ports = slice["ports"].as_array()?;
        let port = ports.iter().find(|found| found["name"].as_str().unwrap_or_default() == port)?["port"].as_u64()?;
        let endpoints = slice["endpoints"].as_array()?;
        let ready = endpoints.iter().find(|endpoint| endpoint["conditions"]["ready"] == true)?;
        let address: IpAddr = ready["addresses"][0].as_str()?.parse().ok()?;
        if address.is_ipv4() != wanted.is_ipv4() {
            return None;
        }
        Some(SocketAddr::new(address, u16::try_from(port).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_service_leads_to_a_ready_endpoint_of_that_port() {
        let services = json!({ "items": [
            { "metadata": { "namespace": "a", "name": "headless" }, "spec": { "clusterIPs": ["None"] } },
            { "metadata": { "namespace": "a", "name": "s" }, "spec": {
                "clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
                "ports": [{ "name": "other", "port": 80 }, { "name": "web", "port": 443 }],
            } },
        ] });
        let found = ServicePort { namespace: "a".to_owned(), service: "s".to_owned(), port: "web".to_owned() };
        for address in ["10.96.0.9:443", "[fd00:10:96::9]:443"] {
            assert_eq!(service_port(&services, address.parse().unwrap()).as_ref(), Some(&found), "{address}");
        }
        for address in ["10.96.0.9:444", "10.96.0.8:443"] {
            assert_eq!(service_port(&services, address.parse().unwrap()), None, "{address}");
        }
        let slices = json!({ "items": [{
            "ports": [{ "name": "web", "port": 8443 }],
            "endpoints": [{ "addresses": ["fd00:10:244:1::3"], "conditions": { "ready": true } }],
        }, {
            "ports": [{ "name": "other", "port": 8080 }, { "name": "web", "port": 8443 }],
            "endpoints": [
                { "addresses": ["10.244.1.2"], "conditions": { "ready": false } },
                { "addresses": ["10.244.1.3"], "conditions": { "ready": true } },
            ],
        }] });
        for (wanted, found) in [("10.96.0.9", "10.244.1.3:8443"), ("fd00:10:96::9", "[fd00:10:244:1::3]:8443")] {
            assert_eq!(endpoint(&slices, "web", wanted.parse().unwrap()), Some(found.parse().unwrap()));
        }
        assert_eq!(endpoint(&slices, "gone", "10.96.0.9".parse().unwrap()), None);
    }
}
