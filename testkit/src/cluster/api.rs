//! The API by paths and JSON, as admin: what many requests are made with, since each kubectl takes a tenth of a second.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::{Cluster, locked};

/// Until a request is answered.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// A client for each tokio runtime, since connections end with their runtime.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<tokio::runtime::Id, Client>>);

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Clients").field(&locked(&self.0).len()).finish()
    }
}

impl Cluster {
    /// A client of user `admin`, for the tokio runtime that runs this.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        let runtime = tokio::runtime::Handle::current().id();
        if let Some(client) = locked(&self.clients.0).get(&runtime) {
            return Ok(client.clone());
        }
        let client = connect(self.kubeconfig()).await?;
        Ok(locked(&self.clients.0).entry(runtime).or_insert(client).clone())
    }

    /// The object or list at a path, such as `/api/v1/namespaces/default`.
    ///
    /// # Errors
    /// When the API refuses, also because it is absent.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "", None).await.with_context(|| format!("GET {path}"))
    }

    /// The object at a path; `None` when it is absent.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.call(Method::GET, path, "", None).await {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("GET {path}")),
        }
    }

    /// Creates an object at the path of its collection, and returns it as it was stored.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let created = self.call(Method::POST, path, "application/json", Some(object)).await;
        created.with_context(|| format!("POST {path}"))
    }

    /// Creates an object at the path of its collection, unless one of its name exists.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn create_if_absent(&self, path: &str, object: &Value) -> Result<()> {
        match self.call(Method::POST, path, "application/json", Some(object)).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            created => created.map(drop).with_context(|| format!("POST {path}")),
        }
    }

    /// Replaces the object at a path, and returns it as it was stored.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        let stored = self.call(Method::PUT, path, "application/json", Some(object)).await;
        stored.with_context(|| format!("PUT {path}"))
    }

    /// Changes the object at a path by a JSON merge patch (RFC 7386), and returns it as it was stored.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        let stored = self.call(Method::PATCH, path, "application/merge-patch+json", Some(patch)).await;
        stored.with_context(|| format!("PATCH {path}"))
    }

    /// Deletes the object or collection at a path.
    ///
    /// # Errors
    /// When the API refuses, also because it is absent.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, "", None).await.with_context(|| format!("DELETE {path}"))
    }

    /// What a path says that does not answer in JSON, such as `/readyz` or `/metrics`.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(path).body(Vec::new())?;
        let client = self.client().await?;
        match tokio::time::timeout(REQUEST_DEADLINE, client.request_text(request)).await {
            Ok(text) => text.with_context(|| format!("GET {path}")),
            Err(_) => bail!("GET {path}: no answer within {REQUEST_DEADLINE:?}"),
        }
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> kube::Result<Value> {
        let client = self.client().await.map_err(|error| kube::Error::Service(error.into()))?;
        call(&client, method, path, kind, body).await
    }
}

/// Sends a request with a body of a content type, and returns the object of the answer.
pub(super) async fn call(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: Option<&Value>,
) -> kube::Result<Value> {
    let body = body.map_or_else(Vec::new, |value| value.to_string().into_bytes());
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, kind);
    }
    let request = request.body(body).map_err(|error| kube::Error::Service(error.into()))?;
    match tokio::time::timeout(REQUEST_DEADLINE, client.request(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service(format!("no answer within {REQUEST_DEADLINE:?}").into())),
    }
}

/// A client that authenticates by a kubeconfig.
pub(super) async fn connect(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
