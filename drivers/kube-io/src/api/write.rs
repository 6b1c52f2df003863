//! Status written back by server-side apply, so that each writer owns only what it wrote.
//!
//! Kubernetes: Server-Side Apply (KEP-555).

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use headwater_model::origin::{Kind, ObjectKey};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use serde_json::{Value, json};

use super::connect::{ApiError, ApiServer};
use super::resource::plural;

/// The field manager of all that Headwater applies.
pub const FIELD_MANAGER: &str = "headwater";

/// How long one request may take, the client's own retries of 429, 503 and 504 included.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Objects asked for at once.
pub(crate) const PAGE: u32 = 500;

impl ApiServer {
    /// Makes `status` (the whole value of the field) what our field manager owns of the object's status.
    ///
    /// What we owned before and is not in it disappears, unless another manager owns it too. `Value::Null` gives up
    /// all. With `force`, fields of other managers that are in it become ours.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] without `force`, when another manager owns a field with another value;
    /// [`ApiError::NotFound`], [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`].
    pub async fn apply_status(&self, key: &ObjectKey, status: Value, force: bool) -> Result<(), ApiError> {
        let what = || format!("status of {key}");
        let Some(resource) = resource(key.kind) else {
            return Err(ApiError::Refused { what: what(), why: "the kind has no status of ours".to_owned() });
        };
        let mut body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": &*key.id.name, "namespace": &*key.id.namespace },
        });
        if !status.is_null() {
            body["status"] = status;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource);
        let parameters = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
        within(what, REQUEST_LIMIT, api.patch_status(&key.id.name, &parameters, &Patch::Apply(&body))).await.map(drop)
    }

    /// Takes a field out of `status`, whoever wrote it. An object that is gone has none.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`].
    pub async fn remove_status_field(&self, key: &ObjectKey, field: &str) -> Result<(), ApiError> {
        let what = || format!("status.{field} of {key}");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource_to_read(key.kind));
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(json!({ "status": { field: null } })));
        match within(what, REQUEST_LIMIT, api.patch_status(&key.id.name, &parameters, &patch)).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes these the labels that our field manager gives an object of somebody else; those that we gave before and that
    /// are not among them go.
    ///
    /// `uid` is the object's: where it is gone it is not made anew.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] where another object has its name, [`ApiError::Forbidden`], [`ApiError::Refused`],
    /// [`ApiError::Unavailable`].
    pub async fn apply_labels(
        &self,
        key: &ObjectKey,
        uid: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        let resource = resource_to_read(key.kind);
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": &*key.id.name, "namespace": &*key.id.namespace, "uid": uid, "labels": labels },
        });
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource);
        let (parameters, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&body));
        let what = || format!("labels of {key}");
        within(what, REQUEST_LIMIT, api.patch(&key.id.name, &parameters, &patch)).await.map(drop)
    }

    /// The objects of a kind in whose status our field manager owns something.
    ///
    /// `namespaces`: empty for all of them. A kind that the server does not know has no objects.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`], [`ApiError::Refused`].
    pub async fn with_our_status(&self, kind: Kind, namespaces: &[String]) -> Result<Vec<ObjectKey>, ApiError> {
        let Some(resource) = resource(kind) else { return Ok(Vec::new()) };
        let everywhere = || vec![Api::<DynamicObject>::all_with(self.client.clone(), &resource)];
        let in_each = || namespaces.iter().map(|name| Api::namespaced_with(self.client.clone(), name, &resource));
        let apis = if namespaces.is_empty() { everywhere() } else { in_each().collect() };
        let mut keys = Vec::new();
        for api in apis {
            let mut parameters = ListParams::default().limit(PAGE);
            loop {
                let what = || format!("list of {} with their managers", resource.plural);
                let page = match within(what, REQUEST_LIMIT, api.list_metadata(&parameters)).await {
                    Err(ApiError::NotFound { .. }) => break,
                    answer => answer?,
                };
                keys.extend(page.items.iter().filter(|object| owns_status(object)).map(|object| {
                    let metadata = &object.metadata;
                    let name = metadata.name.as_deref().unwrap_or_default();
                    ObjectKey::new(kind, metadata.namespace.as_deref().unwrap_or_default(), name)
                }));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => parameters.continue_token = Some(token),
                    None => break,
                }
            }
        }
        Ok(keys)
    }

    /// `metadata.uid` of an object, which Events name; `None` when it is gone or may not be read.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`], [`ApiError::Refused`].
    pub async fn uid(&self, key: &ObjectKey) -> Result<Option<String>, ApiError> {
        let resource = resource_to_read(key.kind);
        let api: Api<DynamicObject> = match key.id.namespace.is_empty() {
            true => Api::all_with(self.client.clone(), &resource),
            false => Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource),
        };
        match within(|| format!("metadata of {key}"), REQUEST_LIMIT, api.get_metadata(&key.id.name)).await {
            Ok(object) => Ok(object.metadata.uid),
            Err(ApiError::NotFound { .. } | ApiError::Forbidden { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn owns_status(object: &PartialObjectMeta<DynamicObject>) -> bool {
    let mut entries = object.metadata.managed_fields.iter().flatten();
    entries
        .any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.as_deref() == Some("status"))
}

/// The resource of a kind whose status we write.
fn resource(kind: Kind) -> Option<ApiResource> {
    let is_written = matches!(
        kind,
        Kind::Ingress
            | Kind::GatewaySettings
            | Kind::Alb2
            | Kind::Frontend
            | Kind::Service
            | Kind::IpAddressPool
            | Kind::ServiceL2Status
            | Kind::ServiceBgpStatus
            | Kind::ConfigurationState
    );
    is_written.then(|| resource_to_read(kind))
}

pub(crate) fn resource_to_read(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    // GatewaySettings is its own plural, which no rule guesses.
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural(kind))
}

/// One request, with a limit to its time and its errors told apart.
pub(crate) async fn within<T>(
    what: impl Fn() -> String,
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| classify(what(), error)),
        Err(_) => Err(ApiError::Unavailable {
            what: what(),
            why: format!("no answer within {} s", limit.as_secs()),
            retry_after: None,
        }),
    }
}

