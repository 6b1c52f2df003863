//! How an ALB2 is, by what is there. Pure.

use std::collections::BTreeMap;

use headwater_model::alb::Alb2;
use serde_json::{Map, Value, json};

use crate::objects::{Installation, overwritten_image};

/// What was seen of an ALB2's objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// The Deployment as the API server has it; `None`: it has none.
    pub deployment: Option<Value>,
    /// The Service of type LoadBalancer; `None`: there is none.
    pub balancer: Option<Value>,
    /// Why ports are not served, by `tcp-80` and the like.
    pub conflicts: BTreeMap<String, String>,
    /// What could not be done, worst first.
    pub problems: Vec<String>,
}

/// `status` of an ALB2. Times are `now` (RFC 3339, seconds since 1970), and count only when something else changed: see
/// [`without_times`].
pub fn status(alb: &Alb2, seen: &Seen, installation: &Installation, now: (&str, i64)) -> Value {
    let effective = alb.effective();
    let deploy = deployed(seen.deployment.as_ref());
    let wants_balancer = effective.load_balancer.is_some();
    let addresses = seen.balancer.as_ref().filter(|_| wants_balancer).map(addresses).unwrap_or_default();
    let has_address = !wants_balancer || addresses.iter().any(|list| !list.is_empty());
    let (state, reason) = if let Some(problem) = seen.problems.first() {
        ("Warning", problem.clone())
    } else if deploy.0 != "Running" {
        (deploy.0, deploy.1.clone())
    } else if let Some((port, why)) = seen.conflicts.iter().next() {
        let more = seen.conflicts.len() - 1;
        let others = if more == 0 { String::new() } else { format!(", and {more} more") };
        ("Warning", format!("port {port} is not served: {why}{others}"))
    } else if !has_address {
        ("Progressing", "wait lb svc ready".to_owned())
    } else {
        ("Running", String::new())
    };
    let ports: Map<String, Value> = seen
        .conflicts
        .iter()
        .map(|(port, why)| (port.clone(), json!({ "conflict": true, "msg": why, "probeTimeStr": now.0 })))
        .collect();
    let [ipv4, ipv6, host] = addresses;
    let patch = overwritten_image(&effective, installation)
        .map_or_else(|| "not patch".to_owned(), |image| format!("patched,alb: {image}"));
    json!({
        "state": state, "reason": reason, "probeTime": now.1, "probeTimeStr": now.0,
        "detail": {
            "deploy": { "state": deploy.0, "reason": deploy.1, "probeTimeStr": now.0 },
            "alb": { "portstatus": ports },
            "address": {
                "ok": has_address, "msg": if has_address { "" } else { "wait lb svc ready" },
                "ipv4": ipv4, "ipv6": ipv6, "host": host,
            },
            "version": { "version": installation.version, "imagePatch": patch },
        },
    })
}

/// The same status without times: what is compared, so that time alone is never written.
pub(crate) fn without_times(status: &Value) -> Value {
    match status {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !name.starts_with("probeTime"));
            Value::Object(kept.map(|(name, value)| (name.clone(), without_times(value))).collect())
        }
        other => other.clone(),
    }
}

/// State and reason of the pods.
fn deployed(deployment: Option<&Value>) -> (&'static str, String) {
    let Some(deployment) = deployment else { return ("Pending", "wait workload creating".to_owned()) };
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let wanted = number("/spec/replicas");
    let (updated, ready) = (number("/status/updatedReplicas"), number("/status/readyReplicas"));
    let is_observed = number("/status/observedGeneration") >= number("/metadata/generation");
    if is_observed && updated >= wanted && ready >= wanted && number("/status/replicas") <= wanted {
        return ("Running", String::new());
    }
    ("Progressing", format!("wait workload ready spec {wanted} status {updated} {ready}"))
}

