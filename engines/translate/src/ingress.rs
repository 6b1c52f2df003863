//! One Ingress: its hosts, its paths, and the rules they become.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::gateway::{
    AccessList, Action, Auth, Backend, Filters, Forward, HostPattern, Match, PathMatch, PoolId, Redirect, Refuse, Rule,
};
use headwater_model::object::{HttpIngressPath, Ingress, IngressBackend};
use headwater_model::origin::{NamespacedName, ObjectKey, Origin};

use crate::annotations::{self, Annotated, Annotations, BackendProtocol, UNAVAILABLE_GUARD};
use crate::auth::{self, INVALID_AUTH, Sources};
use crate::conflict::{Age, place};
use crate::environment::GatewayId;
use crate::filters::{regex_path, syntax_error};
use crate::host::parse_host;
use crate::path::{MAX_PATH, PathError, looks_like_regex, parse_path};
use crate::pools::{PoolKey, PoolRegistry};
use crate::precedence;
use crate::service::{self, Unresolved};
use crate::settings::Gateway;
use crate::streams::Passed;
use crate::tls::Claim;

/// An Ingress as translated last.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) object: Arc<Ingress>,
    pub(crate) gateway: GatewayId,
    pub(crate) age: Age,
    pub(crate) annotations: Annotated,
    /// By place in `spec.rules`; `None` where the host is refused.
    pub(crate) hosts: Vec<Option<HostPattern>>,
    pub(crate) claims: Vec<Claim>,
    /// Names under `spec.tls`.
    pub(crate) secrets: Vec<NamespacedName>,
    pub(crate) head_findings: Vec<Finding>,
    pub(crate) rules: Vec<TranslatedRule>,
    pub(crate) default: Option<Route>,
    /// Hosts whose TLS passes through.
    pub(crate) passed: Vec<Passed>,
    pub(crate) passed_findings: Vec<Finding>,
}

/// One entry of `spec.rules`.
#[derive(Debug, Default)]
pub(crate) struct TranslatedRule {
    /// Whether the host had a certificate.
    covered: bool,
    pub(crate) paths: Vec<Route>,
    /// Where the Ingress's default backend answers what no path of the host matches.
    pub(crate) rest: Option<Route>,
}

/// One path. `entry` is `None` where it is refused and left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Route {
    pub(crate) entry: Option<Arc<Entry>>,
    pub(crate) findings: Vec<Finding>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) host: HostPattern,
    pub(crate) age: Age,
    pub(crate) rule: Arc<Rule>,
    pub(crate) pool: Option<PoolId>,
    /// Of the auth server.
    pub(crate) auth_pool: Option<PoolId>,
    /// The Service it names, whether it exists or not.
    pub(crate) service: Option<NamespacedName>,
}

impl Entry {
    /// The pools it holds.
    pub(crate) fn pools(&self) -> impl Iterator<Item = PoolId> {
        self.pool.into_iter().chain(self.auth_pool)
    }
}

/// The part that does not depend on Services: hosts and annotations.
pub(crate) fn hosts(
    ingress: &Ingress,
    old: Option<&Translated>,
    findings: &mut Vec<Finding>,
) -> Vec<Option<HostPattern>> {
    let mut hosts = Vec::with_capacity(ingress.spec.rules.len());
    for (index, rule) in ingress.spec.rules.iter().enumerate() {
        let before = old.and_then(|old| Some((old.object.spec.rules.get(index)?, old.hosts.get(index)?.as_ref()?)));
        if let Some((_, host)) = before.filter(|(before, _)| before.host == rule.host) {
            hosts.push(Some(host.clone()));
            continue;
        }
        hosts.push(match parse_host(rule.host.as_deref().unwrap_or("")) {
            Ok(host) => Some(host),
            Err(wrong) => {
                let finding = Finding::error("InvalidHost", ingress.key(), format!("{wrong}; the rule is left out"));
                findings.push(finding.at(format!("spec.rules[{index}].host")));
                None
            }
        });
    }
    hosts
}

