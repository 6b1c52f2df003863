//! Which nodes are alive, by a Lease of each, and what they tell in it.
//!
//! A node renews its Lease every [`RENEW`](super::RENEW) while some address might be announced by it, and takes it back
//! when it stops. Whoever sees it go elects anew at once; a node that falls silent is given up by the rules of
//! [`Members`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_kube_io::{ApiServer, FleetChange, FleetWatch, GatewayLease, Heartbeat, HeartbeatSettings, LeaseName};
use headwater_l2::{Mac, Members};
use serde::{Deserialize, Serialize};

use super::config::{PATIENCE, RENEW};

/// Label of the Leases.
const LABEL: (&str, &str) = ("headwater.dev/role", "l2");

/// What the names of the Leases begin with.
const PREFIX: &str = "l2-";

/// Refused addresses that are told at most: more would not fit.
const MOST_REFUSED: usize = 64;

/// A Lease that is not needed is kept this long, in case it is needed again.
const LINGER: Duration = Duration::from_secs(60);

/// Where nodes meet.
#[derive(Clone)]
pub struct Membership {
    pub server: ApiServer,
    /// Namespace of the Leases.
    pub namespace: String,
    /// Name and `metadata.uid` of the pod that this process runs in, which then owns the Lease.
    pub pod: Option<(String, String)>,
}

/// What a node tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    /// Hardware addresses of its interfaces.
    #[serde(default)]
    pub(super) macs: BTreeSet<String>,
    /// Addresses that it does not announce, though it is elected, because somebody else has them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) refused: BTreeSet<IpAddr>,
}

/// The nodes, as seen from this one.
pub(super) struct Circle {
    members: Members,
    cards: BTreeMap<Arc<str>, Card>,
    net: Option<Net>,
    pub(super) card: Card,
}

struct Net {
    membership: Membership,
    node: Arc<str>,
    fleet: FleetWatch,
    listed: bool,
    heartbeat: Option<Heartbeat>,
    /// Since when the Lease is not needed.
    idle: Option<Instant>,
}

impl Circle {
    /// Without `membership` this node is alone, and others count as alive: they cannot be seen.
    pub(super) fn new(node: &Arc<str>, membership: Option<Membership>) -> Self {
        let net = membership.map(|membership| {
            let fleet = membership.server.watch_gateways(&membership.namespace, &format!("{}={}", LABEL.0, LABEL.1));
            Net { membership, node: node.clone(), fleet, listed: false, heartbeat: None, idle: None }
        });
        Self { members: Members::new(node.clone()), cards: BTreeMap::new(), net, card: Card::default() }
    }

    /// Whether who is alive is known.
    pub(super) fn is_ready(&self) -> bool {
        self.net.as_ref().is_none_or(|net| net.listed)
    }

    pub(super) fn is_alive(&self, node: &str) -> bool {
        self.net.is_none() || self.members.is_alive(node)
    }

    pub(super) fn alive(&self) -> Vec<Arc<str>> {
        self.members.alive()
    }

