//! `headwater demo`: the main job on an empty machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use headwater_control::Control;
use headwater_model::cluster::Object;
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_translate::Options;
use headwater_whoami::Whoami;

use crate::running::{Running, ServeArgs, stop_signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port for plain HTTP; 0 takes a free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    http: u16,
    /// Port for HTTPS; 0 takes a free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    https: u16,
}

/// The manifests of examples/quickstart, as they were when this binary was built.
const MANIFESTS: [(&str, &str); 3] = [
    ("gateway.yaml", include_str!("../../../examples/quickstart/gateway.yaml")),
    ("whoami.yaml", include_str!("../../../examples/quickstart/whoami.yaml")),
    ("ingress.yaml", include_str!("../../../examples/quickstart/ingress.yaml")),
];

/// EndpointSlices with this label get the addresses of the built-in backend of that name.
const BACKEND_LABEL: &str = "headwater.dev/demo-backend";

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let directory =
        tempfile::Builder::new().prefix("headwater-demo-").tempdir().context("directory for the manifests")?;
    for (name, text) in MANIFESTS {
        std::fs::write(directory.path().join(name), text)?;
    }
    std::fs::write(directory.path().join("certificate.yaml"), certificate()?)?;
    let backends = Backends::start().await?;
    let serve = ServeArgs {
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        alb_metrics: None,
        alb_metrics_token: None,
        workers: None,
        drain: Duration::from_secs(30),
        pre_stop_delay: Duration::ZERO,
        access_log: directory.path().join("access.log"),
    };
    let (running, ports) = start(&args, &serve, directory.path(), &backends, &level).await?;
    print_tour(&ports, running.admin_address(), directory.path(), backends.addresses.len());
    stop_signal().await?;
    println!("\ndraining");
    running.stop(&serve).await
}

/// Ports are free when they are chosen, and may be taken by the time they are listened on: then others are chosen.
async fn start(
    args: &Args,
    serve: &ServeArgs,
    directory: &Path,
    backends: &Backends,
    level: &LogLevel,
) -> anyhow::Result<(Running, Ports)> {
    let mut tries = 3;
    loop {
        let ports = Ports::choose(args)?;
        let adapt = {
            let (addresses, ports) = (backends.addresses.clone(), ports.clone());
            Box::new(move |object| adapt(object, &addresses, &ports))
        };
        let control = Control::start(directory, Options::embedded(), adapt).await?;
        let running = Running::start(control, serve, Registry::new(), level.clone()).await?;
        let refused: Vec<_> =
            running.configured().await?.listeners.into_iter().filter_map(|listener| listener.error).collect();
        if refused.is_empty() {
            return Ok((running, ports));
        }
        running.stop(&ServeArgs { drain: Duration::ZERO, ..serve.clone() }).await?;
        tries -= 1;
        anyhow::ensure!(tries > 0, "{}", refused.join("; "));
    }
}

/// Built-in backends by name.
struct Backends {
    addresses: HashMap<String, SocketAddr>,
}

impl Backends {
    async fn start() -> anyhow::Result<Self> {
        let mut addresses = HashMap::new();
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        for (name, host) in [("blue", v4), ("green", v4), ("red", v6)] {
            let whoami = |host| Whoami::new(name, [SocketAddr::new(host, 0)]).serve_http();
            let server = match whoami(host).await {
                Err(error) if host == v6 => {
                    println!("no IPv6 on this machine ({error}); backend {name} is served over IPv4");
                    whoami(v4).await?
                }
                opened => opened?,
            };
            addresses.insert(name.to_owned(), server.local_addr());
            tokio::spawn(server.run(std::future::pending()));
        }
        Ok(Self { addresses })
    }
}

/// Ports of the listeners of the example's GatewaySettings.
#[derive(Clone)]
struct Ports {
    http: u16,
    https: u16,
    proxied: u16,
    cdn: u16,
}

impl Ports {
    fn choose(args: &Args) -> std::io::Result<Self> {
        // Held together, so that no two are the same.
        let mut held = Vec::new();
        let mut pick = |wanted: u16| {
            if wanted != 0 {
                return Ok(wanted);
            }
            // Taken for both families at once, as the listeners will, where there are both.
            let socket = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
            let port = socket.local_addr()?.port();
            held.push(socket);
            std::io::Result::Ok(port)
        };
        Ok(Self { http: pick(args.http)?, https: pick(args.https)?, proxied: pick(0)?, cdn: pick(0)? })
    }

    fn of(&self, listener: &str) -> Option<u16> {
        match listener {
            "http" => Some(self.http),
            "https" => Some(self.https),
            "proxied" => Some(self.proxied),
            "cdn" => Some(self.cdn),
            _ => None,
        }
    }
}

