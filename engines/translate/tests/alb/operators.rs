use headwater_model::alb::dslx::Term;
use headwater_translate::alb::{Weight, compile, of_default_backend, of_redirect, precedence};

use crate::support::{Request, found, table, term};

fn matches(terms: &[Term], request: &Request) -> bool {
    let compiled = compile(Some(terms)).unwrap_or_else(|error| panic!("{terms:?}: {error}"));
    let weight = compiled.weight;
    found(&table(vec![(compiled, precedence(5, weight, "it"))]), request).is_some()
}

/// The request with a value of the type, or without one.
fn with(kind: &str, value: Option<&str>) -> Request {
    let mut request = Request::new("shop.com", "/");
    let Some(value) = value else {
        if kind == "HOST" {
            request.authority = None;
        }
        return request;
    };
    match kind {
        "METHOD" => request.method = value.to_owned(),
        "HOST" => request.authority = Some(value.to_owned()),
        "URL" => request.path = value.to_owned(),
        "SRC_IP" => request.client = value.parse().expect("an address"),
        "HEADER" => request.headers.push(("x-key".to_owned(), value.to_owned())),
        "COOKIE" => request.headers.push(("cookie".to_owned(), format!("other=1; x_key={value}"))),
        "PARAM" => request.query = Some(format!("other=1&x_key={value}")),
        other => panic!("{other}"),
    }
    request
}

