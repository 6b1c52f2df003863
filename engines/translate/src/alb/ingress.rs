//! Ingresses of an ALB2's class -> rules of the ports that they need.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::alb::alb2::SslStrategy;
use headwater_model::alb::effective::EffectiveAlb;
use headwater_model::alb::inherit::{EffectiveOtel, Levels};
use headwater_model::alb::{Domain, Frontend};
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{
    Action, Auth, Backend, Balance, Filters, Forward, HostPattern, PathMatch, PathRewrite, Precedence, Redirect,
    Refuse, Trace,
};
use headwater_model::object::{HttpIngressPath, Ingress, IngressBackend};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde_json::json;

use super::rule::{Doing, Entry, Made, Part, Port, path_rewrite, timeouts, traced};
use super::{DEFAULT_PRIORITY, compile, cover, every_request, ingress_terms, of_default_backend, precedence};
use crate::annotations::{Annotated, Annotations, BackendProtocol, UNAVAILABLE_GUARD, parse_bool};
use crate::auth::{self, INVALID_AUTH, Sources};
use crate::host::parse_host;
use crate::pools::{PoolKey, PoolRegistry};
use crate::service::{self, Unresolved};

/// Hosts in lower case, and the Secrets of their certificates.
pub(super) type Secure = BTreeMap<String, NamespacedName>;

/// Hosts that an Ingress has a certificate for: by `spec.tls`, then by the ALB's annotation, which counts as a whole or
/// not at all.
pub(super) fn secure_hosts(ingress: &Ingress, domain: &Domain) -> Secure {
    let mut secure = Secure::new();
    let namespace = &ingress.metadata.namespace;
    for entry in &ingress.spec.tls {
        let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else { continue };
        for host in &entry.hosts {
            secure.entry(host.to_ascii_lowercase()).or_insert_with(|| NamespacedName::new(namespace.clone(), secret));
        }
    }
    let annotated = ingress.metadata.annotations.get(&domain.tls_annotation()).and_then(|text| parse_tls(text));
    for (host, secret) in annotated.unwrap_or_default() {
        secure.entry(host).or_insert(secret);
    }
    secure
}

/// `host=namespace/secret`, with commas between. `None` where it cannot be read, or says two things of one host.
fn parse_tls(text: &str) -> Option<Secure> {
    let mut secure = Secure::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (host, secret) = pair.split_once('=')?;
        let secret = NamespacedName::parse(secret.trim())?;
        if let Some(other) = secure.insert(host.trim().to_ascii_lowercase(), secret.clone())
            && other != secret
        {
            return None;
        }
    }
    Some(secure)
}

/// The ports of an ALB2 that an Ingress needs, and whether they speak TLS. All of its rules stand at each.
pub(super) fn needs(ingress: &Ingress, secure: &Secure, alb: &EffectiveAlb, domain: &Domain) -> BTreeMap<u16, bool> {
    let asked = ingress.metadata.annotations.get(&domain.enable_https_annotation()).and_then(|text| parse_bool(text));
    let (mut http, mut https) = (ingress.spec.rules.is_empty() && ingress.spec.default_backend.is_some(), false);
    for rule in &ingress.spec.rules {
        let host = rule.host.as_deref().unwrap_or_default();
        let (plain, tls) = match alb.ssl_strategy {
            _ if secure.contains_key(&host.to_ascii_lowercase()) => (false, true),
            SslStrategy::Both if asked != Some(false) => (true, true),
            SslStrategy::Always if asked != Some(false) => (false, true),
            SslStrategy::Request if asked == Some(true) => (false, true),
            _ => (true, false),
        };
        http |= plain;
        https |= tls;
    }
    let ports = [(alb.ingress_http_port, http, false), (alb.ingress_https_port, https, true)];
    ports.into_iter().filter_map(|(port, needed, tls)| Some((port.filter(|_| needed)?, tls))).collect()
}

