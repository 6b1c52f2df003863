//! The answer, as data: docs/explain.md describes it as JSON.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::origin::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::end::End;
use crate::question::Question;

/// What becomes of a [`Question`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub question: Question,
    /// Where the packet goes; `None`: the target's name is not known here.
    pub destination: Option<SocketAddr>,
    /// How the target's name became an address, and what holds for all answers.
    pub notes: Vec<String>,
    /// One for each group of nodes that do the same.
    pub answers: Vec<Answer>,
}

/// What happens where certain nodes receive the packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Nodes that receive the packet. Paths are those of the first; those of the others differ only in the receiving
    /// node's own name and addresses. Empty: no node has to do with it.
    pub nodes: Vec<Arc<str>>,
    /// Ways that the packet may take: more than one where an endpoint is chosen among several.
    pub paths: Vec<Path>,
}

/// One way of a packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// Compared with the sum over the answer's paths: how likely this one is.
    pub weight: u32,
    /// One of these is reached; empty where none is.
    pub endpoints: Vec<SocketAddr>,
    /// Where the endpoints are.
    pub endpoint_node: Option<Arc<str>>,
    /// One of these is reached through a gateway, which is the endpoint; `address:port` or `name:port`.
    pub backends: Vec<String>,
    pub hops: Vec<Hop>,
    /// The way of the first answer back to the client, as far as nodes have to do with it.
    pub reply: Vec<Leg>,
    /// `None` where nobody is reached.
    pub sees: Option<Sees>,
    pub verdict: Verdict,
    pub mends: Vec<Mend>,
    /// What else may happen.
    pub notes: Vec<String>,
}

/// What one machine does with the packet, or with the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    pub at: Place,
    pub action: Action,
    pub before: Flow,
    /// `None` where it ends here.
    pub after: Option<Flow>,
    /// The packet around it, in a tunnel.
    pub outer: Option<Flow>,
    pub causes: Vec<Cause>,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The kernel of a node.
    Node(Arc<str>),
    /// A load balancer before the cluster.
    LoadBalancer,
    /// A Headwater gateway.
    Gateway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Passed on unchanged.
    Route,
    /// Passed on unchanged, inside another packet.
    Tunnel,
    /// The destination becomes that of an endpoint.
    Translate,
    /// So does it, and the source becomes the node's.
    Masquerade,
    /// Ends the client's connection, and opens another.
    Proxy,
    /// Takes the connection.
    Accept,
    /// Answers itself.
    Answer,
    /// Answers that it does not want: TCP RST, ICMP, an HTTP status.
    Refuse,
    /// Says nothing.
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    pub source: End,
    pub destination: End,
}

/// A packet on its way back, as it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    pub at: Place,
    #[serde(flatten)]
    pub flow: Flow,
    /// The packet around it, in a tunnel.
    pub outer: Option<Flow>,
}

/// An object, setting or rule that is responsible.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// `None` for what is no object's.
    pub object: Option<ObjectKey>,
    /// Path of the field, or a flag; empty: the object as a whole.
    pub field: String,
    /// What it says; empty where that is no matter.
    pub value: String,
}

/// What the last one in the row learns of its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sees {
    /// Source address of the packets, or of the connection.
    pub peer: End,
    /// The client, where a gateway named it.
    pub client: Option<IpAddr>,
    /// From what the gateway knew it: docs/client-address.md.
    pub provenance: Option<String>,
    /// Headers that the gateway writes about the client.
    pub headers: Vec<(String, String)>,
    /// PROXY protocol header before the connection.
    pub proxy_header: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub kind: VerdictKind,
    /// Number of the hop that did it, from 1; `None` where none did.
    pub hop: Option<u32>,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// The source address is the client's to the end.
    Kept,
    /// The connection is the gateway's; a header or PROXY header names the client.
    KeptInHeader,
    /// Whoever is reached takes another for the client.
    Lost,
    /// Nobody answers.
    Dropped,
    /// Somebody answers no.
    Refused,
    /// A gateway or node answers by itself.
    Answered,
    /// No Service has to do with it: it goes on unchanged, out of sight.
    NotAService,
    /// The objects do not say.
    Unknown,
}

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mend {
    /// `None` for what is no object's.
    pub object: Option<ObjectKey>,
    /// Path of the field, a flag, or empty.
    pub field: String,
    pub change: String,
    pub cost: String,
}
