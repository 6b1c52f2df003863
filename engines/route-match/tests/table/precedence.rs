use headwater_model::gateway::{Action, Condition, HostLaw, HostPattern, PathMatch, RouteTable, ValueMatch};
use headwater_route_match::CompiledTable;

use crate::build::{Request, exact, found, ordered, prefix, regex, rule, starts, table};

fn one_host(rules: Vec<std::sync::Arc<headwater_model::gateway::Rule>>) -> CompiledTable {
    CompiledTable::compile(&table(HostLaw::MostSpecific, vec![(HostPattern::Any, rules)]), None)
}

#[test]
fn the_first_rule_whose_path_matches_wins() {
    use headwater_model::gateway::PathMatch::Any;
    let compiled = one_host(ordered(vec![
        ("regex", regex("^/re/[0-9]+$")),
        ("exact", exact("/foo")),
        ("bar", prefix("/foo/bar")),
        ("foo", prefix("/foo")),
        ("slash", exact("/foo2/")),
        ("starts", starts("/foo2")),
        ("unanchored", regex("[.]php")),
        ("coded", prefix("/caf\u{e9}")),
        ("root", prefix("/")),
        ("any", Any),
    ]));
    for (path, name, length) in [
        ("/foo", "exact", 4),
        ("/foo/", "foo", 4),
        ("/foo/x", "foo", 4),
        ("/foo/bar", "bar", 8),
        ("/foo/bar/", "bar", 8),
        ("/foo/barx", "foo", 4),
        ("/foobar", "root", 0),
        ("/foo2", "starts", 5),
        ("/foo2x", "starts", 5),
        ("/foo2/", "slash", 6),
        ("/re/12", "regex", 0),
        ("/re/x", "root", 0),
        ("/re/a.php", "unanchored", 0),
        ("/caf%C3%A9/x", "coded", 10),
        ("/", "root", 0),
        ("*", "any", 0),
    ] {
        let request = Request::path(path);
        let matched = compiled.find(&request, "a").unwrap();
        assert_eq!((&*matched.rule.field, matched.matched_prefix_len), (name, length), "{path}");
        assert_eq!(matched.host.unwrap().rules()[matched.index as usize], *matched.rule);
    }
}

#[test]
fn precedence_decides_and_not_the_length_of_the_path() {
    let compiled = one_host(ordered(vec![
        ("short", prefix("/a")),
        ("long", prefix("/a/b/c")),
        ("exact", exact("/a/b/c")),
        ("starts", starts("/a")),
    ]));
    for (path, name) in [("/a/b/c", "short"), ("/a/b/c/d", "short"), ("/ab", "starts")] {
        assert_eq!(found(&compiled, &Request::path(path), "").as_deref(), Some(name), "{path}");
    }
}

#[test]
fn equal_ranks_are_decided_by_the_tie() {
    let rules = ["b", "a", "c"].map(|name| rule(name, 7, prefix("/x"), Vec::new())).to_vec();
    assert_eq!(found(&one_host(rules), &Request::path("/x"), "").as_deref(), Some("a"));
}

