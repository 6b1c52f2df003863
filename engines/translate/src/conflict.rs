//! Who owns what several objects want: the older object, then the smaller namespace and name.

use headwater_model::finding::Finding;
use headwater_model::object::Metadata;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

/// Seniority of a claim: smaller is older and wins.
///
/// Order: `creationTimestamp` (an object without one counts as youngest), namespace and name, place inside the object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    /// Microseconds since the epoch.
    created: i64,
    pub(crate) id: NamespacedName,
    /// Rule, then path.
    place: (u32, u32),
}

impl Age {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            created: metadata.creation_timestamp.map_or(i64::MAX, |at| at.as_microsecond()),
            id: NamespacedName { namespace: metadata.namespace.clone(), name: metadata.name.clone() },
            place: (0, 0),
        }
    }

    /// By namespace and name alone.
    pub(crate) fn first(id: NamespacedName) -> Self {
        Self { created: 0, id, place: (0, 0) }
    }

    pub(crate) fn at(&self, place: (u32, u32)) -> Self {
        Self { place, ..self.clone() }
    }
}

/// A place as numbers; objects are far smaller than 2^32 entries.
pub(crate) fn place(rule: usize, path: usize) -> (u32, u32) {
    let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    (number(rule), number(path))
}

/// Tells the Ingress `loser` that `winner` owns `what`.
pub(crate) fn lost(loser: &Age, field: &str, what: &str, winner: &Age) -> Finding {
    let by = if loser.id == winner.id {
        "an earlier entry of the same Ingress".to_owned()
    } else {
        format!("Ingress {}, which is older", winner.id)
    };
    Finding::warning(
        "Conflict",
        ObjectKey { kind: Kind::Ingress, id: loser.id.clone() },
        format!("{what} belongs to {by}; this entry is not used"),
    )
    .at(field)
    .mend("remove it from one of the two")
}