#[test]
fn every_operator_compares_every_type() {
    for (kind, row, matching, others) in [
        ("METHOD", &["EQ", "GET"][..], &["GET"][..], &["get", "PUT"][..]),
        ("METHOD", &["IN", "PUT", "POST"], &["PUT", "POST"], &["GET"]),
        ("METHOD", &["STARTS_WITH", "P"], &["PUT", "P"], &["GET"]),
        ("METHOD", &["ENDS_WITH", "*ET"], &["GET"], &["ET", "PUT"]),
        ("METHOD", &["REGEX", "^P(UT|OST)$"], &["PUT", "POST"], &["PATCH"]),
        ("METHOD", &["RANGE", "G", "H"], &["GET", "H"], &["PUT", "HEAD"]),
        ("METHOD", &["EXIST"], &["GET", "PUT"], &[]),
        ("HOST", &["EQ", "shop.com"], &["shop.com", "SHOP.com:8080", "shop.com."], &["a.shop.com", "shop.org"]),
        ("HOST", &["EQ", "Shop.COM"], &["shop.com"], &["shop.org"]),
        ("HOST", &["EQ", "2001:db8::1"], &["[2001:DB8::1]:80"], &["[2001:db8::2]"]),
        ("HOST", &["IN", "a.com", "B.com"], &["a.com", "b.com"], &["c.com"]),
        ("HOST", &["STARTS_WITH", "shop."], &["shop.com", "shop.org"], &["a.shop.com"]),
        ("HOST", &["REGEX", "^shop-[0-9]+\\."], &["shop-12.com"], &["shop-x.com"]),
        ("HOST", &["REGEX", "^SHOP"], &[], &["shop.com", "SHOP.com"]),
        ("HOST", &["RANGE", "a", "c"], &["a", "b.com", "c"], &["c.com"]),
        ("HOST", &["EXIST"], &["shop.com"], &[]),
        ("URL", &["EQ", "/a"], &["/a", "/%61", "//a", "/b/../a"], &["/A", "/a/", "/a/b"]),
        ("URL", &["EQ", "/a b\u{e9}"], &["/a%20b%C3%A9", "/a%20b%c3%a9"], &["/a%20b"]),
        ("URL", &["EQ", "/a%20b"], &["/a%20b"], &["/a%2520b"]),
        ("URL", &["IN", "/a", "/b"], &["/a", "/b"], &["/c"]),
        ("URL", &["STARTS_WITH", "/foo"], &["/foo", "/foobar", "/foo/bar"], &["/fo", "/x/foo"]),
        ("URL", &["ENDS_WITH", "*.php"], &["/index.php", "/a/b.php"], &["/a.b.php", "/index.html"]),
        ("URL", &["REGEX", "/a.*b"], &["/x/acb", "/ab"], &["/b"]),
        ("URL", &["REGEX", "^/a b$"], &["/a%20b"], &["/a/b"]),
        ("URL", &["RANGE", "/b", "/d"], &["/b", "/c/x", "/d"], &["/a", "/da"]),
        ("URL", &["EXIST"], &["/", "/a"], &[]),
        ("SRC_IP", &["EQ", "10.0.0.1"], &["10.0.0.1", "::ffff:10.0.0.1"], &["10.0.0.2"]),
        ("SRC_IP", &["EQ", "2001:DB8:0::1"], &["2001:db8::1"], &["2001:db8::2"]),
        ("SRC_IP", &["IN", "10.0.0.1", "10.0.0.2"], &["10.0.0.2"], &["10.0.0.3"]),
        ("SRC_IP", &["STARTS_WITH", "10.1."], &["10.1.0.1"], &["10.11.0.1"]),
        ("SRC_IP", &["ENDS_WITH", "*.0.0.1"], &["10.0.0.1"], &["10.0.0.2"]),
        ("SRC_IP", &["REGEX", "^2001:db8:"], &["2001:db8::1"], &["10.0.0.1"]),
        ("SRC_IP", &["RANGE", "10.0.0.9", "10.0.0.100"], &["10.0.0.9", "10.0.0.10", "10.0.0.100"], &["10.0.0.8"]),
        (
            "SRC_IP",
            &["RANGE", "2001:db8::5:0:0:0", "2001:db8:0:1::"],
            &["2001:db8::5:0:0:0", "2001:db8::6:0:0:1", "2001:db8:0:1::"],
            &["2001:db8::4:ffff:ffff:ffff", "2001:db8:0:1::1", "10.0.0.1"],
        ),
        ("SRC_IP", &["RANGE", "a", "z"], &[], &["10.0.0.1", "2001:db8::1"]),
        ("SRC_IP", &["EXIST"], &["10.0.0.1", "2001:db8::1"], &[]),
        ("HEADER", &["EQ", "v"], &["v"], &["V", "vv", ""]),
        ("HEADER", &["IN", "v", "w"], &["v", "w"], &["x", "v, w"]),
        ("HEADER", &["STARTS_WITH", "v"], &["v", "vw"], &["wv"]),
        ("HEADER", &["ENDS_WITH", "*.b.c"], &["a.b.c"], &["a.a.b.c", ".b.c", "b.c"]),
        ("HEADER", &["ENDS_WITH", "app.com"], &["app.com", "xapp.com"], &["x.app.com", "pp.com"]),
        ("HEADER", &["REGEX", "v[0-9]"], &["av1b"], &["V1", "v"]),
        ("HEADER", &["RANGE", "10.0.0.9", "10.0.0.10"], &["10.0.0.10"], &["10.0.0.1", "10.0.0.100", "x"]),
        ("HEADER", &["RANGE", "b", "d"], &["b", "cc", "d"], &["a", "da", "10.0.0.1"]),
        ("HEADER", &["RANGE", "b", "10.0.0.1"], &[], &["10.0.0.1", "c"]),
        ("HEADER", &["EXIST"], &["", "v"], &[]),
        ("COOKIE", &["EQ", "v"], &["v"], &["V", ""]),
        ("COOKIE", &["IN", "v", "w"], &["w"], &["x"]),
        ("COOKIE", &["STARTS_WITH", "v"], &["vw"], &["wv"]),
        ("COOKIE", &["ENDS_WITH", "*.c"], &["b.c"], &["a.b.c"]),
        ("COOKIE", &["REGEX", "^v$"], &["v"], &["vv"]),
        ("COOKIE", &["RANGE", "b", "d"], &["c"], &["a"]),
        ("COOKIE", &["EXIST"], &["", "v"], &[]),
        ("PARAM", &["EQ", "v w"], &["v%20w", "v+w"], &["v", "V+w"]),
        ("PARAM", &["EQ", "v"], &["v"], &["w", "v&x_key=v", ""]),
        ("PARAM", &["IN", "v", "w"], &["w"], &["x"]),
        ("PARAM", &["STARTS_WITH", "v"], &["vw"], &["wv", "v&x_key=v"]),
        ("PARAM", &["ENDS_WITH", "*.c"], &["b.c"], &["a.b.c"]),
        ("PARAM", &["REGEX", "^v$"], &["v"], &["vv"]),
        ("PARAM", &["RANGE", "b", "d"], &["c"], &["a"]),
        ("PARAM", &["EXIST"], &["", "v", "v&x_key=w"], &[]),
    ] {
        let key = if matches!(kind, "HEADER" | "COOKIE" | "PARAM") { "x_key" } else { "" };
        let terms = [term(kind, key, &[row])];
        for value in matching {
            assert!(matches(&terms, &with(kind, Some(value))), "{kind} {row:?} {value:?}");
        }
        for value in others {
            assert!(!matches(&terms, &with(kind, Some(value))), "{kind} {row:?} {value:?}");
        }
        if !key.is_empty() {
            assert!(!matches(&terms, &with(kind, None)), "{kind} {row:?} without a value");
        }
    }
}

