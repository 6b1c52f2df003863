//! The gateways that live, and what they last reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_kube_io::{FleetChange, GatewayLease};
use headwater_model::origin::ObjectKey;
use headwater_model::report::{GatewayReport, ListenerReport};
use tokio::time::{Duration, Instant};

/// Gateways that are listened to; with more than these, no status says that all of them serve.
const GATEWAYS: usize = 10_000;

/// Lives are told by Leases that change, and by the local clock: never by the times that gateways write.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// `None` until all were listed once.
    gateways: Option<BTreeMap<Arc<str>, Gateway>>,
}

#[derive(Debug)]
struct Gateway {
    version: String,
    /// When it last changed.
    seen: Instant,
    duration: Duration,
    live: bool,
    text: Option<Arc<str>>,
    report: Option<GatewayReport>,
}

impl Fleet {
    /// Takes a change in. Returns whether a live gateway came, went, or reports something else.
    pub(crate) fn apply(&mut self, change: FleetChange, now: Instant) -> bool {
        match change {
            FleetChange::All(leases) => {
                let mut changed = self.gateways.is_none();
                let gateways = self.gateways.get_or_insert_default();
                let before = gateways.len();
                gateways.retain(|name, _| leases.iter().any(|lease| lease.name == *name));
                changed |= gateways.len() != before;
                for lease in leases {
                    changed |= set(gateways, lease, now);
                }
                changed
            }
            FleetChange::Set(lease) => set(self.gateways.get_or_insert_default(), lease, now),
            FleetChange::Removed(name) => {
                self.gateways.get_or_insert_default().remove(&name).is_some_and(|gateway| gateway.live)
            }
        }
    }

    /// Whether a gateway has fallen silent since.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for (name, gateway) in self.gateways.iter_mut().flatten() {
            if gateway.live && now >= gateway.seen + gateway.duration {
                tracing::warn!(gateway = &**name, "gateway shows no sign of life");
                gateway.live = false;
                changed = true;
            }
        }
        changed
    }

    /// When to call [`expire`](Self::expire) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let live = self.gateways.iter().flatten().filter(|(_, gateway)| gateway.live);
        live.map(|(_, gateway)| gateway.seen + gateway.duration).min()
    }

    /// Name and report of each that lives and reports; `None` before they were listed.
    pub(crate) fn live(&self) -> Option<impl Iterator<Item = (&str, &GatewayReport)>> {
        let gateways = self.gateways.as_ref()?;
        Some(gateways.iter().filter_map(|(name, gateway)| {
            gateway.report.as_ref().filter(|_| gateway.live).map(|report| (&**name, report))
        }))
    }

    #[cfg(test)]
    pub(crate) fn of(reports: impl IntoIterator<Item = GatewayReport>, now: Instant) -> Self {
        let mut fleet = Self::default();
        let leases = reports.into_iter().enumerate().map(|(n, report)| GatewayLease {
            name: format!("gateway-{n}").into(),
            version: "1".to_owned(),
            duration: Duration::from_secs(40),
            report: Some(report.encode().into()),
        });
        fleet.apply(FleetChange::All(leases.collect()), now);
        fleet
    }
}

/// Listeners of a report that belong to an object.
pub(crate) fn listeners_of<'a>(
    report: &'a GatewayReport,
    key: &'a ObjectKey,
) -> impl Iterator<Item = &'a ListenerReport> {
    report.listeners.iter().filter(move |listener| listener.origin.key == *key)
}

fn set(gateways: &mut BTreeMap<Arc<str>, Gateway>, lease: GatewayLease, now: Instant) -> bool {
    let GatewayLease { name, version, duration, report: text } = lease;
    if let Some(gateway) = gateways.get_mut(&name) {
        if gateway.version == version {
            return false;
        }
        let (was_live, same) = (std::mem::replace(&mut gateway.live, true), gateway.text == text);
        (gateway.version, gateway.seen, gateway.duration) = (version, now, duration);
        if !same {
            gateway.report = read(&name, text.as_deref());
            gateway.text = text;
        }
        return !was_live || !same;
    }
    if gateways.len() >= GATEWAYS {
        tracing::warn!(gateway = &*name, limit = GATEWAYS, "too many gateways; its report is not read");
        return false;
    }
    let report = read(&name, text.as_deref());
    gateways.insert(name, Gateway { version, seen: now, duration, live: true, text, report });
    true
}

fn read(name: &str, text: Option<&str>) -> Option<GatewayReport> {
    GatewayReport::decode(text?)
        .inspect_err(|error| {
            tracing::warn!(gateway = name, error = error as &dyn std::error::Error, "gateway not understood")
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, version: &str, report: &str) -> GatewayLease {
        GatewayLease {
            name: name.into(),
            version: version.to_owned(),
            duration: Duration::from_secs(40),
            report: Some(report.into()),
        }
    }

    fn names(fleet: &Fleet) -> Vec<&str> {
        fleet.live().unwrap().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_gateway_lives_as_long_as_its_lease_changes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut fleet = Fleet::default();
        assert!(fleet.live().is_none());
        assert!(fleet.apply(FleetChange::All(vec![lease("a", "1", "{}"), lease("b", "2", "{}")]), start));
        assert!(!fleet.apply(FleetChange::Set(lease("a", "3", "{}")), at(30)), "a sign of life alone changes nothing");
        assert_eq!(fleet.deadline(), Some(at(40)));
        assert!(!fleet.expire(at(39)));
        assert!(fleet.expire(at(40)));
        assert_eq!(names(&fleet), ["a"]);
        // The same version again, as a relist tells it, is no sign of life.
        assert!(!fleet.apply(FleetChange::All(vec![lease("a", "3", "{}"), lease("b", "2", "{}")]), at(50)));
        assert_eq!(fleet.deadline(), Some(at(70)));
        assert!(fleet.apply(FleetChange::Set(lease("b", "9", "{}")), at(60)));
        assert_eq!(names(&fleet), ["a", "b"]);
        assert!(fleet.apply(FleetChange::Removed("a".into()), at(61)));
        assert!(fleet.apply(FleetChange::All(Vec::new()), at(62)));
        assert_eq!(fleet.deadline(), None);
    }

    #[test]
    fn a_report_that_cannot_be_read_counts_as_none() {
        let start = Instant::now();
        let mut fleet = Fleet::default();
        fleet.apply(FleetChange::Set(lease("a", "1", "{}")), start);
        assert!(fleet.apply(FleetChange::Set(lease("a", "2", "not JSON")), start));
        assert!(names(&fleet).is_empty());
    }
}
