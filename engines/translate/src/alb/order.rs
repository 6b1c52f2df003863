//! Which of the rules of a port is looked at first.

use headwater_model::alb::dslx::Term;
use headwater_model::gateway::Precedence;

/// Priority of a rule that comes from an Ingress without an annotation that says another.
pub const DEFAULT_PRIORITY: i64 = 5;

/// How telling the terms of a rule are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Sum over the terms: an exact host counts 50,000, a wildcard 10,000, an exact path 2,000, others 1,000 and their
    /// length, any other term 100 for each row. Only the first row of a host counts.
    pub complexity: i64,
    /// Bytes of the terms as upstream writes them: compact JSON in Go's escaping, operators first.
    pub json_len: i64,
}

impl Weight {
    pub fn of(terms: &[Term]) -> Self {
        Self { complexity: terms.iter().map(complexity).sum(), json_len: json_len(terms) }
    }
}

/// The place of a rule: lower priority, then higher complexity, then longer JSON, then by name.
pub fn precedence(priority: i64, weight: Weight, name: &str) -> Precedence {
    Precedence { ranks: [priority, -weight.complexity, -weight.json_len, 0], tie: name.into() }
}

/// The place of a Frontend's default backend: after all rules whose priority is not above 999.
pub fn of_default_backend(frontend: &str) -> Precedence {
    precedence(999, Weight { complexity: -1, json_len: json_len(&[root()]) }, frontend)
}

/// The place of a Frontend's redirect: before all rules whose priority is not below -1.
pub fn of_redirect(frontend: &str) -> Precedence {
    precedence(-1, Weight { complexity: 999_999_999, json_len: json_len(&[root()]) }, frontend)
}

/// What a Frontend's default backend and redirect ask for.
fn root() -> Term {
    Term { kind: "URL".into(), key: String::new(), values: vec![vec!["STARTS_WITH".into(), "/".into()]] }
}

