//! Compiled and indexed rules find what a reading of the terms, one after the other, finds.

use std::net::IpAddr;

use headwater_model::alb::dslx::Term;
use headwater_translate::alb::{DslxError, compile, precedence};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::support::{Request, found, table};

const OPERATORS: [&str; 7] = ["EQ", "IN", "EXIST", "STARTS_WITH", "ENDS_WITH", "REGEX", "RANGE"];

fn values_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "METHOD" => &["GET", "PUT", "get", "*ET"],
        "URL" => &["/", "/a", "/a/", "/a/b", "/b", "/a b", "/\u{e9}", "a", "*b", "*.b", "/a.b"],
        "HOST" => &["a.b", "A.b", "b", "*.b", ".b", "*.A.b", "a.a.b", "*", "*b", "_", ""],
        "SRC_IP" => &["10.0.0.1", "10.0.0.2", "10.", "*.0.0.1", "2001:db8::1", "2001:db8::1:0:0:0", "x"],
        _ => &["p", "q", "pq", "p, q", "*.q", "p.q", "", "10.0.0.1", "10.0.0.9"],
    }
}

fn patterns_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "URL" => &["^/a", "/b.*", "b$", "^/[ab]+/", "a b", "\u{e9}$", "^/a/b$"],
        "HOST" => &["^a\\.", "b$", ".*", "^A"],
        "SRC_IP" => &["^10\\.", ":1$"],
        _ => &["^p", "q", "^(p|q)$", "E"],
    }
}

fn any_row(kind: &'static str) -> impl Strategy<Value = Vec<String>> {
    select(&OPERATORS[..]).prop_flat_map(move |operator| {
        let arguments = match operator {
            "EXIST" => 0..=0usize,
            "IN" => 1..=3,
            "RANGE" => 2..=2,
            _ => 1..=1,
        };
        let values = if operator == "REGEX" { patterns_of(kind) } else { values_of(kind) };
        // now and then a wrong number
        let number = prop_oneof![19 => arguments, 1 => 0..=3usize];
        number.prop_flat_map(move |number| {
            proptest::collection::vec(select(values), number).prop_map(move |arguments| {
                [operator].into_iter().chain(arguments).map(str::to_owned).collect::<Vec<String>>()
            })
        })
    })
}

fn any_term() -> impl Strategy<Value = Term> {
    let kind = prop_oneof![
        4 => Just("URL"),
        4 => Just("HOST"),
        1 => Just("METHOD"),
        1 => Just("SRC_IP"),
        2 => Just("HEADER"),
        1 => Just("COOKIE"),
        2 => Just("PARAM"),
    ];
    kind.prop_flat_map(|kind| {
        let keys: &[&str] = match kind {
            "HEADER" => &["x-a", "X_A", "x_b", "x-b", ""],
            "COOKIE" => &["c", "C", "d"],
            "PARAM" => &["m", "n", "M"],
            _ => &["", "", "", "", "", "", "", "", "key"],
        };
        let rows = prop_oneof![1 => 0..=0usize, 12 => 1..=1usize, 4 => 2..=3usize];
        let rows = rows.prop_flat_map(move |rows| proptest::collection::vec(any_row(kind), rows));
        (select(keys), rows, 0..60).prop_map(move |(key, values, odd)| {
            let kind = if odd == 0 { "NONSENSE" } else { kind };
            Term { kind: kind.to_owned(), key: key.to_owned(), values }
        })
    })
}

/// A request, and its path as rules see it.
fn any_request() -> impl Strategy<Value = (Request, String)> {
    let path = select(&["/", "/a", "/a/", "/a/b", "/b", "/b/a", "/a b", "/a/\u{e9}", "/a.b", "/ab"][..]);
    let host = proptest::option::of(select(&["a.b", "A.B:80", "b", "a.a.b", "xb", "c.a.b"][..]));
    let value = || proptest::option::of(select(&["p", "q", "pq", "p.q", "a.p.q", "", "10.0.0.5"][..]));
    let client = select(&["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::ffff:0:0"][..]);
    let method = select(&["GET", "PUT"][..]);
    (method, host, path, any::<bool>(), client, value(), value(), value(), value(), 0..4).prop_map(
        |(method, host, path, spelt, client, a, b, cookie, m, odd)| {
            let received: String = path
                .bytes()
                .map(|byte| match byte {
                    b'/' if spelt => "//".to_owned(),
                    b'a' if spelt => "%61".to_owned(),
                    b'/' | b'.' | b'a'..=b'z' => char::from(byte).to_string(),
                    byte => format!("%{byte:02x}"),
                })
                .collect();
            let mut request = Request::new("", &received);
            request.method = method.to_owned();
            request.authority = host.map(str::to_owned);
            request.client = client.parse().expect("an address");
            let mut header = |name: &str, value: String| request.headers.push((name.to_owned(), value));
            if let Some(a) = a {
                header("x-a", a.to_owned());
            }
            if let (Some(b), 0) = (b, odd) {
                header("x-a", b.to_owned());
            }
            if let Some(b) = b {
                header("x-b", b.to_owned());
            }
            if let Some(cookie) = cookie {
                header("cookie", format!("e=q; C={cookie}; c=q"));
            }
            request.query = m.map(|m| match odd {
                0 => format!("m={m}&m=p"),
                1 => "m&n=p".to_owned(),
                _ => format!("m={}", m.replace('p', "%70")),
            });
            (request, path.to_owned())
        },
    )
}

