//! Where objects come from.

use std::collections::BTreeSet;

use headwater_kube_io::{ApiServerSource, Batch, DirectorySource};
use headwater_model::origin::ObjectKey;

/// A directory of manifests, or an API server.
pub(crate) enum Source {
    Directory(Box<DirectorySource>),
    ApiServer(Box<ApiServerSource>),
}

impl Source {
    /// The next changes. Cancel safe.
    pub(crate) async fn next(&mut self) -> Batch {
        match self {
            Self::Directory(source) => source.next().await,
            Self::ApiServer(source) => source.next().await,
        }
    }

    /// Names the Secrets and ConfigMaps that are needed. A directory has them anyway.
    pub(crate) fn want(&mut self, wanted: &BTreeSet<ObjectKey>) {
        if let Self::ApiServer(source) = self {
            source.want(wanted);
        }
    }

    /// How many that are needed are on their way.
    pub(crate) fn pending(&self) -> usize {
        match self {
            Self::Directory(_) => 0,
            Self::ApiServer(source) => source.pending(),
        }
    }

    /// The directory, if it is one.
    pub(crate) fn files(&self) -> Option<&DirectorySource> {
        match self {
            Self::Directory(source) => Some(source),
            Self::ApiServer(_) => None,
        }
    }
}
