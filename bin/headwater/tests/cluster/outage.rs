//! An API server that goes away, comes back, and has forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use headwater_testkit::client::RawClient;

use crate::support::{App, Role, apply, ingress, service, start};

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_the_api_server_is_away_and_it_catches_up() -> Result<()> {
    let cluster = start().await?;
    let App { namespace, one: _one, two } = App::start(&cluster, "outage").await?;
    let gateway = Role::gateway(&cluster, &namespace, &[]).await?;
    gateway.answers("app.test", (200, "one"))?;

    let (over, asked, lost) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let address = gateway.address("http")?;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, asked, lost) = (over.clone(), asked.clone(), lost.clone());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Some requests on each connection, then a new one.
                    let mut client = RawClient::connect(address);
                    for _ in 0..50 {
                        let answer = client.as_mut().map(|client| {
                            client.request("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").map(|answer| answer.status)
                        });
                        asked.fetch_add(1, Ordering::Relaxed);
                        lost.fetch_add(u64::from(!matches!(answer, Ok(Ok(200)))), Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();

    cluster.kill_apiserver();
    gateway.says("the API server does not answer as it should")?;
    assert_eq!(gateway.get("/readyz")?.status, 200, "stale is ready");
    assert_eq!(gateway.metric("headwater_source_stale")?, 1.0);
    let during = asked.load(Ordering::Relaxed);
    cluster.restart_apiserver().await?;
    apply(&cluster, &namespace, &service("app", two.address())).await?;
    let caught_up = gateway.answers("app.test", (200, "two"))?;
    assert!(caught_up < Duration::from_secs(5), "after {caught_up:?}");

    // What changed while nobody could watch is noticed, although the server remembers no versions.
    cluster.kill_apiserver();
    cluster.restart_apiserver().await?;
    apply(&cluster, &namespace, &ingress("later", &namespace, "later.test", "app")).await?;
    cluster.expire_resource_versions().await?;
    gateway.answers("later.test", (200, "two"))?;

    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("clients do not panic");
    }
    let (asked, lost) = (asked.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    println!("{asked} requests, {lost} lost");
    assert!(asked > during, "requests went on");
    assert_eq!(lost, 0);
    Ok(())
}
