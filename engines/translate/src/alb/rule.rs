//! One Rule, and the default backend and redirect of a Frontend -> rules of a port.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_model::alb::config::{self, BackendProtocol, ServiceGroup, Timeout, WeightedService};
use headwater_model::alb::dslx::Term;
use headwater_model::alb::frontend::Protocol;
use headwater_model::alb::inherit::{EffectiveOtel, Inherited, Level, Levels, frontend_redirect};
use headwater_model::alb::{Domain, Frontend, Rule as Written};
use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{
    Action, AllowedOrigin, Auth, Backend, Balance, Cors, FilterSteps, Filters, Forward, HeaderEdits, HostPattern,
    Match, PathRewrite, PoolId, Precedence, Refuse, RouteTimeouts, Rule, RuleSource, StreamBackend, StreamRoute,
    StreamTimeouts, Trace, UrlRewrite,
};
use headwater_model::object::ServiceBackendPort;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};

use super::view::View;
use super::{Doubt, compile, cover, every_request, of_default_backend, of_redirect, pattern, precedence, redirect};
use crate::annotations::UNAVAILABLE_GUARD;
use crate::auth::{self, AuthAnnotations, Closed, INVALID_AUTH, Sources};
use crate::cors::{self, MAX_ORIGINS, parse_origin};
use crate::filters::{is_authority, is_replacement};
use crate::header_rewrite;
use crate::host::parse_host;
use crate::pools::{PoolKey, PoolRegistry};
use crate::service::{self, Speech, Unresolved};
use crate::trace::{self, TraceDoubt, TracedService};

/// Headers that browsers may send where a rule does not say which.
const CORS_HEADERS: &str = "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,\
                            Content-Type,Authorization";

/// A rule of a port, and what it holds.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it stands; none for one that matches no request.
    pub(super) hosts: Vec<HostPattern>,
    pub(super) rule: Arc<Rule>,
    /// Acquired; whoever drops the entry releases them.
    pub(super) pools: Vec<PoolId>,
}

/// What became of an object.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) entries: Vec<Entry>,
    /// Services, Secrets and ConfigMaps that are named.
    pub(super) uses: BTreeSet<ObjectKey>,
    pub(super) findings: Vec<Finding>,
    /// About the ALB2 that the object belongs to.
    pub(super) above: Vec<Finding>,
    /// Of a Frontend of tcp or udp, with the pools that are acquired for it.
    pub(super) stream: Option<(StreamRoute, Vec<PoolId>)>,
    /// Names that are to be answered with the certificate of a Secret.
    pub(super) claims: Vec<(HostPattern, NamespacedName)>,
}

/// Where rules stand, and what they inherit from.
pub(super) struct Port<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) reads_secrets: bool,
    pub(super) domain: &'a Domain,
    pub(super) view: &'a View,
    pub(super) frontend: &'a Frontend,
    /// What the ALB2 and the Frontend may read; lists of users are read once for all rules.
    pub(super) sources: [Sources<'a>; 2],
    /// How rules are traced that say nothing of it, and what is wrong with it.
    pub(super) trace: (Option<Arc<Trace>>, Vec<TraceDoubt>),
}

/// How requests that meet these levels are traced.
pub(super) fn trace_of(levels: &Levels<'_>, view: &View) -> (Option<Arc<Trace>>, Vec<TraceDoubt>) {
    levels.otel().map_or((None, Vec::new()), |otel| traced(&otel, view))
}

/// The same, of what the levels came to.
pub(super) fn traced(otel: &EffectiveOtel, view: &View) -> (Option<Arc<Trace>>, Vec<TraceDoubt>) {
    let alb = TracedService { name: &view.effective.name, namespace: &view.effective.namespace, kind: "alb" };
    let (trace, doubts) = trace::trace(otel, alb);
    (trace.map(Arc::new), doubts)
}

/// What a rule does, apart from what it matches.
pub(super) struct Doing {
    pub(super) filters: Filters,
    pub(super) auth: Option<Auth>,
    pub(super) trace: Option<Arc<Trace>>,
    pub(super) action: Action,
}

impl Doing {
    pub(super) fn only(action: Action) -> Self {
        Self { filters: Filters::default(), auth: None, trace: None, action }
    }

