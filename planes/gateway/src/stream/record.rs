//! What is remembered of a connection or flow that is carried, for the access log and the metrics.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_client_address::{Client, Sender};
use headwater_model::gateway::{ConnectionSettings, StreamRoute};

use super::metrics::RouteMetrics;
use super::relay::End;
use crate::fault::Fault;
use crate::upstream::EndpointRuntime;
use crate::worker::Worker;

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Tcp,
    Tls,
    Udp,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Udp => "UDP",
        }
    }
}

/// One line of the access log.
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) started: Instant,
    pub(crate) client: Client,
    pub(crate) sender: Sender,
    pub(crate) route: Arc<StreamRoute>,
    pub(crate) listener: Arc<str>,
    pub(crate) settings: Arc<ConnectionSettings>,
    pub(crate) sni: Option<Box<str>>,
    /// From the client.
    pub(crate) received: Cell<u64>,
    /// To the client.
    pub(crate) sent: Cell<u64>,
    pub(crate) attempts: Cell<u32>,
    pub(crate) metrics: Rc<RouteMetrics>,
}

/// How it ended.
pub(crate) struct Ended<'a> {
    pub(crate) end: End,
    pub(crate) endpoint: Option<&'a EndpointRuntime>,
    pub(crate) connect: Option<Duration>,
    pub(crate) fault: Option<&'a Fault>,
}

impl Record {
    /// Counts and logs it.
    pub(crate) fn finish(&self, worker: &Worker, ended: &Ended<'_>) {
        let now = Instant::now();
        if let Some(fault) = ended.fault {
            worker.metrics.fault(fault.reason);
        }
        self.metrics.ended(ended.end, now.saturating_duration_since(self.started));
        worker.log.write_stream(self, ended, now);
    }
}
