//! Terms, requests and tables in few words.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::alb::dslx::Term;
use headwater_model::gateway::{
    Action, Filters, HostLaw, HostPattern, Precedence, Refuse, RouteTable, Rule, VirtualHost,
};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_route_match::{CompiledTable, RequestView, normalise_host, normalise_path};
use headwater_translate::alb::Compiled;

pub(crate) fn term(kind: &str, key: &str, rows: &[&[&str]]) -> Term {
    let values = rows.iter().map(|row| row.iter().map(|text| text.to_string()).collect()).collect();
    Term { kind: kind.into(), key: key.into(), values }
}

/// A request as received; names of headers in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) authority: Option<String>,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) client: IpAddr,
}

impl Request {
    pub(crate) fn new(authority: &str, path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            authority: Some(authority.to_owned()),
            path: path.to_owned(),
            query: None,
            headers: Vec::new(),
            client: IpAddr::from([10, 0, 0, 1]),
        }
    }
}

struct View<'r> {
    request: &'r Request,
    path: String,
}

impl RequestView for View<'_> {
    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.request.query.as_deref()
    }

    fn method(&self) -> &str {
        &self.request.method
    }

    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, mut line: F) {
        for (_, value) in self.request.headers.iter().filter(|(header, _)| header == name) {
            line(value.as_bytes());
        }
    }

    fn client(&self) -> IpAddr {
        self.request.client
    }
}

/// A table of all rules of a port.
pub(crate) fn table(rules: Vec<(Compiled, Precedence)>) -> CompiledTable {
    let mut hosts: HashMap<HostPattern, Vec<Arc<Rule>>> = HashMap::new();
    for (compiled, precedence) in rules {
        let rule = Arc::new(Rule {
            origin: Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", &*precedence.tie), generation: 1 }),
            field: "spec.dslx".into(),
            precedence,
            matches: compiled.matches,
            filters: Filters::default(),
            auth: None,
            trace: None,
            source: None,
            action: Action::Refuse(Refuse { status: 404, reason: "no_route".into() }),
        });
        for host in compiled.hosts {
            hosts.entry(host).or_default().push(Arc::clone(&rule));
        }
    }
    let hosts = hosts.into_iter().map(|(host, mut rules)| {
        rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        (host.clone(), Arc::new(VirtualHost { host, rules }))
    });
    let table =
        CompiledTable::compile(&RouteTable { law: HostLaw::ByPrecedence, hosts: hosts.collect(), default: None }, None);
    assert_eq!(table.faults().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    table
}

/// Name of the rule that the request meets.
pub(crate) fn found(table: &CompiledTable, request: &Request) -> Option<String> {
    let path = normalise_path(request.path.as_bytes()).expect("a path that is served").as_str().to_owned();
    let mut scratch = String::new();
    let host = match &request.authority {
        Some(authority) => normalise_host(authority.as_bytes(), &mut scratch).expect("a host that is served"),
        None => "",
    };
    let matched = table.find(&View { request, path }, host)?;
    Some(matched.rule.precedence.tie.to_string())
}