pub(crate) fn classify(what: String, error: kube::Error) -> ApiError {
    let status = match error {
        kube::Error::Api(status) => status,
        // Never sent, or not understood: the same again would end the same.
        error @ (kube::Error::BuildRequest(_) | kube::Error::SerdeError(_) | kube::Error::HttpError(_)) => {
            return ApiError::Request { what, source: Box::new(error) };
        }
        error => return ApiError::Unavailable { what, why: innermost(&error), retry_after: None },
    };
    let why = || status.message.clone();
    match status.code {
        404 => ApiError::NotFound { what },
        401 | 403 => ApiError::Forbidden { what, why: why() },
        409 => {
            let held_by = managers(status.details.as_ref().map_or(&[][..], |details| &details.causes));
            ApiError::Conflict { what, held_by: held_by.unwrap_or_else(|| "a newer version".to_owned()) }
        }
        429 | 500.. => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            ApiError::Unavailable { what, why: why(), retry_after }
        }
        _ => ApiError::Refused { what, why: why() },
    }
}

/// The managers that a conflict names: `conflict with "nginx" using networking.k8s.io/v1`.
fn managers(causes: &[kube::core::response::StatusCause]) -> Option<String> {
    let conflicts = causes.iter().filter(|cause| cause.reason == "FieldManagerConflict");
    let mut names: Vec<&str> = conflicts.filter_map(|cause| cause.message.split('"').nth(1)).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The cause at the bottom: what stands above says only that something went wrong.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16, details: Value) -> ApiError {
        let status: Status =
            serde_json::from_value(json!({ "status": "Failure", "code": code, "message": "m", "details": details }))
                .unwrap();
        classify("status of Ingress a/b".to_owned(), kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn an_answer_says_by_its_code_whether_another_try_helps() {
        let said = |code| answer(code, json!({})).to_string();
        for (code, text) in [
            (403, "status of Ingress a/b: not allowed; grant it by RBAC: m"),
            (404, "status of Ingress a/b: there is no such object"),
            (409, "status of Ingress a/b: held by a newer version"),
            (422, "status of Ingress a/b: refused: m"),
            (429, "status of Ingress a/b: the API server does not answer as it should: m"),
            (503, "status of Ingress a/b: the API server does not answer as it should: m"),
        ] {
            assert_eq!(said(code), text);
        }
    }

    #[test]
    fn a_conflict_names_each_manager_once() {
        let cause = |manager: &str| {
            json!({ "reason": "FieldManagerConflict", "field": ".status.loadBalancer.ingress",
                    "message": format!("conflict with {manager:?} using networking.k8s.io/v1") })
        };
        let error = answer(409, json!({ "causes": [cause("nginx"), cause("alb"), cause("nginx")] }));
        assert!(matches!(error, ApiError::Conflict { held_by, .. } if held_by == "alb, nginx"));
    }

    #[test]
    fn the_server_may_say_when_to_ask_again() {
        let error = answer(429, json!({ "retryAfterSeconds": 7 }));
        assert!(matches!(error, ApiError::Unavailable { retry_after: Some(pause), .. } if pause.as_secs() == 7));
    }

    #[test]
    fn every_kind_has_a_resource_whose_status_is_ours_to_write_or_not() {
        for kind in Kind::ALL {
            assert_eq!(resource_to_read(kind).api_version, kind.api_version());
            let is_read_only = matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::Node | Kind::BgpPeer | Kind::Rule);
            assert!(!(is_read_only && resource(kind).is_some()), "{kind}");
        }
    }
}