#[test]
fn a_wildcard_stands_for_one_label() {
    for (ending, matching, others) in [
        ("*.foo.bar", &["a.foo.bar", "abc.foo.bar", "A.Foo.Bar:80"][..], &["foo.bar", "a.b.foo.bar", "afoo.bar"][..]),
        ("*.FOO.bar", &["a.foo.bar"], &["foo.bar"]),
        // as the manual writes it
        ("foo.bar", &["a.foo.bar"], &["foo.bar", "xfoo.bar", "a.b.foo.bar"]),
        (".foo.bar", &["a.foo.bar"], &["foo.bar", "xfoo.bar"]),
        ("*-foo.bar", &["a-foo.bar"], &["-foo.bar", "a.b-foo.bar"]),
        ("*", &["localhost"], &["a.b"]),
        ("*.", &[], &["a.", "a.b", "a"]),
        ("", &[], &["a", "a.b"]),
    ] {
        for host in matching {
            assert!(
                matches(&[term("HOST", "", &[&["ENDS_WITH", ending]])], &Request::new(host, "/")),
                "{ending} {host}"
            );
        }
        for host in others {
            assert!(
                !matches(&[term("HOST", "", &[&["ENDS_WITH", ending]])], &Request::new(host, "/")),
                "{ending} {host}"
            );
        }
    }
}

#[test]
fn a_request_without_host_has_an_underscore_for_it() {
    for (row, holds) in [
        (&["EXIST"][..], true),
        (&["EQ", "_"], true),
        (&["IN", "a.com", "_"], true),
        (&["REGEX", ".*"], true),
        (&["EQ", ""], false),
        (&["EQ", "a.com"], false),
    ] {
        assert_eq!(matches(&[term("HOST", "", &[row])], &with("HOST", None)), holds, "{row:?}");
    }
}

#[test]
fn headers_are_named_with_dash_or_underscore_and_lines_are_joined() {
    let mut request = Request::new("a.com", "/");
    request.headers = vec![("x-a-b".to_owned(), "1".to_owned()), ("x-a-b".to_owned(), "2".to_owned())];
    for key in ["x_a_b", "X-A-B", "x-a_b"] {
        assert!(matches(&[term("HEADER", key, &[&["EQ", "1, 2"]])], &request), "{key}");
    }
    assert!(!matches(&[term("HEADER", "xab", &[&["EXIST"]])], &request));
}

#[test]
fn no_header_says_who_the_client_is() {
    let mut request = Request::new("a.com", "/");
    request.headers =
        vec![("x-real-ip".to_owned(), "192.0.2.1".to_owned()), ("x-forwarded-for".to_owned(), "192.0.2.1".to_owned())];
    assert!(!matches(&[term("SRC_IP", "", &[&["EQ", "192.0.2.1"]])], &request));
    assert!(matches(&[term("SRC_IP", "", &[&["EQ", "10.0.0.1"]])], &request));
}

#[test]
fn terms_must_all_hold_and_rows_need_one() {
    let terms = [
        term("HOST", "", &[&["IN", "a.com", "b.com"]]),
        term("URL", "", &[&["STARTS_WITH", "/k8s"], &["REGEX", "^/v1/*"]]),
        term("HEADER", "x-a", &[&["EQ", "1"], &["STARTS_WITH", "2"]]),
        term("COOKIE", "unused", &[]),
    ];
    for (host, path, header, holds) in [
        ("a.com", "/k8s", "1", true),
        ("b.com", "/v1", "25", true),
        ("c.com", "/k8s", "1", false),
        ("a.com", "/v2", "1", false),
        ("a.com", "/k8s", "12", false),
    ] {
        let mut request = Request::new(host, path);
        request.headers.push(("x-a".to_owned(), header.to_owned()));
        assert_eq!(matches(&terms, &request), holds, "{host} {path} {header}");
    }
}

#[test]
fn a_redirect_of_the_port_comes_first_and_its_default_backend_last() {
    let root = || compile(Some(&[term("URL", "", &[&["STARTS_WITH", "/"]])])).unwrap();
    let exact = compile(Some(&[term("HOST", "", &[&["EQ", "a.com"]]), term("URL", "", &[&["EQ", "/a"]])])).unwrap();
    let rule = |priority| {
        let terms = [term("HOST", "", &[&["EQ", "a.com"]]), term("URL", "", &[&["EQ", "/a"]])];
        (exact.clone(), precedence(priority, Weight::of(&terms), "rule"))
    };
    let redirect = table(vec![rule(-1), (root(), of_redirect("redirect")), (root(), of_default_backend("default"))]);
    assert_eq!(found(&redirect, &Request::new("a.com", "/a")).as_deref(), Some("redirect"));
    let default = table(vec![rule(10), (root(), of_default_backend("default"))]);
    for (host, path, name) in [("a.com", "/a", "rule"), ("a.com", "/b", "default"), ("b.com", "/a", "default")] {
        assert_eq!(found(&default, &Request::new(host, path)).as_deref(), Some(name), "{host}{path}");
    }
}
