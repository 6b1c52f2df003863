//! Edits of header lines.

use headwater_model::gateway::HeaderEdits;

use crate::message::HeaderLines;

/// Header lines with edits applied one after the other: those of the rule, then those of the backend.
pub(crate) struct Edited<'a, L> {
    pub(crate) lines: &'a L,
    pub(crate) edits: [&'a HeaderEdits; 2],
}

impl<L: HeaderLines> HeaderLines for Edited<'_, L> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        if self.edits.iter().all(|edits| edits.is_empty()) {
            return self.lines.each(visit);
        }
        let [first, second] = self.edits;
        self.lines.each(|name, value| {
            if !replaces(first, name) && !replaces(second, name) {
                visit(name, value);
            }
        });
        for (name, value) in first.set.iter().chain(&first.add) {
            if !replaces(second, name.as_bytes()) {
                visit(name.as_bytes(), value.as_bytes());
            }
        }
        for (name, value) in second.set.iter().chain(&second.add) {
            visit(name.as_bytes(), value.as_bytes());
        }
    }
}

fn replaces(edits: &HeaderEdits, line: &[u8]) -> bool {
    let mut names = edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name));
    names.any(|name| line.eq_ignore_ascii_case(name.as_bytes()))
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

    #[test]
    fn edits_remove_set_and_add_in_that_order() {
        let rule = HeaderEdits {
            remove: vec!["a".into()],
            set: vec![("b".into(), "2".into())],
            add: vec![("c".into(), "3".into())],
        };
        let backend = HeaderEdits { set: vec![("c".into(), "4".into())], ..HeaderEdits::default() };
        let lines = Fixed(&[("A", "1"), ("B", "1"), ("c", "1"), ("d", "1")]);
        let seen = |edits| {
            let mut seen = Vec::new();
            Edited { lines: &lines, edits }.each(|name, value| {
                seen.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
            });
            seen.join(" ")
        };
        let nothing = HeaderEdits::default();
        assert_eq!(seen([&nothing, &nothing]), "A=1 B=1 c=1 d=1");
        assert_eq!(seen([&rule, &nothing]), "c=1 d=1 b=2 c=3");
        assert_eq!(seen([&rule, &backend]), "d=1 b=2 c=4");
    }
}
