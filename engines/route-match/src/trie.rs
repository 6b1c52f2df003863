//! Byte-wise radix trie: which patterns are a prefix of a path.

use std::collections::VecDeque;
use std::ops::Range;

const NONE: u32 = u32::MAX;

/// Nodes in breadth-first order, so that the children of a node are neighbours.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    /// First byte of the label of each node.
    first: Vec<u8>,
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    label: u32,
    label_len: u32,
    children: u32,
    child_count: u16,
    /// Length of the pattern that ends here.
    depth: u32,
    /// Index of the pattern that ends here, or [`NONE`].
    pattern: u32,
    /// Nearest node above at which a pattern ends, or [`NONE`].
    up: u32,
}

/// A node at which a pattern ends that is a prefix of the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit(u32);

/// Patterns that a node is made for.
struct Pending {
    patterns: Range<usize>,
    depth: usize,
    up: u32,
}

impl Trie {
    /// `patterns` are sorted and distinct; hits name them by index.
    pub(crate) fn build<P: AsRef<[u8]>>(patterns: &[P]) -> Self {
        let mut trie = Self::default();
        if patterns.is_empty() {
            return trie;
        }
        let bytes = |index: usize| patterns[index].as_ref();
        let mut pending = VecDeque::from([Pending { patterns: 0..patterns.len(), depth: 0, up: NONE }]);
        trie.first.push(0);
        while let Some(Pending { patterns, depth, up }) = pending.pop_front() {
            let (low, high) = (bytes(patterns.start), bytes(patterns.end - 1));
            let end = depth + low[depth..].iter().zip(&high[depth..]).take_while(|(a, b)| a == b).count();
            let own = low.len() == end;
            let index = trie.nodes.len() as u32;
            let mut node = Node {
                label: trie.labels.len() as u32,
                label_len: (end - depth) as u32,
                children: trie.first.len() as u32,
                child_count: 0,
                depth: end as u32,
                pattern: if own { patterns.start as u32 } else { NONE },
                up,
            };
            trie.labels.extend_from_slice(&low[depth..end]);
            let mut start = patterns.start + usize::from(own);
            while start < patterns.end {
                let byte = bytes(start)[end];
                let next = start + (start..patterns.end).take_while(|at| bytes(*at)[end] == byte).count();
                trie.first.push(byte);
                node.child_count += 1;
                pending.push_back(Pending { patterns: start..next, depth: end, up: if own { index } else { up } });
                start = next;
            }
            trie.nodes.push(node);
        }
        trie
    }

    /// The longest pattern that is a prefix of `path`; with `FOLD`, letters of the path are read in lower case.
    pub(crate) fn descend<const FOLD: bool>(&self, path: &[u8]) -> Option<Hit> {
        let mut found = None;
        let mut index = 0u32;
        let mut rest = path;
        while let Some(node) = self.nodes.get(index as usize) {
            let label = &self.labels[node.label as usize..][..node.label_len as usize];
            let Some((head, tail)) = rest.split_at_checked(label.len()) else { break };
            let same = if FOLD { head.eq_ignore_ascii_case(label) } else { head == label };
            if !same {
                break;
            }
            if node.pattern != NONE {
                found = Some(Hit(index));
            }
            rest = tail;
            let Some(&byte) = rest.first() else { break };
            let byte = if FOLD { byte.to_ascii_lowercase() } else { byte };
            let children = &self.first[node.children as usize..][..usize::from(node.child_count)];
            match children.iter().position(|first| *first == byte) {
                Some(at) => index = node.children + at as u32,
                None => break,
            }
        }
        found
    }

    /// The next shorter pattern that is a prefix of the path.
    pub(crate) fn up(&self, hit: Hit) -> Option<Hit> {
        let up = self.nodes[hit.0 as usize].up;
        (up != NONE).then_some(Hit(up))
    }

    /// Index of the pattern.
    pub(crate) fn pattern(&self, hit: Hit) -> usize {
        self.nodes[hit.0 as usize].pattern as usize
    }

    /// Length of the pattern.
    pub(crate) fn depth(&self, hit: Hit) -> usize {
        self.nodes[hit.0 as usize].depth as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hits(trie: &Trie, path: &str) -> Vec<usize> {
        std::iter::successors(trie.descend::<false>(path.as_bytes()), |hit| trie.up(*hit))
            .map(|hit| trie.pattern(hit))
            .collect()
    }

    #[test]
    fn letters_fold_only_when_asked() {
        let trie = Trie::build(&["/foo"]);
        assert!(trie.descend::<true>(b"/FOO/x").is_some());
        assert!(trie.descend::<false>(b"/FOO/x").is_none());
    }

    proptest! {
        #[test]
        fn hits_are_all_prefixes_longest_first(
            patterns in proptest::collection::btree_set("[ab/]{0,6}", 0..20), path in "[ab/]{0,8}"
        ) {
            let patterns: Vec<String> = patterns.into_iter().collect();
            let trie = Trie::build(&patterns);
            let mut expected: Vec<usize> = (0..patterns.len()).filter(|at| path.starts_with(&patterns[*at])).collect();
            expected.sort_by_key(|at| std::cmp::Reverse(patterns[*at].len()));
            prop_assert_eq!(hits(&trie, &path), expected);
        }
    }
}
