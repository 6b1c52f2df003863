//! The audit log of the API server: who asked for what.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Every request at level Metadata. What is long-running is told when it starts, and again when it ends.
pub(super) const POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// A request that reached the API server and was answered, or is being answered if it is a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditedRequest {
    /// Such as `system:serviceaccount:default:gateway`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; for what is no resource the
    /// method in lower case.
    pub verb: String,
    /// Plural, with the subresource: `ingresses/status`. Empty for what is no resource.
    pub resource: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
    /// HTTP status of the answer; 0 when it was not known.
    pub code: u16,
    /// Path and query.
    pub uri: String,
    /// Of the client.
    pub user_agent: String,
}

/// The requests of a log in order of their first line. The last line may be half-written.
pub(super) fn parse(log: &str) -> Result<Vec<AuditedRequest>> {
    let mut requests: Vec<AuditedRequest> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    for line in complete.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("audit log has a line {line:?}"))?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut resource = text("/objectRef/resource");
        let subresource = text("/objectRef/subresource");
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        let request = AuditedRequest {
            user: text("/user/username"),
            verb: text("/verb"),
            resource,
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_u64).map_or(0, |code| code as u16),
            uri: text("/requestURI"),
            user_agent: text("/userAgent"),
        };
        match places.entry(text("/auditID")) {
            std::collections::hash_map::Entry::Occupied(place) => requests[*place.get()] = request,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(requests.len());
                requests.push(request);
            }
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_starts_and_ends_is_one_request_and_half_a_line_is_none() -> Result<()> {
        let line = |id: &str, code| {
            format!(
                r#"{{"auditID":"{id}","verb":"watch","user":{{"username":"u"}},"objectRef":{{"resource":"ingresses","subresource":"status","namespace":"n"}},"responseStatus":{{"code":{code}}}}}"#
            )
        };
        let log = format!("{}\n{}\n{}\n{}", line("a", 200), line("b", 403), line("a", 500), &line("c", 200)[..9]);
        let requests = parse(&log)?;
        assert_eq!(requests.iter().map(|request| request.code).collect::<Vec<_>>(), [500, 403]);
        assert_eq!(requests[0].resource, "ingresses/status");
        assert_eq!(requests[0].user, "u");
        Ok(())
    }
}
