//! Routes to addresses of Services, told to routers by BGP, and BFD beside it.
//!
//! ```text
//!  Plan ──> Speaker ── Order ──> peer task: Session (engine) <── Io ── connection task <──> TCP
//!                                   ^   └── bytes ────────────────────────┘
//!                                   └── down ── watcher task: bfd::Session <── packets ── BFD ports, one of each for all
//! ```
//!
//! Each peer has a task, which owns its session; each of its connections has another. What one peer does, however
//! slowly, is nothing to the others. Channels are bounded: the engine makes no more bytes than a window, and a peer that
//! sends faster than its messages are checked waits in the kernel.

mod connection;
mod ends;
mod listener;
mod metrics;
mod objects;
mod peer;
mod plan;
mod run;
mod speaker;
mod status;
mod unnumbered;
mod watcher;

pub use headwater_bgp::Stop;
pub use metrics::metrics;
pub use objects::{Offer, PeerRefusal, PrefixRefusal, peer, routes};
pub use plan::{Memory, Planned, Routers, plan};
pub use run::{BgpAnnouncer, BgpState};
pub use speaker::{Peer, PeerPlan, PeerStatus, Plan, Routes, Speaker, Watch};
pub use status::{BgpReport, PeerReport};
pub use unnumbered::Heard;
