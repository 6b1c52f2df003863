//! The index finds what a scan over all rules finds.

use std::sync::Arc;

use headwater_model::gateway::{Condition, HostLaw, HostPattern, PathMatch, RouteTable, Rule, ValueMatch};
use headwater_route_match::{CompiledTable, normalise_path};
use proptest::prelude::*;

use crate::build::{Request, found, rule, table};

fn any_path() -> impl Strategy<Value = String> {
    "(/[ab]{0,2}){1,4}"
        .prop_filter_map("normal paths only", |path| Some(normalise_path(path.as_bytes()).ok()?.as_str().to_owned()))
}

fn any_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        1 => Just(PathMatch::Any),
        3 => any_path().prop_map(|path| PathMatch::Exact(path.into())),
        3 => any_path().prop_map(|path| PathMatch::Prefix(path.into())),
        2 => any_path().prop_map(|path| PathMatch::StartsWith(path.into())),
        2 => "\\^(/[ab]){1,2}(/?\\[ab\\]\\*)?\\$?".prop_map(|pattern| PathMatch::Regex(pattern.into())),
        1 => "[ab]/[ab]?\\$?".prop_map(|pattern| PathMatch::Regex(pattern.into())),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let value = prop_oneof![
        4 => "[pq]".prop_map(|text| ValueMatch::Exact(text.into())),
        1 => Just(ValueMatch::In(vec!["p".into(), "q".into()])),
        1 => Just(ValueMatch::Exists),
    ];
    prop_oneof![
        value.clone().prop_map(|value| Condition::Header { name: "x".into(), value }),
        value.prop_map(|value| Condition::Query { name: "x".into(), value }),
    ]
}

fn any_host() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        "([ab]\\.){0,2}c".prop_map(|name| HostPattern::Exact(name.into())),
        "([ab]\\.){0,2}c".prop_map(|name| HostPattern::OneLabel(name.into())),
        "([ab]\\.){0,2}c".prop_map(|name| HostPattern::Suffix(name.into())),
        Just(HostPattern::Any),
    ]
}

fn any_table() -> impl Strategy<Value = RouteTable> {
    // few distinct paths, so that many rules meet at one path
    let rules = proptest::collection::vec(any_match(), 1..5).prop_flat_map(|paths| {
        let path = proptest::sample::select(paths);
        proptest::collection::vec((0..50i64, path, proptest::collection::vec(any_condition(), 0..3)), 0..60)
    });
    let hosts = proptest::collection::btree_map(any_host(), rules, 0..5);
    (hosts, any::<bool>()).prop_map(|(hosts, law)| {
        let law = if law { HostLaw::MostSpecific } else { HostLaw::ByPrecedence };
        let hosts = hosts.into_iter().map(|(host, rules)| {
            let build = |(at, (rank, path, conditions))| rule(&format!("{host}/{at}"), rank, path, conditions);
            let rules = rules.into_iter().enumerate().map(build).collect();
            (host, rules)
        });
        table(law, hosts.collect())
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let value = || proptest::option::of(proptest::sample::select(vec!["p", "q", "r"]));
    (any_path(), value(), value()).prop_map(|(path, header, query)| {
        let mut request = Request::path(&path);
        request.headers = header.map(|value| ("x", value)).into_iter().collect();
        request.query = query.map(|value| format!("x={value}"));
        request
    })
}

/// How well the pattern fits the host; smaller is better.
fn specificity(pattern: &HostPattern, host: &str) -> Option<(u8, usize)> {
    let ends = |suffix: &str| {
        host.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).filter(|rest| !rest.is_empty())
    };
    match pattern {
        HostPattern::Exact(name) => (**name == *host).then_some((0, 0)),
        HostPattern::OneLabel(name) => ends(name).filter(|rest| !rest.contains('.')).map(|_| (1, 0)),
        HostPattern::Suffix(name) => ends(name).map(|rest| (2, rest.len())),
        HostPattern::Any => Some((3, 0)),
    }
}

fn path_matches(pattern: &PathMatch, path: &str) -> bool {
    match pattern {
        PathMatch::Any => true,
        PathMatch::Exact(text) => path == &**text,
        PathMatch::StartsWith(text) => path.starts_with(&**text),
        PathMatch::Prefix(text) => {
            let text = text.trim_end_matches('/');
            path == text || path.starts_with(&format!("{text}/"))
        }
        PathMatch::Regex(pattern) => {
            regex::Regex::new(pattern).expect("the strategy makes valid patterns").is_match(path)
        }
    }
}

fn condition_holds(condition: &Condition, request: &Request) -> bool {
    let (actual, wanted) = match condition {
        Condition::Header { value, .. } => (request.headers.first().map(|(_, value)| *value), value),
        Condition::Query { value, .. } => (request.query.as_deref().map(|query| &query[2..]), value),
        _ => unreachable!(),
    };
    actual.is_some_and(|actual| match wanted {
        ValueMatch::Exists => true,
        ValueMatch::Exact(text) => **text == *actual,
        ValueMatch::In(texts) => texts.iter().any(|text| **text == *actual),
        _ => unreachable!(),
    })
}

fn scan(table: &RouteTable, request: &Request, host: &str) -> Option<String> {
    let mut hosts: Vec<_> =
        table.hosts.iter().filter_map(|(pattern, rules)| Some((specificity(pattern, host)?, rules))).collect();
    hosts.sort_by_key(|(specificity, _)| *specificity);
    if table.law == HostLaw::MostSpecific {
        hosts.truncate(1);
    }
    let matches = |rule: &&Arc<Rule>| {
        path_matches(&rule.matches.path, &request.path)
            && rule.matches.conditions.iter().all(|condition| condition_holds(condition, request))
    };
    let rules = hosts.iter().flat_map(|(_, host)| &host.rules).filter(matches);
    rules.min_by(|a, b| a.precedence.cmp(&b.precedence)).map(|rule| rule.field.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_index_finds_what_a_scan_finds(
        table in any_table(),
        requests in proptest::collection::vec((any_request(), "([ab]\\.){0,3}c"), 20),
    ) {
        let compiled = CompiledTable::compile(&table, None);
        prop_assert_eq!(compiled.faults().count(), 0);
        for (request, host) in requests {
            prop_assert_eq!(found(&compiled, &request, &host), scan(&table, &request, &host), "{:?} {}", request, host);
        }
    }

    #[test]
    fn a_table_that_takes_over_hosts_finds_the_same(
        tables in proptest::collection::vec(any_table(), 2..5),
        kept in any::<u8>(),
        requests in proptest::collection::vec((any_request(), "([ab]\\.){0,3}c"), 10),
    ) {
        let mut previous: Option<(RouteTable, CompiledTable)> = None;
        for mut table in tables {
            if let Some((before, _)) = &previous {
                for (at, (host, rules)) in before.hosts.iter().enumerate() {
                    if kept >> (at % 8) & 1 == 1 {
                        table.hosts.insert(host.clone(), Arc::clone(rules));
                    }
                }
            }
            let compiled = CompiledTable::compile(&table, previous.as_ref().map(|(_, compiled)| compiled));
            for (request, host) in &requests {
                prop_assert_eq!(found(&compiled, request, host), scan(&table, request, host), "{:?} {}", request, host);
            }
            previous = Some((table, compiled));
        }
    }
}