/// The Frontend of a port that no object is there for.
pub(super) fn implied_frontend(
    id: &NamespacedName,
    alb: &EffectiveAlb,
    port: u16,
    tls: bool,
    domain: &Domain,
) -> Frontend {
    let protocol = if tls { "https" } else { "http" };
    let written = json!({
        "metadata": {"namespace": &*id.namespace, "name": &*id.name, "labels": {domain.name_label(): &*alb.name}},
        "spec": {"port": port, "protocol": protocol},
    });
    Frontend::parse(&written).expect("a Frontend of this module's making is one")
}

/// An Ingress, with what counts for all of its paths.
pub(super) struct Source<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) annotated: &'a Annotated,
    pub(super) secure: &'a Secure,
    /// Whether it is the one whose default backend the ALB2 has.
    pub(super) is_default: bool,
}

impl Source<'_> {
    /// Whether a firewall is refused by an annotation, whatever the ALB2 says.
    fn unguarded(&self) -> bool {
        let value = self.ingress.metadata.annotations.get("nginx.ingress.kubernetes.io/enable-modsecurity");
        value.and_then(|text| parse_bool(text)) == Some(false)
    }

    fn priority(&self, domain: &Domain, rule: usize, path: usize) -> i64 {
        let written = self.ingress.metadata.annotations.get(&domain.ingress_priority_annotation(rule, path));
        written.and_then(|text| text.trim().parse().ok()).filter(|priority| *priority != 0).unwrap_or(DEFAULT_PRIORITY)
    }
}

impl Port<'_> {
    /// The paths of an Ingress, at this port.
    pub(super) fn ingress(&self, source: &Source<'_>, pools: &mut PoolRegistry) -> Made {
        let mut made = Made::default();
        let key = source.ingress.key();
        for (index, rule) in source.ingress.spec.rules.iter().enumerate() {
            let paths = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
            for (nth, path) in paths.iter().enumerate() {
                self.path(source, &key, (index, nth), rule.host.as_deref().unwrap_or_default(), path, pools, &mut made);
            }
        }
        let takes_all = source.ingress.spec.rules.is_empty() && !self.frontend.spec.terminates_tls();
        if let Some(backend) = source.ingress.spec.default_backend.as_ref().filter(|_| takes_all) {
            if self.frontend.spec.service_group.is_some() || !source.is_default {
                let message = "another default backend counts already; this one is not used";
                made.findings.push(Finding::warning("Conflict", key, message).at("spec.defaultBackend"));
                return made;
            }
            let mut part = Part { port: self, key: &key, pools, made: &mut made, held: Vec::new() };
            let timeouts = self.view.gateway.routes.timeouts;
            let action = part.forward_path(&source.annotated.whole, backend, timeouts, "spec.defaultBackend");
            let name = format!("{}-{}", self.frontend.metadata.name, source.ingress.id());
            let place = Precedence { tie: name.into(), ..of_default_backend(&self.frontend.metadata.name) };
            let origin = source.ingress.origin();
            let rule = part.finish(origin, None, "spec.defaultBackend", place, every_request(), Doing::only(action));
            let pools = std::mem::take(&mut part.held);
            made.entries.push(Entry { hosts: vec![HostPattern::Any], rule, pools });
        }
        made
    }

    #[expect(clippy::too_many_arguments, reason = "a rule is made of this many parts")]
    fn path(
        &self,
        source: &Source<'_>,
        key: &ObjectKey,
        (index, nth): (usize, usize),
        host: &str,
        path: &HttpIngressPath,
        pools: &mut PoolRegistry,
        made: &mut Made,
    ) {
        let field = format!("spec.rules[{index}].http.paths[{nth}]");
        let text = path.path.as_deref().unwrap_or_default();
        let terms = ingress_terms(host, text, path.path_type);
        if terms.is_empty() {
            let message = "it has neither host nor path, and matches nothing";
            made.findings.push(Finding::warning("NoEffect", key.clone(), message).at(field));
            return;
        }
        let annotations = source.annotated.at(index, nth).unwrap_or(&source.annotated.whole);
        let mut part = Part { port: self, key, pools, made, held: Vec::new() };
        let compiled = match compile(Some(&terms)) {
            Ok(compiled) => Ok(compiled),
            Err(wrong) => {
                let message = format!("{wrong}; requests get 503 invalid_rule");
                part.tell(Finding::error("InvalidPath", key.clone(), message).at(format!("{field}.path")));
                let Some(covered) = cover(Some(&terms)) else { return };
                Err(covered)
            }
        };
        let (compiled, broken) = match compiled {
            Ok(compiled) => (compiled, false),
            Err(covered) => (covered, true),
        };
        if self.frontend.spec.terminates_tls()
            && let Some(secret) = source.secure.get(&host.to_ascii_lowercase())
            && let Ok(name) = parse_host(host)
            && name != HostPattern::Any
        {
            part.made.uses.insert(ObjectKey { kind: Kind::Secret, id: secret.clone() });
            part.made.claims.push((name, secret.clone()));
        }
        let first = compiled.hosts.first().cloned().unwrap_or(HostPattern::Any);
        let doing = match broken {
            true => Doing::refuse("invalid_rule"),
            false => part.doing_of_path(source, annotations, host, &first, path, &field),
        };
        let id = source.ingress.id();
        let name = format!("{}-{}-{}-{index}-{nth}", self.frontend.metadata.name, id.namespace, id.name);
        let place = precedence(source.priority(self.domain, index, nth), compiled.weight, &name);
        let rule = part.finish(source.ingress.origin(), None, &field, place, compiled.matches, doing);
        let pools = std::mem::take(&mut part.held);
        made.entries.push(Entry { hosts: compiled.hosts, rule, pools });
    }
}

