//! What the plane tells of itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::announce::Silence;
use headwater_model::origin::NamespacedName;
use serde::Serialize;

/// How it stands with everything that may be announced on layer 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct L2State {
    /// Whether who is alive is known, so that nodes can be elected.
    pub is_ready: bool,
    /// Nodes that are alive, this one among them.
    pub members: Vec<Arc<str>>,
    pub vips: Vec<VipState>,
    /// Times that somebody outside the cluster said to have an address that this node announces.
    pub contests: u64,
}

impl L2State {
    /// Addresses that this node is elected for and does not answer for, because somebody else has them.
    pub fn conflicts(&self) -> BTreeSet<IpAddr> {
        self.vips.iter().filter(|vip| vip.problem.is_some()).map(|vip| vip.address).collect()
    }
}

/// How it stands with one address of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VipState {
    pub address: IpAddr,
    pub service: NamespacedName,
    pub pool: Arc<str>,
    /// The node that is elected.
    pub announcer: Option<Arc<str>>,
    /// Why this node does not announce it, as far as objects and elections go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// Whether this node answers for it.
    pub is_announced: bool,
    /// Why this node does not answer for it though it is elected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
