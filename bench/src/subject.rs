//! What is measured: nginx, HAProxy and Headwater, each on one core with one worker, and the origin alone.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cases::Lab;
use crate::manifests::{Gateway, HOST, Rules};
use crate::namespace;
use crate::probe::Connection;
use crate::process::{Process, pinned};

/// How long a proxy may take to serve its first request.
const START: Duration = Duration::from_secs(120);

/// Connections the peers make room for.
pub(crate) const ROOM: usize = 1024;

/// A proxy under measurement.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    /// `None`: the origin itself, without proxy.
    pub(crate) process: Option<Process>,
    /// HTTP/1.1.
    pub(crate) http: SocketAddr,
    /// HTTP/2 with prior knowledge.
    pub(crate) h2c: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// From the start to the first response.
    pub(crate) ready_after: Duration,
    access_log: Option<PathBuf>,
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Subject {
    /// The origin without a proxy: the limit that load and origin set.
    pub(crate) fn direct(lab: &Lab) -> Self {
        let address = lab.origins[0];
        Self {
            name: "direct".to_owned(),
            process: None,
            http: address,
            h2c: address,
            tls: address,
            ready_after: Duration::ZERO,
            access_log: None,
        }
    }

    /// nginx with one worker; `connections` is what it makes room for.
    pub(crate) fn nginx(lab: &Lab, connections: usize) -> Result<Self> {
        Self::start_nginx(lab, [10_000, 10_001, 10_002], |folder| nginx_config(lab, folder, connections))
    }

    /// HAProxy with one thread; `connections` is what it makes room for.
    pub(crate) fn haproxy(lab: &Lab, connections: usize) -> Result<Self> {
        Self::start_haproxy(lab, [10_100, 10_101, 10_102], &haproxy_config(lab, connections))
    }

    /// Headwater with one worker, metrics on, access log on; also returns its manifest directory.
    pub(crate) fn headwater(
        lab: &Lab,
        name: &str,
        binary: &Path,
        rules: Option<(Rules, usize)>,
    ) -> Result<(Self, PathBuf)> {
        Self::headwater_with(lab, name, binary, rules, None, &[])
    }

    /// The same with one more manifest, and more arguments.
    ///
    /// # Errors
    /// As [`Subject::headwater`].
    pub(crate) fn headwater_with(
        lab: &Lab,
        name: &str,
        binary: &Path,
        rules: Option<(Rules, usize)>,
        manifest: Option<&str>,
        arguments: &[&str],
    ) -> Result<(Self, PathBuf)> {
        let folder = lab.new_folder("headwater")?;
        let (manifests, log) = (folder.join("manifests"), folder.join("access.log"));
        let http = 11_000 + 10 * lab.next_number();
        let gateway = Gateway {
            http_port: http,
            https_port: http + 1,
            certificate_pem: &lab.certificate.certificate_pem,
            key_pem: &lab.certificate.key_pem,
            origins: lab.origins,
        };
        gateway.write(&manifests, rules)?;
        if let Some(manifest) = manifest {
            std::fs::write(manifests.join("more.yaml"), manifest)?;
        }
        let mut command = pinned(&lab.programs, lab.args.proxy_core, binary);
        command.args(["--log", "warn", "up"]).arg(&manifests).args(["--workers", "1", "--drain", "1s"]);
        command.args(["--admin", &local(http + 2).to_string()]).arg("--access-log").arg(&log).args(arguments);
        let subject = Self::start(lab, name, command, [http, http, http + 1], &folder, Some(log))?;
        Ok((subject, manifests))
    }

    /// HAProxy that carries TCP, with one thread.
    pub(crate) fn haproxy_tcp(lab: &Lab, connections: usize) -> Result<Self> {
        Self::start_haproxy(lab, [10_200; 3], &haproxy_tcp_config(lab, connections))
    }

    /// nginx that carries TCP and UDP at one port, with one worker.
    pub(crate) fn nginx_stream(lab: &Lab, connections: usize) -> Result<Self> {
        Self::start_nginx(lab, [10_210; 3], |folder| nginx_stream_config(lab, folder, connections))
    }

    /// The same, asked at another of its ports.
    pub(crate) fn at(self, port: u16) -> Self {
        Self { http: local(port), ..self }
    }

    /// `config` makes its configuration, with files in a folder.
    fn start_nginx(lab: &Lab, ports: [u16; 3], config: impl FnOnce(&Path) -> String) -> Result<Self> {
        let folder = lab.new_folder("nginx")?;
        let file = folder.join("nginx.conf");
        fs::write(&file, config(&folder))?;
        let mut command = pinned(&lab.programs, lab.args.proxy_core, &lab.programs.nginx);
        command.arg("-p").arg(&folder).arg("-c").arg(&file).arg("-e").arg(folder.join("error.log"));
        Self::start(lab, "nginx", command, ports, &folder, None)
    }

    fn start_haproxy(lab: &Lab, ports: [u16; 3], config: &str) -> Result<Self> {
        let folder = lab.new_folder("haproxy")?;
        let file = folder.join("haproxy.cfg");
        fs::write(&file, config)?;
        let mut command = pinned(&lab.programs, lab.args.proxy_core, &lab.programs.haproxy);
        command.arg("-db").arg("-f").arg(&file);
        Self::start(lab, "haproxy", command, ports, &folder, None)
    }

    fn start(
        lab: &Lab,
        name: &str,
        command: std::process::Command,
        [http, h2c, tls]: [u16; 3],
        folder: &Path,
        access_log: Option<PathBuf>,
    ) -> Result<Self> {
        let started = Instant::now();
        let mut process = Process::start(name, command, folder)?;
        let http = local(http);
        loop {
            process.alive()?;
            let answer = Connection::open(http).and_then(|mut connection| connection.get(HOST, "/100"));
            match answer {
                Ok(answer) if answer.status == 200 => break,
                answer if started.elapsed() > START => {
                    let answer = answer.map(|answer| format!("status {}", answer.status));
                    let seen = answer.unwrap_or_else(|error| format!("{error:#}"));
                    anyhow::bail!("{name} does not serve {HOST} on {http}: {seen}; its files: {}", lab.keep_folder());
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let ready_after = started.elapsed();
        Ok(Self {
            name: name.to_owned(),
            process: Some(process),
            http,
            h2c: local(h2c),
            tls: local(tls),
            ready_after,
            access_log,
        })
    }

    /// CPU time so far; zero for the origin, which is not measured.
    pub(crate) fn cpu(&self) -> Duration {
        self.process.as_ref().map(Process::cpu).unwrap_or_default()
    }

    pub(crate) fn pss(&self) -> u64 {
        self.process.as_ref().map(Process::pss).unwrap_or_default()
    }

    /// # Errors
    /// When the proxy has ended.
    pub(crate) fn alive(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::alive)
    }

    /// Lets go of what was logged, outside of any run; says how much it was.
    pub(crate) fn empty_access_log(&self) -> Result<u64> {
        let Some(log) = &self.access_log else { return Ok(0) };
        let file = fs::OpenOptions::new().write(true).open(log).with_context(|| log.display().to_string())?;
        let length = file.metadata()?.len();
        file.set_len(0)?;
        Ok(length)
    }
}

fn nginx_config(lab: &Lab, folder: &Path, connections: usize) -> String {
    let folder = folder.display();
    let [origin, auth] = lab.origins;
    let certificate = &lab.certificate;
    // Root of a user namespace may not change users, which a master does for its workers.
    let master = if namespace::is_mapped() { "master_process off;" } else { "user root;" };
    format!(
        "daemon off; {master} worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 600s;
  upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}
  upstream auth {{ server {auth}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:10000 reuseport;
    listen 127.0.0.1:10001 http2 reuseport;
    listen 127.0.0.1:10002 ssl reuseport;
    ssl_certificate {cert}; ssl_certificate_key {key};
    ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; ssl_session_cache off; ssl_session_tickets off;
    proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_buffer_size 16k; proxy_buffers 16 32k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
    location / {{ proxy_pass http://origin; }}
    location /api/ {{ proxy_pass http://origin; }}
    location /checked/ {{ auth_request /_auth; proxy_pass http://origin; }}
    location = /_auth {{
      internal; proxy_pass http://auth; proxy_pass_request_body off; proxy_set_header Content-Length \"\";
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Original-URI $request_uri;
    }}
    location /static/ {{ proxy_pass http://origin; }}
  }}
}}
",
        cert = certificate.certificate.display(),
        key = certificate.key.display(),
    )
}

fn nginx_stream_config(lab: &Lab, folder: &Path, connections: usize) -> String {
    let folder = folder.display();
    let (origin, datagrams) = (lab.origins[0], lab.datagrams);
    let master = if namespace::is_mapped() { "master_process off;" } else { "user root;" };
    // Two sockets for each connection or flow.
    let connections = 2 * connections;
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; {master} worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections {connections}; }}
stream {{
  upstream origin {{ server {origin}; }}
  upstream datagrams {{ server {datagrams}; }}
  server {{ listen 127.0.0.1:10210; proxy_pass origin; proxy_buffer_size 64k; }}
  server {{ listen 127.0.0.1:10210 udp; proxy_pass datagrams; proxy_timeout 60s; }}
}}
"
    )
}

fn haproxy_tcp_config(lab: &Lab, connections: usize) -> String {
    format!(
        "global
  nbthread 1
  no strict-limits
  maxconn {connections}
defaults
  mode tcp
  maxconn {connections}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend all
  bind 127.0.0.1:10200
  default_backend origin
backend origin
  server a {origin}
",
        origin = lab.origins[0],
    )
}

fn haproxy_config(lab: &Lab, connections: usize) -> String {
    format!(
        "global
  nbthread 1
  no strict-limits
  maxconn {connections}
  tune.ssl.cachesize 0
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode http
  maxconn {connections}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option forwardfor
frontend all
  bind 127.0.0.1:10100
  bind 127.0.0.1:10101 proto h2
  bind 127.0.0.1:10102 ssl crt {certificate} curves X25519
  use_backend origin if {{ path_beg /api/ }}
  use_backend origin if {{ path_beg /static/ }}
  default_backend origin
backend origin
  server a {origin} pool-max-conn 256
",
        certificate = lab.certificate.combined.display(),
        origin = lab.origins[0],
    )
}
