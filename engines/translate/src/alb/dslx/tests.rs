use super::*;

fn term(kind: &str, key: &str, rows: &[&[&str]]) -> Term {
    let values = rows.iter().map(|row| row.iter().map(|text| text.to_string()).collect()).collect();
    Term { kind: kind.into(), key: key.into(), values }
}

fn compiled(terms: &[Term]) -> Compiled {
    compile(Some(terms)).unwrap_or_else(|error| panic!("{terms:?}: {error}"))
}

fn exact(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn host(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn one_label(name: &str) -> HostPattern {
    HostPattern::OneLabel(name.into())
}

#[test]
fn the_demo_of_the_manual_is_indexed_by_host_and_path() {
    let terms = [
        term("METHOD", "", &[&["EQ", "POST"]]),
        term("URL", "", &[&["STARTS_WITH", "/app-a"], &["STARTS_WITH", "/app-b"]]),
        term("PARAM", "group", &[&["EQ", "vip"]]),
        term("HOST", "", &[&["ENDS_WITH", "app.com"]]),
        term("HEADER", "LOCATION", &[&["IN", "east-1", "east-2"]]),
        term("COOKIE", "uid", &[&["EXIST"]]),
        term("SRC_IP", "", &[&["RANGE", "1.1.1.1", "1.1.1.100"]]),
    ];
    let compiled = compiled(&terms);
    assert_eq!(compiled.hosts, [one_label("app.com")]);
    let starts = |path: &str| PathMatch::StartsWith(path.into());
    assert_eq!(compiled.matches.path, PathMatch::AnyOf(vec![starts("/app-a"), starts("/app-b")]));
    assert_eq!(
        compiled.matches.conditions,
        [
            Condition::Method(exact("POST")),
            Condition::Param { name: "group".into(), value: exact("vip") },
            Condition::Header {
                name: "location".into(),
                value: ValueMatch::In(vec!["east-1".into(), "east-2".into()])
            },
            Condition::Cookie { name: "uid".into(), value: ValueMatch::Exists },
            Condition::Client(ValueMatch::Range("1.1.1.1".into(), "1.1.1.100".into())),
        ]
    );
    assert_eq!(compiled.doubts, []);
    assert_eq!(compiled.weight, Weight { complexity: 100 + 2 * 1008 + 100 + 10_000 + 300, json_len: 270 });
}

#[test]
fn hosts_become_patterns_where_they_can_be_looked_up() {
    for (rows, hosts) in [
        (&[&["EQ", "A.com"][..]][..], vec![host("a.com")]),
        (&[&["IN", "a.com", "b.com", "A.COM"]], vec![host("a.com"), host("b.com")]),
        (&[&["EQ", "a.com"], &["ENDS_WITH", "*.B.com"]], vec![host("a.com"), one_label("b.com")]),
        (&[&["ENDS_WITH", ".b.com"]], vec![one_label("b.com")]),
        (&[&["ENDS_WITH", "b.com"]], vec![one_label("b.com")]),
        (&[&["EQ", "2001:DB8::1"]], vec![host("[2001:db8::1]")]),
        (&[&["EQ", "[::1]"]], vec![host("[::1]")]),
    ] {
        let compiled = compiled(&[term("HOST", "", rows)]);
        assert_eq!(
            (compiled.hosts, compiled.matches.conditions, compiled.matches.path),
            (hosts, vec![], PathMatch::Any)
        );
    }
    let ends = |text: &str| Condition::Host(ValueMatch::EndsWithLabel(text.into()));
    for (rows, condition) in [
        (&[&["REGEX", "^a"][..]][..], Condition::Host(ValueMatch::Regex("^a".into()))),
        (&[&["STARTS_WITH", "Shop."]], Condition::Host(ValueMatch::StartsWith("shop.".into()))),
        (&[&["RANGE", "A", "b"]], Condition::Host(ValueMatch::Range("a".into(), "b".into()))),
        (&[&["EXIST"]], Condition::Host(ValueMatch::Exists)),
        (&[&["EQ", "_"]], Condition::Host(exact("_"))),
        (&[&["ENDS_WITH", "*shop.com"]], ends("shop.com")),
        (&[&["ENDS_WITH", "*"]], ends("")),
        (
            &[&["EQ", "a.com"], &["REGEX", "^b"], &["EQ", "c.com"]],
            Condition::Any(vec![
                Condition::Host(ValueMatch::Regex("^b".into())),
                Condition::Host(ValueMatch::In(vec!["a.com".into(), "c.com".into()])),
            ]),
        ),
    ] {
        let compiled = compiled(&[term("HOST", "", rows)]);
        assert_eq!((compiled.hosts, compiled.matches.conditions), (vec![HostPattern::Any], vec![condition]));
    }
}

#[test]
fn the_first_path_is_looked_up_and_the_others_are_conditions() {
    let starts = |path: &str| PathMatch::StartsWith(path.into());
    for (rows, path, conditions) in [
        (&[&["EQ", "/a"][..]][..], PathMatch::Exact("/a".into()), vec![]),
        (&[&["STARTS_WITH", "/a"]], starts("/a"), vec![]),
        (&[&["REGEX", "/a.*"]], PathMatch::Regex("/a.*".into()), vec![]),
        (
            &[&["IN", "/a", "/b"]],
            PathMatch::AnyOf(vec![PathMatch::Exact("/a".into()), PathMatch::Exact("/b".into())]),
            vec![],
        ),
        (&[&["EXIST"]], PathMatch::Any, vec![Condition::Path(ValueMatch::Exists)]),
        (
            &[&["STARTS_WITH", "/a"], &["ENDS_WITH", "*.php"]],
            PathMatch::Any,
            vec![Condition::Any(vec![
                Condition::Path(ValueMatch::StartsWith("/a".into())),
                Condition::Path(ValueMatch::EndsWithLabel(".php".into())),
            ])],
        ),
    ] {
        let compiled = compiled(&[term("URL", "", rows)]);
        assert_eq!(
            (compiled.hosts, compiled.matches),
            (vec![HostPattern::Any], Match { path, conditions }),
            "{rows:?}"
        );
    }
    let two = [term("URL", "", &[&["STARTS_WITH", "/a"]]), term("URL", "", &[&["REGEX", "b$"]])];
    let expected = Match { path: starts("/a"), conditions: vec![Condition::Path(ValueMatch::Regex("b$".into()))] };
    assert_eq!(compiled(&two).matches, expected);
}

#[test]
fn keys_are_named_as_requests_name_them() {
    for (kind, key, condition) in [
        ("HEADER", "X_Tenant-Id", Condition::Header { name: "x-tenant-id".into(), value: exact("v") }),
        ("COOKIE", "UID", Condition::Cookie { name: "uid".into(), value: exact("v") }),
        ("PARAM", "Group", Condition::Param { name: "Group".into(), value: exact("v") }),
    ] {
        assert_eq!(compiled(&[term(kind, key, &[&["EQ", "v"]])]).matches.conditions, std::slice::from_ref(&condition));
        // without a key the first argument is one
        assert_eq!(compiled(&[term(kind, "", &[&["EQ", key, "v"]])]).matches.conditions, [condition]);
    }
}

#[test]
fn what_never_matches_stands_at_no_host_and_raises_a_doubt() {
    for (terms, doubt) in [
        (vec![], "spec.dslx has no values, so the rule matches no request"),
        (vec![term("URL", "", &[]), term("HOST", "", &[])], "spec.dslx has no values, so the rule matches no request"),
        (
            vec![term("HOST", "", &[&["EQ", "a"]]), term("SRC-IP", "", &[&["EQ", "10.0.0.1"]])],
            "spec.dslx[1].values[0]: type \"SRC-IP\" is unknown and never matches; use METHOD, URL, HOST, PARAM, HEADER, \
             COOKIE or SRC_IP",
        ),
        (
            vec![term("URL", "", &[&["EQ", "/a", "/b"]])],
            "spec.dslx[0].values[0]: EQ with 2 arguments never matches; it takes one",
        ),
        (
            vec![term("URL", "key", &[&["EQ", "/a"]])],
            "spec.dslx[0].values[0]: EQ with 2 arguments never matches; it takes one",
        ),
        (vec![term("URL", "", &[&["EQ"]])], "spec.dslx[0].values[0]: EQ with 0 arguments never matches; it takes one"),
        (
            vec![term("METHOD", "", &[&["IN"]])],
            "spec.dslx[0].values[0]: IN with 0 arguments never matches; it takes at least one",
        ),
        (
            vec![term("COOKIE", "uid", &[&["EXIST", "x"]])],
            "spec.dslx[0].values[0]: EXIST with 1 arguments never matches; it takes none",
        ),
        (
            vec![term("SRC_IP", "", &[&["RANGE", "10.0.0.1"]])],
            "spec.dslx[0].values[0]: RANGE with 1 arguments never matches; it takes two",
        ),
        (
            vec![term("COOKIE", "", &[&["EXIST"]])],
            "spec.dslx[0].values[0]: COOKIE has neither key nor arguments, and never matches",
        ),
    ] {
        let compiled = compiled(&terms);
        let doubts: Vec<String> = compiled.doubts.iter().map(ToString::to_string).collect();
        assert_eq!((compiled.hosts, doubts), (vec![], vec![doubt.to_owned()]), "{terms:?}");
    }
    // a row that never matches leaves the others
    let rows = compiled(&[term("METHOD", "", &[&["EQ", "A", "B"], &["EQ", "PUT"]])]);
    assert_eq!((rows.hosts, rows.matches.conditions), (vec![HostPattern::Any], vec![Condition::Method(exact("PUT"))]));
}

#[test]
fn hosts_that_no_request_has_raise_a_doubt() {
    for (host, doubtful) in [("*.a.com", true), ("a.com:80", true), ("a/b", true), ("a.com", false), ("[::1]", false)] {
        assert_eq!(!compiled(&[term("HOST", "", &[&["EQ", host]])]).doubts.is_empty(), doubtful, "{host}");
    }
}

#[test]
fn rules_that_cannot_be_served_are_refused_with_the_reason() {
    let many: Vec<Vec<String>> = vec![vec!["EQ".to_owned(), "x".to_owned()]; MAX_ARGUMENTS];
    for (terms, message) in [
        (None, "rule without matcher: spec.dslx says which requests it is for"),
        (
            Some(vec![term("URL", "", &[&["LIKE", "/a"]])]),
            "spec.dslx[0].values[0]: URL has the unknown operator \"LIKE\"; use EQ, IN, EXIST, STARTS_WITH, ENDS_WITH, \
             REGEX or RANGE",
        ),
        (
            Some(vec![term("HOST", "", &[&["EQ", "a"]]), term("COOKIE", "uid", &[&["EQ", "1"], &["EXIST"]])]),
            "spec.dslx[1].values[1]: COOKIE has several rows, and EXIST has no argument; it can only be the single row of a \
             term",
        ),
        (Some(vec![term("URL", "", &[&[]])]), "spec.dslx[0].values[0]: URL has a row without operator"),
        (
            Some(vec![term("URL", "", &[&["REGEX", "^/(?!admin)"]])]),
            "spec.dslx[0].values[0]: URL has the regular expression \"^/(?!admin)\": negative look-ahead \"(?!\" at \
             character 3 cannot be matched in linear time; write the expression without it, or as several rows",
        ),
        (
            Some(vec![term("URL", "", &[&["EQ", &"a".repeat(MAX_ARGUMENT + 1)]])]),
            "spec.dslx[0]: an argument of 4097 bytes is longer than 4096",
        ),
        (
            Some(vec![Term { kind: "URL".into(), key: String::new(), values: many }]),
            "spec.dslx has 20001 arguments, which is more than 10000",
        ),
    ] {
        let error = compile(terms.as_deref()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn what_a_refused_rule_may_be_meant_for_is_known() {
    let shop = || term("HOST", "", &[&["EQ", "shop.com"]]);
    for (terms, path, conditions) in [
        (vec![shop(), term("URL", "", &[&["REGEX", "^/(?!admin)"]])], PathMatch::StartsWith("/".into()), 0),
        (vec![shop(), term("URL", "", &[&["REGEX", "(a)\\1"]])], PathMatch::Any, 0),
        (
            vec![
                shop(),
                term("URL", "", &[&["EQ", "/x"], &["REGEX", "^/a(?=b)"]]),
                term("COOKIE", "c", &[&["EXIST"]]),
                term("METHOD", "", &[&["LIKE", "x"]]),
            ],
            PathMatch::AnyOf(vec![PathMatch::Exact("/x".into()), PathMatch::StartsWith("/a".into())]),
            1,
        ),
    ] {
        assert!(compile(Some(&terms)).is_err());
        let cover = cover(Some(&terms)).unwrap();
        assert_eq!((cover.hosts, cover.matches.path), (vec![host("shop.com")], path), "{terms:?}");
        assert_eq!(cover.matches.conditions.len(), conditions, "{terms:?}");
    }
    assert_eq!(cover(None), None);
}

#[test]
fn ingress_paths_become_terms() {
    use PathType::{Exact, ImplementationSpecific, Prefix};
    let specific = Some(ImplementationSpecific);
    let host = || term("HOST", "", &[&["EQ", "alauda.io"]]);
    let url = |operator, argument| term("URL", "", &[&[operator, argument]]);
    for (name, path, kind, terms) in [
        ("alauda.io", "^/v1/*", specific, vec![url("REGEX", "^/v1/*"), host()]),
        ("alauda.io", "/v1/*", specific, vec![url("REGEX", "^/v1/*"), host()]),
        ("alauda.io", "/v1/*", None, vec![url("REGEX", "^/v1/*"), host()]),
        ("alauda.io", "/v1/*", Some(Exact), vec![url("EQ", "/v1/*"), host()]),
        ("alauda.io", "/v1/*", Some(Prefix), vec![url("STARTS_WITH", "/v1/*"), host()]),
        ("alauda.io", "/v1", specific, vec![url("STARTS_WITH", "/v1"), host()]),
        ("alauda.io", "/v1", Some(Prefix), vec![url("STARTS_WITH", "/v1"), host()]),
        ("alauda.io", "/v1", Some(Exact), vec![url("EQ", "/v1"), host()]),
        ("*.alauda.io", "", None, vec![term("HOST", "", &[&["ENDS_WITH", "*.alauda.io"]])]),
        ("", "/a\\.b", None, vec![url("REGEX", "^/a\\.b")]),
        ("", "", None, vec![]),
    ] {
        assert_eq!(ingress_terms(name, path, kind), terms, "{name} {path} {kind:?}");
    }
}
