//! Nanoseconds per lookup among the rules of an ALB port, all hosts together and in order of precedence; run with
//! `--release`.
#![allow(clippy::disallowed_methods, reason = "an example that measures needs a clock")]

use std::collections::HashMap;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use headwater_model::gateway::{
    Action, Condition, Filters, HostLaw, HostPattern, Match, PathMatch, Precedence, Refuse, RouteTable, Rule,
    ValueMatch, VirtualHost,
};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_route_match::{CompiledTable, RequestView};

struct Request {
    path: String,
    tenant: String,
    client: IpAddr,
}

impl RequestView for Request {
    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn method(&self) -> &str {
        "GET"
    }

    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, mut line: F) {
        // as many as a browser sends
        for other in ["host", "user-agent", "accept", "accept-language", "accept-encoding", "connection", "referer"] {
            black_box(other.eq_ignore_ascii_case(name));
        }
        if name == "x-tenant" {
            line(self.tenant.as_bytes());
        }
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

type Parts = (HostPattern, PathMatch, Vec<Condition>);

/// The request that rule `at` is for.
fn request(at: usize) -> (Request, String) {
    let client = IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
    let path = format!("/team-{at}/api/v1/orders/17");
    (Request { path, tenant: format!("t{at}"), client }, format!("shop-{at}.example.com"))
}

fn table(size: usize, parts: &dyn Fn(usize) -> Parts) -> RouteTable {
    let mut hosts: HashMap<HostPattern, Vec<Arc<Rule>>> = HashMap::new();
    for at in 0..size {
        let (host, path, conditions) = parts(at);
        let rule = Rule {
            origin: Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", "web"), generation: 1 }),
            field: "spec".into(),
            precedence: Precedence { ranks: [5, -(at as i64 * 7919 % 65_537), 0, 0], tie: format!("{at}").into() },
            matches: Match { path, conditions },
            filters: Filters::default(),
            auth: None,
            trace: None,
            source: None,
            action: Action::Refuse(Refuse { status: 404, reason: "no_route".into() }),
        };
        hosts.entry(host).or_default().push(Arc::new(rule));
    }
    let hosts = hosts.into_iter().map(|(host, mut rules)| {
        rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        (host.clone(), Arc::new(VirtualHost { host, rules }))
    });
    RouteTable { law: HostLaw::ByPrecedence, hosts: hosts.collect(), default: None }
}

fn measure(name: &str, size: usize, parts: &dyn Fn(usize) -> Parts) {
    let table = table(size, parts);
    let start = Instant::now();
    let compiled = CompiledTable::compile(&table, None);
    let compile = start.elapsed();
    assert_eq!(compiled.faults().count(), 0);
    // a fixed stride visits the rules in an order that caches do not foresee
    let requests: Vec<(Request, String)> = (0..1000).map(|at| request(at * 7919 % size)).collect();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..100 {
            for (request, host) in &requests {
                assert!(black_box(compiled.find(black_box(request), black_box(host))).is_some());
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (100 * requests.len()) as f64);
    }
    println!("{name:<44} {size:>6} rules {best:>9.1} ns/find   compiled in {compile:?}");
}

fn main() {
    let exact = |at: usize| HostPattern::Exact(format!("shop-{at}.example.com").into());
    let starts = |at: usize| PathMatch::StartsWith(format!("/team-{at}/").into());
    let regex = |pattern: String| PathMatch::Regex(pattern.into());
    let tenant = |value| vec![Condition::Header { name: "x-tenant".into(), value }];
    let is = |at: usize| ValueMatch::Exact(format!("t{at}").into());
    let root = || PathMatch::StartsWith("/".into());
    let address = |at: usize| format!("10.0.{}.{}", at >> 8, at & 255).into_boxed_str();
    let cases: [(&str, &dyn Fn(usize) -> Parts); 12] = [
        ("host, prefix", &|at| (exact(at), starts(at), vec![])),
        ("wildcard host, prefix", &|at| (HostPattern::OneLabel("example.com".into()), starts(at), vec![])),
        ("prefix", &|at| (HostPattern::Any, starts(at), vec![])),
        ("two prefixes", &|at| (HostPattern::Any, PathMatch::AnyOf(vec![starts(at), starts(at + 20_000)]), vec![])),
        ("anchored regex", &|at| (HostPattern::Any, regex(format!("^/team-{at}/api/v[0-9]+/")), vec![])),
        ("unanchored regex", &|at| (HostPattern::Any, regex(format!("/team-{at}/.*")), vec![])),
        ("same prefix, header", &|at| (HostPattern::Any, root(), tenant(is(at)))),
        ("same prefix, regex of header", &|at| {
            (HostPattern::Any, root(), tenant(ValueMatch::Regex(format!("^t{at}$").into())))
        }),
        ("same prefix, client", &|at| {
            (HostPattern::Any, root(), vec![Condition::Client(ValueMatch::Exact(address(at)))])
        }),
        ("same prefix, range of clients", &|at| {
            (HostPattern::Any, root(), vec![Condition::Client(ValueMatch::Range(address(at), address(at)))])
        }),
        ("regex of host, prefix", &|at| {
            let host = Condition::Host(ValueMatch::Regex(format!(r"^shop-{at}\.").into()));
            (HostPattern::Any, root(), vec![host])
        }),
        ("mix", &|at| match at % 6 {
            0 => (exact(at), starts(at), vec![]),
            1 => (HostPattern::OneLabel("example.com".into()), starts(at), vec![]),
            2 => (HostPattern::Any, regex(format!("^/team-{at}/api/v[0-9]+/")), vec![]),
            3 => (HostPattern::Any, regex(format!("/team-{at}/.*")), vec![]),
            4 => (HostPattern::Any, root(), tenant(is(at))),
            _ => (exact(at), root(), tenant(is(at))),
        }),
    ];
    for (name, parts) in cases {
        for size in [10, 1_000, 10_000] {
            measure(name, size, parts);
        }
    }
}