#[test]
fn hosts_are_looked_at_by_the_law() {
    let name = |text: &str| -> std::sync::Arc<str> { text.into() };
    let hosts = || {
        vec![
            (HostPattern::Exact(name("a.b.example.com")), vec![rule("exact", 4, prefix("/x"), Vec::new())]),
            (HostPattern::OneLabel(name("b.example.com")), vec![rule("one", 3, prefix("/"), Vec::new())]),
            (HostPattern::Suffix(name("b.example.com")), vec![rule("long", 2, prefix("/"), Vec::new())]),
            (HostPattern::Suffix(name("example.com")), vec![rule("short", 1, prefix("/"), Vec::new())]),
            (HostPattern::OneLabel(name("example.com")), vec![rule("star", 5, prefix("/"), Vec::new())]),
            (HostPattern::Any, vec![rule("any", 0, exact("/any"), Vec::new())]),
        ]
    };
    let most_specific = CompiledTable::compile(&table(HostLaw::MostSpecific, hosts()), None);
    let by_precedence = CompiledTable::compile(&table(HostLaw::ByPrecedence, hosts()), None);
    for (host, path, specific, best) in [
        ("a.b.example.com", "/x", Some("exact"), Some("short")),
        ("a.b.example.com", "/y", None, Some("short")),
        ("a.b.example.com", "/any", None, Some("any")),
        ("c.b.example.com", "/x", Some("one"), Some("short")),
        ("d.c.b.example.com", "/x", Some("long"), Some("short")),
        ("c.example.com", "/x", Some("star"), Some("short")),
        ("d.c.example.com", "/x", Some("short"), Some("short")),
        ("example.com", "/x", None, None),
        ("example.com", "/any", Some("any"), Some("any")),
        ("com", "/any", Some("any"), Some("any")),
        ("", "/any", Some("any"), Some("any")),
    ] {
        let request = Request::path(path);
        assert_eq!(found(&most_specific, &request, host).as_deref(), specific, "most specific, {host}{path}");
        assert_eq!(found(&by_precedence, &request, host).as_deref(), best, "by precedence, {host}{path}");
    }
}

#[test]
fn the_default_rule_answers_what_the_host_does_not() {
    let rules = ordered(vec![("foo", prefix("/foo"))]);
    let hosts = table(HostLaw::MostSpecific, vec![(HostPattern::Exact("a".into()), rules)]);
    let compiled =
        CompiledTable::compile(&RouteTable { default: Some(rule("default", 0, prefix("/"), vec![])), ..hosts }, None);
    for (host, path, name) in [("a", "/foo", "foo"), ("a", "/bar", "default"), ("b", "/foo", "default")] {
        assert_eq!(found(&compiled, &Request::path(path), host).as_deref(), Some(name), "{host}{path}");
    }
    assert!(compiled.find(&Request::path("/bar"), "a").unwrap().host.is_none());
    assert!(CompiledTable::default().find(&Request::path("/"), "a").is_none());
}

