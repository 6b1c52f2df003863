//! What a webhook keeps at an API server: its certificates in one Secret, and who it is believed by.
//!
//! RBAC, all by name: `get`, `list`, `watch`, `patch` of the Secret (and `create` of Secrets in the namespace, which RBAC
//! cannot bind to a name), `list`, `watch`, `patch` of the ValidatingWebhookConfiguration.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use headwater_model::origin::NamespacedName;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, REQUEST_LIMIT, innermost, within};

/// The content of a Secret, and the version by which the next write is told from somebody else's.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub data: BTreeMap<String, Vec<u8>>,
    /// `metadata.resourceVersion`.
    pub version: String,
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().collect();
        f.debug_struct("StoredSecret").field("keys", &keys).field("version", &self.version).finish()
    }
}

/// The `caBundle` (PEM) of each webhook of a configuration, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedBundles {
    pub webhooks: Vec<(String, Vec<u8>)>,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// One object as it changes: first how it is, then each change. Errors are told too, and followed by another try with
/// growing pauses.
pub struct ObjectWatch<T>(BoxStream<'static, Result<Option<T>, ApiError>>);

impl<T> ObjectWatch<T> {
    /// The object; `Ok(None)` when there is none. Safe to cancel.
    ///
    /// # Errors
    /// What the watch met; it goes on.
    pub async fn next(&mut self) -> Result<Option<T>, ApiError> {
        match self.0.next().await {
            Some(event) => event,
            // Watches never end by themselves.
            None => std::future::pending().await,
        }
    }
}

impl ApiServer {
    /// Watches one Secret by its name.
    pub fn watch_secret(&self, id: &NamespacedName) -> ObjectWatch<StoredSecret> {
        watch(self.secrets(id), &id.name, format!("watch of Secret {id}"), stored)
    }

    /// The Secret; `None` when there is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn read_secret(&self, id: &NamespacedName) -> Result<Option<StoredSecret>, ApiError> {
        let found = within(|| format!("Secret {id}"), REQUEST_LIMIT, self.secrets(id).get_opt(&id.name)).await?;
        Ok(found.map(stored))
    }

    /// Writes the content of a Secret of type `Opaque`: creates it when it was not there `before`, else replaces the data
    /// of that version. What others wrote into its metadata stays.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] when somebody wrote in between; read again.
    pub async fn write_secret(
        &self,
        id: &NamespacedName,
        data: BTreeMap<String, Vec<u8>>,
        before: Option<&StoredSecret>,
    ) -> Result<StoredSecret, ApiError> {
        let data: BTreeMap<String, ByteString> =
            data.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
        let what = || format!("Secret {id}");
        let api = self.secrets(id);
        let Some(before) = before else {
            let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())]);
            let metadata =
                ObjectMeta { name: Some(id.name.to_string()), labels: Some(labels), ..ObjectMeta::default() };
            let secret = Secret { metadata, type_: Some("Opaque".to_owned()), data: Some(data), ..Secret::default() };
            let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            return within(what, REQUEST_LIMIT, api.create(&parameters, &secret)).await.map(stored);
        };
        // A merge patch removes only what it names.
        let gone = before.data.keys().filter(|key| !data.contains_key(*key));
        let mut patch: serde_json::Map<String, serde_json::Value> =
            gone.map(|key| (key.clone(), serde_json::Value::Null)).collect();
        patch.extend(data.iter().map(|(key, value)| (key.clone(), json!(value))));
        let body = json!({ "metadata": { "resourceVersion": before.version }, "data": patch });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        within(what, REQUEST_LIMIT, api.patch(&id.name, &parameters, &Patch::Merge(&body))).await.map(stored)
    }

    /// Watches the bundles of one ValidatingWebhookConfiguration by its name.
    pub fn watch_ca_bundles(&self, name: &str) -> ObjectWatch<TrustedBundles> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        watch(api, name, format!("watch of ValidatingWebhookConfiguration {name}"), bundles)
    }

    /// Makes `pem` the bundle of every webhook of the configuration, in the version that was read.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] when somebody wrote in between; read again.
    pub async fn set_ca_bundles(
        &self,
        name: &str,
        read: &TrustedBundles,
        pem: &[u8],
    ) -> Result<TrustedBundles, ApiError> {
        let bundle = json!(ByteString(pem.to_vec()));
        let webhooks: Vec<_> = read
            .webhooks
            .iter()
            .map(|(webhook, _)| json!({ "name": webhook, "clientConfig": { "caBundle": bundle } }))
            .collect();
        // Strategic: webhooks are told apart by their names, and nothing else of them is touched.
        let body = json!({ "metadata": { "resourceVersion": read.version }, "webhooks": webhooks });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let what = || format!("ValidatingWebhookConfiguration {name}");
        within(what, REQUEST_LIMIT, api.patch(name, &parameters, &Patch::Strategic(&body))).await.map(bundles)
    }

    fn secrets(&self, id: &NamespacedName) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &id.namespace)
    }
}

fn stored(secret: Secret) -> StoredSecret {
    StoredSecret {
        data: secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect(),
        version: secret.metadata.resource_version.unwrap_or_default(),
    }
}

fn bundles(configuration: ValidatingWebhookConfiguration) -> TrustedBundles {
    let webhooks = configuration.webhooks.unwrap_or_default().into_iter();
    TrustedBundles {
        webhooks: webhooks
            .map(|webhook| (webhook.name, webhook.client_config.ca_bundle.unwrap_or_default().0))
            .collect(),
        version: configuration.metadata.resource_version.unwrap_or_default(),
    }
}

fn watch<K, T>(api: Api<K>, name: &str, what: String, read: fn(K) -> T) -> ObjectWatch<T>
where
    K: kube::Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    T: 'static,
{
    let events = watch_object(api, name).default_backoff().map(move |event| match event {
        Ok(object) => Ok(object.map(read)),
        Err(error) => Err(ApiError::Unavailable { what: what.clone(), why: innermost(&error), retry_after: None }),
    });
    ObjectWatch(events.boxed())
}
