//! Who announces a Service, as objects of MetalLB's kinds say it: ServiceL2Status and ServiceBGPStatus.
//!
//! RBAC: `list`, `create`, `patch` and `delete` of both, and `patch` of their statuses, in one namespace.

use std::collections::BTreeMap;

use headwater_model::origin::Kind;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, PAGE, REQUEST_LIMIT, resource_to_read, within};

/// An object that tells who announces a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedObject {
    pub name: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    pub labels: BTreeMap<String, String>,
}

impl ApiServer {
    /// Makes an object of `kind` with these labels and this status, in the place of whatever it said before. Returns its
    /// version.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the kind is not installed; [`ApiError::Forbidden`], [`ApiError::Refused`],
    /// [`ApiError::Unavailable`].
    pub async fn write_announced(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
        status: &Value,
    ) -> Result<String, ApiError> {
        let resource = resource_to_read(kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let what = || format!("{kind} {namespace}/{name}");
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let mut body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
        });
        within(what, REQUEST_LIMIT, api.patch(name, &parameters, &Patch::Apply(&body))).await?;
        body["metadata"] = json!({ "name": name, "namespace": namespace });
        body["status"] = status.clone();
        let written = within(what, REQUEST_LIMIT, api.patch_status(name, &parameters, &Patch::Apply(&body))).await?;
        Ok(written.metadata.resource_version.unwrap_or_default())
    }

    /// Deletes such an object, if it still has this version: otherwise somebody else took it over.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] then; [`ApiError::Forbidden`], [`ApiError::Unavailable`]. One that is gone is no error.
    pub async fn delete_announced(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<(), ApiError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource_to_read(kind));
        let preconditions = Some(Preconditions { uid: None, resource_version: Some(version.to_owned()) });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let what = || format!("{kind} {namespace}/{name}");
        match within(what, REQUEST_LIMIT, api.delete(name, &parameters)).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The objects of the kind that a label selector finds. A kind that is not installed has none.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn announced(
        &self,
        kind: Kind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<AnnouncedObject>, ApiError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource_to_read(kind));
        let mut parameters = ListParams::default().labels(selector).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let what = || format!("list of {kind} with {selector}");
            let page = match within(what, REQUEST_LIMIT, api.list_metadata(&parameters)).await {
                Err(ApiError::NotFound { .. }) => return Ok(found),
                answer => answer?,
            };
            found.extend(page.items.into_iter().map(|object| AnnouncedObject {
                name: object.metadata.name.unwrap_or_default(),
                version: object.metadata.resource_version.unwrap_or_default(),
                labels: object.metadata.labels.unwrap_or_default(),
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    }
}
