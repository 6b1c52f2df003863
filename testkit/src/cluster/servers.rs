//! etcd, kube-apiserver and kube-controller-manager as child processes.

use std::fs::create_dir_all;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use super::identity::{ISSUER, Pki};
use super::programs::Programs;
use super::{audit, egress};
use crate::wait::DEADLINE;

/// A port of 127.0.0.1 that only processes of the same user can listen on, those that share ports: it stays ours while
/// the API server is down.
#[derive(Debug)]
pub(super) struct Port {
    /// Bound, never listening: the kernel sends connections to those who listen.
    _socket: Socket,
    number: u16,
}

impl Port {
    pub(super) fn reserve() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let number = socket.local_addr()?.as_socket_ipv4().context("port of 127.0.0.1")?.port();
        Ok(Self { _socket: socket, number })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

/// Where etcd listens: a socket in the file system, so that it needs no port.
#[derive(Debug)]
pub(super) struct Etcd {
    dir: PathBuf,
}

impl Etcd {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// etcd wants a port in every address; in that of a socket it is a part of the file's name.
    fn socket(&self, name: &str) -> String {
        format!("{}/{name}.sock:0", self.dir.display())
    }

    fn url(&self, name: &str) -> String {
        format!("unix://{}", self.socket(name))
    }

    pub(super) fn command(&self, programs: &Programs) -> Result<Command> {
        let mut command = Command::new(programs.path("etcd")?);
        // Nobody joins, so nobody calls the advertised addresses.
        let nowhere = "http://localhost:1";
        command.current_dir(&self.dir).args(["--name", "test", "--data-dir", "etcd"]);
        command.args(["--listen-client-urls", &self.url("client"), "--advertise-client-urls", nowhere]);
        command.args(["--listen-peer-urls", &self.url("peer"), "--initial-advertise-peer-urls", nowhere]);
        command.args(["--initial-cluster", &format!("test={nowhere}")]);
        command.args(["--unsafe-no-fsync", "--log-level", "warn"]);
        Ok(command)
    }

    /// Forgets everything before the current revision, and returns that revision.
    pub(super) fn compact(&self) -> Result<u64> {
        let range = self.ask("/v3/kv/range", &json!({ "key": "AA==" }))?;
        let revision = range["header"]["revision"].as_str().with_context(|| format!("etcd answers {range}"))?;
        self.ask("/v3/kv/compaction", &json!({ "revision": revision, "physical": true }))?;
        Ok(revision.parse()?)
    }

    fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(self.socket("client")).context("connect to etcd")?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let body = body.to_string();
        // HTTP/1.0: the content ends with the connection, and is not in chunks.
        write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("answer of etcd")?;
        let (head, content) = answer.split_once("\r\n\r\n").with_context(|| format!("etcd answers {answer:?}"))?;
        ensure!(head.split(' ').nth(1) == Some("200"), "etcd: {path}: {answer}");
        Ok(serde_json::from_str(content)?)
    }
}

/// How the API server is started.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) audit: bool,
    pub(super) flags: Vec<String>,
}

pub(super) fn apiserver(
    programs: &Programs,
    dir: &Path,
    pki: &Pki,
    etcd: &Etcd,
    port: u16,
    settings: &Settings,
) -> Result<Command> {
    let mut command = Command::new(programs.path("kube-apiserver")?);
    let mut flag = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut word = std::ffi::OsString::from(format!("--{name}="));
        word.push(value);
        command.arg(word);
    };
    flag("etcd-servers", &etcd.url("client"));
    flag("bind-address", &"127.0.0.1");
    flag("secure-port", &port.to_string());
    flag("permit-port-sharing", &"true");
    // It is told to nobody; without it a machine without a default route would not do.
    flag("advertise-address", &super::SERVICE_V4);
    flag("endpoint-reconciler-type", &"none");
    // Left to itself it would keep certificates in /var/run.
    flag("cert-dir", &dir.join("apiserver"));
    flag("tls-cert-file", &pki.file("apiserver.crt"));
    flag("tls-private-key-file", &pki.file("apiserver.key"));
    flag("client-ca-file", &pki.file("ca.crt"));
    flag("service-account-issuer", &ISSUER);
    flag("service-account-key-file", &pki.file("tokens.pub"));
    flag("service-account-signing-key-file", &pki.file("tokens.key"));
    flag("authorization-mode", &"RBAC");
    flag("service-cluster-ip-range", &"10.96.0.0/16,fd00:10:96::/112");
    // Pods come with what service account they like, and whoever runs them mounts its token.
    flag("disable-admission-plugins", &"ServiceAccount");
    let egress = dir.join("egress.json");
    std::fs::write(&egress, egress::configuration(dir).to_string())?;
    flag("egress-selector-config-file", &egress);
    flag("v", &"0");
    if settings.audit {
        let policy = dir.join("audit-policy.yaml");
        std::fs::write(&policy, audit::POLICY)?;
        flag("audit-policy-file", &policy);
        flag("audit-log-path", &dir.join("audit.log"));
        flag("audit-log-maxsize", &"100000");
    }
    command.args(&settings.flags);
    Ok(command)
}

pub(super) fn controller_manager(
    programs: &Programs,
    dir: &Path,
    kubeconfig: &Path,
    pki: &Pki,
    controllers: &[&str],
) -> Result<Command> {
    create_dir_all(dir)?;
    let mut command = Command::new(programs.path("kube-controller-manager")?);
    command.current_dir(dir);
    command.arg(format!("--controllers={}", controllers.join(",")));
    command.arg("--kubeconfig").arg(kubeconfig);
    command.arg("--root-ca-file").arg(pki.file("ca.crt"));
    command.args(["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=false", "--v=0"]);
    command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
    Ok(command)
}
