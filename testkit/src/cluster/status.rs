//! What a kubelet says of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Time as the API writes it.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What one container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: String },
    Terminated { code: i32, since: String, until: String },
}

/// A container as its status tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerReport {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) state: State,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) restarts: u32,
}

/// A pod as its status tells it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) host_ips: Vec<String>,
    pub(super) pod_ips: Vec<String>,
    pub(super) since: String,
    pub(super) containers: Vec<ContainerReport>,
    /// Whether what has ended is started again (restartPolicy).
    pub(super) restart: Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(super) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    pub(super) fn applies(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

impl Report {
    pub(super) fn phase(&self) -> &'static str {
        let ended = |container: &ContainerReport| match container.state {
            State::Terminated { code, .. } if !self.restart.applies(code) => Some(code),
            _ => None,
        };
        let codes: Option<Vec<i32>> = self.containers.iter().map(ended).collect();
        let waiting = |container: &ContainerReport| matches!(container.state, State::Waiting { .. });
        match codes {
            Some(codes) if codes.iter().all(|code| *code == 0) => "Succeeded",
            Some(_) => "Failed",
            None if self.containers.iter().all(|container| container.restarts == 0 && waiting(container)) => "Pending",
            None => "Running",
        }
    }

    /// The status to be merged into what the API has (strategic merge patch). Conditions keep the time of their last
    /// change in `changed`.
    pub(super) fn status(&self, changed: &mut BTreeMap<&'static str, (bool, String)>) -> Value {
        let phase = self.phase();
        let ready = !self.containers.is_empty() && self.containers.iter().all(|container| container.ready);
        let conditions: Vec<Value> = [
            ("PodReadyToStartContainers", !self.pod_ips.is_empty()),
            ("Initialized", true),
            ("ContainersReady", ready),
            ("Ready", ready),
        ]
        .map(|(kind, holds)| {
            let last = changed.entry(kind).or_insert_with(|| (holds, now()));
            if last.0 != holds {
                *last = (holds, now());
            }
            let status = if holds { "True" } else { "False" };
            let mut condition = json!({ "type": kind, "status": status, "lastTransitionTime": last.1 });
            if kind.ends_with("Ready") && !holds {
                let reason = if phase == "Succeeded" { "PodCompleted" } else { "ContainersNotReady" };
                condition["reason"] = json!(reason);
            }
            condition
        })
        .into();
        let address = |ip: &String| json!({ "ip": ip });
        json!({ "status": {
            "phase": phase,
            "conditions": conditions,
            "hostIP": self.host_ips.first(),
            "hostIPs": self.host_ips.iter().map(address).collect::<Vec<_>>(),
            "podIP": self.pod_ips.first(),
            "podIPs": self.pod_ips.iter().map(address).collect::<Vec<_>>(),
            "startTime": self.since,
            "containerStatuses": self.containers.iter().map(ContainerReport::status).collect::<Vec<_>>(),
        } })
    }
}

impl ContainerReport {
    fn status(&self) -> Value {
        let state = match &self.state {
            State::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
            State::Running { since } => json!({ "running": { "startedAt": since } }),
            State::Terminated { code, since, until } => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                let end = json!({ "exitCode": code, "reason": reason, "startedAt": since, "finishedAt": until });
                json!({ "terminated": end })
            }
        };
        json!({
            "name": self.name, "image": self.image, "imageID": self.image, "ready": self.ready,
            "started": self.started, "restartCount": self.restarts, "state": state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(restart: Restart, states: &[State]) -> Report {
        let containers = states.iter().map(|state| ContainerReport {
            name: "c".to_owned(),
            image: "i".to_owned(),
            state: state.clone(),
            started: true,
            ready: false,
            restarts: 0,
        });
        Report { host_ips: vec![], pod_ips: vec![], since: now(), containers: containers.collect(), restart }
    }

    #[test]
    fn a_pod_has_ended_when_all_its_containers_have_for_good() {
        let ended = |code| State::Terminated { code, since: now(), until: now() };
        let (running, waiting) =
            (State::Running { since: now() }, State::Waiting { reason: "ContainerCreating", message: String::new() });
        for (restart, states, phase) in [
            (Restart::Never, vec![ended(0), ended(0)], "Succeeded"),
            (Restart::Never, vec![ended(0), ended(1)], "Failed"),
            (Restart::Never, vec![ended(0), running.clone()], "Running"),
            (Restart::OnFailure, vec![ended(0)], "Succeeded"),
            (Restart::OnFailure, vec![ended(1)], "Running"),
            (Restart::Always, vec![ended(0)], "Running"),
            (Restart::Always, vec![waiting.clone()], "Pending"),
            (Restart::Always, vec![waiting, running], "Running"),
        ] {
            assert_eq!(report(restart, &states).phase(), phase, "{restart:?} {states:?}");
        }
    }
}
