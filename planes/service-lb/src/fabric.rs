//! The nodes that are reached by the tunnel, as this node numbers them.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::nat::NodeTable;
use headwater_model::tunnel::{Peers, TunnelEnd};

use crate::mark;

/// Names of nodes to their numbers in marks. Numbers are this node's own; one that is free again goes to the next peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fabric {
    /// This node's name.
    own: Arc<str>,
    /// Whether this node can send by tunnel.
    ready: bool,
    peers: BTreeMap<Arc<str>, (u16, TunnelEnd)>,
}

impl Fabric {
    pub(crate) fn new(own: Arc<str>) -> Self {
        Self { own, ready: false, peers: BTreeMap::new() }
    }

    /// The peers of now; those that were there keep their numbers.
    pub(crate) fn with(&self, peers: &Peers, ready: bool) -> Self {
        let mut next = Self { own: self.own.clone(), ready, peers: BTreeMap::new() };
        let reached = || {
            let all = peers.by_name.iter().filter(|(name, _)| ***name != *self.own);
            all.filter_map(|(name, peer)| Some((name, peer.tunnel?)))
        };
        if !ready {
            return next;
        }
        let mut taken = vec![false; usize::from(mark::MOST_PEERS) + 1];
        for (name, end) in reached() {
            if let Some((index, _)) = self.peers.get(name) {
                taken[usize::from(*index)] = true;
                next.peers.insert(name.clone(), (*index, end));
            }
        }
        let mut free = (1..=mark::MOST_PEERS).filter(|index| !taken[usize::from(*index)]);
        for (name, end) in reached() {
            if !next.peers.contains_key(name) {
                let Some(index) = free.next() else { break };
                next.peers.insert(name.clone(), (index, end));
            }
        }
        next
    }

    pub(crate) fn ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = (&Arc<str>, u16, &TunnelEnd)> {
        self.peers.iter().map(|(name, (index, end))| (name, *index, end))
    }

    pub(crate) fn index(&self, node: &str) -> Option<u16> {
        self.peers.get(node).map(|(index, _)| *index)
    }

    /// Whether packets reach the node's endpoints with their source.
    pub(crate) fn reaches(&self, node: Option<&Arc<str>>) -> bool {
        node.is_some_and(|node| **node == *self.own || self.peers.contains_key(node))
    }

    pub(crate) fn is_own(&self, node: Option<&Arc<str>>) -> bool {
        node.is_some_and(|node| **node == *self.own)
    }

    /// What `places` says for each node of a table.
    pub(crate) fn values(&self, table: &NodeTable) -> Vec<u32> {
        let value = |node: Option<&Arc<str>>| match node.and_then(|node| self.index(node)) {
            Some(index) => mark::of_peer(index, mark::KIND_FORWARD),
            None if self.is_own(node) => mark::PLACE_HERE,
            None => mark::PLACE_FAR,
        };
        table.nodes.iter().map(|share| value(share.node.as_ref())).collect()
    }
}
