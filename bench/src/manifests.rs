//! The manifests that Headwater serves in a run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Host of the plain listener's rule.
pub(crate) const HOST: &str = "bench.example.com";

/// Host of the TLS listener's rule: a name that resolves to loopback everywhere.
pub(crate) const TLS_HOST: &str = "localhost";

/// Services, and the name their origin puts into X-Origin.
pub(crate) const ORIGINS: [&str; 2] = ["a", "b"];

/// What the gateway of a run needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gateway<'a> {
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
    pub(crate) certificate_pem: &'a str,
    pub(crate) key_pem: &'a str,
    pub(crate) origins: [SocketAddr; 2],
}

/// How many rules over how many hosts: hosts are `h0.example.com` and on, paths `/p0` and on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) hosts: usize,
    pub(crate) paths: usize,
}

impl Rules {
    pub(crate) fn count(self) -> usize {
        self.hosts * self.paths
    }

    pub(crate) fn host(self, rule: usize) -> String {
        format!("h{}.example.com", rule / self.paths)
    }

    /// A path that `rule` matches and that the origin answers with `body`. Every third rule is exact.
    pub(crate) fn path(self, rule: usize, body: &str) -> String {
        format!("/p{}/{body}", rule % self.paths)
    }

    /// Lua that asks for the rule of number `rule`; see [`wrk_script`].
    pub(crate) fn lua(self) -> String {
        let paths = self.paths;
        format!(
            r#"wrk.headers["Host"] = "h" .. math.floor(rule / {paths}) .. ".example.com"; path = "/p" .. (rule % {paths}) .. "/1k""#
        )
    }

    /// One Ingress with this one rule.
    fn ingress(self, rule: usize, origin: &str) -> String {
        let (kind, path) = match rule % 3 {
            0 => ("Exact", self.path(rule, "1k")),
            _ => ("Prefix", format!("/p{}", rule % self.paths)),
        };
        ingress(&format!("rule-{rule}"), &self.host(rule), &path, kind, origin, false)
    }
}

fn ingress(name: &str, host: &str, path: &str, kind: &str, origin: &str, tls: bool) -> String {
    let tls = if tls { format!("  tls:\n    - hosts: [{host}]\n      secretName: tls\n") } else { String::new() };
    format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: bench
spec:
  ingressClassName: headwater
{tls}  rules:
    - host: {host}
      http:
        paths:
          - path: {path}
            pathType: {kind}
            backend:
              service:
                name: origin-{origin}
                port:
                  name: http
"
    )
}

impl Gateway<'_> {
    /// Class, settings, certificate, services and one rule for each of [`HOST`] and [`TLS_HOST`].
    ///
    /// What differs from the defaults: sessions are not resumed, connections stay idle for long, and as many idle
    /// upstream connections are kept as by the peers.
    fn render(&self) -> String {
        let (http, https) = (self.http_port, self.https_port);
        let (certificate, key) = (indent(self.certificate_pem), indent(self.key_pem));
        let mut documents = vec![format!(
            "apiVersion: v1
kind: Namespace
metadata:
  name: bench
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: headwater
spec:
  controller: headwater.dev/ingress
  parameters:
    apiGroup: headwater.dev
    kind: GatewaySettings
    scope: Namespace
    namespace: bench
    name: bench
---
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata:
  name: bench
  namespace: bench
spec:
  listeners:
    - name: http
      address: 127.0.0.1
      port: {http}
      protocol: HTTP
    - name: https
      address: 127.0.0.1
      port: {https}
      protocol: HTTPS
  timeouts:
    keepAlive: 10m
  upstream:
    maxIdleConnections: 256
  tls:
    sessionTickets: false
---
apiVersion: v1
kind: Secret
metadata:
  name: tls
  namespace: bench
type: kubernetes.io/tls
stringData:
  tls.crt: |
{certificate}
  tls.key: |
{key}
"
        )];
        for (name, address) in ORIGINS.iter().zip(self.origins) {
            documents.push(service(name, address));
        }
        documents.push(ingress("plain", HOST, "/", "Prefix", ORIGINS[0], false));
        documents.push(ingress("secure", TLS_HOST, "/", "Prefix", ORIGINS[0], true));
        documents.join("---\n")
    }

    /// Writes the manifests, and `rules` with `per_file` Ingresses in each file.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path, rules: Option<(Rules, usize)>) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("gateway.yaml"), self.render())?;
        let Some((rules, per_file)) = rules else { return Ok(()) };
        for first in (0..rules.count()).step_by(per_file) {
            let last = (first + per_file).min(rules.count());
            let documents: Vec<_> = (first..last).map(|rule| rules.ingress(rule, ORIGINS[0])).collect();
            fs::write(rule_file(folder, first), documents.join("---\n"))?;
        }
        Ok(())
    }
}

/// The ConfigMap that has every request traced, to a collector at this address.
pub(crate) fn traced(collector: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata:
  name: ingress-nginx-controller
  namespace: ingress-nginx
data:
  enable-opentelemetry: \"true\"
  otlp-collector-host: {}
  otlp-collector-port: \"{}\"
  otel-max-queuesize: \"65536\"
",
        collector.ip(),
        collector.port()
    )
}