fn complexity(term: &Term) -> i64 {
    let length = |row: &[String]| row.get(1).map_or(0, |argument| count(argument.len()));
    match term.kind.as_str() {
        "HOST" => match term.values.first().and_then(|row| row.first()).map(String::as_str) {
            Some("EQ" | "IN") => 50_000,
            Some("ENDS_WITH") => 10_000,
            _ => 0,
        },
        "URL" => term
            .values
            .iter()
            .map(|row| match row.first().map(String::as_str) {
                Some("EQ") => 2_000,
                Some("STARTS_WITH") => 1_000 + length(row) + 2,
                Some("REGEX") => 1_000 + length(row),
                _ => 0,
            })
            .sum(),
        _ => 100 * count(term.values.len()),
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// `["AND",["OR",["EQ","HOST","a"],["EQ","HOST","b"]],["EXIST","COOKIE","uid"]]`: `AND` where there are several terms,
/// even empty ones; `OR` where a term has several rows; `null` when nothing is left.
fn json_len(terms: &[Term]) -> i64 {
    let row = |term: &Term, row: &[String]| {
        let (operator, arguments) = row.split_first().map_or(("", row), |(first, rest)| (first.as_str(), rest));
        let key = (!term.key.is_empty()).then_some(term.key.as_str());
        let texts = [operator, &term.kind].into_iter().chain(key).chain(arguments.iter().map(String::as_str));
        array(texts.map(text))
    };
    let mut items: Vec<usize> = Vec::with_capacity(terms.len() + 1);
    if terms.len() > 1 {
        items.push(text("AND"));
    }
    for term in terms {
        match term.values.as_slice() {
            [] => {}
            [only] => items.push(row(term, only)),
            rows => items.push(array([text("OR")].into_iter().chain(rows.iter().map(|values| row(term, values))))),
        }
    }
    count(if items.is_empty() { "null".len() } else { array(items.into_iter()) })
}

fn array(items: impl Iterator<Item = usize>) -> usize {
    let (number, sum) = items.fold((0, 0), |(number, sum), item| (number + 1, sum + item));
    2 + sum + usize::saturating_sub(number, 1)
}

/// A string as Go's `encoding/json` writes it: `<`, `>`, `&` and the two line separators of Unicode are escaped, too.
fn text(text: &str) -> usize {
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        c => c.len_utf8(),
    };
    2 + text.chars().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(kind: &str, key: &str, rows: &[&[&str]]) -> Term {
        let values = rows.iter().map(|row| row.iter().map(|text| text.to_string()).collect()).collect();
        Term { kind: kind.into(), key: key.into(), values }
    }

    fn url(row: &[&str]) -> Term {
        term("URL", "", &[row])
    }

    fn host(row: &[&str]) -> Term {
        term("HOST", "", &[row])
    }

    #[test]
    fn rules_of_equal_priority_are_ordered_by_what_they_say() {
        let wildcard = || host(&["ENDS_WITH", ".c.com"]);
        let best_first = [
            vec![url(&["EQ", "/a"]), host(&["EQ", "a.com"])],
            vec![url(&["STARTS_WITH", "/abc"]), host(&["EQ", "a.c"])],
            vec![url(&["REGEX", "/a.*"]), host(&["EQ", "a.c"])],
            vec![url(&["STARTS_WITH", "/"]), host(&["EQ", "a.c"])],
            vec![wildcard(), url(&["REGEX", "/abcd.*"])],
            vec![wildcard(), url(&["STARTS_WITH", "/abc"])],
            vec![wildcard(), url(&["STARTS_WITH", "/ab"])],
            vec![wildcard(), url(&["REGEX", "/a.*"])],
            vec![wildcard(), url(&["STARTS_WITH", "/"])],
            vec![wildcard()],
            vec![term("URL", "", &[&["STARTS_WITH", "/k8s"], &["REGEX", "^/v1/*"]])],
            vec![url(&["STARTS_WITH", "/abcde"])],
            vec![url(&["REGEX", "/abcd.*"])],
            vec![url(&["STARTS_WITH", "/abc"])],
            vec![url(&["REGEX", "/a.*"])],
            vec![url(&["STARTS_WITH", "/"])],
        ];
        // names against the order, so that none of it comes from them
        let places: Vec<Precedence> = best_first
            .iter()
            .enumerate()
            .map(|(at, terms)| precedence(5, Weight::of(terms), &format!("{:02}", 99 - at)))
            .collect();
        assert!(places.is_sorted(), "{places:#?}");
    }

    #[test]
    fn priority_counts_before_complexity_before_length_before_name() {
        let weight = |complexity, path| Weight { complexity, json_len: json_len(&[url(&["STARTS_WITH", path])]) };
        for best_first in [
            vec![(-1, weight(10_500, "/b"), "c"), (1, weight(10_500, "/b"), "b"), (5, weight(51_000, "/"), "a")],
            vec![(5, weight(51_000, "/b"), "b"), (5, weight(11_600, "/"), "a")],
            vec![(5, weight(11_000, "/b"), "b"), (5, weight(11_000, "/"), "a")],
            vec![(5, weight(11_000, "/"), "a"), (5, weight(11_000, "/"), "b")],
        ] {
            let places: Vec<Precedence> =
                best_first.iter().map(|(priority, weight, name)| precedence(*priority, *weight, name)).collect();
            assert!(places.is_sorted(), "{places:#?}");
        }
    }

    #[test]
    fn what_a_frontend_says_itself_comes_first_and_last() {
        let best = vec![host(&["EQ", "a.com"]), url(&["EQ", "/a"])];
        let least = vec![term("COOKIE", "uid", &[])];
        assert!(of_redirect("ft") < precedence(-1, Weight::of(&best), "a"));
        assert!(of_default_backend("ft") > precedence(999, Weight::of(&least), "z"));
        assert_eq!(of_default_backend("ft").ranks, [999, 1, -27, 0]);
        assert_eq!(of_redirect("ft").ranks, [-1, -999_999_999, -27, 0]);
    }

    #[test]
    fn complexity_counts_rows_as_upstream_does() {
        for (term, complexity) in [
            (host(&["EQ", "a"]), 50_000),
            (host(&["IN", "a", "b"]), 50_000),
            (host(&["ENDS_WITH", "*.a"]), 10_000),
            (host(&["REGEX", "a"]), 0),
            (term("HOST", "", &[&["EQ", "a"], &["EQ", "b"]]), 50_000),
            (term("HOST", "", &[&["REGEX", "a"], &["EQ", "b"]]), 0),
            (term("HOST", "", &[]), 0),
            (url(&["EQ", "/long"]), 2_000),
            (url(&["STARTS_WITH", "/\u{e9}"]), 1_005),
            (url(&["REGEX", "/a.*"]), 1_004),
            (url(&["REGEX"]), 1_000),
            (url(&["ENDS_WITH", "/a"]), 0),
            (term("URL", "", &[&["EQ", "/a"], &["EQ", "/b"]]), 4_000),
            (term("HEADER", "x", &[&["EQ", "a"], &["EQ", "b"]]), 200),
            (term("NONSENSE", "", &[&["EQ", "a"]]), 100),
            (term("METHOD", "", &[&[]]), 100),
        ] {
            assert_eq!(super::complexity(&term), complexity, "{term:?}");
        }
    }

    #[test]
    fn the_length_is_that_of_the_json_that_upstream_writes() {
        for (terms, json) in [
            (vec![], "null"),
            (vec![term("URL", "", &[])], "null"),
            (vec![term("URL", "", &[]), term("HOST", "", &[])], r#"["AND"]"#),
            (vec![url(&["STARTS_WITH", "/"])], r#"[["STARTS_WITH","URL","/"]]"#),
            (
                vec![term("HEADER", "x-a", &[&["EQ", "1"], &["IN", "2", "3"]]), term("COOKIE", "uid", &[&["EXIST"]])],
                r#"["AND",["OR",["EQ","HEADER","x-a","1"],["IN","HEADER","x-a","2","3"]],["EXIST","COOKIE","uid"]]"#,
            ),
            (vec![url(&["REGEX", r#"/<a>&"\d"#])], r#"[["REGEX","URL","/\u003ca\u003e\u0026\"\\d"]]"#),
            (vec![url(&["EQ", "\n\r\t\u{8}\u{c}\u{1}\u{7f}"])], "[[\"EQ\",\"URL\",\"\\n\\r\\t\\b\\f\\u0001\u{7f}\"]]"),
            (vec![url(&["EQ", "\u{2028}\u{2029}\u{e9}"])], "[[\"EQ\",\"URL\",\"\\u2028\\u2029\u{e9}\"]]"),
        ] {
            assert_eq!(json_len(&terms), json.len() as i64, "{json}");
        }
    }
}
