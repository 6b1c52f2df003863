//! What stands about an object besides what its user wrote: read by who writes its status back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The server's side of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub uid: Arc<str>,
    /// `metadata.generation`; 0 for kinds without.
    pub generation: i64,
    /// `status.loadBalancer.ingress`.
    pub addresses: Vec<PublishedAddress>,
    /// TCP ports that stand beside one of `addresses`; those without are absent.
    pub ports: BTreeMap<PublishedAddress, BTreeSet<u16>>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// Whether a field of the status is owned by Headwater's field manager (`metadata.managedFields`).
    pub status_is_ours: bool,
}

/// An address at which clients reach something: one entry of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedAddress {
    Ip(IpAddr),
    Hostname(String),
}

/// A condition of a status (`metav1.Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub condition_type: String,
    pub status: ConditionStatus,
    /// Generation of the spec that the condition is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// When `status` last changed; to the second.
    pub last_transition_time: jiff::Timestamp,
    /// One word, CamelCase.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}
