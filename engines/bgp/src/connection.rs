//! One TCP connection with the peer, before and while it is the session's.

use std::time::Duration;

use crate::event::{ConnectionId, Ends};
use crate::state::{Negotiated, State};
use crate::wire::open::Open;
use crate::wire::render::Manner;

/// How far a connection is, and what is known by then.
#[derive(Debug)]
pub(crate) enum Stage {
    Connecting,
    /// Our OPEN is sent.
    OpenSent(Ends),
    /// The peer's OPEN is good, and a KEEPALIVE sent.
    OpenConfirm(Ends, Box<Open>),
    /// The peer's KEEPALIVE came.
    Established(Box<Established>),
}

#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) negotiated: Negotiated,
    pub(crate) manner: Manner,
    pub(crate) since: Duration,
    pub(crate) route_refresh: bool,
    /// Everything that was there at first was told, and End-of-RIB after it.
    pub(crate) told_all: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) stage: Stage,
    /// Bytes of a message that is not complete.
    pub(crate) input: Vec<u8>,
    /// Bytes that the kernel did not take yet.
    pub(crate) unsent: usize,
    /// When patience ends: with connecting, with the peer's OPEN, with its silence.
    pub(crate) hold_until: Option<Duration>,
    pub(crate) keepalive_at: Option<Duration>,
    /// When patience ends with a peer that reads nothing. RFC 9687.
    pub(crate) send_until: Option<Duration>,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, stage: Stage, hold_until: Duration) -> Self {
        let hold_until = Some(hold_until);
        Self { id, stage, input: Vec::new(), unsent: 0, hold_until, keepalive_at: None, send_until: None }
    }

    pub(crate) fn state(&self) -> State {
        match &self.stage {
            Stage::Connecting => State::Connect,
            Stage::OpenSent(_) => State::OpenSent,
            Stage::OpenConfirm(..) => State::OpenConfirm,
            Stage::Established(_) => State::Established,
        }
    }

    pub(crate) fn established(&self) -> Option<&Established> {
        match &self.stage {
            Stage::Established(established) => Some(established),
            _ => None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        [self.hold_until, self.keepalive_at, self.send_until].into_iter().flatten().min()
    }
}