/// An Ingress at `/checked`, about whose requests an authentication server at this address is asked.
pub(crate) fn checked(server: SocketAddr) -> String {
    let text = ingress("checked", HOST, "/checked", "Prefix", ORIGINS[0], false);
    let annotations = format!("  annotations:\n    nginx.ingress.kubernetes.io/auth-url: http://{server}/auth\nspec:");
    text.replacen("spec:", &annotations, 1)
}

/// An ALB2 that carries TCP to the first origin, and UDP to this one, at one port.
pub(crate) fn carried(port: u16, datagrams: SocketAddr) -> String {
    let udp = service("udp", datagrams).replace("name: http\n", "name: http\n      protocol: UDP\n");
    let udp = udp.replace("      protocol: UDP\n    port", "    protocol: UDP\n    port");
    let frontend = |name: &str, protocol: &str, origin: &str| {
        format!(
            "---
apiVersion: crd.alauda.io/v1
kind: Frontend
metadata:
  name: {name}
  namespace: bench
  labels: {{alb2.cpaas.io/name: bench}}
spec:
  port: {port}
  protocol: {protocol}
  serviceGroup: {{services: [{{namespace: bench, name: origin-{origin}, port: 80, weight: 100}}]}}
"
        )
    };
    format!(
        "apiVersion: crd.alauda.io/v2beta1
kind: ALB2
metadata: {{name: bench, namespace: bench}}
spec:
  address: 127.0.0.1
  config: {{networkMode: host, projects: [ALL_ALL]}}
{}{}---
{udp}",
        frontend("tcp", "tcp", ORIGINS[0]),
        frontend("udp", "udp", "udp")
    )
}

/// The file that has `rule`, when every file has one.
fn rule_file(folder: &Path, rule: usize) -> PathBuf {
    folder.join(format!("rule-{rule:05}.yaml"))
}

/// Points one rule at another origin as an editor does: a new file beside the old one, then a rename.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn edit(folder: &Path, rules: Rules, rule: usize, origin: &str) -> Result<()> {
    let (beside, file) = (folder.join(format!(".rule-{rule:05}.yaml.new")), rule_file(folder, rule));
    fs::write(&beside, rules.ingress(rule, origin)).with_context(|| beside.display().to_string())?;
    fs::rename(&beside, &file).with_context(|| file.display().to_string())
}

fn service(name: &str, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: origin-{name}
  namespace: bench
spec:
  ports:
    - name: http
      port: 80
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: origin-{name}
  namespace: bench
  labels:
    kubernetes.io/service-name: origin-{name}
addressType: IPv4
ports:
  - name: http
    port: {port}
endpoints:
  - addresses: [{ip}]
"
    )
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// A wrk script whose 10,000 requests go round `count` rules, in steps that no cache foresees. `lua` makes of the number
/// `rule` the `path` to ask for, and headers: without any, Host is [`HOST`].
///
/// No two requests are the same, however few the rules are: the load must cost the machine's caches the same.
pub(crate) fn wrk_script(count: usize, lua: &str) -> String {
    format!(
        r#"local requests, next_request = {{}}, 0
init = function(args)
  wrk.headers["Host"] = "{HOST}"
  for i = 0, 9999 do
    local rule, path = (i * 7919) % {count}
    {lua}
    requests[i] = wrk.format("GET", path .. "?" .. i)
  end
end
request = function()
  next_request = (next_request + 1) % 10000
  return requests[next_request]
end
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_the_origin_of_one_rule_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let origins = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let gateway = Gateway { http_port: 80, https_port: 443, certificate_pem: "C\nD\n", key_pem: "K\n", origins };
        let rules = Rules { hosts: 2, paths: 5 };
        gateway.write(folder.path(), Some((rules, 1))).unwrap();
        edit(folder.path(), rules, 7, "b").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 11);
        for rule in 0..10 {
            let text = fs::read_to_string(rule_file(folder.path(), rule)).unwrap();
            let expected = if rule == 7 { "origin-b" } else { "origin-a" };
            assert!(text.contains(expected) && text.contains(&rules.host(rule)), "{text}");
        }
        let text = fs::read_to_string(folder.path().join("gateway.yaml")).unwrap();
        assert!(text.contains("  tls.crt: |\n    C\n    D\n  tls.key: |\n    K\n"), "{text}");
    }

    #[test]
    fn rules_are_spread_over_hosts_and_paths() {
        let rules = Rules { hosts: 3, paths: 4 };
        let mut seen: Vec<_> = (0..rules.count()).map(|rule| (rules.host(rule), rules.path(rule, "1k"))).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 12);
        assert!(rules.ingress(3, "a").contains("path: /p3/1k\n            pathType: Exact"));
        assert!(rules.ingress(4, "a").contains("path: /p0\n            pathType: Prefix"));
    }
}
