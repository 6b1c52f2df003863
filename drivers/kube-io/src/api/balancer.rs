//! What goes back about addresses of Services: annotations, and objects that are all status.
//!
//! Kubernetes: Server-Side Apply (KEP-555).

use headwater_model::origin::ObjectKey;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, REQUEST_LIMIT, resource_to_read, within};

impl ApiServer {
    /// Sets an annotation of an object, or takes it away; whoever set it before.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`].
    pub async fn annotate(&self, key: &ObjectKey, annotation: &str, value: Option<&str>) -> Result<(), ApiError> {
        let body = json!({ "metadata": { "annotations": { annotation: value } } });
        let request = self.of_key(key);
        let what = || format!("annotation of {key}");
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        within(what, REQUEST_LIMIT, request.patch_metadata(&key.id.name, &parameters, &Patch::Merge(&body)))
            .await
            .map(drop)
    }

    /// Makes an object of a kind that Headwater reads what `body` says (`metadata.labels`, `spec`), and creates it where
    /// it is missing. Its status is written by [`Self::apply_status`].
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`].
    pub async fn apply_read(&self, key: &ObjectKey, mut body: Value) -> Result<(), ApiError> {
        body["apiVersion"] = key.kind.api_version().into();
        body["kind"] = key.kind.as_str().into();
        body["metadata"]["name"] = (*key.id.name).into();
        body["metadata"]["namespace"] = (*key.id.namespace).into();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let request = self.of_key(key);
        within(|| key.to_string(), REQUEST_LIMIT, request.patch(&key.id.name, &parameters, &Patch::Apply(&body)))
            .await
            .map(drop)
    }

    /// Deletes an object of a kind that Headwater reads; one that is not there is no error.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn delete_read(&self, key: &ObjectKey) -> Result<(), ApiError> {
        let request = self.of_key(key);
        match within(|| key.to_string(), REQUEST_LIMIT, request.delete(&key.id.name, &DeleteParams::default())).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn of_key(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = resource_to_read(key.kind);
        match key.kind.is_namespaced() {
            true => Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }
}