pub(crate) fn read_annotations(ingress: &Ingress, domain: &str, findings: &mut Vec<Finding>) -> Annotated {
    let (annotated, mut found) = annotations::read_all(&ingress.key(), &ingress.metadata.annotations, domain);
    findings.append(&mut found);
    for (rule, path) in annotated.places() {
        let paths = ingress.spec.rules.get(rule).and_then(|rule| rule.http.as_ref()).map_or(0, |http| http.paths.len());
        if path >= paths {
            let message = format!("index.{rule}-{path} names a path that the Ingress does not have; it has no effect");
            findings.push(Finding::warning("NoEffect", ingress.key(), message).at("metadata.annotations"));
        }
    }
    annotated
}

/// What the paths of one Ingress are translated with.
#[derive(Clone)]
pub(crate) struct Context<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) ingress: &'a Ingress,
    pub(crate) gateway_id: &'a GatewayId,
    pub(crate) gateway: &'a Gateway,
    pub(crate) age: &'a Age,
    pub(crate) annotated: &'a Annotated,
    /// Those that count here.
    pub(crate) annotations: &'a Annotations,
    pub(crate) sources: &'a Sources<'a>,
    pub(crate) key: ObjectKey,
    pub(crate) origin: Arc<Origin>,
    /// Whether nothing outside the Ingress changed that its paths depend on.
    pub(crate) settled: bool,
}

/// Translates the rules. Routes that did not change are the same pointers as in `old`.
///
/// Pools of new entries are acquired; those of entries that are no more are released by the caller.
pub(crate) fn rules(
    context: &Context<'_>,
    hosts: &[Option<HostPattern>],
    is_covered: impl Fn(&HostPattern) -> bool,
    old: Option<&Translated>,
    pools: &mut PoolRegistry,
) -> Vec<TranslatedRule> {
    let ingress = context.ingress;
    let mut rules = Vec::with_capacity(ingress.spec.rules.len());
    for (index, rule) in ingress.spec.rules.iter().enumerate() {
        let paths = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
        let Some(Some(host)) = hosts.get(index) else {
            rules.push(TranslatedRule::default());
            continue;
        };
        let covered = is_covered(host);
        let old_rule = old.and_then(|old| old.rules.get(index));
        let old_spec = old.and_then(|old| Some(old.object.spec.rules.get(index)?.http.as_ref()?.paths.as_slice()));
        // Only what surrounds the path; the path itself is compared below.
        let settled = context.settled
            && old_rule.is_some_and(|old_rule| old_rule.covered == covered)
            && old.and_then(|old| old.hosts.get(index)) == Some(&Some(host.clone()));
        let mut translated = TranslatedRule { covered, paths: Vec::with_capacity(paths.len()), rest: None };
        for (path_index, path) in paths.iter().enumerate() {
            let before = old_rule.and_then(|rule| rule.paths.get(path_index));
            let place = place(index, path_index);
            let same_spec = old_spec.and_then(|paths| paths.get(path_index)) == Some(path);
            translated.paths.push(match before {
                Some(before) if settled && same_spec => before.clone(),
                before => {
                    let annotations = context.annotated.at(index, path_index);
                    let own = annotations.map(|annotations| Context { annotations, ..context.clone() });
                    own.as_ref().unwrap_or(context).path(host, path, place, covered, before, pools)
                }
            });
        }
        if let Some(backend) = &ingress.spec.default_backend {
            let before = old_rule.and_then(|rule| rule.rest.as_ref());
            let age = context.age.at(place(index, REST));
            let route =
                context.route(host, PathMatch::Any, backend, "spec.defaultBackend", age, Some(covered), before, pools);
            // What is wrong with the backend is told once, with the default of the gateway.
            translated.rest = Some(Route { entry: route.entry, findings: Vec::new() });
        }
        rules.push(translated);
    }
    rules
}

/// Translates `spec.defaultBackend`: what no rule of the gateway matches.
pub(crate) fn default_route(
    context: &Context<'_>,
    old: Option<&Translated>,
    pools: &mut PoolRegistry,
) -> Option<Route> {
    let backend = context.ingress.spec.default_backend.as_ref()?;
    let before = old.and_then(|old| old.default.as_ref());
    let age = context.age.clone();
    let covered = Some(false);
    Some(context.route(&HostPattern::Any, PathMatch::Any, backend, "spec.defaultBackend", age, covered, before, pools))
}

