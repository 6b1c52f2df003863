//! What is remembered of a request while it is served, for the access log and the metrics.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_model::client::Provenance;
use headwater_model::gateway::{ErrorStyle, Rule};

use crate::exchange::Served;
use crate::fault::Fault;
use crate::plan::Plan;
use crate::respond::Manner;
use crate::upstream::{EndpointRuntime, PoolRuntime};

/// One line of the access log.
pub(crate) struct Record<'a> {
    pub(crate) started: Instant,
    /// Of the listener.
    pub(crate) port: u16,
    /// When the last attempt began.
    pub(crate) began: Option<Instant>,
    /// When the last attempt ended.
    pub(crate) ended: Option<Instant>,
    pub(crate) client: Option<(std::net::IpAddr, Provenance)>,
    pub(crate) rule: Option<&'a Arc<Rule>>,
    pub(crate) pool: Option<Rc<PoolRuntime>>,
    pub(crate) endpoint: Option<Rc<EndpointRuntime>>,
    pub(crate) attempts: u32,
    pub(crate) status: u16,
    pub(crate) sent_bytes: u64,
    /// Of the last attempt, when it made a connection.
    pub(crate) connect: Option<Duration>,
    /// Of the last attempt: until the response's head.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) fault: Option<Fault>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            port: 0,
            began: None,
            ended: None,
            client: None,
            rule: None,
            pool: None,
            endpoint: None,
            attempts: 0,
            status: 0,
            sent_bytes: 0,
            connect: None,
            first_byte: None,
            fault: None,
        }
    }

    pub(crate) fn planned(&mut self, plan: &Plan<'a>) {
        self.client = Some((plan.client.addr, plan.client.provenance.clone()));
        self.rule = Some(plan.rule);
    }

    /// How a fault of this request is told.
    pub(crate) fn manner(&self, style: ErrorStyle) -> Manner<'a> {
        Manner { style, rule: self.rule.map_or("", |rule| &rule.origin.key.id.name) }
    }

    pub(crate) fn served(&mut self, served: &Served) {
        self.status = served.status;
        self.sent_bytes = served.bytes;
        self.first_byte = Some(served.first_byte);
    }
}