/// IPv4, IPv6 and names of hosts that a Service was given.
fn addresses(service: &Value) -> [Vec<String>; 3] {
    let mut found: [Vec<String>; 3] = Default::default();
    let given = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    for entry in given.into_iter().flatten() {
        let text = |field: &str| entry.get(field).and_then(Value::as_str);
        if let Some(ip) = text("ip") {
            found[usize::from(ip.contains(':'))].push(ip.to_owned());
        }
        found[2].extend(text("hostname").map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::{alb, installation};

    fn deployment(wanted: i64, updated: i64, ready: i64) -> Value {
        json!({
            "metadata": { "generation": 2 }, "spec": { "replicas": wanted },
            "status": { "observedGeneration": 2, "updatedReplicas": updated, "readyReplicas": ready, "replicas": updated },
        })
    }

    fn state(alb: &Alb2, seen: &Seen) -> (String, String) {
        let status = status(alb, seen, &installation(), ("2026-01-02T03:04:05Z", 1_767_323_045));
        let text = |field: &str| status[field].as_str().unwrap().to_owned();
        (text("state"), text("reason"))
    }

    #[test]
    fn an_alb_runs_once_its_pods_ports_and_addresses_are_there() {
        let host = alb(json!({ "replicas": 2 }));
        let container = alb(json!({ "replicas": 2, "networkMode": "container" }));
        let ready = Seen { deployment: Some(deployment(2, 2, 2)), ..Seen::default() };
        let busy = BTreeMap::from([("tcp-80".to_owned(), "address in use".to_owned())]);
        let service = |ingress: Value| Some(json!({ "status": { "loadBalancer": { "ingress": ingress } } }));
        for (alb, seen, wanted) in [
            (&host, Seen::default(), ("Pending", "wait workload creating")),
            (
                &host,
                Seen { deployment: Some(deployment(2, 2, 1)), ..Seen::default() },
                ("Progressing", "wait workload ready spec 2 status 2 1"),
            ),
            (&host, ready.clone(), ("Running", "")),
            (
                &host,
                Seen { conflicts: busy, ..ready.clone() },
                ("Warning", "port tcp-80 is not served: address in use"),
            ),
            (&host, Seen { problems: vec!["no".to_owned()], ..ready.clone() }, ("Warning", "no")),
            (&container, ready.clone(), ("Progressing", "wait lb svc ready")),
            (&container, Seen { balancer: service(json!([])), ..ready.clone() }, ("Progressing", "wait lb svc ready")),
            (&container, Seen { balancer: service(json!([{ "ip": "192.0.2.1" }])), ..ready.clone() }, ("Running", "")),
        ] {
            assert_eq!(state(alb, &seen), (wanted.0.to_owned(), wanted.1.to_owned()), "{seen:?}");
        }
    }

    #[test]
    fn an_update_under_way_is_progress() {
        let mut old = deployment(2, 2, 2);
        old["status"]["observedGeneration"] = 1.into();
        let mut surplus = deployment(2, 2, 2);
        surplus["status"]["replicas"] = 3.into();
        for deployment in [old, surplus, deployment(2, 1, 2)] {
            assert_eq!(deployed(Some(&deployment)).0, "Progressing", "{deployment}");
        }
    }

    #[test]
    fn addresses_stand_by_family_and_time_is_no_change() {
        let service = json!({ "status": { "loadBalancer": { "ingress": [
            { "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }, { "hostname": "lb.example.com" },
        ] } } });
        let seen = Seen { deployment: Some(deployment(1, 1, 1)), balancer: Some(service), ..Seen::default() };
        let alb = alb(json!({ "networkMode": "container", "replicas": 1 }));
        let [early, late] = [("2026-01-01T00:00:00Z", 1), ("2026-01-01T00:00:09Z", 10)]
            .map(|now| status(&alb, &seen, &installation(), now));
        assert_eq!(
            early["detail"]["address"],
            json!({ "ok": true, "msg": "", "ipv4": ["192.0.2.1"], "ipv6": ["2001:db8::1"], "host": ["lb.example.com"] })
        );
        assert_ne!(early, late);
        assert_eq!(without_times(&early), without_times(&late));
    }
}
