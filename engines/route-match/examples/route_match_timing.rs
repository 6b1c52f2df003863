//! Nanoseconds per lookup, for tables of growing size; run with `--release`.
#![allow(clippy::disallowed_methods, reason = "an example that measures needs a clock")]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use headwater_model::gateway::{
    Action, Condition, Filters, HostLaw, HostPattern, Match, PathMatch, Precedence, Refuse, RouteTable, Rule,
    ValueMatch, VirtualHost,
};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_route_match::{CompiledTable, RequestView, normalise_host, normalise_path};

struct Request {
    path: String,
    tenant: String,
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
        if name == "x-tenant" {
            line(self.tenant.as_bytes());
        }
    }

    fn client(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }
}

fn rule(rank: usize, path: PathMatch, conditions: Vec<Condition>) -> Arc<Rule> {
    Arc::new(Rule {
        origin: Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", "web"), generation: 1 }),
        field: "spec.rules[0].http.paths[0]".into(),
        precedence: Precedence { ranks: [rank as i64, 0, 0, 0], tie: "".into() },
        matches: Match { path, conditions },
        filters: Filters::default(),
        auth: None,
        trace: None,
        source: None,
        action: Action::Refuse(Refuse { status: 404, reason: "no_route".into() }),
    })
}

fn host(name: usize) -> HostPattern {
    HostPattern::Exact(format!("shop-{name}.example.com").into())
}

fn table(hosts: usize, rules: impl Fn(usize) -> Vec<Arc<Rule>>) -> RouteTable {
    let hosts = (0..hosts).map(|at| (host(at), Arc::new(VirtualHost { host: host(at), rules: rules(at) })));
    RouteTable { law: HostLaw::MostSpecific, hosts: hosts.collect(), default: None }
}

fn measure(name: &str, table: &RouteTable, requests: &[(Request, String)]) {
    let start = Instant::now();
    let compiled = CompiledTable::compile(table, None);
    let compile = start.elapsed();
    let rounds = (1_000_000 / requests.len()).max(1);
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..rounds {
            for (request, host) in requests {
                assert!(black_box(compiled.find(black_box(request), black_box(host))).is_some());
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (rounds * requests.len()) as f64);
    }
    println!("{name:<52} {best:>9.1} ns/find   compiled in {compile:?}");
}

fn requests(count: usize, make: impl Fn(usize) -> (String, usize)) -> Vec<(Request, String)> {
    // a fixed stride visits the rules in an order that caches do not foresee
    (0..1000)
        .map(|at| at * 7919 % count)
        .map(|at| {
            let (path, host) = make(at);
            (Request { path, tenant: format!("t{at}") }, format!("shop-{host}.example.com"))
        })
        .collect()
}

fn main() {
    for size in [10usize, 10_000] {
        let path = |at: usize| format!("/api/v1/service-{at}");
        let hosts = table(size, |_| vec![rule(0, PathMatch::Prefix("/".into()), vec![])]);
        measure(&format!("{size} hosts, one prefix each"), &hosts, &requests(size, |at| ("/a/b/c?".into(), at)));
        let paths = table(1, |_| (0..size).map(|at| rule(at, PathMatch::Prefix(path(at).into()), vec![])).collect());
        measure(&format!("{size} prefixes of one host"), &paths, &requests(size, |at| (path(at) + "/items/1", 0)));
        let exact = table(1, |_| (0..size).map(|at| rule(at, PathMatch::Exact(path(at).into()), vec![])).collect());
        measure(&format!("{size} exact paths of one host"), &exact, &requests(size, |at| (path(at), 0)));
        let regex = |at: usize| PathMatch::Regex(format!("(?i)^{}/.*", path(at)).into());
        let regexes = table(1, |_| (0..size).map(|at| rule(at, regex(at), vec![])).collect());
        measure(
            &format!("{size} anchored regexes of one host"),
            &regexes,
            &requests(size, |at| (path(at) + "/items", 0)),
        );
        let tenant = |at: usize| {
            vec![Condition::Header { name: "x-tenant".into(), value: ValueMatch::Exact(format!("t{at}").into()) }]
        };
        let tenants = table(1, |_| (0..size).map(|at| rule(at, PathMatch::Prefix("/".into()), tenant(at))).collect());
        measure(&format!("{size} header values at one path"), &tenants, &requests(size, |_| ("/a/b".into(), 0)));
    }
    let slashes =
        table(1, |_| (1..500).map(|at| rule(at, PathMatch::Prefix("/a".repeat(at).into()), vec![])).collect());
    measure("500 nested prefixes, path of 16,000 bytes", &slashes, &requests(1, |_| ("/a".repeat(8000), 0))[..1]);

    let mut edited = table(5000, |_| vec![rule(0, PathMatch::Prefix("/".into()), vec![])]);
    let first = CompiledTable::compile(&edited, None);
    let rules = vec![rule(0, PathMatch::Prefix("/new".into()), vec![])];
    edited.hosts.insert(host(7), Arc::new(VirtualHost { host: host(7), rules: rules.clone() }));
    let start = Instant::now();
    let second = CompiledTable::compile(&edited, Some(&first));
    println!("one edit among 5,000 hosts: {:?}", start.elapsed());
    edited.hosts.insert(host(5000), Arc::new(VirtualHost { host: host(5000), rules }));
    let start = Instant::now();
    black_box(CompiledTable::compile(&edited, Some(&second)));
    println!("one more host beside 5,000: {:?} (dropping it included)", start.elapsed());

    for path in ["/api/v1/service-17/items/1", "/api/v1/%7Eservice/../x//y"] {
        let start = Instant::now();
        for _ in 0..1_000_000 {
            _ = black_box(normalise_path(black_box(path.as_bytes())));
        }
        println!("normalise_path {path}: {} ns", start.elapsed().as_nanos() / 1_000_000);
    }
    let raw = "/".repeat(16_000);
    let start = Instant::now();
    _ = black_box(normalise_path(black_box(raw.as_bytes())));
    println!("normalise_path of 16,000 slashes: {:?}", start.elapsed());
    let mut scratch = String::new();
    let start = Instant::now();
    for _ in 0..1_000_000 {
        _ = black_box(normalise_host(black_box(b"Shop-17.example.com:8443"), &mut scratch));
    }
    println!("normalise_host: {} ns", start.elapsed().as_nanos() / 1_000_000);
}