/// Puts the ports of this run into the objects; everything else stays as it is written.
fn adapt(object: Object, backends: &HashMap<String, SocketAddr>, ports: &Ports) -> Object {
    match object {
        Object::GatewaySettings(mut settings) => {
            for listener in Arc::make_mut(&mut settings).spec.listeners.iter_mut().flatten() {
                if let Some(port) = ports.of(&listener.name) {
                    listener.port = port;
                }
            }
            Object::GatewaySettings(settings)
        }
        Object::EndpointSlice(mut slice) => {
            let backend = slice.metadata.labels.get(BACKEND_LABEL).and_then(|name| backends.get(name));
            if let Some(address) = backend.copied() {
                let slice = Arc::make_mut(&mut slice);
                slice.address_type = match address {
                    SocketAddr::V4(_) => headwater_model::object::AddressType::IPv4,
                    SocketAddr::V6(_) => headwater_model::object::AddressType::IPv6,
                };
                slice.ports.iter_mut().for_each(|port| port.port = Some(address.port()));
                slice.endpoints.iter_mut().for_each(|endpoint| endpoint.addresses = vec![address.ip().to_string()]);
            }
            Object::EndpointSlice(slice)
        }
        other => other,
    }
}

/// A Secret with a certificate for `tls.example.com`, and the Ingress that uses it.
fn certificate() -> anyhow::Result<String> {
    let made = rcgen::generate_simple_self_signed(["tls.example.com".to_owned()])?;
    let indent = |pem: String| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    Ok(format!(
        "# Made for this run.\n\
         apiVersion: v1\nkind: Secret\nmetadata:\n  name: tls-example-com\n  namespace: demo\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}\
         ---\n\
         apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: tls\n  namespace: demo\nspec:\n  \
         ingressClassName: headwater\n  tls:\n    - hosts: [tls.example.com]\n      secretName: tls-example-com\n  rules:\n    \
         - host: tls.example.com\n      http:\n        paths:\n          - path: /\n            pathType: Prefix\n            \
         backend:\n              service:\n                name: whoami\n                port:\n                  name: http\n",
        indent(made.cert.pem()),
        indent(made.signing_key.serialize_pem()),
    ))
}

fn print_tour(ports: &Ports, admin: SocketAddr, directory: &Path, backends: usize) {
    let Ports { http, https, proxied, cdn } = ports;
    let directory: PathBuf = directory.into();
    let directory = directory.display();
    println!(
        r#"
Headwater serves {directory} on ports {http} (HTTP), {https} (HTTPS), {proxied} (HTTP behind PROXY protocol)
and {cdn} (HTTP behind a CDN on this machine), in front of {backends} whoami backends. Each answer shows what the backend sees.

# 1. Plain HTTP: the backend learns your address
curl -s --resolve whoami.example.com:{http}:127.0.0.1 'http://whoami.example.com:{http}/?format=text'
curl -s --resolve 'whoami.example.com:{http}:[::1]' 'http://whoami.example.com:{http}/?format=text'

# 2. TLS, the certificate chosen by SNI; plain HTTP is redirected
curl -sk --resolve tls.example.com:{https}:127.0.0.1 'https://tls.example.com:{https}/?format=text'
curl -si --resolve tls.example.com:{http}:127.0.0.1 http://tls.example.com:{http}/

# 3. A spoofed X-Forwarded-For does not work: nobody is trusted on this port
curl -s --resolve whoami.example.com:{http}:127.0.0.1 -H 'X-Forwarded-For: 198.51.100.66' 'http://whoami.example.com:{http}/?format=text'

# 4. On the CDN's port the same header counts, since this machine is trusted there; what stands left of the client does not
curl -s --resolve whoami.example.com:{cdn}:127.0.0.1 -H 'X-Forwarded-For: 198.51.100.66, 203.0.113.7' 'http://whoami.example.com:{cdn}/?format=text'

# 5. A PROXY protocol v2 client: 198.51.100.7 port 50000
printf '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\xc3\x50\0\x50GET /?format=text HTTP/1.1\r\nHost: whoami.example.com\r\nConnection: close\r\n\r\n' | curl -s --max-time 5 telnet://127.0.0.1:{proxied}

# 6. A WebSocket: the first message is what the backend sees (curl waits for more until the 2 s are over)
curl -siN --http1.1 --max-time 2 --output - --resolve whoami.example.com:{http}:127.0.0.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: SGVhZHdhdGVyIGRlbW8hIQ==' http://whoami.example.com:{http}/

# 7. A gRPC call, HTTP/2 from end to end
printf '\0\0\0\0\0' | curl -s --http2-prior-knowledge --output - --resolve grpc.example.com:{http}:127.0.0.1 -H 'Content-Type: application/grpc' -H 'TE: trailers' --data-binary @- http://grpc.example.com:{http}/headwater.whoami.v1.Whoami/Ask; echo

# What the gateway says of itself
curl -s http://{admin}/metrics
headwater status --admin {admin}
tail -f {directory}/access.log

Edit the manifests in {directory}: changes are live. Ctrl-C drains and ends."#
    );
}
