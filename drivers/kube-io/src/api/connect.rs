//! How an API server is reached.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use thiserror::Error;

use super::client::Dialer;

/// Whose credentials to use: those of the pod, or of a kubeconfig.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: the pod's service account, else `$KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the current context.
    pub context: Option<String>,
}

/// Why something that an API server was asked for did not happen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    #[error("no access to a Kubernetes API server (in a pod: mount a service account; else: --kubeconfig FILE)")]
    NoAccess(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{what}")]
    Request { what: String, source: Box<kube::Error> },
    /// 409: another field manager owns the field, or somebody wrote in between.
    #[error("{what}: held by {held_by}")]
    Conflict { what: String, held_by: String },
    /// 404: the object, or its kind, is not there.
    #[error("{what}: there is no such object")]
    NotFound { what: String },
    /// 401, 403: the credentials do not suffice; `why` is the server's word.
    #[error("{what}: not allowed; grant it by RBAC: {why}")]
    Forbidden { what: String, why: String },
    /// Other 4xx: asking again would not help.
    #[error("{what}: refused: {why}")]
    Refused { what: String, why: String },
    /// 429, 5xx, no connection, no answer: worth another try.
    #[error("{what}: the API server does not answer as it should: {why}")]
    Unavailable { what: String, why: String, retry_after: Option<Duration> },
}

/// An API server that can be asked; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) client: Client,
    namespace: String,
    dialer: Dialer,
}

impl ApiServer {
    /// Reads the credentials; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::NoAccess`].
    pub async fn connect(access: &Access) -> Result<Self, ApiError> {
        let config = config(access).await.map_err(ApiError::NoAccess)?;
        let namespace = config.default_namespace.clone();
        let dialer = Dialer::new(config).map_err(ApiError::NoAccess)?;
        Ok(Self { client: dialer.client_for_requests(), namespace, dialer })
    }

    /// The pod's namespace, or that of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }
}

async fn config(access: &Access) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    match (&access.kubeconfig, &access.context) {
        (Some(path), _) => Ok(Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?),
        (None, Some(_)) => Ok(Config::from_kubeconfig(&options).await?),
        (None, None) => match Config::incluster() {
            Ok(config) => Ok(config),
            Err(_) => Ok(Config::from_kubeconfig(&options).await?),
        },
    }
}
