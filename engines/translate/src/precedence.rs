//! The order in which rules of an Ingress host are looked at.

use headwater_model::gateway::{HostPattern, PathMatch, Precedence};

/// Exact paths first, then the longest prefix, then what matches any path.
///
/// Unique within a listener: host, kind and path of a rule are, once conflicts are settled.
/// Kubernetes API, Ingress, "Multiple matches".
pub(crate) fn of_path(host: &HostPattern, path: &PathMatch) -> Precedence {
    let length = |path: &str| -i64::try_from(path.len()).unwrap_or(i64::MAX);
    let (ranks, text): ([i64; 4], &str) = match path {
        PathMatch::Exact(path) => ([0, length(path), 0, 0], path),
        PathMatch::Prefix(path) => ([1, length(path), 0, 0], path),
        PathMatch::StartsWith(path) => ([1, length(path), 1, 0], path),
        PathMatch::Regex(pattern) => ([2, length(pattern), 0, 0], pattern),
        // an Ingress path is a single one
        PathMatch::Any | PathMatch::AnyOf(_) => ([3, 0, 0, 0], ""),
    };
    let mut tie = host_text(host);
    tie.push_str(text);
    Precedence { ranks, tie: tie.into() }
}

fn host_text(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => {
            let mut text = String::with_capacity(host.len() + 32);
            text.push_str(host);
            text
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_comes_before_prefix_and_long_before_short() {
        let host = HostPattern::Exact("shop.example.com".into());
        let paths = [
            PathMatch::Exact("/foo/bar".into()),
            PathMatch::Exact("/".into()),
            PathMatch::Prefix("/foo/bar".into()),
            PathMatch::StartsWith("/foo/bar".into()),
            PathMatch::Prefix("/foo".into()),
            PathMatch::Prefix("/".into()),
            PathMatch::Any,
        ];
        let precedences: Vec<_> = paths.iter().map(|path| of_path(&host, path)).collect();
        assert!(precedences.is_sorted(), "{precedences:?}");
    }
}
