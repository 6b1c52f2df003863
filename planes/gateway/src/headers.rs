//! Edits of header lines.

use std::borrow::Cow;

use headwater_http1::HeaderId;
use headwater_model::gateway::{EditValue, HeaderEdits, Variable};

use crate::message::HeaderLines;

/// What the values of edits may be made of.
pub(crate) trait Variables {
    /// `None`: the request has none of it, and the edit is not made.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>>;
}

/// For responses, whose edits know no variables.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn value(&self, _: &Variable) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Header lines with edits applied one after the other: those of the rule, then those of the backend. No edit writes a
/// line that concerns the connection or the length of the body.
pub(crate) struct Edited<'a, L, V = NoVariables> {
    pub(crate) lines: &'a L,
    pub(crate) edits: [&'a HeaderEdits; 2],
    pub(crate) variables: V,
}

impl<L: HeaderLines, V: Variables> HeaderLines for Edited<'_, L, V> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        if self.edits.iter().all(|edits| edits.is_empty()) {
            return self.lines.each(visit);
        }
        let [first, second] = self.edits;
        self.lines.each(|name, value| {
            if !self.replaces(first, name) && !self.replaces(second, name) {
                visit(name, value);
            }
        });
        self.write(first, |name, value| {
            if !self.replaces(second, name) {
                visit(name, value);
            }
        });
        self.write(second, visit);
    }
}

impl<L, V: Variables> Edited<'_, L, V> {
    fn replaces(&self, edits: &HeaderEdits, line: &[u8]) -> bool {
        let is = |name: &str| line.eq_ignore_ascii_case(name.as_bytes());
        edits.remove.iter().any(|name| is(name))
            || edits.set.iter().any(|(name, value)| is(name) && self.value(value).is_some())
    }

    fn value<'v>(&'v self, value: &'v EditValue) -> Option<Cow<'v, [u8]>> {
        match value {
            EditValue::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            EditValue::Variable(variable) => self.variables.value(variable),
        }
    }

    /// The lines that the edits bring.
    fn write(&self, edits: &HeaderEdits, mut visit: impl FnMut(&[u8], &[u8])) {
        let mut line = |name: &str, value: &EditValue| {
            if !is_framing(name.as_bytes())
                && let Some(value) = self.value(value)
            {
                visit(name.as_bytes(), &value);
            }
        };
        for (index, (name, value)) in edits.set.iter().enumerate() {
            let later = &edits.set[index + 1..];
            if !later.iter().any(|(other, value)| other == name && self.value(value).is_some()) {
                line(name, value);
            }
        }
        for (name, value) in &edits.add {
            line(name, value);
        }
    }
}

fn is_framing(name: &[u8]) -> bool {
    let id = HeaderId::of(name);
    id.is_hop_by_hop() || id == HeaderId::ContentLength
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static [(&'static str, &'static str)]);

    impl HeaderLines for Fixed {
        fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
            self.0.iter().for_each(|(name, value)| visit(name.as_bytes(), value.as_bytes()));
        }
    }

    /// Knows the host alone.
    struct HostOnly;

    impl Variables for HostOnly {
        fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
            (*variable == Variable::Host).then(|| Cow::Borrowed(&b"a.example"[..]))
        }
    }

    fn seen(lines: &Fixed, edits: [&HeaderEdits; 2]) -> String {
        let mut seen = Vec::new();
        Edited { lines, edits, variables: HostOnly }.each(|name, value| {
            seen.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        });
        seen.join(" ")
    }

    #[test]
    fn edits_remove_set_and_add_in_that_order() {
        let rule = HeaderEdits {
            remove: vec!["a".into()],
            set: vec![("b".into(), "2".into())],
            add: vec![("c".into(), "3".into())],
        };
        let backend = HeaderEdits { set: vec![("c".into(), "4".into())], ..HeaderEdits::default() };
        let lines = Fixed(&[("A", "1"), ("B", "1"), ("c", "1"), ("d", "1")]);
        let nothing = HeaderEdits::default();
        assert_eq!(seen(&lines, [&nothing, &nothing]), "A=1 B=1 c=1 d=1");
        assert_eq!(seen(&lines, [&rule, &nothing]), "c=1 d=1 b=2 c=3");
        assert_eq!(seen(&lines, [&rule, &backend]), "d=1 b=2 c=4");
    }

    #[test]
    fn a_variable_that_a_request_lacks_leaves_its_header_alone() {
        let variable = |name: &str| EditValue::Variable(Variable::parse(name).unwrap());
        let edits = HeaderEdits {
            remove: vec![],
            set: vec![
                ("a".into(), "text".into()),
                ("a".into(), variable("host")),
                ("b".into(), variable("cookie_b")),
                ("c".into(), "text".into()),
                ("c".into(), variable("arg_c")),
            ],
            add: vec![("d".into(), variable("http_d")), ("d".into(), variable("host"))],
        };
        let lines = Fixed(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        let nothing = HeaderEdits::default();
        assert_eq!(seen(&lines, [&edits, &nothing]), "b=1 d=1 a=a.example c=text d=a.example");
    }

    #[test]
    fn no_edit_writes_what_frames_a_message() {
        let names = ["content-length", "transfer-encoding", "connection", "upgrade"];
        let lines = |names: &[&str]| names.iter().map(|name| ((*name).into(), "5".into())).collect();
        let edits = HeaderEdits { remove: vec![], set: lines(&names[..2]), add: lines(&names[2..]) };
        assert_eq!(seen(&Fixed(&[("x", "1")]), [&edits, &HeaderEdits::default()]), "x=1");
    }
}