impl Part<'_, '_> {
    fn doing_of_path(
        &mut self,
        source: &Source<'_>,
        annotations: &Annotations,
        host: &str,
        pattern: &HostPattern,
        path: &HttpIngressPath,
        field: &str,
    ) -> Doing {
        let port = self.port;
        let levels = Levels::of_port(&port.view.object, port.frontend);
        if annotations.guarded || (levels.modsecurity().is_some() && !source.unguarded()) {
            return Doing::refuse(UNAVAILABLE_GUARD);
        }
        if annotations.filters.broken {
            return Doing::refuse("invalid_rule");
        }
        let covered = !host.is_empty() && source.secure.contains_key(&host.to_ascii_lowercase());
        if let Some(redirect) = redirect(annotations, covered, port.frontend) {
            return Doing::only(Action::Redirect(redirect));
        }
        let base = path.path.as_deref().filter(|text| !text.is_empty()).unwrap_or("/");
        let rewrite: Option<PathRewrite> = match annotations.filters.rewrite_target().map(|to| path_rewrite(base, to)) {
            None => None,
            Some(Ok(rewrite)) => Some(rewrite),
            Some(Err((_, wrong))) => {
                let message = format!("{wrong}; requests get 503 invalid_rule");
                self.tell(Finding::error("InvalidPath", self.key.clone(), message).at(format!("{field}.path")));
                return Doing::refuse("invalid_rule");
            }
        };
        let filters = annotations.filters.with_rewrite(rewrite);
        let auth = if annotations.auth.says_nothing() {
            levels.auth().map_or(Ok(None), |told| self.guard(told, pattern))
        } else {
            let sources = Sources::new(port.cluster, self.key, port.reads_secrets);
            self.made.uses.extend(annotations.auth.references(sources.namespace()));
            let mut findings = Vec::new();
            let wanted = auth::resolve(&annotations.auth, pattern, &sources, &mut findings);
            findings.into_iter().for_each(|finding| self.tell(finding));
            wanted.map(|wanted| {
                let wanted = wanted?;
                let namespace = &*self.key.id.namespace;
                let pools = &mut *self.pools;
                let (auth, pool) = wanted
                    .with_pool(|server| pools.acquire(PoolKey::of_server(&port.view.gateway_id, namespace, server)));
                self.held.extend(pool);
                Some(auth)
            })
        };
        let Ok(auth) = auth else { return Doing::refuse(INVALID_AUTH) };
        let defaults = port.view.gateway.routes.timeouts;
        let times = match annotations.filters.says_timeouts() {
            true => annotations.filters.timeouts(defaults),
            false => timeouts(defaults, levels.timeout()),
        };
        let action = self.forward_path(annotations, &path.backend, times, &format!("{field}.backend"));
        let forwards = matches!(action, Action::Forward(_));
        let trace = self.trace_of_path(annotations, &levels).filter(|_| forwards);
        let auth = match (auth, annotations.access.clone()) {
            (auth, None) => auth,
            (auth, access) => Some(Auth { access, ..auth.unwrap_or_default() }),
        };
        Doing { filters, auth: auth.filter(|_| forwards), trace, action }
    }

