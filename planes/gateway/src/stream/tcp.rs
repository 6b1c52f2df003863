//! One TCP connection, from its client to an endpoint.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use headwater_client_address::{Client, Sender, proxy};
use headwater_model::gateway::StreamRoute;
use headwater_net_io::connect::connect;
use headwater_net_io::tls::hello::Hello;
use headwater_net_io::transparent::connect_from;
use tokio::net::TcpStream;

use super::record::{Ended, Kind, Record};
use super::relay::{Direction, End, relay, reset, write_all};
use super::route::{Choices, proxy_header};
use crate::apply::{CompiledListener, chain};
use crate::buffer::Buffer;
use crate::fault::{Fault, Reason};
use crate::timer::Timer;
use crate::upstream::{Lease, connect_fault};
use crate::worker::Worker;

/// A connection that is to be carried as it is.
pub(crate) struct Incoming {
    pub(crate) worker: Rc<Worker>,
    pub(crate) route: Arc<StreamRoute>,
    pub(crate) sender: Sender,
    /// What its PROXY header said besides addresses.
    pub(crate) tlvs: Option<proxy::Tlvs>,
    /// Of a TLS connection whose name is not ours.
    pub(crate) hello: Option<Hello>,
    /// What it has brought already.
    pub(crate) early: Buffer,
}

/// Finds an endpoint that takes the connection, and carries it to its end.
pub(crate) async fn carry(incoming: Incoming, listener: Arc<CompiledListener>, timer: &Timer, mut down: TcpStream) {
    let Incoming { worker, route, sender, tlvs, hello, early } = incoming;
    let kind = if hello.is_some() { Kind::Tls } else { Kind::Tcp };
    let client = Client::of_sender(&listener.snapshot.client_address, &sender);
    worker.metrics.client(&client.provenance);
    let metrics = worker.metrics.streams.route(&route.origin, kind);
    metrics.began.add(1);
    let record = Record {
        kind,
        started: Instant::now(),
        client,
        sender,
        route,
        listener: listener.snapshot.name.clone(),
        settings: listener.snapshot.connection.clone(),
        sni: hello.as_ref().and_then(|hello| hello.server_name.clone()),
        received: Default::default(),
        sent: Default::default(),
        attempts: Default::default(),
        metrics,
    };
    // The listener of the next snapshot may be another.
    drop(listener);
    let opened = open(&worker, &record, timer).await;
    let (lease, mut up) = match opened {
        Ok(opened) => opened,
        Err((lease, fault)) => {
            reset(&down);
            let endpoint = lease.as_ref().map(|lease| &*lease.endpoint);
            record.finish(&worker, &Ended { end: End::Refused, endpoint, connect: None, fault: Some(&fault) });
            return;
        }
    };
    let connect = record.started.elapsed();
    let mut ahead = Vec::new();
    let emit = lease.pool.emit_proxy_protocol();
    let told = (&record.client, &record.sender);
    proxy_header(emit, proxy::Transport::Stream, told, hello.as_ref(), tlvs.as_ref(), &mut ahead);
    drop((hello, tlvs));
    let idle = record.route.timeouts.idle;
    timer.set(idle);
    let greeting = async {
        write_all(&up, &ahead).await?;
        write_all(&up, &early).await
    };
    let end = match timer.run(greeting).await {
        Ok(Ok(())) => {
            record.received.set(early.len() as u64);
            record.metrics.received.add(early.len() as u64);
            drop((ahead, early));
            let (received, sent) = (&record.metrics.received, &record.metrics.sent);
            let ((from_client, to_client), (from_endpoint, to_endpoint)) = (down.split(), up.split());
            let towards_endpoint = Direction {
                from: from_client,
                to: to_endpoint.as_ref(),
                moved: &record.received,
                count: |n| received.add(n),
            };
            let towards_client =
                Direction { from: from_endpoint, to: to_client.as_ref(), moved: &record.sent, count: |n| sent.add(n) };
            relay(towards_endpoint, towards_client, timer, idle).await
        }
        Ok(Err(_)) => {
            reset(&down);
            End::Reset
        }
        Err(_) => End::Idle,
    };
    record.finish(&worker, &Ended { end, endpoint: Some(&lease.endpoint), connect: Some(connect), fault: None });
}

/// Tries endpoints until one takes the connection.
async fn open(
    worker: &Rc<Worker>,
    record: &Record,
    timer: &Timer,
) -> Result<(Lease, TcpStream), (Option<Lease>, Fault)> {
    let route = &record.route;
    let mut choices = Choices::default();
    let mut attempts = 0;
    loop {
        let lease = choices.pick(worker, route, record.client.addr).map_err(|reason| (None, Fault::new(reason)))?;
        attempts += 1;
        record.attempts.set(attempts);
        let began = Instant::now();
        // The connection's own deadline is that of the connect, and nothing is read meanwhile.
        timer.set(route.timeouts.connect);
        let (address, patience) = (lease.endpoint.address, route.timeouts.connect);
        let connected = match route.transparent {
            true => timer.run(connect_from(record.client.socket_addr(), address, patience)).await,
            false => timer.run(connect(address, patience)).await,
        };
        let ended = Instant::now();
        let took = ended.saturating_duration_since(began);
        let fault = match connected {
            Ok(Ok(up)) => {
                lease.proved(took, ended);
                lease.pool.metrics.connect_seconds.observe(took.as_secs_f64());
                return Ok((lease, up));
            }
            Ok(Err(error)) => connect_fault(&error),
            Err(_) => {
                Fault::new(Reason::ConnectTimeout).detail(chain(&std::io::Error::from(std::io::ErrorKind::TimedOut)))
            }
        };
        lease.failed(&fault, took, ended);
        if attempts >= route.attempts {
            return Err((Some(lease), fault));
        }
        worker.metrics.retries.add(1);
        tracing::debug!(endpoint = %lease.endpoint.address, %fault, "trying another endpoint");
    }
}
