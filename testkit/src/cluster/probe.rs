//! Probes of containers, as the kubelet makes them: from the node, to the pod's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::client::RawClient;
use crate::dial::{Dial, Tls};
use crate::lab::Host;

/// Between probes of what has not succeeded yet; a kubelet would take the probe's period.
const EAGER: Duration = Duration::from_millis(100);

/// What the probes of a container have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its startup probe has succeeded, if it has one.
    Started,
    Ready(bool),
    /// It is to be restarted.
    Dead,
}

/// A container to be probed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) node: Host,
    pub(super) address: IpAddr,
    pub(super) container: Container,
}

impl Target {
    /// Probes until the receiver is gone or the container is dead. Verdicts carry `tag`.
    pub(super) async fn run<T: Copy>(self, tag: T, verdicts: mpsc::Sender<(T, Verdict)>) {
        let tell = async |verdict| verdicts.send((tag, verdict)).await.is_ok();
        if let Some(probe) = &self.container.startup_probe {
            let limit = period(probe) * threshold(probe.failure_threshold, 3);
            if timeout(limit, self.row(probe, Some(1), None)).await.is_err() {
                tell(Verdict::Dead).await;
                return;
            }
        }
        if !tell(Verdict::Started).await {
            return;
        }
        let readiness = async {
            let Some(probe) = &self.container.readiness_probe else {
                tell(Verdict::Ready(true)).await;
                return;
            };
            let (successes, failures) = (threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));
            loop {
                self.row(probe, Some(successes), None).await;
                if !tell(Verdict::Ready(true)).await {
                    return;
                }
                self.row(probe, None, Some(failures)).await;
                if !tell(Verdict::Ready(false)).await {
                    return;
                }
            }
        };
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                self.row(probe, None, Some(threshold(probe.failure_threshold, 3))).await;
                tell(Verdict::Dead).await;
            }
        };
        tokio::join!(readiness, liveness);
    }

    /// Probes until as many in a row have succeeded, or failed.
    async fn row(&self, probe: &Probe, successes: Option<u32>, failures: Option<u32>) {
        sleep(Duration::from_secs(probe.initial_delay_seconds.unwrap_or_default().max(0).unsigned_abs().into())).await;
        let (mut alive, mut row) = (false, 0);
        loop {
            let now = self.once(probe).await.is_ok();
            row = if now == alive { row + 1 } else { 1 };
            alive = now;
            if Some(row) == if alive { successes } else { failures } {
                return;
            }
            sleep(if !alive && failures.is_none() { EAGER } else { period(probe) }).await;
        }
    }

    async fn once(&self, probe: &Probe) -> Result<()> {
        let (target, probe) = (self.clone(), probe.clone());
        // Sockets of a namespace are made by a thread that blocks.
        tokio::task::spawn_blocking(move || target.node.clone().run(|| target.ask(&probe))).await?
    }

    fn ask(&self, probe: &Probe) -> Result<()> {
        let deadline = Duration::from_secs(threshold(probe.timeout_seconds, 1).into());
        if let Some(socket) = &probe.tcp_socket {
            let mut dial = Dial::to(SocketAddr::new(self.address(socket.host.as_deref())?, self.port(&socket.port)?));
            dial.deadline = deadline;
            return dial.tcp().map(drop);
        }
        let Some(get) = &probe.http_get else { bail!("only httpGet and tcpSocket are known here") };
        let address = SocketAddr::new(self.address(get.host.as_deref())?, self.port(&get.port)?);
        let mut dial = Dial::to(address);
        dial.deadline = deadline;
        if get.scheme.as_deref() == Some("HTTPS") {
            dial = dial.tls(Tls::without_sni());
        }
        let path = get.path.as_deref().unwrap_or("/");
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.36\r\n");
        for header in get.http_headers.iter().flatten() {
            head += &format!("{}: {}\r\n", header.name, header.value);
        }
        let response = RawClient::open(&dial)?.request(head + "Connection: close\r\n\r\n")?;
        ensure!((200..400).contains(&response.status), "status {}", response.status);
        Ok(())
    }

    fn address(&self, host: Option<&str>) -> Result<IpAddr> {
        match host {
            Some(host) => host.parse().with_context(|| format!("host {host:?} of a probe")),
            None => Ok(self.address),
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let mut ports = self.container.ports.iter().flatten();
                let found = ports.find(|port| port.name.as_ref() == Some(name));
                found.with_context(|| format!("port {name} of a probe is not one of the container's"))?.container_port
            }
        };
        u16::try_from(number).with_context(|| format!("port {number} of a probe"))
    }
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(threshold(probe.period_seconds, 10).into())
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}
