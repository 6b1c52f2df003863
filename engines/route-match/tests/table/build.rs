//! Rules, tables and requests in few words.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::gateway::{
    Action, Condition, Filters, HostLaw, HostPattern, Match, PathMatch, Precedence, Refuse, RouteTable, Rule,
    VirtualHost,
};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_route_match::{CompiledTable, RequestView};

pub(crate) fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

pub(crate) fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

pub(crate) fn starts(path: &str) -> PathMatch {
    PathMatch::StartsWith(path.into())
}

pub(crate) fn regex(pattern: &str) -> PathMatch {
    PathMatch::Regex(pattern.into())
}

/// A rule that is told apart by the reason it refuses with.
pub(crate) fn rule(name: &str, rank: i64, path: PathMatch, conditions: Vec<Condition>) -> Arc<Rule> {
    Arc::new(Rule {
        origin: Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", "web"), generation: 1 }),
        field: name.into(),
        precedence: Precedence { ranks: [rank, 0, 0, 0], tie: name.into() },
        matches: Match { path, conditions },
        filters: Filters::default(),
        auth: None,
        trace: None,
        source: None,
        action: Action::Refuse(Refuse { status: 404, reason: name.into() }),
    })
}

/// Rules of one host, precedence in the order given.
pub(crate) fn ordered(paths: Vec<(&str, PathMatch)>) -> Vec<Arc<Rule>> {
    (0..).zip(paths).map(|(rank, (name, path))| rule(name, rank, path, Vec::new())).collect()
}

pub(crate) fn table(law: HostLaw, hosts: Vec<(HostPattern, Vec<Arc<Rule>>)>) -> RouteTable {
    let hosts = hosts
        .into_iter()
        .map(|(host, mut rules)| {
            rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
            (host.clone(), Arc::new(VirtualHost { host, rules }))
        })
        .collect();
    RouteTable { law, hosts, default: None }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub path: String,
    pub query: Option<String>,
    pub method: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
    pub client: IpAddr,
}

impl Request {
    pub(crate) fn path(path: &str) -> Self {
        let client = IpAddr::from([192, 0, 2, 1]);
        Self { path: path.to_owned(), query: None, method: "GET", headers: Vec::new(), client }
    }
}

impl RequestView for Request {
    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn method(&self) -> &str {
        self.method
    }

    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, mut line: F) {
        for (_, value) in self.headers.iter().filter(|(header, _)| *header == name) {
            line(value.as_bytes());
        }
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

/// Name of the rule that is found.
pub(crate) fn found(table: &CompiledTable, request: &Request, host: &str) -> Option<String> {
    table.find(request, host).map(|matched| matched.rule.field.to_string())
}