    pub(super) fn refuse(reason: &str) -> Self {
        let action = Action::Refuse(Refuse { status: 503, reason: reason.into() });
        Self::only(action)
    }
}

impl Port<'_> {
    /// A Rule object.
    pub(super) fn rule(&self, written: &Written, pools: &mut PoolRegistry) -> Made {
        let mut made = Made::default();
        let key = written.key();
        let mut part = Part { port: self, key: &key, pools, made: &mut made, held: Vec::new() };
        let spec = &written.spec;
        let terms: Option<&[Term]> = spec.dslx.as_deref();
        let (compiled, broken) = match compile(terms) {
            Ok(compiled) => (compiled, false),
            Err(wrong) => {
                let covered = cover(terms);
                let effect = if covered.is_some() { "; requests get 503 invalid_rule" } else { "; it is not served" };
                let finding = Finding::error("InvalidMatch", key.clone(), format!("{wrong}{effect}"));
                part.tell(finding.at("spec.dslx"));
                let Some(covered) = covered else { return made };
                (covered, true)
            }
        };
        for doubt in &compiled.doubts {
            let reason = if *doubt == Doubt::Empty { "NoEffect" } else { "NeverMatches" };
            part.tell(Finding::warning(reason, key.clone(), doubt.to_string()).at("spec.dslx"));
        }
        part.claim(written, &compiled.hosts);
        let host = match &*compiled.hosts {
            [host] => host.clone(),
            _ => HostPattern::Any,
        };
        let doing = if broken { Doing::refuse("invalid_rule") } else { part.doing(written, &host) };
        let place = precedence(spec.priority, compiled.weight, &written.metadata.name);
        let rule = part.finish(written.origin(), source_of(written), "spec", place, compiled.matches, doing);
        let pools = std::mem::take(&mut part.held);
        made.entries.push(Entry { hosts: compiled.hosts, rule, pools });
        made
    }

    /// The redirect and the default backend of the Frontend, as far as it has them; and what is wrong with what its
    /// rules inherit from it.
    pub(super) fn frontend(&self, pools: &mut PoolRegistry) -> Made {
        let mut made = Made::default();
        let key = self.frontend.key();
        let name = &*self.frontend.metadata.name;
        let mut part = Part { port: self, key: &key, pools, made: &mut made, held: Vec::new() };
        if !self.frontend.spec.protocol().is_l7() {
            let route = part.stream();
            let held = std::mem::take(&mut part.held);
            made.stream = Some((route, held));
            return made;
        }
        let mut entries = Vec::new();
        if let Some(written) = frontend_redirect(&self.view.effective, &self.frontend.spec) {
            let doing = part.redirect(&written, "spec.config.redirect");
            let origin = self.frontend.origin();
            let rule = part.finish(origin, None, "spec.config.redirect", of_redirect(name), every_request(), doing);
            entries.push(Entry { hosts: vec![HostPattern::Any], rule, pools: Vec::new() });
        }
        let group = self.frontend.spec.service_group.as_ref();
        if let Some(group) = group.filter(|group| !group.services.is_empty()) {
            let speech = part.speech(self.frontend.spec.backend_protocol);
            let action = part.forward(Some(group), speech, self.view.gateway.routes.timeouts);
            let doing = Doing::only(action);
            let origin = self.frontend.origin();
            let rule = part.finish(origin, None, "spec.serviceGroup", of_default_backend(name), every_request(), doing);
            let pools = std::mem::take(&mut part.held);
            entries.push(Entry { hosts: vec![HostPattern::Any], rule, pools });
        }
        part.check_inherited();
        made.entries = entries;
        made
    }
}

/// One object while it is translated.
pub(super) struct Part<'a, 'p> {
    pub(super) port: &'a Port<'p>,
    /// The object.
    pub(super) key: &'a ObjectKey,
    pub(super) pools: &'a mut PoolRegistry,
    pub(super) made: &'a mut Made,
    /// Acquired for the entry that is being made.
    pub(super) held: Vec<PoolId>,
}

impl Part<'_, '_> {
    pub(super) fn tell(&mut self, finding: Finding) {
        if !self.made.findings.contains(&finding) {
            self.made.findings.push(finding);
        }
    }

