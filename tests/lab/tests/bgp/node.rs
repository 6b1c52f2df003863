//! The speaker in a host of the lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use headwater_announcer::bgp::{Peer, PeerPlan, PeerStatus, Plan, Routes, Speaker, Watch};
use headwater_bgp::{
    Asn, Community, Families, LargeCommunity, Password, PeerAsn, PeerConfig, Route, State, Stop, Transport,
};
use headwater_testkit::lab::Host;
use headwater_testkit::wait;
use tokio::runtime::Runtime;

/// Routers answer within seconds, but FRR may take a minute before it speaks again to a peer that BFD lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const PEER: &str = "router";

/// A speaker, and a runtime whose threads are in its host.
pub(crate) struct Node {
    host: Host,
    runtime: Runtime,
    speaker: Option<Speaker>,
    pub(crate) plan: Plan,
}

impl Node {
    pub(crate) fn start(host: &Host, listen: Option<SocketAddr>) -> Self {
        let (runtime, speaker) = host.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let speaker = runtime.block_on(async { Speaker::new(listen, 42).unwrap() });
            (runtime, speaker)
        });
        Self { host: host.clone(), runtime, speaker: Some(speaker), plan: Plan::default() }
    }

    pub(crate) fn apply(&mut self) {
        let speaker = self.speaker.as_mut().unwrap();
        let (runtime, plan) = (&self.runtime, self.plan.clone());
        self.host.run(|| runtime.block_on(async { speaker.apply(plan) }));
    }

    /// Adds or changes a peer.
    pub(crate) fn peer(&mut self, name: &str, peer: Peer) {
        let routes = self.plan.peers.get(name).map(|known| known.routes.clone()).unwrap_or_default();
        self.plan.peers.insert(name.into(), PeerPlan { peer, routes });
        self.apply();
    }

    /// What all peers shall be told.
    pub(crate) fn announce(&mut self, routes: Routes) {
        let routes = Arc::new(routes);
        for peer in self.plan.peers.values_mut() {
            peer.routes = routes.clone();
        }
        self.apply();
    }

    pub(crate) fn status(&self, name: &str) -> PeerStatus {
        self.speaker.as_ref().unwrap().status().remove(name).unwrap()
    }

    pub(crate) fn wait_for(&self, name: &str, state: State) -> Result<()> {
        wait::until(PATIENCE, || self.status(name).session.state == state)
    }

    pub(crate) fn stop(&mut self, stop: Stop) {
        let speaker = self.speaker.take().unwrap();
        let runtime = &self.runtime;
        self.host.run(|| runtime.block_on(speaker.stop(stop)));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let (runtime, speaker) = (&self.runtime, self.speaker.take());
        self.host.run(|| runtime.block_on(async { drop(speaker) }));
    }
}

/// A peer at an address; 64512 here, 64513 there.
pub(crate) fn peer(address: &str) -> Peer {
    let session = PeerConfig {
        local_asn: Asn(64512),
        peer_asn: PeerAsn::Exactly(Asn(64513)),
        router_id: Ipv4Addr::new(10, 0, 0, 2),
        families: Families::BOTH,
        hold: 90,
        keepalive: None,
        connect_retry: Some(Duration::from_secs(1)),
        graceful_restart: None,
        transport: Transport {
            address: address.parse::<IpAddr>().unwrap(),
            scope: 0,
            port: 179,
            source: None,
            password: None,
            ttl: Some(1),
        },
    };
    Peer { session, watch: None }
}

/// In the same autonomous system.
pub(crate) fn internal(mut peer: Peer) -> Peer {
    peer.session.local_asn = Asn(64513);
    peer.session.transport.ttl = None;
    peer
}

pub(crate) fn with_password(mut peer: Peer, password: &str) -> Peer {
    peer.session.transport.password = Some(Password(password.to_owned()));
    peer
}

pub(crate) fn watched(mut peer: Peer, echo: Option<Duration>, multihop: bool) -> Peer {
    // BIRD sends packets over several hops with the system's time to live, 64.
    let minimum_ttl = if multihop { 60 } else { 255 };
    let profile = headwater_bfd::Profile { echo_interval: echo, minimum_ttl, ..headwater_bfd::Profile::default() };
    peer.watch = Some(Watch { profile, multihop });
    peer
}

pub(crate) fn route() -> Arc<Route> {
    let communities = [Community(64512 << 16 | 7), Community(0xffff_ff01)];
    Arc::new(Route::new(Some(250), communities, [LargeCommunity([64512, 1, 2])]).unwrap())
}

pub(crate) fn routes(prefixes: &[&str], route: &Arc<Route>) -> Routes {
    prefixes.iter().map(|prefix| (prefix.parse().unwrap(), route.clone())).collect()
}

/// Holds for all of the time.
pub(crate) fn stays(time: Duration, condition: impl Fn() -> bool) -> Result<()> {
    ensure!(wait::until(time, || !condition()).is_err(), "what should stay has changed");
    Ok(())
}