impl Context<'_> {
    fn redirects(&self, covered: bool) -> bool {
        let defaults = &self.gateway.routes.redirect;
        let force = self.annotations.force_ssl_redirect.unwrap_or(defaults.force);
        let wanted = self.annotations.ssl_redirect.unwrap_or(defaults.ssl_redirect);
        force || (wanted && covered && defaults.has_https)
    }

    /// The answer to every request, before anything is looked for.
    fn standing_redirect(&self, covered: bool) -> Option<Redirect> {
        let force = self.annotations.force_ssl_redirect == Some(true);
        let wanted = self.annotations.ssl_redirect == Some(true);
        self.annotations.filters.redirect(force || (wanted && covered))
    }

    /// The answer to plain HTTP.
    fn redirect(&self, path: &PathMatch) -> Option<Redirect> {
        let defaults = &self.gateway.routes.redirect;
        let text = match path {
            PathMatch::Exact(text) | PathMatch::Prefix(text) => &**text,
            _ => "",
        };
        if defaults.exempt.iter().any(|exempt| text.starts_with(&**exempt)) {
            return None;
        }
        Some(Redirect {
            status: defaults.status,
            location: None,
            scheme: Some("https".into()),
            host: None,
            port: self.annotations.filters.port.or(defaults.port),
            path: None,
            strip_trailing_slash: !self.annotations.preserve_trailing_slash,
            drop_query: false,
            exempt: Vec::new(),
        })
    }

    fn path(
        &self,
        host: &HostPattern,
        path: &HttpIngressPath,
        place: (u32, u32),
        covered: bool,
        old: Option<&Route>,
        pools: &mut PoolRegistry,
    ) -> Route {
        let field = format!("spec.rules[{}].http.paths[{}]", place.0, place.1);
        let is_regex = self.annotations.filters.regex;
        let text = path.path.as_deref();
        let parsed = if is_regex { parse_regex(text) } else { parse_path(text, path.path_type) };
        let matched = match parsed {
            Ok(matched) => matched,
            Err(wrong) => {
                let finding = Finding::error("InvalidPath", self.key.clone(), format!("{wrong}; the path is left out"));
                return Route { entry: None, findings: vec![finding.at(format!("{field}.path"))] };
            }
        };
        let age = self.age.at(place);
        let mut route = self.route(host, matched, &path.backend, &field, age, Some(covered), old, pools);
        let found = match text {
            Some(text) if is_regex => syntax_error(text).map(|wrong| {
                let message =
                    format!("{text:?} cannot be matched in linear time: {wrong}; requests get 500 invalid_match");
                Finding::error("InvalidPath", self.key.clone(), message)
            }),
            Some(text) if looks_like_regex(text) => {
                let message = "looks like a regular expression, and is compared letter by letter";
                let finding = Finding::warning("NotRegex", self.key.clone(), message);
                Some(finding.mend("set nginx.ingress.kubernetes.io/use-regex: \"true\" if it is one"))
            }
            _ => None,
        };
        route.findings.extend(found.map(|finding| finding.at(format!("{field}.path"))));
        route
    }

    /// What no Ingress wants goes to `backend`; its object is the Service itself.
    pub(crate) fn fallback(&self, backend: &IngressBackend, old: Option<&Route>, pools: &mut PoolRegistry) -> Route {
        let age = self.age.clone();
        let mut route = self.route(&HostPattern::Any, PathMatch::Any, backend, "", age, None, old, pools);
        route.findings.iter_mut().for_each(|finding| finding.field.clear());
        route
    }

    /// `covered`: whether the host has a certificate; `None` where nothing is ever redirected.
    #[expect(clippy::too_many_arguments, reason = "a rule is made of this many parts")]
    fn route(
        &self,
        host: &HostPattern,
        path: PathMatch,
        backend: &IngressBackend,
        field: &str,
        age: Age,
        covered: Option<bool>,
        old: Option<&Route>,
        pools: &mut PoolRegistry,
    ) -> Route {
        let mut findings = Vec::new();
        let https = covered.is_some_and(|covered| self.redirects(covered)).then(|| self.redirect(&path)).flatten();
        let standing = covered.and_then(|covered| self.standing_redirect(covered));
        let service = backend
            .service
            .as_ref()
            .map(|service| NamespacedName::new(self.ingress.metadata.namespace.clone(), service.name.as_str()));
        let guard = auth::resolve(&self.annotations.auth, host, self.sources, &mut findings);
        let refuse = |reason: &str| Action::Refuse(Refuse { status: 503, reason: reason.into() });
        let (action, pool) = if self.annotations.filters.broken {
            // Told once, with the annotation.
            (refuse("invalid_rule"), None)
        } else if let Some(redirect) = standing {
            // Before anybody is kept out: it shows nothing, and its Service need not exist.
            (Action::Redirect(redirect), None)
        } else if self.annotations.guarded {
            (refuse(UNAVAILABLE_GUARD), None)
        } else if guard.is_err() {
            (refuse(INVALID_AUTH), None)
        } else {
            match self.resolve(backend, service.as_ref()) {
                Ok(key) => {
                    let pool = pools.acquire(key);
                    (Action::Forward(self.forward(pool, https, &path)), Some(pool))
                }
                Err(wrong) => {
                    let field =
                        if field == "spec.defaultBackend" { field.to_owned() } else { format!("{field}.backend") };
                    let reason = if wrong.reason == "no_service" { "MissingReference" } else { "InvalidBackend" };
                    let message = format!("{}; requests get 503 {}", wrong.message, wrong.reason);
                    findings.push(Finding::error(reason, self.key.clone(), message).at(field).mend(wrong.mend));
                    (refuse(wrong.reason), None)
                }
            }
        };
        let (auth, auth_pool) = match guard {
            Ok(Some(wanted)) if matches!(action, Action::Forward(_)) => {
                let namespace = &self.ingress.metadata.namespace;
                let acquire =
                    |server: &auth::Server| pools.acquire(PoolKey::of_server(self.gateway_id, namespace, server));
                let (auth, pool) = wanted.with_pool(acquire);
                (Some(auth), pool)
            }
            _ => (None, None),
        };
        let trace = match &action {
            Action::Forward(_) => {
                self.annotations.trace.resolve(&self.key, &self.gateway.routes.tracing, &mut findings)
            }
            _ => None,
        };
        let access = self.access().filter(|_| matches!(action, Action::Forward(_)));
        let auth = match (auth, access) {
            (auth, None) => auth,
            (auth, access) => Some(Auth { access, ..auth.unwrap_or_default() }),
        };
        let rule = Rule {
            origin: self.origin.clone(),
            field: field.into(),
            precedence: precedence::of_path(host, &path),
            filters: self.annotations.filters.of(&path),
            matches: Match { path, conditions: Vec::new() },
            auth: auth.map(Arc::new),
            trace,
            source: None,
            action,
        };
        let old = old.and_then(|old| old.entry.as_ref());
        if let Some(old) = old
            && old.age == age
            && old.service == service
            && old.host == *host
            && same_rule(&old.rule, &rule)
        {
            // The old entry keeps its own hold on the pools.
            pool.into_iter().chain(auth_pool).for_each(|pool| pools.release(pool));
            return Route { entry: Some(old.clone()), findings };
        }
        let rule = match old {
            Some(old) if same_rule(&old.rule, &rule) => old.rule.clone(),
            _ => Arc::new(rule),
        };
        Route { entry: Some(Arc::new(Entry { host: host.clone(), age, rule, pool, auth_pool, service })), findings }
    }

    fn resolve(&self, backend: &IngressBackend, service: Option<&NamespacedName>) -> Result<PoolKey, Unresolved> {
        let (named, id) = match (&backend.service, service, &backend.resource) {
            (Some(named), Some(id), None) => (named, id),
            (None, _, Some(resource)) => {
                return Err(Unresolved {
                    reason: "unsupported_backend",
                    message: format!("backend resource {} {} cannot be forwarded to", resource.kind, resource.name),
                    mend: "name a Service",
                });
            }
            (Some(_), _, Some(_)) => {
                return Err(Unresolved::invalid("the backend has both service and resource", "keep one"));
            }
            _ => return Err(Unresolved::invalid("the backend names no Service", "set backend.service")),
        };
        let forced = match self.annotations.protocol {
            None => None,
            Some(BackendProtocol::Known(speech)) => Some(speech),
            Some(BackendProtocol::Unsupported) => {
                return Err(Unresolved {
                    reason: "unsupported_backend",
                    message: format!("Service {id} is to be spoken to in a protocol that is not available"),
                    mend: "set backend-protocol to HTTP, HTTPS, GRPC or GRPCS",
                });
            }
        };
        let found = self.cluster.services.get(id).map(|service| &**service);
        let target = service::resolve(id, found, named.port.as_ref(), forced)?;
        Ok(PoolKey::new(self.gateway_id, id, target))
    }

    /// Each list is the gateway's unless the Ingress has its own.
    fn access(&self) -> Option<AccessList> {
        let own = self.annotations.access.clone().unwrap_or_default();
        let defaults = &self.gateway.routes.access;
        let or = |own: Vec<_>, default: &Vec<_>| if own.is_empty() { default.clone() } else { own };
        let list = AccessList { deny: or(own.deny, &defaults.deny), allow: or(own.allow, &defaults.allow) };
        Some(list).filter(|list| *list != AccessList::default())
    }

    fn forward(&self, pool: PoolId, https_redirect: Option<Redirect>, path: &PathMatch) -> Forward {
        let defaults = &self.gateway.routes;
        Forward {
            backends: vec![Backend { pool, weight: 1, filters: Filters::default() }],
            https_redirect: https_redirect.map(Box::new),
            balance: self.annotations.balancing.of(path, &defaults.balance),
            timeouts: self.annotations.filters.timeouts(defaults.timeouts),
            retry: defaults.retry,
            mirrors: Vec::new(),
        }
    }
}