    fn error(&mut self, reason: &'static str, field: &str, message: impl Into<String>) {
        self.tell(Finding::error(reason, self.key.clone(), message).at(field));
    }

    pub(super) fn finish(
        &self,
        origin: Origin,
        source: Option<RuleSource>,
        field: &str,
        place: Precedence,
        matches: Match,
        doing: Doing,
    ) -> Arc<Rule> {
        Arc::new(Rule {
            origin: Arc::new(origin),
            field: field.into(),
            precedence: place,
            matches,
            filters: doing.filters,
            auth: doing.auth.map(Arc::new),
            trace: doing.trace,
            source: source.map(Arc::new),
            action: doing.action,
        })
    }

    fn doing(&mut self, written: &Written, host: &HostPattern) -> Doing {
        let port = self.port;
        let levels = Levels::of_rule(&port.view.object, port.frontend, written);
        if let Some(told) = levels.modsecurity() {
            if told.level == Level::Rule {
                self.tell(no_firewall(self.key));
            }
            return Doing::refuse(UNAVAILABLE_GUARD);
        }
        let filters = self.filters(written);
        if let Some(redirect) = written.spec.redirect() {
            return self.redirect(&redirect, "spec.config.redirect");
        }
        let auth = levels.auth().map_or(Ok(None), |told| self.guard(told, host));
        let Ok(filters) = filters else { return Doing::refuse("invalid_rule") };
        let Ok(auth) = auth else { return Doing::refuse(INVALID_AUTH) };
        let timeouts = timeouts(port.view.gateway.routes.timeouts, levels.timeout());
        let speech = self.speech(written.spec.backend_protocol);
        let action = self.forward(written.spec.service_group.as_ref(), speech, timeouts);
        let trace = match &written.spec.config {
            Some(config) if config.otel.is_some() => {
                let (trace, doubts) = trace_of(&levels, port.view);
                doubts.iter().for_each(|doubt| self.tell(doubtful(doubt, self.key.clone())));
                trace
            }
            _ => port.trace.0.clone(),
        };
        Doing { filters, auth, trace: trace.filter(|_| matches!(action, Action::Forward(_))), action }
    }

    /// What endpoints are spoken to in; `None`: what their Service says.
    pub(super) fn speech(&self, written: Option<BackendProtocol>) -> Option<Speech> {
        match (written, self.port.frontend.spec.protocol()) {
            (Some(BackendProtocol::Http), _) => Some(Speech::Http),
            (Some(BackendProtocol::Https), _) => Some(Speech::Https),
            (Some(BackendProtocol::Grpc), _) => Some(Speech::H2c),
            (Some(BackendProtocol::Grpcs), _) => Some(Speech::H2),
            (None, Protocol::Grpc | Protocol::Grpcs) => Some(Speech::H2c),
            (None, _) => None,
        }
    }

    fn redirect(&mut self, written: &config::Redirect, field: &str) -> Doing {
        match redirect::redirect(written) {
            Ok(redirect) => Doing::only(Action::Redirect(redirect)),
            Err((name, wrong)) => {
                let message = format!("{wrong}; requests get 503 invalid_rule");
                self.error("InvalidValue", &format!("{field}.{name}"), message);
                Doing::refuse("invalid_rule")
            }
        }
    }

    /// Who may come in. What is wrong with what is inherited is told with the object that says it.
    pub(super) fn guard(
        &mut self,
        told: Inherited<'_, config::Auth>,
        host: &HostPattern,
    ) -> Result<Option<Auth>, Closed> {
        let annotations = AuthAnnotations::of_config(told.value);
        let port = self.port;
        let own;
        let sources = match told.level {
            Level::Alb => &port.sources[0],
            Level::Frontend => &port.sources[1],
            Level::Rule => {
                own = Sources::new(port.cluster, self.key, port.reads_secrets);
                &own
            }
        };
        self.made.uses.extend(annotations.references(sources.namespace()));
        let mut findings = Vec::new();
        let wanted = auth::resolve(&annotations, host, sources, &mut findings);
        if told.level == Level::Rule {
            findings.into_iter().for_each(|finding| self.tell(finding));
        }
        let Some(wanted) = wanted? else { return Ok(None) };
        let (pools, namespace) = (&mut *self.pools, sources.namespace());
        let (auth, pool) =
            wanted.with_pool(|server| pools.acquire(PoolKey::of_server(&port.view.gateway_id, namespace, server)));
        self.held.extend(pool);
        Ok(Some(auth))
    }

