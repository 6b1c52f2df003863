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
    let several = proptest::collection::vec(any_single_match(), 0..4).prop_map(PathMatch::AnyOf);
    prop_oneof![4 => any_single_match(), 1 => several]
}

fn any_single_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        1 => Just(PathMatch::Any),
        3 => any_path().prop_map(|path| PathMatch::Exact(path.into())),
        3 => any_path().prop_map(|path| PathMatch::Prefix(path.into())),
        2 => any_path().prop_map(|path| PathMatch::StartsWith(path.into())),
        2 => "\\^(/[ab]){1,2}(/?\\[ab\\]\\*)?\\$?".prop_map(|pattern| PathMatch::Regex(pattern.into())),
        1 => "[ab]/[ab]?\\$?".prop_map(|pattern| PathMatch::Regex(pattern.into())),
        1 => "\\^(/[ab]){1,2}\\(/\\|\\$\\)(\\(\\.\\*\\))?".prop_map(|pattern| PathMatch::Regex(pattern.into())),
    ]
}

fn any_value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        4 => "[pq]{1,2}".prop_map(|text| ValueMatch::Exact(text.into())),
        1 => Just(ValueMatch::In(vec!["p".into(), "q".into()])),
        1 => Just(ValueMatch::Exists),
        2 => "[pq]{0,2}".prop_map(|text| ValueMatch::StartsWith(text.into())),
        1 => "[pq]{0,2}".prop_map(|text| ValueMatch::EndsWith(text.into())),
        2 => "\\^?[pq][pq]?\\$?".prop_map(|text| ValueMatch::Regex(text.into())),
        1 => "\\^?[pq]?\\[pq\\]\\$?".prop_map(|text| ValueMatch::Regex(text.into())),
    ]
}

fn any_single_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => any_value().prop_map(|value| Condition::Header { name: "x".into(), value }),
        4 => any_value().prop_map(|value| Condition::Query { name: "x".into(), value }),
        1 => any_value().prop_map(|value| Condition::Param { name: "x".into(), value }),
        1 => any_value().prop_map(|value| Condition::Cookie { name: "X".into(), value }),
        1 => "([ab]\\.){0,1}c".prop_map(|host| Condition::Host(ValueMatch::Exact(host.into()))),
        1 => "[ab]\\.?".prop_map(|start| Condition::Host(ValueMatch::StartsWith(start.into()))),
        1 => any_path().prop_map(|path| Condition::Path(ValueMatch::StartsWith(path.into()))),
        1 => "[ab]/?\\$?".prop_map(|pattern| Condition::Path(ValueMatch::Regex(pattern.into()))),
        1 => "192\\.0\\.2\\.[12]".prop_map(|client| Condition::Client(ValueMatch::Exact(client.into()))),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let several = || proptest::collection::vec(any_single_condition(), 0..3);
    prop_oneof![
        6 => any_single_condition(),
        1 => several().prop_map(Condition::Any),
        1 => several().prop_map(Condition::All),
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
        proptest::collection::vec((0..50i64, path, proptest::collection::vec(any_condition(), 0..3)), 0..120)
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
    let value = || proptest::option::of(proptest::sample::select(vec!["p", "q", "pq", "qq", "r", ""]));
    (any_path(), value(), value(), value(), any::<bool>()).prop_map(|(path, header, query, cookie, repeated)| {
        let mut request = Request::path(&path);
        request.headers = header.map(|value| ("x", value)).into_iter().collect();
        if let Some(value) = cookie {
            let line = if value == "r" { "y=p; x=qq" } else { ["x=p", "x=q", "X=pq"][value.len()] };
            request.headers.push(("cookie", line));
        }
        request.query = query.map(|value| format!("x={value}{}", if repeated { "&x=p" } else { "" }));
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
        PathMatch::AnyOf(patterns) => patterns.iter().any(|pattern| path_matches(pattern, path)),
    }
}

fn condition_holds(condition: &Condition, request: &Request, host: &str) -> bool {
    let header =
        |name: &str| request.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.to_string());
    let values: Vec<&str> =
        request.query.iter().flat_map(|query| query.split('&')).map(|parameter| &parameter[2..]).collect();
    let (actual, wanted) = match condition {
        Condition::Header { value, .. } => (header("x"), value),
        Condition::Query { value, .. } => (values.first().map(ToString::to_string), value),
        Condition::Param { value: ValueMatch::Exists, .. } => return !values.is_empty(),
        Condition::Param { value, .. } => {
            (values.first().filter(|_| values.len() == 1).map(ToString::to_string), value)
        }
        Condition::Cookie { value, .. } => {
            (header("cookie").map(|line| line[line.rfind('=').map_or(0, |at| at + 1)..].to_owned()), value)
        }
        Condition::Host(value) => (Some(host.to_owned()), value),
        Condition::Path(value) => (Some(request.path.clone()), value),
        Condition::Client(value) => (Some(request.client.to_string()), value),
        Condition::Any(conditions) => return conditions.iter().any(|inner| condition_holds(inner, request, host)),
        Condition::All(conditions) => return conditions.iter().all(|inner| condition_holds(inner, request, host)),
        _ => unreachable!(),
    };
    actual.is_some_and(|actual| match wanted {
        ValueMatch::Exists => true,
        ValueMatch::Exact(text) => **text == *actual,
        ValueMatch::In(texts) => texts.iter().any(|text| **text == *actual),
        ValueMatch::StartsWith(text) => actual.starts_with(&**text),
        ValueMatch::EndsWith(text) => actual.ends_with(&**text),
        ValueMatch::Regex(pattern) => regex::Regex::new(pattern).expect("valid by its strategy").is_match(&actual),
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
            && rule.matches.conditions.iter().all(|condition| condition_holds(condition, request, host))
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
    fn rules_that_differ_by_one_value_are_found_as_by_a_scan(
        values in proptest::collection::vec(any_value(), 17..60),
        requests in proptest::collection::vec(any_request(), 10),
    ) {
        let one = |(at, value)| {
            let condition = Condition::Header { name: "x".into(), value };
            rule(&format!("{at}"), at, PathMatch::Any, vec![condition])
        };
        let rules = (0..).zip(values).map(one).collect();
        let table = table(HostLaw::MostSpecific, vec![(HostPattern::Any, rules)]);
        let compiled = CompiledTable::compile(&table, None);
        for request in requests {
            prop_assert_eq!(found(&compiled, &request, "c"), scan(&table, &request, "c"), "{:?}", request);
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