/// A value of a request.
enum Actual {
    Absent,
    /// There, but not one text.
    Present,
    Text(String),
}

fn actual(kind: &str, key: &str, request: &Request, path: &str) -> Actual {
    let text = |text: Option<String>| text.map_or(Actual::Absent, Actual::Text);
    match kind {
        "METHOD" => Actual::Text(request.method.clone()),
        "URL" => Actual::Text(path.to_owned()),
        "HOST" => {
            let host = request.authority.as_deref().unwrap_or("_").to_lowercase();
            Actual::Text(host.split(':').next().unwrap_or_default().to_owned())
        }
        "SRC_IP" => Actual::Text(request.client.to_string()),
        "HEADER" => {
            let name = key.to_lowercase().replace('_', "-");
            let lines: Vec<&str> =
                request.headers.iter().filter(|(header, _)| *header == name).map(|(_, value)| value.as_str()).collect();
            text((!lines.is_empty()).then(|| lines.join(", ")))
        }
        "COOKIE" => {
            let line = request.headers.iter().find(|(header, _)| header == "cookie").map(|(_, value)| value.as_str());
            let pairs = line.unwrap_or_default().split("; ").filter_map(|pair| pair.split_once('='));
            text(pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.to_owned()))
        }
        "PARAM" => {
            let query = request.query.as_deref().unwrap_or_default().replace("%70", "p");
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            let values: Vec<Option<&str>> = pairs
                .filter(|pair| pair.split('=').next() == Some(key))
                .map(|pair| pair.split_once('=').map(|(_, value)| value))
                .collect();
            match values.as_slice() {
                [] => Actual::Absent,
                [Some(value)] => Actual::Text((*value).to_owned()),
                _ => Actual::Present,
            }
        }
        _ => Actual::Absent,
    }
}

fn row_holds(term: &Term, row: &[String], request: &Request, path: &str) -> bool {
    let (operator, arguments) = row.split_first().expect("a row has an operator");
    let mut flat: Vec<String> = Vec::new();
    if !term.key.is_empty() {
        flat.push(term.key.clone());
    }
    flat.extend(arguments.iter().cloned());
    let mut key = String::new();
    if matches!(term.kind.as_str(), "HEADER" | "COOKIE" | "PARAM") {
        if flat.is_empty() {
            return false;
        }
        key = flat.remove(0);
    }
    let kind = term.kind.as_str();
    if kind == "NONSENSE" {
        return false;
    }
    let value = match actual(kind, &key, request, path) {
        Actual::Absent => return false,
        Actual::Present => return operator == "EXIST" && flat.is_empty(),
        Actual::Text(text) => text,
    };
    if kind == "HOST" && operator != "REGEX" {
        flat = flat.iter().map(|text| text.to_lowercase()).collect();
    }
    let equals = |text: &String| match (kind, text.parse::<IpAddr>()) {
        ("SRC_IP", Ok(address)) => address == request.client,
        _ => *text == value,
    };
    match (operator.as_str(), flat.as_slice()) {
        ("EQ", [text]) => equals(text),
        ("IN", texts) => texts.iter().any(equals),
        ("EXIST", []) => true,
        ("STARTS_WITH", [text]) => value.as_bytes().starts_with(text.as_bytes()),
        ("ENDS_WITH", [text]) => {
            let text = match text.as_bytes() {
                b"" => return false,
                [b'*', ..] => text.clone(),
                [b'.', ..] if kind == "HOST" => format!("*{text}"),
                _ if kind == "HOST" => format!("*.{text}"),
                _ => text.clone(),
            };
            let (value, text) = (value.as_bytes(), text.as_bytes());
            value.len() >= text.len()
                && value.ends_with(&text[1..])
                && !value[..value.len() - text.len()].contains(&b'.')
        }
        ("REGEX", [pattern]) => {
            let regex = regex::bytes::RegexBuilder::new(pattern).unicode(false).build();
            regex.expect("a valid pattern").is_match(value.as_bytes())
        }
        ("RANGE", [low, high]) => match value.parse::<IpAddr>() {
            Ok(IpAddr::V4(value)) => match (low.parse(), high.parse()) {
                (Ok(IpAddr::V4(low)), Ok(IpAddr::V4(high))) => {
                    (u32::from(low)..=u32::from(high)).contains(&u32::from(value))
                }
                _ => false,
            },
            Ok(IpAddr::V6(value)) => match (low.parse(), high.parse()) {
                (Ok(IpAddr::V6(low)), Ok(IpAddr::V6(high))) => {
                    (u128::from(low)..=u128::from(high)).contains(&u128::from(value))
                }
                _ => false,
            },
            Err(_) => low.as_bytes() <= value.as_bytes() && value.as_bytes() <= high.as_bytes(),
        },
        _ => false,
    }
}