    /// Tells what is wrong with what rules inherit, once for all of them.
    fn check_inherited(&mut self) {
        let port = self.port;
        let alb = port.view.object.key();
        let levels = Levels::of_port(&port.view.object, port.frontend);
        let mut found: Vec<(Level, Finding)> = Vec::new();
        let key_of = |level: Level| if level == Level::Alb { alb.clone() } else { self.key.clone() };
        if let Some(told) = levels.modsecurity() {
            found.push((told.level, no_firewall(&key_of(told.level))));
        }
        let own = port.frontend.spec.config.as_ref().is_some_and(|config| config.otel.is_some());
        let level = if own { Level::Frontend } else { Level::Alb };
        found.extend(port.trace.1.iter().map(|doubt| (level, doubtful(doubt, key_of(level)))));
        if let Some(told) = levels.auth() {
            let annotations = AuthAnnotations::of_config(told.value);
            let sources = &port.sources[usize::from(told.level != Level::Alb)];
            self.made.uses.extend(annotations.references(sources.namespace()));
            let mut findings = Vec::new();
            // Some rule has a host of its own; the others are told by themselves what variables they lack.
            let host = HostPattern::Exact("host.example".into());
            let _ = auth::resolve(&annotations, &host, sources, &mut findings);
            found.extend(findings.into_iter().map(|finding| (told.level, finding)));
        }
        for (level, finding) in found {
            match level {
                Level::Alb => self.made.above.push(finding),
                _ => self.tell(finding),
            }
        }
    }

    fn forward(&mut self, group: Option<&ServiceGroup>, speech: Option<Speech>, timeouts: RouteTimeouts) -> Action {
        let refuse = |reason: &str| Action::Refuse(Refuse { status: 503, reason: reason.into() });
        let Some(group) = group.filter(|group| !group.services.is_empty()) else {
            let message = "it names no Service; requests get 503 invalid_rule";
            self.error("InvalidBackend", "spec.serviceGroup", message);
            return refuse("invalid_rule");
        };
        let mut backends = Vec::with_capacity(group.services.len());
        let mut first_wrong = None;
        for (index, service) in group.services.iter().enumerate() {
            match self.backend(service, speech) {
                Ok(pool) => {
                    self.held.push(pool);
                    backends.push(Backend { pool, weight: service.weight(), filters: Filters::default() });
                }
                Err(wrong) => {
                    let reason = if wrong.reason == "no_service" { "MissingReference" } else { "InvalidBackend" };
                    let others = match group.services.len() {
                        1 => format!(
                            "{} {}",
                            if speech.is_some_and(|speech| matches!(speech, Speech::Tcp | Speech::Udp)) {
                                "it is refused with"
                            } else {
                                "requests get 503"
                            },
                            wrong.reason
                        ),
                        _ => "its share goes to the others".to_owned(),
                    };
                    let finding = Finding::error(reason, self.key.clone(), format!("{}; {others}", wrong.message));
                    self.tell(finding.at(format!("spec.serviceGroup.services[{index}]")).mend(wrong.mend));
                    first_wrong = first_wrong.or(Some(wrong.reason));
                }
            }
        }
        match first_wrong {
            Some(reason) if backends.is_empty() => return refuse(reason),
            _ => {}
        }
        let routes = &self.port.view.gateway.routes;
        Action::Forward(Forward {
            backends,
            https_redirect: None,
            balance: self.balance(group),
            timeouts,
            retry: routes.retry,
            mirrors: Vec::new(),
        })
    }