    /// How requests are traced: as Frontend and ALB2 say, field by field, below what annotations say.
    fn trace_of_path(&mut self, annotations: &Annotations, levels: &Levels<'_>) -> Option<Arc<Trace>> {
        let port = self.port;
        let [alb, frontend] =
            [levels.alb.and_then(|alb| alb.otel.as_ref()), levels.frontend.and_then(|frontend| frontend.otel.as_ref())];
        let flags = [frontend, alb].into_iter().flatten().find_map(|otel| otel.flags).unwrap_or_default();
        let trace = match annotations.trace.below_alb(flags) {
            None => port.trace.0.clone(),
            Some((own, annotation)) => {
                let field = format!("metadata.annotations[{annotation}]");
                let merged = EffectiveOtel::merge([alb, frontend, Some(&own)]);
                if own.enable && merged.is_none() {
                    let message = "there is no collector; nothing is traced";
                    let finding = Finding::warning("MissingReference", self.key.clone(), message).at(field.clone());
                    self.tell(
                        finding.mend("set exporter.collector.address of otel, here, at the Frontend or the ALB2"),
                    );
                }
                let (trace, doubts) = merged.map_or((None, Vec::new()), |otel| traced(&otel, port.view));
                for doubt in doubts {
                    let message = format!("otel.{}: {}", doubt.field, doubt.message);
                    let severity = if doubt.fatal { Severity::Error } else { Severity::Warning };
                    self.tell(Finding::new(severity, doubt.reason, self.key.clone(), message).at(field.clone()));
                }
                trace
            }
        };
        match (trace, annotations.trace.span_name()) {
            (Some(trace), Some(name)) => Some(Arc::new(Trace { span_name: Some(name.clone()), ..(*trace).clone() })),
            (trace, _) => trace,
        }
    }

    fn forward_path(
        &mut self,
        annotations: &Annotations,
        backend: &IngressBackend,
        timeouts: headwater_model::gateway::RouteTimeouts,
        field: &str,
    ) -> Action {
        match self.backend_of_path(annotations, backend) {
            Ok(key) => {
                let pool = self.pools.acquire(key);
                self.held.push(pool);
                Action::Forward(Forward {
                    backends: vec![Backend { pool, weight: 100, filters: Filters::default() }],
                    https_redirect: None,
                    balance: annotations.balancing.of(&PathMatch::Any, &Balance::RoundRobin),
                    timeouts,
                    retry: self.port.view.gateway.routes.retry,
                    mirrors: Vec::new(),
                })
            }
            Err(wrong) => {
                let reason = if wrong.reason == "no_service" { "MissingReference" } else { "InvalidBackend" };
                let message = format!("{}; requests get 503 {}", wrong.message, wrong.reason);
                self.tell(Finding::error(reason, self.key.clone(), message).at(field).mend(wrong.mend));
                Action::Refuse(Refuse { status: 503, reason: wrong.reason.into() })
            }
        }
    }

    fn backend_of_path(&mut self, annotations: &Annotations, backend: &IngressBackend) -> Result<PoolKey, Unresolved> {
        let Some(named) = &backend.service else {
            return Err(Unresolved::invalid("the backend names no Service", "set backend.service"));
        };
        let id = NamespacedName::new(self.key.id.namespace.clone(), named.name.as_str());
        self.made.uses.insert(ObjectKey { kind: Kind::Service, id: id.clone() });
        let forced = match annotations.protocol {
            Some(BackendProtocol::Known(speech)) => Some(speech),
            Some(BackendProtocol::Unsupported) => {
                return Err(Unresolved {
                    reason: "unsupported_backend",
                    message: format!("Service {id} is to be spoken to in a protocol that is not available"),
                    mend: "set backend-protocol to HTTP, HTTPS, GRPC or GRPCS",
                });
            }
            None => self.speech(None),
        };
        let found = self.port.cluster.services.get(&id).map(|service| &**service);
        let target = service::resolve(&id, found, named.port.as_ref(), forced)?;
        Ok(PoolKey::new(&self.port.view.gateway_id, &id, target))
    }
}