fn rule_holds(terms: &[Term], request: &Request, path: &str) -> bool {
    let terms: Vec<&Term> = terms.iter().filter(|term| !term.values.is_empty()).collect();
    !terms.is_empty() && terms.iter().all(|term| term.values.iter().any(|row| row_holds(term, row, request, path)))
}

fn internal(terms: &[Term]) -> Value {
    let row = |term: &Term, row: &[String]| {
        let mut flat = vec![row[0].clone(), term.kind.clone()];
        flat.extend((!term.key.is_empty()).then(|| term.key.clone()));
        flat.extend(row[1..].iter().cloned());
        json!(flat)
    };
    let mut all: Vec<Value> = Vec::new();
    if terms.len() > 1 {
        all.push(json!("AND"));
    }
    for term in terms.iter().filter(|term| !term.values.is_empty()) {
        if term.values.len() == 1 {
            all.push(row(term, &term.values[0]));
        } else {
            let rows = term.values.iter().map(|values| row(term, values));
            all.push(Value::Array([json!("OR")].into_iter().chain(rows).collect()));
        }
    }
    if all.is_empty() { Value::Null } else { Value::Array(all) }
}

fn complexity(terms: &[Term]) -> i64 {
    let mut sum = 0;
    for term in terms {
        let operators = term.values.iter().map(|row| row[0].as_str());
        match term.kind.as_str() {
            "HOST" => match operators.into_iter().next() {
                Some("EQ" | "IN") => sum += 50_000,
                Some("ENDS_WITH") => sum += 10_000,
                _ => {}
            },
            "URL" => {
                for row in &term.values {
                    let length = row.get(1).map_or(0, |text| text.len() as i64);
                    match row[0].as_str() {
                        "EQ" => sum += 2000,
                        "STARTS_WITH" => sum += 1000 + length + 2,
                        "REGEX" => sum += 1000 + length,
                        _ => {}
                    }
                }
            }
            _ => sum += 100 * term.values.len() as i64,
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_finds_the_rule_that_comes_first(
        rules in proptest::collection::vec((4..6i64, proptest::collection::vec(any_term(), 0..4)), 0..80),
        requests in proptest::collection::vec(any_request(), 20),
    ) {
        let mut compiled = Vec::new();
        let mut ordered = Vec::new();
        for (at, (priority, terms)) in rules.iter().enumerate() {
            let short = terms.iter().any(|term| term.values.len() > 1 && term.values.iter().any(|row| row.len() < 2));
            match compile(Some(terms)) {
                Ok(rule) => {
                    prop_assert!(!short, "{terms:?}");
                    let name = format!("rule-{at}");
                    let place = precedence(*priority, rule.weight, &name);
                    compiled.push((rule, place));
                    let length = internal(terms).to_string().len();
                    ordered.push(((*priority, -complexity(terms), -(length as i64), name), terms));
                }
                Err(error) => prop_assert!(short && matches!(error, DslxError::ShortRow { .. }), "{terms:?}: {error}"),
            }
        }
        ordered.sort_by(|(a, _), (b, _)| a.cmp(b));
        let table = table(compiled);
        for (request, path) in requests {
            let expected = ordered.iter().find(|(_, terms)| rule_holds(terms, &request, &path));
            let expected = expected.map(|((.., name), _)| name.clone());
            prop_assert_eq!(found(&table, &request), expected, "{:?}", request);
        }
    }
}