    /// Where connections or datagrams go, all of them.
    fn stream(&mut self) -> StreamRoute {
        let port = self.port;
        let is_udp = port.frontend.spec.protocol() == Protocol::Udp;
        let speech = if is_udp { Speech::Udp } else { Speech::Tcp };
        let told = Levels::of_port(&port.view.object, port.frontend).timeout();
        let timeouts = timeouts(port.view.gateway.routes.timeouts, told);
        let group = port.frontend.spec.service_group.as_ref();
        let action = self.forward(group, Some(speech), timeouts);
        let (backends, balance, refuse) = match action {
            Action::Forward(forward) => (forward.backends, forward.balance, None),
            Action::Refuse(refuse) => (Vec::new(), Balance::RoundRobin, Some(refuse.reason)),
            _ => (Vec::new(), Balance::RoundRobin, None),
        };
        StreamRoute {
            origin: Arc::new(port.frontend.origin()),
            field: "spec.serviceGroup".into(),
            backends: backends
                .iter()
                .map(|Backend { pool, weight, .. }| StreamBackend { pool: *pool, weight: *weight })
                .collect(),
            refuse,
            balance,
            timeouts: StreamTimeouts { connect: timeouts.connect, idle: timeouts.send.max(timeouts.idle) },
            attempts: port.view.gateway.routes.retry.attempts,
            transparent: port.view.gateway.routes.stream.transparent,
        }
    }

    fn backend(&mut self, written: &WeightedService, speech: Option<Speech>) -> Result<PoolId, Unresolved> {
        let port = self.port;
        let namespace = written.namespace.as_deref().unwrap_or(&self.key.id.namespace);
        let id = NamespacedName::new(namespace, written.name.as_str());
        self.made.uses.insert(ObjectKey { kind: Kind::Service, id: id.clone() });
        let found = port.cluster.services.get(&id).map(|service| &**service);
        let number = ServiceBackendPort { name: None, number: Some(written.port) };
        let target = service::resolve(&id, found, Some(&number), speech)?;
        Ok(self.pools.acquire(PoolKey::new(&port.view.gateway_id, &id, target)))
    }

    fn balance(&mut self, group: &ServiceGroup) -> Balance {
        super::balance(&group.affinity()).unwrap_or_else(|wrong| {
            let message = format!("{wrong}; endpoints take turns");
            self.error("InvalidValue", "spec.serviceGroup.session_affinity_attribute", message);
            Balance::RoundRobin
        })
    }

    /// Names that the certificate is for: the domain, or without one the hosts.
    fn claim(&mut self, written: &Written, hosts: &[HostPattern]) {
        let Some(secret) = &written.spec.certificate_name else { return };
        self.made.uses.insert(ObjectKey { kind: Kind::Secret, id: secret.clone() });
        let mut names = Vec::new();
        match written.spec.domain.as_deref().map(parse_host) {
            Some(Ok(name)) => names.push(name),
            Some(Err(wrong)) => self.error("InvalidHost", "spec.domain", wrong.to_string()),
            None => names.extend(hosts.iter().cloned()),
        }
        names.retain(|name| *name != HostPattern::Any);
        if !self.port.frontend.spec.terminates_tls() {
            return;
        }
        if names.is_empty() {
            let message = "the certificate is for no name: spec.domain is silent, and spec.dslx names no host";
            let finding = Finding::warning("NoEffect", self.key.clone(), message).at("spec.certificate_name");
            self.tell(finding.mend("set spec.domain"));
        }
        self.made.claims.extend(names.into_iter().map(|name| (name, secret.clone())));
    }

    /// # Errors
    /// A filter that requests must not be served without cannot be obeyed, which is told.
    fn filters(&mut self, written: &Written) -> Result<Filters, Closed> {
        let spec = &written.spec;
        let mut broken = false;
        let mut rewrite = UrlRewrite::default();
        if let Some(target) = &spec.rewrite_target {
            match path_rewrite(spec.rewrite_base(), target) {
                Ok(path) => rewrite.path = Some(path),
                Err((field, wrong)) => {
                    broken = true;
                    self.error("InvalidValue", field, format!("{wrong}; requests get 503 invalid_rule"));
                }
            }
        }
        if let Some(host) = &spec.vhost {
            if is_authority(host) {
                rewrite.host = Some(host.as_str().into());
            } else {
                broken = true;
                let message = format!("{host:?} is not a host; requests get 503 invalid_rule");
                self.error("InvalidValue", "spec.vhost", message);
            }
        }
        let mut headers = [HeaderEdits::default(), HeaderEdits::default()];
        let names = [self.port.domain.rewrite_request(), self.port.domain.rewrite_response()];
        for (name, (edits, is_request)) in names.iter().zip(headers.iter_mut().zip([true, false])) {
            let Some(text) = written.metadata.annotations.get(name) else { continue };
            let field = format!("metadata.annotations[{name}]");
            match header_rewrite::parse(text, is_request) {
                Ok((parsed, idle)) => {
                    *edits = parsed;
                    for name in idle {
                        let message = format!("header {name} is written by the gateway; this edit has no effect");
                        self.tell(Finding::warning("NoEffect", self.key.clone(), message).at(field.as_str()));
                    }
                }
                Err(wrong) => {
                    broken = true;
                    self.error("InvalidValue", &field, format!("{wrong}; requests get 503 invalid_rule"));
                }
            }
        }
        let [request_headers, response_headers] = headers;
        let cors = spec.enable_cors.then(|| Box::new(self.cors(written)));
        if broken {
            return Err(Closed);
        }
        let rewrite = Some(rewrite).filter(|rewrite| *rewrite != UrlRewrite::default());
        Ok(FilterSteps { cors, rewrite, request_headers, response_headers }.into())
    }

