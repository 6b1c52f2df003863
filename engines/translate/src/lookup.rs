//! Annotations of an Ingress under the prefixes of ingress-nginx and of Alauda's ALB.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::annotation_names::PREFIX;

/// Names that only Alauda's ALB has, sorted.
pub(crate) const ALB_NAMES: [&str; 10] = [
    "auth-enable",
    "otel",
    "redirect-host",
    "redirect-port",
    "redirect-prefix-match",
    "redirect-replace-prefix",
    "rewrite-request",
    "rewrite-response",
    "session-affinity-attribute",
    "session-affinity-policy",
];

/// An annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said<'a> {
    pub(crate) full_name: &'a str,
    /// Without prefix.
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

/// What is said about one path, or about all: for each name the first that is present of
/// `index.RULE-PATH.alb.ingress.DOMAIN/`, `alb.ingress.DOMAIN/` and `nginx.ingress.kubernetes.io/`.
#[derive(Debug, Default)]
pub(crate) struct Lookup<'a>(BTreeMap<&'a str, Said<'a>>);

impl<'a> Lookup<'a> {
    /// `place`: indices of rule and path; `None` for what is said about all.
    pub(crate) fn new(annotations: &'a BTreeMap<String, String>, domain: &str, place: Option<(usize, usize)>) -> Self {
        let own = place.map(|(rule, path)| format!("index.{rule}-{path}.alb.ingress.{domain}/"));
        let shared = format!("alb.ingress.{domain}/");
        let mut by_name = BTreeMap::new();
        for prefix in own.as_deref().into_iter().chain([&*shared, PREFIX]) {
            let under = from(annotations, prefix).take_while(|(name, _)| name.starts_with(prefix));
            for (full_name, value) in under {
                let name = &full_name[prefix.len()..];
                by_name.entry(name).or_insert(Said { full_name, name, value });
            }
        }
        Self(by_name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Said<'a>> {
        self.0.get(name).copied()
    }

    /// By name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Said<'a>> {
        self.0.values().copied()
    }
}

/// The paths that have annotations of their own.
pub(crate) fn places(annotations: &BTreeMap<String, String>, domain: &str) -> BTreeSet<(usize, usize)> {
    let suffix = format!(".alb.ingress.{domain}");
    let named = from(annotations, "index.").take_while(|(name, _)| name.starts_with("index."));
    let place = |name: &str| {
        let (rule, path) = name.split_once('/')?.0.strip_prefix("index.")?.strip_suffix(&*suffix)?.split_once('-')?;
        Some((rule.parse().ok()?, path.parse().ok()?))
    };
    named.filter_map(|(name, _)| place(name)).collect()
}

fn from<'a>(
    annotations: &'a BTreeMap<String, String>,
    first: &str,
) -> impl Iterator<Item = (&'a String, &'a String)> + use<'a> {
    annotations.range::<str, _>((Bound::Included(first), Bound::Unbounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_prefix_wins_for_each_name() {
        let annotations: BTreeMap<String, String> = [
            ("index.0-1.alb.ingress.example.org/auth-url", "own"),
            ("alb.ingress.example.org/auth-url", "shared"),
            ("alb.ingress.example.org/redirect-host", "host"),
            ("nginx.ingress.kubernetes.io/auth-url", "nginx"),
            ("nginx.ingress.kubernetes.io/use-regex", "true"),
            ("alb.ingress.cpaas.io/use-regex", "other domain"),
            ("index.1-0.alb.ingress.cpaas.io/auth-url", "other domain"),
            ("index.x-0.alb.ingress.example.org/auth-url", "no place"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        assert_eq!(places(&annotations, "example.org"), BTreeSet::from([(0, 1)]));
        for (place, name, value) in [
            (Some((0, 1)), "auth-url", Some("own")),
            (Some((0, 0)), "auth-url", Some("shared")),
            (None, "auth-url", Some("shared")),
            (Some((0, 1)), "redirect-host", Some("host")),
            (Some((0, 1)), "use-regex", Some("true")),
            (None, "rewrite-target", None),
        ] {
            let lookup = Lookup::new(&annotations, "example.org", place);
            assert_eq!(lookup.get(name).map(|said| said.value), value, "{place:?} {name}");
        }
        let lookup = Lookup::new(&annotations, "example.org", None);
        let names: Vec<_> = lookup.iter().map(|said| said.name).collect();
        assert_eq!(names, ["auth-url", "redirect-host", "use-regex"]);
    }
}
