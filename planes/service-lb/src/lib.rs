//! Services in the kernel of a node: what kube-proxy does, and the client kept where it cannot.

mod agent;
mod conntrack {
    use headwater_model::nat::{NodeRules, ServiceRules};
    use std::sync::Arc;
    pub(crate) struct Sweeper;
    impl Sweeper {
        pub(crate) fn open() -> Result<Self, headwater_netlink::NetlinkError> { Ok(Self) }
        pub(crate) fn sweep(&mut self, _: &[(Option<Arc<ServiceRules>>, Option<Arc<ServiceRules>>)], _: &NodeRules) -> Result<usize, headwater_netlink::NetlinkError> { Ok(0) }
    }
}
mod elements;
mod fabric;
mod health {
    use crate::state::State;
    use std::sync::Arc;
    use tokio::sync::watch;
    pub(crate) async fn serve_checks(_: headwater_process::publish::Subscriber<headwater_model::nat::ServiceSnapshot>, _: watch::Receiver<Arc<State>>) {}
    pub(crate) async fn serve_healthz(_: std::net::SocketAddr, _: watch::Receiver<Arc<State>>) {}
}
mod mark;
mod metrics;
mod plan;
mod ruleset;
mod run;
mod sets;
mod state;
mod tables;
mod tunnel;

pub use agent::{KernelError, cleanup};
pub use run::{ANNOTATION, ServiceLb, Settings, Source, StartError};
pub use state::{PeerState, State, TunnelState};