/// Where the annotations send requests at a port. At one of TLS those that only ask for HTTPS are there already.
fn redirect(annotations: &Annotations, covered: bool, frontend: &Frontend) -> Option<Redirect> {
    let https = annotations.force_ssl_redirect == Some(true) || (annotations.ssl_redirect == Some(true) && covered);
    let found = annotations.filters.redirect(https).or_else(|| https.then(|| annotations.filters.to_https()));
    let is_there = |redirect: &Redirect| {
        frontend.spec.terminates_tls()
            && redirect.scheme.as_deref() == Some("https")
            && redirect.location.is_none()
            && redirect.host.is_none()
            && redirect.path.is_none()
            && redirect.port.is_none_or(|port| port == frontend.spec.port.get())
    };
    found.filter(|redirect| !is_there(redirect))
}

#[cfg(test)]
mod tests {
    use headwater_model::alb::Alb2;

    use super::*;

    #[test]
    fn the_ports_that_are_needed_follow_certificates_and_the_strategy() {
        let domain = Domain::default();
        let ingress = |hosts: &[&str], tls: &[&str], annotations: serde_json::Value| -> Ingress {
            let rules: Vec<_> = hosts.iter().map(|host| json!({"host": host})).collect();
            let tls = json!([{"hosts": tls, "secretName": "s"}]);
            let metadata = json!({"name": "i", "namespace": "n", "annotations": annotations});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"rules": rules, "tls": tls}})).unwrap()
        };
        let enable = |value: &str| json!({"alb.networking.cpaas.io/enable-https": value});
        let annotated = || json!({"alb.networking.cpaas.io/tls": "b.com=x/y"});
        let none = || json!({});
        #[rustfmt::skip]
        let cases: [(&str, Ingress, &[u16]); 15] = [
            ("Never", ingress(&["a.com"], &[], none()), &[80]),
            ("Never", ingress(&["A.com"], &["a.COM"], none()), &[443]),
            ("Never", ingress(&["a.com", "b.com"], &["a.com"], none()), &[80, 443]),
            ("Never", ingress(&["b.com"], &[], annotated()), &[443]),
            ("Never", ingress(&["a.com"], &[], enable("true")), &[80]),
            ("Always", ingress(&["a.com"], &[], none()), &[443]),
            ("Always", ingress(&["a.com"], &[], enable("false")), &[80]),
            ("Request", ingress(&["a.com"], &[], none()), &[80]),
            ("Request", ingress(&["a.com"], &[], enable("true")), &[443]),
            ("Both", ingress(&["a.com"], &[], none()), &[80, 443]),
            ("Both", ingress(&["a.com"], &[], enable("false")), &[80]),
            ("Both", ingress(&["a.com"], &["a.com"], none()), &[443]),
            ("Never", ingress(&[], &[], none()), &[]),
            ("Never", ingress(&["b.com"], &[], json!({"alb.networking.cpaas.io/tls": "b.com=x/y,b.com=x/z"})), &[80]),
            ("Never", ingress(&["b.com"], &[], json!({"alb.networking.cpaas.io/tls": "b.com=x/y,b.com=x/y"})), &[443]),
        ];
        for (strategy, ingress, expected) in cases {
            let alb =
                Alb2::parse(&json!({"metadata": {"name": "a"}, "spec": {"config": {"defaultSSLStrategy": strategy}}}));
            let secure = secure_hosts(&ingress, &domain);
            let found = needs(&ingress, &secure, &alb.unwrap().effective(), &domain);
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected, "{strategy} {ingress:?}");
        }
        let off = Alb2::parse(&json!({"metadata": {"name": "a"}, "spec": {"config": {"ingressHTTPPort": 0}}})).unwrap();
        let found = needs(&ingress(&["a.com"], &[], none()), &Secure::new(), &off.effective(), &domain);
        assert!(found.is_empty(), "port 0 turns that side off");
    }
}
