//! Who knows what an object would do to the others.

use std::future::Future;

use headwater_model::cluster::Object;
use headwater_model::finding::Finding;
use headwater_model::origin::ObjectKey;

/// What is being done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
}

/// One object that may become part of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub object: Object,
    pub operation: Operation,
    /// It will not be stored, whatever is said.
    pub dry_run: bool,
    /// It is not the new form of the object, but the one that is stored now: asked for on updates, to tell new faults
    /// from old ones.
    pub old: bool,
}

impl Candidate {
    pub fn key(&self) -> ObjectKey {
        self.object.key()
    }
}

/// Says what would be wrong if an object were there.
///
/// Its findings about the candidate itself decide; an object of a class that somebody else serves has none. Findings
/// about other objects, as far as the candidate causes them, become warnings. Several candidates are judged at once; the
/// future is dropped when it takes too long.
pub trait Judge: Send + Sync + 'static {
    fn judge(&self, candidate: Candidate) -> impl Future<Output = Vec<Finding>> + Send;

    /// Says why an object must not be deleted: errors about it. Nothing else keeps an object that shall go.
    fn removal(&self, key: ObjectKey) -> impl Future<Output = Vec<Finding>> + Send {
        let _ = key;
        std::future::ready(Vec::new())
    }
}