    /// An entry that is no origin is left out: nobody is let in by a mistake.
    fn cors(&mut self, written: &Written) -> Cors {
        let mut origins = Vec::new();
        match &written.spec.cors_allow_origin {
            None => origins.push(AllowedOrigin::Any),
            Some(list) => {
                for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                    match parse_origin(entry) {
                        Some(origin) if origins.len() < MAX_ORIGINS => origins.push(origin),
                        _ => {
                            let shown: String = entry.chars().take(100).collect();
                            let message =
                                format!("{shown:?} is not an origin such as https://a.example; it is left out");
                            self.error("InvalidValue", "spec.corsAllowOrigin", message);
                        }
                    }
                }
            }
        }
        let headers = written.spec.cors_allow_headers.as_deref();
        if headers.is_some_and(|headers| !cors::is_list(headers)) {
            let message = "not a list of header names; the default is used";
            self.error("InvalidValue", "spec.corsAllowHeaders", message);
        }
        Cors {
            origins,
            methods: cors::METHODS.into(),
            headers: headers.filter(|headers| cors::is_list(headers)).unwrap_or(CORS_HEADERS).into(),
            expose: None,
            credentials: true,
            max_age: cors::MAX_AGE,
        }
    }
}

/// What takes the place of the first match of the base in the path; of all of it where the base is `.*`.
pub(super) fn path_rewrite(base: &str, target: &str) -> Result<PathRewrite, (&'static str, String)> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    if !is_replacement(target) {
        let wrong = format!("{:?} is not a path with $1 to $9 for groups of the base", shown(target));
        return Err(("spec.rewrite_target", wrong));
    }
    if base == ".*" {
        return Ok(PathRewrite::Full(target.into()));
    }
    match pattern::to_regex(base) {
        Ok(pattern) => Ok(PathRewrite::Regex { pattern: pattern.into(), replacement: target.into() }),
        Err(wrong) => Err(("spec.rewrite_base", format!("the regular expression {:?}: {wrong}", shown(base)))),
    }
}

/// What a Rule says that it was made for.
fn source_of(written: &Written) -> Option<RuleSource> {
    let source = written.spec.source.as_ref().filter(|source| !source.source_type.is_empty())?;
    let id = NamespacedName::new(source.namespace.as_str(), source.name.as_str());
    Some(RuleSource { kind: source.source_type.as_str().into(), id })
}

pub(super) fn timeouts(defaults: RouteTimeouts, told: Option<Inherited<'_, Timeout>>) -> RouteTimeouts {
    let Some(Inherited { value, .. }) = told else { return defaults };
    RouteTimeouts { connect: value.connect(), send: value.send(), idle: value.read(), request: defaults.request }
}

fn no_firewall(key: &ObjectKey) -> Finding {
    let message = format!("ModSecurity is not available yet; requests get 503 {UNAVAILABLE_GUARD}");
    let finding = Finding::error("NotImplemented", key.clone(), message).at("spec.config.modsecurity");
    finding.mend("set enable to false to serve everybody, or keep a firewall in front")
}

fn doubtful(doubt: &TraceDoubt, key: ObjectKey) -> Finding {
    let severity = if doubt.fatal { Severity::Error } else { Severity::Warning };
    Finding::new(severity, doubt.reason, key, doubt.message.as_str()).at(format!("spec.config.otel.{}", doubt.field))
}
