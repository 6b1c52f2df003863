//! YAML text -> nodes, resolving scalars as the Kubernetes tools do (YAML 1.1: `yes`, `on`, `0o17`, `1_000`).

use std::collections::BTreeMap;

use ahash::AHashSet;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::node::{Entry, MAX_DEPTH, MAX_NODES, Node, Number, SyntaxError, Value};

/// Most that anchors and their aliases may copy, in values; 64 bytes of text count as one value more.
const MAX_COPIED: usize = 250_000;

/// Most of the characters `,[]{}` in one file. The scanner holds an outermost flow collection as tokens, at worst a
/// kilobyte for each of them, until it knows that the collection is no key. A dump of 15,000 Ingresses with their
/// `last-applied-configuration` stays below.
const MAX_FLOW_MARKS: usize = 1_000_000;

/// Reads every document of a YAML stream; empty documents are left out.
///
/// # Errors
/// The first fault of the text, more flow marks than [`MAX_FLOW_MARKS`], a nesting deeper than [`MAX_DEPTH`], more values
/// than [`MAX_NODES`], or aliases that expand without measure.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    if text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b']' | b'{' | b'}')).count() > MAX_FLOW_MARKS {
        return Err(SyntaxError::new(
            1,
            format!("more than {MAX_FLOW_MARKS} of the characters \",[]{{}}\" in one file"),
        ));
    }
    let mut loader = Loader { copies_left: MAX_COPIED, ..Loader::default() };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| scan_error(&error, text))?;
        loader.take(event, span)?;
    }
    Ok(loader.documents)
}

fn scan_error(error: &ScanError, text: &str) -> SyntaxError {
    // At the end of the text the scanner may stand one line behind it.
    let line = error.marker().line().min(text.lines().count());
    let message = match error.info() {
        // The scanner runs ahead of the parser and has its own limit.
        "recursion limit exceeded" => format!("nested deeper than {MAX_DEPTH} levels"),
        // The only message with a piece of the text in it; the text may be a Secret.
        info if info.starts_with("unexpected character") => "not YAML: unexpected character".to_owned(),
        info => format!("not YAML: {info}"),
    };
    SyntaxError::new(line_of(line), message)
}

fn line_of(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

#[derive(Default)]
struct Loader {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    copies_left: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    line: u32,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<Key>, merges: Vec<Node> },
}

struct Key {
    text: Box<str>,
    line: u32,
    merge: bool,
}

impl Loader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = line_of(span.start.line());
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.open.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(SyntaxError::new(line, "not YAML: an alias inside its own anchor"));
                };
                charge(&mut self.copies_left, node, line)?;
                let node = node.clone();
                self.close(node, 0, false)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
                let value = resolve(&text, style, tag.as_deref());
                self.close(Node { line, value }, anchor, merge)
            }
            Event::SequenceStart(anchor, _) => self.open(Open { line, anchor, content: Content::List(Vec::new()) }),
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping { entries: Vec::new(), key: None, merges: Vec::new() };
                self.open(Open { line, anchor, content })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Err(SyntaxError::new(line, "not YAML: an end without a beginning"));
                };
                let value = match open.content {
                    Content::List(items) => Value::List(items),
                    Content::Mapping { mut entries, merges, .. } => {
                        for source in merges {
                            merge(&mut entries, source)?;
                        }
                        Value::Mapping(entries)
                    }
                };
                self.close(Node { line: open.line, value }, open.anchor, false)
            }
        }
    }

    fn open(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::new(open.line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished node where it belongs: into the list, as key or as value of the mapping, or as a document.
    fn close(&mut self, node: Node, anchor: usize, is_merge_key: bool) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::new(node.line, format!("more than {MAX_NODES} values in one file")));
        }
        if anchor != 0 {
            charge(&mut self.copies_left, &node, node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Mapping { entries, key, merges }) => match key.take() {
                None => *key = Some(Key { line: node.line, text: key_text(node)?, merge: is_merge_key }),
                Some(Key { merge: true, .. }) => merges.push(node),
                Some(Key { text, line, .. }) => entries.push(Entry { key: text, line, value: node }),
            },
        }
        Ok(())
    }
}

/// Takes the weight of a copy of `node` from what is left.
fn charge(left: &mut usize, node: &Node, line: u32) -> Result<(), SyntaxError> {
    fn weigh(left: &mut usize, node: &Node) -> Option<()> {
        let text = match &node.value {
            Value::Text(text) => text.len(),
            Value::Mapping(entries) => entries.iter().map(|entry| entry.key.len()).sum(),
            _ => 0,
        };
        *left = left.checked_sub(1 + text / 64)?;
        match &node.value {
            Value::List(items) => items.iter().try_for_each(|item| weigh(left, item)),
            Value::Mapping(entries) => entries.iter().try_for_each(|entry| weigh(left, &entry.value)),
            _ => Some(()),
        }
    }
    weigh(left, node)
        .ok_or_else(|| SyntaxError::new(line, format!("anchors and aliases copy more than {MAX_COPIED} values")))
}

/// `<<`: adds what the source has and the mapping has not.
fn merge(entries: &mut Vec<Entry>, source: Node) -> Result<(), SyntaxError> {
    match source.value {
        Value::Mapping(more) => {
            let known: AHashSet<Box<str>> = entries.iter().map(|entry| entry.key.clone()).collect();
            entries.extend(more.into_iter().filter(|entry| !known.contains(&entry.key)));
            Ok(())
        }
        Value::List(sources) if sources.iter().all(|source| matches!(source.value, Value::Mapping(_))) => {
            sources.into_iter().try_for_each(|source| merge(entries, source))
        }
        _ => Err(SyntaxError::new(source.line, "not YAML: \"<<\" takes a mapping or a list of mappings")),
    }
}