fn text(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

#[test]
fn all_conditions_must_hold() {
    let header = |name: &str, value| Condition::Header { name: name.into(), value };
    let query = |name: &str, value| Condition::Query { name: name.into(), value };
    let cookie = |name: &str, value| Condition::Cookie { name: name.into(), value };
    let param = |name: &str, value| Condition::Param { name: name.into(), value };
    let client = |network: &str| Condition::Client(ValueMatch::Cidr(vec![network.parse().unwrap()]));
    let mut request = Request::path("/x/%C3%BC%20y");
    request.query = Some("v=1%202&flag".to_owned());
    request.headers = vec![("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("cookie", "s=abc"), ("cookie", "t=1; u=2")];
    for (conditions, holds) in [
        (vec![Condition::Method(text("GET"))], true),
        (vec![Condition::Method(text("get"))], false),
        (vec![header("X-A", text("1"))], true),
        (vec![header("x-b", text("1, 2"))], true),
        (vec![header("x-b", text("1"))], false),
        (vec![header("x-c", ValueMatch::Exists)], false),
        (vec![header("x-c", text(""))], false),
        (vec![query("v", text("1 2"))], true),
        (vec![query("flag", ValueMatch::Exists)], true),
        (vec![query("other", ValueMatch::Exists)], false),
        (vec![cookie("u", text("2"))], true),
        (vec![cookie("S", text("abc"))], true),
        (vec![cookie("v", ValueMatch::Exists)], false),
        (vec![param("v", text("1 2"))], true),
        (vec![param("flag", ValueMatch::Exists)], true),
        (vec![param("flag", text(""))], false),
        (vec![Condition::Host(text("a.b"))], true),
        (vec![Condition::Host(ValueMatch::EndsWithLabel(".b".into()))], true),
        (vec![Condition::Host(text("b"))], false),
        (vec![Condition::Path(ValueMatch::EndsWith("\u{fc} y".into()))], true),
        (vec![Condition::Path(text("/x/%c3%bc%20y"))], true),
        (vec![Condition::Path(ValueMatch::Regex("^/x/\u{fc} y$".into()))], true),
        (vec![Condition::Path(text("/x"))], false),
        (vec![client("192.0.2.0/24")], true),
        (vec![client("192.0.3.0/24")], false),
        (vec![header("x-a", text("1")), query("v", text("2"))], false),
        (vec![Condition::Any(vec![header("x-a", text("2")), client("192.0.2.0/24")])], true),
        (vec![Condition::Any(vec![])], false),
        (vec![Condition::All(vec![header("x-a", text("1")), client("192.0.3.0/24")])], false),
        (vec![Condition::All(vec![])], true),
    ] {
        let compiled = one_host(vec![rule("it", 0, prefix("/x"), conditions.clone())]);
        assert_eq!(compiled.find(&request, "a.b").is_some(), holds, "{conditions:?}");
    }
}

#[test]
fn a_request_without_host_has_an_underscore_for_it() {
    let rules = vec![rule("it", 0, prefix("/x"), vec![Condition::Host(text("_"))])];
    let compiled = one_host(rules);
    assert!(compiled.find(&Request::path("/x"), "").is_some());
    assert!(compiled.find(&Request::path("/x"), "a").is_none());
}

#[test]
fn a_rule_for_several_paths_is_found_at_each() {
    let compiled = one_host(ordered(vec![
        ("several", PathMatch::AnyOf(vec![exact("/a"), starts("/b"), regex("c[0-9]$"), exact("/a")])),
        ("none", PathMatch::AnyOf(vec![])),
        ("b", exact("/b")),
        ("rest", prefix("/")),
    ]));
    for (path, name, length) in
        [("/a", "several", 2), ("/bcd", "several", 2), ("/b", "several", 2), ("/x/c7", "several", 0), ("/c", "rest", 0)]
    {
        let request = Request::path(path);
        let matched = compiled.find(&request, "").unwrap();
        assert_eq!((&*matched.rule.field, matched.matched_prefix_len), (name, length), "{path}");
    }
}

#[test]
fn regular_expressions_see_the_decoded_path() {
    let compiled = one_host(ordered(vec![
        ("accent", regex("^/caf\u{e9} x$")),
        ("slash", regex("^/[^/]+$")),
        ("class", regex("^/[\u{e9}\u{fc}]/")),
    ]));
    for (path, name) in [
        ("/caf%C3%A9%20x", Some("accent")),
        ("/a%2Fb", Some("slash")),
        ("/a/b", None),
        ("/%C3%BC/", Some("class")),
        ("/%C3%A1/", None),
    ] {
        assert_eq!(found(&compiled, &Request::path(path), "").as_deref(), name, "{path}");
    }
}

#[test]
fn rules_at_one_path_are_told_apart_by_several_values() {
    let header = |name: &str, value| Condition::Header { name: name.into(), value };
    let mut rules = Vec::new();
    for at in 0..40 {
        let value = ValueMatch::StartsWith(format!("s{at}-").into());
        rules.push(rule(&format!("start {at}"), at, exact("/x"), vec![header("x-a", value)]));
        let value = ValueMatch::Regex(format!("r[0-9]*-{at}$").into());
        rules.push(rule(&format!("regex {at}"), 100 + at, exact("/x"), vec![header("x-a", value)]));
        let pair = vec![header("x-b", text("same")), header("x-c", text(&at.to_string()))];
        rules.push(rule(&format!("pair {at}"), 200 + at, exact("/x"), pair));
    }
    rules.push(rule("late", 1000, exact("/x"), vec![]));
    let compiled = one_host(rules);
    for (headers, name) in [
        (vec![("x-a", "s17-y")], "start 17"),
        (vec![("x-a", "s17-r5-3")], "start 17"),
        (vec![("x-a", "r5-3")], "regex 3"),
        (vec![("x-a", "r-39"), ("x-b", "same"), ("x-c", "1")], "regex 39"),
        (vec![("x-b", "same"), ("x-c", "39")], "pair 39"),
        (vec![("x-b", "same"), ("x-c", "40")], "late"),
        (vec![("x-c", "39")], "late"),
    ] {
        let mut request = Request::path("/x");
        request.headers = headers.clone();
        assert_eq!(found(&compiled, &request, "").as_deref(), Some(name), "{headers:?}");
    }
}

#[test]
fn many_rules_at_one_path_are_told_apart_by_value() {
    let header = |value| Condition::Header { name: "x-tenant".into(), value };
    let mut rules: Vec<_> = (0..100)
        .map(|at| {
            let value = ValueMatch::In(vec![at.to_string().into(), format!("t{at}").into()]);
            rule(&at.to_string(), at, exact("/x"), vec![header(value)])
        })
        .collect();
    rules.push(rule("early", 40, exact("/x"), vec![Condition::Method(text("PUT"))]));
    rules.push(rule("late", 1000, exact("/x"), vec![]));
    let compiled = one_host(rules);
    for (method, tenant, name) in [
        ("GET", Some("7"), "7"),
        ("GET", Some("t70"), "70"),
        ("PUT", Some("7"), "7"),
        ("PUT", Some("70"), "early"),
        ("GET", Some("100"), "late"),
        ("GET", None, "late"),
    ] {
        let mut request = Request::path("/x");
        request.method = method;
        request.headers = tenant.map(|tenant| ("x-tenant", tenant)).into_iter().collect();
        assert_eq!(found(&compiled, &request, "").as_deref(), Some(name), "{method} {tenant:?}");
    }
}

#[test]
fn rules_that_cannot_be_matched_as_written_refuse() {
    let broken = || ValueMatch::Regex("(".into());
    let deep = (0..20).fold(Condition::All(vec![]), |inner, _| Condition::Any(vec![inner]));
    let huge = "^/huge/(a{1000}){1000}";
    let compiled = one_host(vec![
        rule("condition", 0, prefix("/a"), vec![Condition::Method(text("GET")), Condition::Method(broken())]),
        rule("deep", 1, prefix("/deep"), vec![deep]),
        rule("anchored", 2, regex("^/admin("), vec![]),
        rule("huge", 3, regex(huge), vec![]),
        rule("open", 4, prefix("/"), vec![]),
    ]);
    let refused = |path: &str, method| {
        let mut request = Request::path(path);
        request.method = method;
        let matched = compiled.find(&request, "").unwrap();
        matches!(&matched.rule.action, Action::Refuse(refuse) if refuse.status == 500 && &*refuse.reason == "invalid_match")
    };
    for (path, method, expected) in [
        ("/a", "GET", true),
        ("/a", "PUT", false),
        ("/deep", "GET", true),
        ("/admin/x", "GET", true),
        ("/huge/a", "GET", true),
        ("/b", "GET", false),
    ] {
        assert_eq!(refused(path, method), expected, "{method} {path}");
    }
    let faults: Vec<String> = compiled.faults().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 4);
    assert!(
        faults[0].starts_with("Ingress shop/web condition: regular expression \"(\" cannot be used: "),
        "{faults:?}"
    );
    let all = one_host(vec![rule("broken", 0, regex("("), vec![]), rule("open", 1, prefix("/"), vec![])]);
    assert_eq!(found(&all, &Request::path("/any"), "").as_deref(), Some("broken"));
}

#[test]
fn many_regular_expressions_find_their_rule() {
    let mut rules: Vec<_> =
        (0..300).map(|at| rule(&format!("l{at}"), at, regex(&format!("(?i)^/Svc-{at}/.*")), vec![])).collect();
    rules.extend((0..300).map(|at| rule(&format!("u{at}"), 300 + at, regex(&format!("/tail-{at}$")), vec![])));
    rules.extend((0..300).map(|at| rule(&format!("s{at}"), 600 + at, regex(&format!("^/same/[0-9]+-{at}$")), vec![])));
    let compiled = one_host(rules);
    for (path, name) in [
        ("/svc-17/x", Some("l17")),
        ("/SVC-299/", Some("l299")),
        ("/svc-1", None),
        ("/x/tail-250", Some("u250")),
        ("/svc-3/tail-250", Some("l3")),
        ("/same/1-77", Some("s77")),
    ] {
        assert_eq!(found(&compiled, &Request::path(path), "").as_deref(), name, "{path}");
    }
}
