//! What the status of a GatewaySettings object shall say: `Accepted` and `Programmed`.

use headwater_model::observed::{Condition, ConditionStatus, Observed};
use headwater_model::origin::ObjectKey;
use jiff::Timestamp;

use super::condition::{Wanted, merge};
use super::fleet::{Fleet, listeners_of};

const PROGRAMMED: &str = "Programmed";

/// Faults that a message names one by one.
const NAMED: usize = 8;

/// The conditions to apply; `None` when the status says all of it already.
///
/// `faults`: errors that name the object.
pub(crate) fn plan_settings(
    key: &ObjectKey,
    faults: &[String],
    fleet: &Fleet,
    observed: &Observed,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let wanted = vec![accepted(faults), programmed(key, faults, fleet, observed)];
    merge(&observed.conditions, wanted, observed.generation, now)
}

fn accepted(faults: &[String]) -> Wanted {
    let (status, reason, message) = match faults {
        [] => (ConditionStatus::True, "Accepted", "the settings are obeyed".to_owned()),
        faults => (ConditionStatus::False, "Invalid", listed(faults)),
    };
    Wanted::Says { condition_type: "Accepted", status, reason, message }
}

/// True means that every gateway that lives listens as these settings say.
fn programmed(key: &ObjectKey, faults: &[String], fleet: &Fleet, observed: &Observed) -> Wanted {
    let says = |status, reason, message: String| Wanted::Says { condition_type: PROGRAMMED, status, reason, message };
    let known = observed.conditions.iter().any(|condition| condition.condition_type == PROGRAMMED);
    let unknown = || says(ConditionStatus::Unknown, "NoGateway", "no gateway reports".to_owned());
    let Some(live) = fleet.live() else {
        return if known { Wanted::AsItIs { condition_type: PROGRAMMED } } else { unknown() };
    };
    let (mut gateways, mut listeners, mut behind) = (0, 0, 0);
    let mut silent = Vec::new();
    for (name, report) in live {
        gateways += 1;
        for listener in listeners_of(report, key) {
            listeners += 1;
            behind += usize::from(listener.origin.generation < observed.generation);
            if let Some(error) = &listener.error {
                let (address, port) = (listener.address, listener.port);
                silent.push(format!("gateway {name}: listener {} on {address} port {port}: {error}", listener.name));
            }
        }
    }
    match () {
        () if gateways == 0 => unknown(),
        () if listeners == 0 && !faults.is_empty() => {
            says(ConditionStatus::False, "Invalid", "no gateway listens by these settings: see Accepted".to_owned())
        }
        () if listeners == 0 => says(
            ConditionStatus::False,
            "Pending",
            "no gateway listens by these settings; name them in spec.parameters of an IngressClass".to_owned(),
        ),
        // They are about to report: what was said about the spec before stands until then.
        () if behind > 0 && faults.is_empty() && known => Wanted::AsItIs { condition_type: PROGRAMMED },
        () if !silent.is_empty() => says(ConditionStatus::False, "ListenerFault", listed(&silent)),
        () => says(ConditionStatus::True, "Programmed", "every gateway listens by these settings".to_owned()),
    }
}

fn listed(texts: &[String]) -> String {
    let mut message = texts.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if texts.len() > NAMED {
        message.push_str(&format!("; and {} more", texts.len() - NAMED));
    }
    message
}

#[cfg(test)]
mod tests {
    use headwater_model::origin::{Kind, Origin};
    use headwater_model::report::{GatewayReport, ListenerReport};
    use tokio::time::Instant;

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new(Kind::GatewaySettings, "headwater", "edge")
    }

    fn gateway(generation: i64, error: Option<&str>) -> GatewayReport {
        let listener = ListenerReport {
            name: "http".to_owned(),
            origin: Origin { key: key(), generation },
            address: "0.0.0.0".parse().unwrap(),
            port: 80,
            error: error.map(str::to_owned),
        };
        GatewayReport::new("1.0", [listener], [])
    }

    fn fleet(reports: impl IntoIterator<Item = GatewayReport>) -> Fleet {
        Fleet::of(reports, Instant::now())
    }

    fn plan(faults: &[&str], fleet: &Fleet, observed: &Observed) -> Option<Vec<(ConditionStatus, String, String)>> {
        let faults: Vec<String> = faults.iter().map(|&fault| fault.to_owned()).collect();
        let conditions = plan_settings(&key(), &faults, fleet, observed, Timestamp::UNIX_EPOCH)?;
        Some(conditions.into_iter().map(|it| (it.status, it.reason, it.message)).collect())
    }

    #[test]
    fn programmed_means_that_every_gateway_listens() {
        use ConditionStatus::{False, True, Unknown};
        let elsewhere = || GatewayReport::new("1.0", [], []);
        for (fleet, status, reason) in [
            (Fleet::default(), Unknown, "NoGateway"),
            (fleet([]), Unknown, "NoGateway"),
            (fleet([gateway(2, None), gateway(2, None)]), True, "Programmed"),
            (fleet([gateway(2, None), gateway(2, Some("address in use"))]), False, "ListenerFault"),
            (fleet([elsewhere()]), False, "Pending"),
            // One serves other classes.
            (fleet([elsewhere(), gateway(2, None)]), True, "Programmed"),
        ] {
            let planned = plan(&[], &fleet, &Observed { generation: 2, ..Observed::default() }).unwrap();
            assert_eq!((planned[0].0, &*planned[0].1), (True, "Accepted"));
            assert_eq!((planned[1].0, &*planned[1].1), (status, reason), "{fleet:?}");
        }
    }

    #[test]
    fn a_listener_that_does_not_listen_is_named_with_its_gateway_and_cause() {
        let planned = plan(&[], &fleet([gateway(2, Some("address in use"))]), &Observed::default()).unwrap();
        assert_eq!(planned[1].2, "gateway gateway-0: listener http on 0.0.0.0 port 80: address in use");
    }

    #[test]
    fn an_error_about_the_object_refuses_it_in_its_words() {
        let faults: Vec<String> = (0..10).map(|n| format!("fault {n}")).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let planned = plan(&faults, &fleet([GatewayReport::default()]), &Observed::default()).unwrap();
        assert_eq!((planned[0].0, &*planned[0].1), (ConditionStatus::False, "Invalid"));
        assert!(planned[0].2.starts_with("fault 0; fault 1;") && planned[0].2.ends_with("fault 7; and 2 more"));
        assert_eq!((planned[1].0, &*planned[1].1), (ConditionStatus::False, "Invalid"));
    }

    #[test]
    fn what_is_programmed_stays_until_the_gateways_have_caught_up_or_were_listed() {
        let conditions =
            |fleet: &Fleet, observed: &Observed| plan_settings(&key(), &[], fleet, observed, Timestamp::UNIX_EPOCH);
        let mut observed = Observed { generation: 1, ..Observed::default() };
        observed.conditions = conditions(&fleet([gateway(1, None)]), &observed).unwrap();
        assert_eq!(conditions(&fleet([gateway(1, None)]), &observed), None);
        assert_eq!(conditions(&Fleet::default(), &observed), None);
        observed.generation = 2;
        for not_yet in [&fleet([gateway(1, None)]), &Fleet::default()] {
            let planned = conditions(not_yet, &observed).unwrap();
            let generations: Vec<i64> = planned.iter().map(|condition| condition.observed_generation).collect();
            assert_eq!(generations, [2, 1]);
        }
        let planned = conditions(&fleet([gateway(2, None)]), &observed).unwrap();
        assert!(planned.iter().all(|condition| condition.observed_generation == 2));
    }
}