fn key_text(node: Node) -> Result<Box<str>, SyntaxError> {
    match node.value {
        Value::Text(text) => Ok(text),
        // `on:` is the key "true", as for the Kubernetes tools.
        Value::Bool { value, .. } => Ok(if value { "true".into() } else { "false".into() }),
        Value::Number { value: Number::Unsigned(number), .. } => Ok(number.to_string().into()),
        Value::Number { value: Number::Negative(number), .. } => Ok(number.to_string().into()),
        Value::Number { written, .. } => Ok(written),
        Value::Null | Value::List(_) | Value::Mapping(_) => {
            Err(SyntaxError::new(node.line, "a key is neither text nor number"))
        }
    }
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let as_text = || Value::Text(text.into());
    match tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str()) {
        Some("str" | "binary" | "timestamp") => as_text(),
        None if style != ScalarStyle::Plain => as_text(),
        _ => resolve_plain(text),
    }
}

/// A plain scalar by the rules of go-yaml 2, through which every Kubernetes tool reads YAML.
fn resolve_plain(text: &str) -> Value {
    let boolean = |value| Value::Bool { value, written: text.into() };
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => return boolean(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => return boolean(false),
        _ => {}
    }
    match number(text) {
        Some(value) => Value::Number { value, written: text.into() },
        None => Value::Text(text.into()),
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) || text.len() > 64 {
        return None;
    }
    let plain: String = text.chars().filter(|&c| c != '_').collect();
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, &plain[..]),
    };
    let (radix, digits) = match digits.get(..2).unwrap_or_default() {
        "0x" | "0X" => (16, &digits[2..]),
        "0o" | "0O" => (8, &digits[2..]),
        "0b" | "0B" => (2, &digits[2..]),
        pair if pair.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(|c: char| c.is_ascii_alphanumeric())
        && let Ok(value) = u64::from_str_radix(digits, radix)
    {
        match (negative, i64::try_from(value)) {
            (false, _) => return Some(Number::Unsigned(value)),
            (true, Ok(value)) => return Some(Number::Negative(-value)),
            (true, Err(_)) => {}
        }
    }
    let is_decimal = plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && plain.bytes().any(|b| b.is_ascii_digit());
    let value = if is_decimal { plain.parse::<f64>().ok()? } else { return None };
    value.is_finite().then_some(Number::Float(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".into(),
            Value::Bool { value, .. } => value.to_string(),
            Value::Number { value: Number::Unsigned(n), .. } => n.to_string(),
            Value::Number { value: Number::Negative(n), .. } => n.to_string(),
            Value::Number { value: Number::Float(n), .. } => format!("{n:?}"),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Mapping(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|e| format!("{}@{}={}", e.key, e.line, show(&e.value))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn one(text: &str) -> String {
        parse(text)
            .map_or_else(|e| format!("{}: {e}", e.line), |docs| docs.iter().map(show).collect::<Vec<_>>().join(" | "))
    }

    #[test]
    fn scalars_resolve_as_the_kubernetes_tools_resolve_them() {
        for (text, shown) in [
            ("yes", "true"),
            ("off", "false"),
            ("\"yes\"", "\"yes\""),
            ("'80'", "\"80\""),
            ("80", "80"),
            ("-80", "-80"),
            ("010", "8"),
            ("0o10", "8"),
            ("0x10", "16"),
            ("1_000", "1000"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            ("1.2.3", "\"1.2.3\""),
            ("10.0.0.0/8", "\"10.0.0.0/8\""),
            ("08", "8.0"),
            ("+", "\"+\""),
            ("-", "[null]"),
            ("18446744073709551615", "18446744073709551615"),
            ("!!str 5", "\"5\""),
            ("~", ""),
            ("2024-01-01T00:00:00Z", "\"2024-01-01T00:00:00Z\""),
            ("+-5", "\"+-5\""),
        ] {
            assert_eq!(one(text), shown, "{text}");
        }
    }

    #[test]
    fn every_key_knows_its_line_across_documents() {
        assert_eq!(
            one("a: 1\nb:\n  c: [x,\n    z]\n---\n---\n# note\nd: 2\n"),
            "{a@1=1 b@2={c@3=[\"x\" \"z\"]}} | {d@8=2}"
        );
    }

    #[test]
    fn merge_keys_add_what_is_missing() {
        let text = "- &a {x: 1, w: 2}\n- {<<: *a, w: 3}\n- {<<: [*a, {z: 4, x: 5}]}\n";
        assert_eq!(one(text), "[{x@1=1 w@1=2} {w@2=3 x@1=1} {x@1=1 w@1=2 z@3=4}]");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_in_bounded_memory() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "));
        }
        assert!(one(&text).ends_with("anchors and aliases copy more than 250000 values"), "{}", one(&text));
    }

    #[test]
    fn long_texts_copied_by_aliases_are_counted_by_their_length() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(", "));
        assert!(one(&text).ends_with("anchors and aliases copy more than 250000 values"));
    }

    #[test]
    fn a_flow_collection_without_end_is_refused_before_it_is_scanned() {
        let text = format!("a: b\nc: [{}]\n", "[],\n".repeat(1 << 20));
        assert_eq!(one(&text), "1: more than 1000000 of the characters \",[]{}\" in one file");
    }

    #[test]
    fn nesting_is_bounded() {
        for text in ["[\n", "[", "{a: ", "- "] {
            let said = one(&text.repeat(100_000));
            assert!(said.ends_with("nested deeper than 128 levels"), "{text}: {said}");
        }
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_refused() {
        assert_eq!(one("a: &a\n  - *a\n"), "2: not YAML: an alias inside its own anchor");
    }
}
