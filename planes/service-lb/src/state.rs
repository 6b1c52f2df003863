//! What is programmed right now, for those who ask.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use headwater_model::tunnel::{Peer, TunnelEnd};
use serde::Serialize;

use crate::tunnel::Standing;

/// How the kernel of this node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub node: Arc<str>,
    /// Of the last snapshot that the kernel has whole; `None`: of none yet.
    pub generation: Option<u64>,
    #[serde(skip)]
    pub applied_at: Option<SystemTime>,
    /// Since when something is wanted that the kernel does not have.
    #[serde(skip)]
    pub waiting_since: Option<SystemTime>,
    #[serde(skip)]
    pub last_apply: Duration,
    /// Why the kernel is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Elements that the kernel does not take.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    pub tunnel: TunnelState,
    pub peers: Vec<PeerState>,
}

/// The tunnel of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum TunnelState {
    /// It was not tried yet.
    Unknown,
    #[serde(rename_all = "camelCase")]
    Up { end: TunnelEnd, mtu: u32, index: u32 },
    /// Clients that come to this node under `externalTrafficPolicy: Cluster` are masqueraded.
    Down { problem: String },
}

impl TunnelState {
    pub(crate) fn of(standing: Option<&Standing>, problem: Option<String>) -> Self {
        match (standing, problem) {
            (Some(standing), _) => Self::Up { end: standing.end, mtu: standing.rules.mtu, index: standing.index },
            (None, Some(problem)) => Self::Down { problem },
            (None, None) => Self::Unknown,
        }
    }

    pub(crate) fn index(&self) -> Option<u32> {
        if let Self::Up { index, .. } = self { Some(*index) } else { None }
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        if let Self::Down { problem } = self { Some(problem) } else { None }
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerState {
    pub name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<IpAddr>,
    /// Why packets to its endpoints are masqueraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masqueraded: Option<String>,
}

impl PeerState {
    pub(crate) fn of(peer: &Peer, reached: bool, own: &TunnelState) -> Self {
        let masqueraded = (!reached).then(|| match (&peer.problem, own.problem()) {
            (Some(problem), _) => problem.clone(),
            (None, Some(_)) => "this node has no tunnel".to_owned(),
            (None, None) => "the Node has no annotation headwater.dev/tunnel: Headwater does not run there".to_owned(),
        });
        let tunnel = peer.tunnel.map(|end| end.address).filter(|_| reached);
        Self { name: peer.name.clone(), tunnel, masqueraded }
    }
}

impl State {
    pub(crate) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            generation: None,
            applied_at: None,
            waiting_since: None,
            last_apply: Duration::ZERO,
            error: None,
            refused: Vec::new(),
            tunnel: TunnelState::Unknown,
            peers: Vec::new(),
        }
    }

    /// Whether the kernel has what it should.
    pub fn is_applied(&self) -> bool {
        self.generation.is_some() && self.error.is_none()
    }
}
