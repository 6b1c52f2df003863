//! The ports that load balancers ask which nodes to send to.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use headwater_services_tests::object::Endpoint;
use headwater_services_tests::stand::{CHANGE, NAMESPACE, block_on, cluster};
use headwater_testkit::client::RawClient;
use headwater_testkit::response::Response;
use headwater_testkit::services::Family;
use headwater_testkit::wait;
use serde_json::{Value, json};

use super::Story;

/// Of `/healthz` and `/livez`.
const PROXY_PORT: u16 = 10256;

fn get(stand: &Story, at: SocketAddr, path: &str) -> Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stand.topology.client().run(|| RawClient::connect(at)?.request(request)).with_context(|| format!("{at}{path}"))
}

/// Waits until the health check port of a node tells of so many endpoints.
fn told(stand: &Story, at: SocketAddr, count: usize) -> Result<Response> {
    wait::value(CHANGE, || {
        let response = get(stand, at, "/healthz").ok()?;
        let body: Value = serde_json::from_slice(&response.body).ok()?;
        (body["localEndpoints"] == count).then_some(response)
    })
    .with_context(|| format!("{at}: not {count} local endpoints, but {:?}", get(stand, at, "/")))
}

pub(super) fn the_health_check_port_tells_how_many_endpoints_are_ready_here(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(1)?, stand.pod(2)?];
    let draining = json!({ "conditions": { "ready": false, "serving": true, "terminating": true } });
    let mut endpoints: Vec<Endpoint> = pods.iter().map(Endpoint::of).collect();
    let service = stand.service("health").local();
    stand.create(&service, &endpoints)?;
    for round in 0..2 {
        let counts = [[2, 1, 0], [2, 0, 0]][round];
        for (node, count) in (1..=3).zip(counts) {
            for family in Family::ALL {
                let at = SocketAddr::new(stand.topology.node(node).address(family), service.health_port());
                told(stand, at, count)?;
                for path in ["/healthz", "/", "/anything?at=all"] {
                    let response = get(stand, at, path)?;
                    ensure!(response.status == if count > 0 { 200 } else { 503 }, "{at}{path}: {response:?}");
                    for (name, value) in [
                        ("Content-Type", "application/json"),
                        ("X-Content-Type-Options", "nosniff"),
                        ("X-Load-Balancing-Endpoint-Weight", &count.to_string()),
                    ] {
                        ensure!(response.header(name).as_deref() == Some(value), "{at}: {name}: {response:?}");
                    }
                    let body = format!(
                        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{NAMESPACE}\",\n\t\t\"name\": \"{}\"\n\t}},\n\
                         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}",
                        service.name
                    );
                    ensure!(response.text() == body, "{at}: {:?} instead of {body:?}", response.text());
                }
            }
        }
        // Who terminates does not count, though it may serve.
        endpoints[2] = endpoints[2].clone().with(draining.clone());
        stand.set_endpoints(&service, &endpoints)?;
    }
    Ok(())
}

/// All implementations read the same Nodes.
static NODES: Mutex<()> = Mutex::new(());

pub(super) fn the_proxy_says_that_it_is_healthy_until_its_node_is_about_to_go(stand: &Story) -> Result<()> {
    let _turn = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    for node in stand.topology.nodes() {
        for (family, path) in Family::ALL.iter().flat_map(|family| ["/healthz", "/livez"].map(|path| (*family, path))) {
            proxy_says(stand, SocketAddr::new(node.address(family), PROXY_PORT), path, true)?;
        }
    }
    let node = stand.topology.node(3);
    let at = SocketAddr::new(node.address(Family::V4), PROXY_PORT);
    let taint = json!([{ "key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule" }]);
    for (taints, eligible) in [(taint, false), (Value::Null, true)] {
        let path = format!("/api/v1/nodes/{}", node.name());
        block_on(cluster()?.merge(&path, &json!({ "spec": { "taints": taints } })))?;
        let mut last = None;
        let told = wait::until(CHANGE, || {
            last = Some(proxy_says(stand, at, "/healthz", eligible));
            last.as_ref().is_some_and(Result::is_ok)
        });
        told.with_context(|| format!("eligible should be {eligible}: {last:?}"))?;
        proxy_says(stand, at, "/livez", eligible)?;
        let other = SocketAddr::new(stand.topology.node(1).address(Family::V4), PROXY_PORT);
        proxy_says(stand, other, "/healthz", true)?;
    }
    Ok(())
}

/// Times aside it is word for word the same of all implementations.
fn proxy_says(stand: &Story, at: SocketAddr, path: &str, eligible: bool) -> Result<()> {
    let response = get(stand, at, path)?;
    let good = eligible || path == "/livez";
    ensure!(response.status == if good { 200 } else { 503 }, "{at}{path}: {response:?}");
    for (name, value) in [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")] {
        ensure!(response.header(name).as_deref() == Some(value), "{at}{path}: {response:?}");
    }
    let mut body: Value = serde_json::from_slice(&response.body)?;
    for time in ["/lastUpdated", "/currentTime", "/status/IPv4/lastUpdated", "/status/IPv6/lastUpdated"] {
        let said = body.pointer_mut(time).with_context(|| format!("{at}{path}: no {time}"))?;
        ensure!(said.is_string(), "{at}{path}: {time} is {said}");
        *said = Value::Null;
    }
    let family = json!({ "lastUpdated": null, "healthy": true });
    let mut expected = json!({
        "lastUpdated": null, "currentTime": null, "healthy": true, "status": { "IPv4": family, "IPv6": family },
    });
    if path == "/healthz" {
        expected["nodeEligible"] = eligible.into();
    }
    ensure!(body == expected, "{at}{path}: {body}");
    Ok(())
}
