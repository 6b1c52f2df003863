//! What a source tells.

use headwater_model::cluster::Change;
use headwater_model::finding::Finding;
use headwater_model::observed::Observed;
use headwater_model::origin::ObjectKey;

/// What changed at once, and everything that is wrong now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Real differences only, at most one for each object; all of them are meant to count together.
    pub changes: Vec<Change>,
    /// The full list of what is wrong with objects as such; it replaces the one before.
    pub findings: Vec<Finding>,
    /// What an API server says about objects, where it was asked to observe them; `None`: the object is gone.
    pub observed: Vec<(ObjectKey, Option<Observed>)>,
}
