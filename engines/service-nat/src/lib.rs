//! Services, EndpointSlices and a node -> which packets to which address go to which endpoints.
//!
//! The semantics are those of kube-proxy, and one more: under `externalTrafficPolicy: Cluster` a packet may go to its
//! endpoint's node with the client as its source. Pure and total: the same objects give the same snapshot, whatever is
//! wrong with one Service yields findings and leaves the others alone. [`ServiceNat::apply`] costs what changed.
//!
//! ```text
//!  Service        -> intent (addresses, ports, policies)  -> claims (who owns an address or NodePort) -> rules, conflicts
//!  EndpointSlices -> members -> endpoints of each port with slots, Cluster and Local set             -> rules
//! ```

mod address;
mod claims;
mod conflict;
mod conntrack;
mod decide;
mod endpoints;
mod engine;
mod health;
mod intent;
mod node_table;
mod nodes;
mod options;
mod rules;
mod slots;

pub use conflict::Conflicts;
pub use conntrack::ServingEndpoints;
pub use decide::{Decision, Dropped, Packet, Place, Refused, decide};
pub use engine::{ServiceNat, Update};
pub use health::{HealthAnswer, health_answer};
pub use node_table::node_table;
pub use nodes::{MAX_PEERS, facts, is_eligible, peers};
pub use options::{NodeFacts, NodePortAddresses, Options, SOURCE_IP_ANNOTATION};
pub use rules::PortKey;
