//! Exporters: one task on the control runtime for each collector and its settings, made when the first span comes.
//!
//! ```text
//!  workers ── Spans (as many as the queue has room for) ──> gather: `batch` spans, or `interval`
//!                                                             └─> deliver, 4 at once: POST, again after some faults
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use headwater_model::gateway::{SpanExporter, UpstreamTls, UpstreamVerify};
use headwater_net_io::connect::{connect, connect_tls};
use headwater_net_io::resolve::resolve;
use headwater_net_io::tls::client::ClientTls;
use headwater_process::client::{Answer, Client, Post};
use headwater_process::metrics::Registry;
use headwater_trace::{Resource, Spans, export_request, refusal};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::apply::chain;

/// Requests to one collector at once.
const PARALLEL: usize = 4;
/// Tries of one request, the first included.
const TRIES: u32 = 4;
/// Pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, whatever a collector asks for.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A connection is not used for longer, so that changes of the collector's name are followed.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// What became of spans; counts up.
#[derive(Debug, Default)]
pub(crate) struct SpanCounts {
    pub(crate) exported: AtomicU64,
    /// Dropped: there was no room in the queue.
    pub(crate) overflowed: AtomicU64,
    /// Dropped after the last try, or what the collector will never take.
    pub(crate) undelivered: AtomicU64,
    /// Those that a collector would not have.
    pub(crate) rejected: AtomicU64,
    /// Tries after the first.
    pub(crate) retries: AtomicU64,
}

impl SpanCounts {
    pub(crate) fn register(registry: &Registry) -> Arc<Self> {
        let counts = Arc::<Self>::default();
        type Counter = fn(&SpanCounts) -> &AtomicU64;
        let shown: [(&'static str, &'static str, Counter); 5] = [
            ("gateway_spans_exported", "Spans that collectors took", |counts| &counts.exported),
            ("gateway_spans_overflowed", "Spans dropped for want of room in a queue", |counts| &counts.overflowed),
            ("gateway_spans_undelivered", "Spans dropped because a collector did not take them", |counts| {
                &counts.undelivered
            }),
            ("gateway_spans_rejected", "Spans that collectors would not have", |counts| &counts.rejected),
            ("gateway_span_export_retries", "Requests to collectors after the first of each batch", |counts| {
                &counts.retries
            }),
        ];
        for (name, help, counter) in shown {
            let counts = counts.clone();
            registry.counter_fn(name, help, move || counter(&counts).load(Ordering::Relaxed));
        }
        counts
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Spans that wait for one exporter.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Never holds more spans than there was room for.
    sender: mpsc::UnboundedSender<Spans>,
    room: Arc<Semaphore>,
    counts: Arc<SpanCounts>,
}

impl Queue {
    /// Takes the spans where there is room for them, without waiting.
    pub(crate) fn offer(&self, spans: Spans) {
        let count = spans.count();
        match self.room.try_acquire_many(count) {
            Ok(permit) => {
                permit.forget();
                if self.sender.send(spans).is_ok() {
                    return;
                }
                add(&self.counts.undelivered, count.into());
            }
            Err(_) => add(&self.counts.overflowed, count.into()),
        }
    }
}

/// Every exporter of the process, by what it is told.
pub(crate) struct Exporters {
    runtime: Handle,
    /// Attributes of every resource.
    identity: BTreeMap<&'static str, String>,
    counts: Arc<SpanCounts>,
    running: Mutex<HashMap<Arc<SpanExporter>, Running>>,
}

struct Running {
    queue: Weak<Queue>,
    task: JoinHandle<()>,
}

impl Exporters {
    /// `instance` names this gateway among others. Call it on the control runtime.
    pub(crate) fn new(instance: String, counts: Arc<SpanCounts>) -> Arc<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let identity = [
            ("hostname", host),
            ("service.name", "headwater".to_owned()),
            ("service.instance.id", instance),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Arc::new(Self { runtime: Handle::current(), identity: identity.into(), counts, running: Mutex::default() })
    }

