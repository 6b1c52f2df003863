//! A gateway under attack: a stand with an application to attack, neighbours who go on being served, and a watch for
//! panics of the gateway's threads.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::origin::Origin;
use headwater_testkit::wait;

/// Where neighbours come from; attackers come from 127.0.0.1.
pub(crate) const NEIGHBOUR: [u8; 4] = [127, 0, 0, 100];

/// The attacked application answers at this host.
pub(crate) const APP: &str = "app.test";

/// Connections that neighbours keep; with two workers both have some of them nearly always.
const KEPT: usize = 4;

/// A pause between two requests of neighbours, so that they do not starve whom they watch.
const PAUSE: Duration = Duration::from_millis(2);

/// Panics of gateway threads in this process.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("gateway-")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(panic);
        }));
    });
}

/// A stand with neighbours.
pub(crate) struct Siege {
    pub(crate) stand: Stand,
    neighbours: Option<Neighbours>,
    _origin: Origin,
}

impl Siege {
    /// Serves [`APP`] from `app` with this spec besides the two listeners `http` and `https`.
    pub(crate) fn start(spec: &str, app: std::net::SocketAddr) -> Result<Self> {
        Self::with(&Stand::gateway(spec), app, |dial| dial)
    }

    /// The same with the manifest of the gateway, and neighbours who connect to `http` as `tune` says.
    pub(crate) fn with(gateway: &str, app: std::net::SocketAddr, tune: impl FnOnce(Dial) -> Dial) -> Result<Self> {
        watch_panics();
        let origin = Origin::http("neighbour")?;
        let stand = Stand::start(&[
            ("gateway.yaml", gateway.to_owned()),
            ("app.yaml", Stand::app("app", APP, &[app])),
            ("neighbour.yaml", Stand::app("neighbour", "neighbour.test", &[origin.address()])),
        ])?;
        let dial = tune(Dial::to(stand.address("http")).source(IpAddr::from(NEIGHBOUR)));
        let neighbours = Some(Neighbours::start(dial)?);
        Ok(Self { stand, neighbours, _origin: origin })
    }

    /// Checks that neighbours were served all along and still are, and that no thread of a gateway panicked.
    pub(crate) fn end(mut self) -> Result<()> {
        self.neighbours.take().expect("ended once").end()?;
        let panics = PANICS.load(Ordering::SeqCst);
        ensure!(panics == 0, "gateway threads panicked {panics} times");
        Ok(())
    }

    /// Connections open now, those of neighbours not counted.
    pub(crate) fn connections(&self) -> usize {
        (self.stand.metric("headwater_gateway_connections") as usize).saturating_sub(KEPT)
    }

    /// Waits until the attackers' connections are gone.
    pub(crate) fn until_alone(&self) -> Result<()> {
        wait::until(wait::DEADLINE, || self.connections() == 0)
            .with_context(|| format!("{} connections are still open", self.connections()))
    }
}

/// Clients that ask one request after the other and want 200 each time.
struct Neighbours {
    stop: Sender<()>,
    served: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

fn ask(dial: &Dial, client: &mut RawClient) -> Result<()> {
    let answer = client.request("GET /n HTTP/1.1\r\nHost: neighbour.test\r\n\r\n").context("a neighbour's request")?;
    ensure!(answer.status == 200, "a neighbour got {}: {}", answer.status, answer.text());
    ensure!(answer.seen()?.name() == "neighbour", "a neighbour got another's answer: {}", answer.text());
    if answer.header("connection").is_some_and(|value| value == "close") {
        *client = RawClient::open(dial)?;
    }
    Ok(())
}

impl Neighbours {
    fn start(dial: Dial) -> Result<Self> {
        let mut clients = (0..KEPT).map(|_| RawClient::open(&dial)).collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            ask(&dial, client)?;
        }
        let (stop, stopped) = channel::<()>();
        let served = Arc::new(AtomicU64::new(0));
        let count = served.clone();
        let thread = std::thread::Builder::new().name("neighbours".into()).spawn(move || {
            loop {
                for client in &mut clients {
                    ask(&dial, client)?;
                    count.fetch_add(1, Ordering::SeqCst);
                    match stopped.recv_timeout(PAUSE) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return Ok(()),
                    }
                }
            }
        })?;
        Ok(Self { stop, served, thread })
    }

    fn end(self) -> Result<()> {
        // Twice around: every connection answers a request that began after the attack.
        let goal = self.served.load(Ordering::SeqCst) + 2 * KEPT as u64;
        let reached =
            wait::until(wait::DEADLINE, || self.served.load(Ordering::SeqCst) >= goal || self.thread.is_finished());
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the neighbours panicked"))??;
        reached
    }
}
