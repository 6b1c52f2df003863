//! Where objects come from.

use std::collections::BTreeSet;

use headwater_kube_io::{ApiServerSource, Batch, DirectorySource};
use headwater_model::finding::{Finding, Location};
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

    /// Whether findings have lines, which move.
    pub(crate) fn has_lines(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Adds file and line, where there are files.
    pub(crate) fn locate(&self, finding: Finding) -> Finding {
        match self {
            Self::Directory(source) => locate(finding, |key, field| source.locate(key, field)),
            Self::ApiServer(_) => finding,
        }
    }
}

/// Adds file and line to a finding that names object and field.
pub(crate) fn locate(mut finding: Finding, find: impl Fn(&ObjectKey, &str) -> Option<Location>) -> Finding {
    if finding.location.is_none()
        && let Some(object) = &finding.object
    {
        finding.location = find(object, &finding.field);
    }
    finding
}