    /// The queue of the exporter, which is started if it does not run. Takes a lock, so not for each span.
    pub(crate) fn queue(&self, spec: &Arc<SpanExporter>) -> Arc<Queue> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = running.get(spec).and_then(|running| running.queue.upgrade()) {
            return queue;
        }
        running.retain(|_, running| running.queue.strong_count() > 0 || !running.task.is_finished());
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(spec.queue as usize));
        let queue = Arc::new(Queue { sender, room: room.clone(), counts: self.counts.clone() });
        let delivery = Delivery {
            resource: self.resource(spec),
            authority: spec.collector.authority(),
            spec: spec.clone(),
            counts: self.counts.clone(),
            spare: Mutex::default(),
            troubled: AtomicU64::new(0),
        };
        let task = self.runtime.spawn(gather(Arc::new(delivery), receiver, room));
        running.insert(spec.clone(), Running { queue: Arc::downgrade(&queue), task });
        queue
    }

    fn resource(&self, spec: &SpanExporter) -> Resource {
        let mut attributes: BTreeMap<&str, &str> =
            self.identity.iter().map(|(name, value)| (*name, value.as_str())).collect();
        attributes.extend(spec.resource.iter().map(|(name, value)| (&**name, &**value)));
        Resource::new(attributes, "headwater", env!("CARGO_PKG_VERSION"))
    }

    /// Waits for exporters whose workers are gone to send what they have, for at most `patience`.
    pub(crate) async fn finish(&self, patience: Duration) {
        let tasks: Vec<JoinHandle<()>> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.drain().map(|(_, running)| running.task).collect()
        };
        let until = Instant::now() + patience;
        for mut task in tasks {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Makes batches of what comes, and has them delivered; ends when no worker is left and all is delivered.
async fn gather(delivery: Arc<Delivery>, mut receiver: mpsc::UnboundedReceiver<Spans>, room: Arc<Semaphore>) {
    let limit = delivery.spec.batch;
    let mut under_way = JoinSet::new();
    let mut next = receiver.recv().await;
    while let Some(first) = next.take() {
        let until = Instant::now() + delivery.spec.interval;
        let mut count = first.count();
        let mut batch = vec![first];
        while count < limit {
            match tokio::time::timeout_at(until, receiver.recv()).await {
                Ok(Some(more)) if count + more.count() <= limit => {
                    count += more.count();
                    batch.push(more);
                }
                Ok(Some(more)) => {
                    next = Some(more);
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        while under_way.len() >= PARALLEL {
            under_way.join_next().await;
        }
        let (delivery, room) = (delivery.clone(), room.clone());
        under_way.spawn(async move {
            delivery.deliver(&batch, count).await;
            room.add_permits(count as usize);
        });
        if next.is_none() {
            next = receiver.recv().await;
        }
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

/// A connection, and when it was made.
type Kept = (Client, Instant);

/// Everything that sending needs.
struct Delivery {
    spec: Arc<SpanExporter>,
    resource: Resource,
    authority: String,
    counts: Arc<SpanCounts>,
    /// Connections that are free; the lock is held to take or to give one.
    spare: Mutex<Vec<Kept>>,
    /// Batches that were lost since the last that was not.
    troubled: AtomicU64,
}

/// What is to be done about a request that was not taken.
enum Trouble {
    /// Another try may do.
    Again(String, Option<Duration>),
    /// The collector will never take it.
    Never(String),
}

impl Trouble {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Again(chain(error), None)
    }
}

impl Delivery {
    async fn deliver(&self, batch: &[Spans], count: u32) {
        let body = Bytes::from(export_request(&self.resource, batch.iter()));
        let mut pause = PAUSE;
        let mut last = String::new();
        for attempt in 1..=TRIES {
            let trouble = match tokio::time::timeout(self.spec.timeout, self.send(body.clone())).await {
                Ok(Ok(answer)) => return self.taken(&answer, count.into()),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Again(format!("no answer within {:?}", self.spec.timeout), None),
            };
            let after = match trouble {
                Trouble::Never(why) => {
                    last = why;
                    break;
                }
                Trouble::Again(why, after) => {
                    last = why;
                    after
                }
            };
            if attempt < TRIES {
                add(&self.counts.retries, 1);
                tokio::time::sleep(after.unwrap_or(pause).min(MAX_PAUSE)).await;
                pause *= 2;
            }
        }
        add(&self.counts.undelivered, count.into());
        if self.troubled.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(collector = %self.spec.collector, error = last, "collector takes no spans; they are dropped");
        }
    }

    fn taken(&self, answer: &Answer, count: u64) {
        let refused = refusal(&answer.body);
        let rejected = refused.spans.min(count);
        add(&self.counts.exported, count - rejected);
        add(&self.counts.rejected, rejected);
        if rejected > 0 {
            let collector = &self.spec.collector;
            tracing::warn!(%collector, rejected, message = refused.message, "collector refused spans");
        }
        if self.troubled.swap(0, Ordering::Relaxed) > 0 {
            tracing::info!(collector = %self.spec.collector, "collector takes spans again");
        }
    }

    /// One request, on a connection that is free or a new one.
    async fn send(&self, body: Bytes) -> Result<Answer, Trouble> {
        let (mut client, since) = match self.spare() {
            Some(kept) => kept,
            None => (self.connect().await?, Instant::now()),
        };
        let post = Post {
            authority: &self.authority,
            target: &self.spec.collector.path,
            content_type: "application/x-protobuf",
            user_agent: concat!("headwater/", env!("CARGO_PKG_VERSION")),
        };
        let answer = client.post(post, body, MAX_ANSWER).await.map_err(|error| Trouble::of(&error))?;
        if client.is_open() && since.elapsed() < MAX_AGE {
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push((client, since));
        }
        let told = || format!("answered {}", answer.status);
        match answer.status {
            200..300 => Ok(answer),
            // https://opentelemetry.io/docs/specs/otlp/#failures-1
            429 | 502 | 503 | 504 => Err(Trouble::Again(told(), answer.retry_after)),
            _ => Err(Trouble::Never(told())),
        }
    }

    fn spare(&self) -> Option<Kept> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.retain(|(client, since)| client.is_open() && since.elapsed() < MAX_AGE);
        spare.pop()
    }

    /// The name is looked up each time; IPv4 first, as the ALB does.
    async fn connect(&self) -> Result<Client, Trouble> {
        let collector = &self.spec.collector;
        let mut addresses = resolve(&collector.host, collector.port).await.map_err(|error| Trouble::of(&error))?;
        addresses.sort_by_key(|address| !address.is_ipv4());
        let tls = match collector.tls {
            false => None,
            true => Some(client_tls().map_err(|error| Trouble::of(&error))?),
        };
        let mut last = Trouble::Again("no address".to_owned(), None);
        for address in addresses.into_iter().take(PARALLEL) {
            let opened = match &tls {
                None => match connect(address, self.spec.timeout).await {
                    Ok(stream) => Client::open(stream).await,
                    Err(error) => {
                        last = Trouble::of(&error);
                        continue;
                    }
                },
                Some(tls) => match connect_tls(address, tls, Some(&collector.host), &[], self.spec.timeout).await {
                    Ok(stream) => Client::open(stream).await,
                    Err(error) => {
                        last = Trouble::of(&error);
                        continue;
                    }
                },
            };
            match opened {
                Ok(client) => return Ok(client),
                Err(error) => last = Trouble::of(&error),
            }
        }
        Err(last)
    }
}

/// Verified: spans tell of clients, and of what they asked for.
fn client_tls() -> Result<ClientTls, headwater_net_io::tls::TlsError> {
    ClientTls::new(&UpstreamTls { verify: UpstreamVerify::SystemRoots, server_name: None }, &[b"http/1.1"])
}
