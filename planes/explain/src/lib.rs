//! What every hop of a request sees of its client, and why.
//!
//! Pure: [`explain`] walks what the planes would be given, the service proxy's snapshot of each node and the gateway's
//! snapshot, and says what they would do. Nothing is sent.
//!
//! ```text
//!  Cluster, Options -> World ─┐
//!                             ├─> explain -> Explanation ─┬─> JSON (docs/explain.md)
//!  client, target -> Question ┘                           └─> text (render)
//! ```

mod answer;
mod end;
mod endpoints;
mod gateway;
mod group;
mod hops;
mod mend;
mod name;
mod question;
mod refusal;
mod text;
mod walk;
mod world;

pub use answer::{Action, Answer, Cause, Explanation, Flow, Hop, Leg, Mend, Path, Place, Sees, Verdict, VerdictKind};
pub use end::{End, InvalidEnd};
pub use question::{Host, Question, Scheme, Source, Target, TargetError};
pub use text::render;
pub use walk::explain;
pub use world::{Interfaces, Options, World};
