//! Field paths (`spec.rules[0].host`, `metadata.annotations[example.com/x]`) and the lines they stand on.

use headwater_model::fnv::{FNV_64, fnv1a_64_on};

use super::node::{Node, Value};

/// One step of a path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

/// Writes a path as Kubernetes does; keys with dots or slashes stand in brackets.
pub(crate) fn render(segments: &[Segment<'_>]) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Index(index) => path += &format!("[{index}]"),
            Segment::Key(key) => push_key(&mut path, key),
        }
    }
    path
}

pub(crate) fn push_key(path: &mut String, key: &str) {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !bare {
        path.push('[');
        path.extend(key.chars().take(MAX_KEY_SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        path.push(']');
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.extend(key.chars().take(MAX_KEY_SHOWN));
    }
}

/// Longest key that a finding shows whole; Kubernetes allows 253 + 1 + 63 characters.
const MAX_KEY_SHOWN: usize = 320;

/// Splits a path into its steps: `a.b[0].c[x/y.z]` -> `a`, `b`, `0`, `c`, `x/y.z`.
fn split(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        let (step, tail) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = tail;
        Some(step)
    })
}

/// The line of every field of one object.
///
/// A field is kept as the hash of its path, 16 bytes in all; should two paths of an object collide, one of them is
/// shown the other's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineTable {
    first: u32,
    /// Sorted by hash.
    lines: Box<[(u64, u32)]>,
}

impl LineTable {
    pub(crate) fn of(node: &Node) -> Self {
        let mut lines = Vec::new();
        collect(node, ROOT, &mut lines);
        lines.sort_unstable();
        lines.dedup_by_key(|(hash, _)| *hash);
        Self { first: node.line, lines: lines.into() }
    }

    /// The line of the field, or of its nearest known ancestor.
    pub(crate) fn line(&self, field: &str) -> u32 {
        let mut line = self.first;
        let mut hash = ROOT;
        for step in split(field) {
            hash = step_hash(hash, step);
            match self.lines.binary_search_by_key(&hash, |(hash, _)| *hash) {
                Ok(index) => line = self.lines[index].1,
                Err(_) => break,
            }
        }
        line
    }
}

fn collect(node: &Node, hash: u64, lines: &mut Vec<(u64, u32)>) {
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let hash = step_hash(hash, &index.to_string());
                lines.push((hash, item.line));
                collect(item, hash, lines);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                let hash = step_hash(hash, &entry.key);
                lines.push((hash, entry.line));
                collect(&entry.value, hash, lines);
            }
        }
        _ => {}
    }
}

const ROOT: u64 = FNV_64;

/// Continued over one step and a byte that ends it (0xff is in no UTF-8 text).
fn step_hash(hash: u64, step: &str) -> u64 {
    fnv1a_64_on(hash, step.bytes().chain([0xff]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml;

    #[test]
    fn a_field_is_found_or_else_its_nearest_ancestor() {
        let text = "kind: X\nmetadata:\n  annotations:\n    a.io/b: x\nspec:\n  rules:\n  - host: a\n    http:\n      paths:\n      - path: /\n";
        let table = LineTable::of(&yaml::parse(text).unwrap()[0]);
        for (field, line) in [
            ("", 1),
            ("metadata.annotations[a.io/b]", 4),
            ("metadata.annotations[a.io/c]", 3),
            ("spec.rules[0].host", 7),
            ("spec.rules[0].http.paths[0].path", 10),
            ("spec.rules[0].http.paths[0].backend.service.name", 10),
            ("spec.rules[1]", 6),
            ("status", 1),
            ("spec.rules[", 6),
            ("...", 1),
        ] {
            assert_eq!(table.line(field), line, "{field}");
        }
    }

    #[test]
    fn what_is_rendered_splits_into_the_same_steps() {
        let path = render(&[
            Segment::Key("metadata"),
            Segment::Key("annotations"),
            Segment::Key("a.io/b"),
            Segment::Index(3),
            Segment::Key("x-y"),
        ]);
        assert_eq!(path, "metadata.annotations[a.io/b][3].x-y");
        assert_eq!(split(&path).collect::<Vec<_>>(), ["metadata", "annotations", "a.io/b", "3", "x-y"]);
    }
}