/// A path that is a regular expression, whatever its type says.
fn parse_regex(text: Option<&str>) -> Result<PathMatch, PathError> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("/");
    if text.len() > MAX_PATH {
        return Err(PathError::Long(text.len()));
    }
    regex_path(text).ok_or_else(|| PathError::Relative(text.to_owned()))
}

/// Equal but for the generation of the object: a rule that an edit left alone stays what it was.
pub(crate) fn same_rule(a: &Rule, b: &Rule) -> bool {
    a.field == b.field
        && a.precedence == b.precedence
        && a.matches == b.matches
        && a.filters == b.filters
        && a.auth == b.auth
        && a.trace == b.trace
        && a.source == b.source
        && a.action == b.action
        && a.origin.key == b.origin.key
}

/// Path index of a rule's `rest`.
const REST: usize = usize::MAX;

impl Translated {
    /// What every path of the Ingress depends on.
    pub(crate) fn surroundings(&self) -> (&GatewayId, &Age, &Annotated) {
        (&self.gateway, &self.age, &self.annotations)
    }

    /// Every entry but the default's, with the places of its rule and path.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (usize, usize, &Arc<Entry>)> {
        self.rules.iter().enumerate().flat_map(|(index, rule)| {
            let paths = rule.paths.iter().enumerate();
            let rest = rule.rest.iter().map(|route| (REST, route));
            paths.chain(rest).filter_map(move |(path, route)| Some((index, path, route.entry.as_ref()?)))
        })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.placed().map(|(_, _, entry)| entry)
    }

    /// Whether this very entry stands at the place.
    pub(crate) fn is_at(&self, rule: usize, path: usize, entry: &Arc<Entry>) -> bool {
        let Some(rule) = self.rules.get(rule) else { return false };
        let route = if path == REST { rule.rest.as_ref() } else { rule.paths.get(path) };
        route.and_then(|route| route.entry.as_ref()).is_some_and(|known| Arc::ptr_eq(known, entry))
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.head_findings.clone();
        findings.extend_from_slice(&self.passed_findings);
        let rules = self.rules.iter().flat_map(|rule| rule.paths.iter().chain(&rule.rest));
        for route in rules.chain(&self.default) {
            findings.extend_from_slice(&route.findings);
        }
        // What is wrong with an annotation is found for each path that it is for.
        let mut told = BTreeSet::new();
        let first: Vec<bool> = findings.iter().map(|finding| told.insert(finding)).collect();
        let mut first = first.into_iter();
        findings.retain(|_| first.next().unwrap_or(true));
        findings
    }
}
