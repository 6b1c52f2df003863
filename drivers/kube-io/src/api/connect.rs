//! How an API server is reached.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use thiserror::Error;

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
}

/// An API server that can be asked; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) client: Client,
    namespace: String,
}

impl ApiServer {
    /// Reads the credentials; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::NoAccess`].
    pub async fn connect(access: &Access) -> Result<Self, ApiError> {
        let config = config(access).await.map_err(ApiError::NoAccess)?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| ApiError::NoAccess(Box::new(error)))?;
        Ok(Self { client, namespace })
    }

    /// The pod's namespace, or that of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

async fn config(access: &Access) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    match (&access.kubeconfig, &access.context) {
        (Some(path), _) => Ok(Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?),
        (None, Some(_)) => Ok(Config::from_kubeconfig(&options).await?),
        (None, None) => Ok(Config::infer().await?),
    }
}