    /// Whether the others know that this node is alive.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        self.net.as_ref().is_none_or(|net| net.heartbeat.is_none() || self.members.is_known(now, PATIENCE))
    }

    /// Hardware addresses of the other nodes.
    pub(super) fn macs(&self) -> Vec<Mac> {
        self.cards.values().flat_map(|card| &card.macs).filter_map(|text| text.parse().ok()).collect()
    }

    /// Whether a node told that somebody else has an address.
    pub(super) fn refuses(&self, node: &str, address: IpAddr) -> bool {
        self.cards.get(node).is_some_and(|card| card.refused.contains(&address))
    }

    /// The next thing that changes who is alive or what they tell; never, without others. Cancel safe.
    pub(super) async fn next(&mut self) -> FleetChange {
        match &mut self.net {
            Some(net) => net.fleet.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what [`Self::next`] brought; whether who is alive, or what they tell, is another.
    pub(super) fn take(&mut self, now: Instant, change: FleetChange) -> bool {
        match change {
            FleetChange::All(leases) => {
                let names: BTreeSet<Arc<str>> = leases.iter().filter_map(name).collect();
                self.cards.retain(|node, _| names.contains(node));
                let mut changed = self.members.keep(|node| names.contains(node));
                for lease in leases {
                    changed |= self.hear(now, &lease);
                }
                if let Some(net) = &mut self.net {
                    changed |= !std::mem::replace(&mut net.listed, true);
                }
                changed
            }
            FleetChange::Set(lease) => self.hear(now, &lease),
            FleetChange::Removed(lease) => {
                let Some(node) = lease.strip_prefix(PREFIX) else { return false };
                self.cards.remove(node);
                self.members.leave(node)
            }
        }
    }

    fn hear(&mut self, now: Instant, lease: &GatewayLease) -> bool {
        let Some(node) = name(lease) else { return false };
        let mut changed = self.members.hear(now, &node, &lease.version, lease.duration);
        if self.net.as_ref().is_some_and(|net| net.node == node) {
            return changed;
        }
        // What cannot be read is of another version, and tells nothing.
        let card = lease.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if self.cards.get(&node) != Some(&card) {
            self.cards.insert(node, card);
            changed = true;
        }
        changed
    }

    /// Keeps a Lease while this node may announce something, with what it tells.
    pub(super) fn stand(&mut self, now: Instant, is_candidate: bool) {
        let Some(net) = &mut self.net else { return };
        if is_candidate {
            net.idle = None;
            if net.heartbeat.is_none() {
                net.heartbeat = Some(Heartbeat::start(&net.membership.server, settings(net)));
            }
        } else if net.heartbeat.is_some()
            && now.saturating_duration_since(*net.idle.get_or_insert(now)) >= LINGER
            && let Some(heartbeat) = net.heartbeat.take()
        {
            tokio::spawn(heartbeat.stop());
        }
        if let Some(heartbeat) = &net.heartbeat {
            let card = Card {
                refused: self.card.refused.iter().take(MOST_REFUSED).copied().collect(),
                macs: self.card.macs.clone(),
            };
            heartbeat.report(&serde_json::to_string(&card).expect("texts are JSON"));
        }
    }

    /// Takes the Lease back, so that others elect at once.
    pub(super) async fn leave(mut self) {
        if let Some(heartbeat) = self.net.as_mut().and_then(|net| net.heartbeat.take()) {
            heartbeat.stop().await;
        }
    }
}

/// The node of a Lease.
fn name(lease: &GatewayLease) -> Option<Arc<str>> {
    lease.name.strip_prefix(PREFIX).map(Arc::from)
}

fn settings(net: &Net) -> HeartbeatSettings {
    let (holder, pod_uid) = match &net.membership.pod {
        Some((name, uid)) => (name.clone(), Some(uid.clone())),
        None => (net.node.to_string(), None),
    };
    HeartbeatSettings {
        lease: LeaseName { namespace: net.membership.namespace.clone(), name: format!("{PREFIX}{}", net.node) },
        holder,
        labels: BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]),
        pod_uid,
        duration: PATIENCE,
        renew: RENEW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_survives_the_lease_and_an_unreadable_one_tells_nothing() {
        let card =
            Card { macs: ["02:00:00:00:00:01".to_owned()].into(), refused: ["192.0.2.7".parse().unwrap()].into() };
        let node: Arc<str> = "a".into();
        let mut circle = Circle::new(&node, None);
        let lease = |version: &str, report: &str| GatewayLease {
            name: "l2-b".into(),
            version: version.to_owned(),
            duration: PATIENCE,
            report: Some(report.into()),
        };
        let now = Instant::now();
        assert!(circle.take(now, FleetChange::Set(lease("1", &serde_json::to_string(&card).unwrap()))));
        assert_eq!(circle.macs(), [Mac([2, 0, 0, 0, 0, 1])]);
        assert!(circle.refuses("b", "192.0.2.7".parse().unwrap()));
        assert!(circle.take(now, FleetChange::Set(lease("2", "{"))));
        assert!(circle.macs().is_empty() && !circle.refuses("b", "192.0.2.7".parse().unwrap()));
        assert!(!circle.take(now, FleetChange::Removed("gateway-1".into())));
        assert!(circle.take(now, FleetChange::Removed("l2-b".into())));
        assert_eq!(circle.alive(), ["a".into()]);
    }
}
