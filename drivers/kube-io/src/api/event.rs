//! Events on objects: what `kubectl describe` shows below an object.
//!
//! An Event's name is made of what it says, so that the same words about the same object are one Event, whoever says
//! them and however often a process starts. kube's `Recorder` names them by the clock, keys its cache without the
//! note, and so tells two faults of one object as one.

use std::sync::Arc;

use headwater_model::fnv::fnv1a_64;
use headwater_model::origin::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::connect::{ApiError, ApiServer};
use super::write::{REQUEST_LIMIT, within};

/// `reportingController` of our Events.
pub const REPORTING_CONTROLLER: &str = "headwater.dev/ingress";

/// Longest note of an Event, in bytes (events.k8s.io/v1).
pub const NOTE_LIMIT: usize = 1024;

/// Where Events about objects without a namespace are kept.
const NAMESPACE_OF_CLUSTER_SCOPED: &str = "default";

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    pub about: ObjectKey,
    /// Without it `kubectl describe` does not find the Event.
    pub uid: Option<Arc<str>>,
    /// Warning, else Normal.
    pub warning: bool,
    /// One word, CamelCase.
    pub reason: String,
    /// What was being done, one word.
    pub action: &'static str,
    /// At most [`NOTE_LIMIT`] bytes; longer ones are cut.
    pub note: String,
}

/// What became of an [`EventNote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventWritten {
    New,
    /// The same Event is still kept from before; left alone.
    Known,
    /// It was kept from before; now it says that it happened again.
    Again,
}

impl ApiServer {
    /// Writes an Event unless the server still keeps the same one; then, if it happened `again`, counts that.
    ///
    /// `instance` names this process.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] also while the namespace is being deleted; [`ApiError::Refused`],
    /// [`ApiError::Unavailable`].
    pub async fn record_event(&self, note: &EventNote, instance: &str, again: bool) -> Result<EventWritten, ApiError> {
        let event = event(note, instance, Timestamp::now());
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let what = || format!("event about {}", note.about);
        match within(what, REQUEST_LIMIT, api.create(&PostParams::default(), &event)).await {
            Ok(_) => Ok(EventWritten::New),
            Err(ApiError::Conflict { .. }) if !again => Ok(EventWritten::Known),
            Err(ApiError::Conflict { .. }) => {
                let kept = within(what, REQUEST_LIMIT, api.get(&name)).await?;
                let count = kept.series.map_or(2, |series| series.count.saturating_add(1));
                let series = json!({ "series": { "count": count, "lastObservedTime": MicroTime(Timestamp::now()) } });
                within(what, REQUEST_LIMIT, api.patch(&name, &PatchParams::default(), &Patch::Merge(series))).await?;
                Ok(EventWritten::Again)
            }
            Err(error) => Err(error),
        }
    }
}

fn event(note: &EventNote, instance: &str, now: Timestamp) -> Event {
    let ObjectKey { kind, id } = &note.about;
    let namespace = Some(id.namespace.to_string()).filter(|namespace| !namespace.is_empty());
    let text = cut(&note.note, NOTE_LIMIT);
    Event {
        metadata: ObjectMeta {
            name: Some(name_of(note, text)),
            namespace: Some(namespace.clone().unwrap_or_else(|| NAMESPACE_OF_CLUSTER_SCOPED.to_owned())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(cut(&note.reason, 128).to_owned()),
        action: Some(note.action.to_owned()),
        note: Some(text.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(kind.api_version().to_owned()),
            kind: Some(kind.as_str().to_owned()),
            name: Some(id.name.to_string()),
            namespace,
            uid: note.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        ..Event::default()
    }
}

/// The object's name and a hash of what is said about it.
fn name_of(note: &EventNote, text: &str) -> String {
    let kind = note.about.kind.as_str();
    let uid = note.uid.as_deref().unwrap_or_default();
    let level = if note.warning { "Warning" } else { "Normal" };
    let hash = hash([kind, uid, level, &note.reason, text]);
    // 253 bytes for the whole name, 17 of them for the hash.
    let name = cut(&note.about.id.name, 236).trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{name}.{hash:016x}")
}

/// The same in every process and version.
fn hash<const N: usize>(parts: [&str; N]) -> u64 {
    fnv1a_64(parts.iter().flat_map(|part| part.bytes().chain([0])))
}

/// The longest beginning of at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use headwater_model::origin::Kind;

    use super::*;

    fn note() -> EventNote {
        EventNote {
            about: ObjectKey::new(Kind::Ingress, "shop", "web"),
            uid: Some("1".into()),
            warning: true,
            reason: "MissingReference".to_owned(),
            action: "Translate",
            note: "spec.tls[0]: there is no such Secret".to_owned(),
        }
    }

    #[test]
    fn the_same_words_about_the_same_object_are_one_event() {
        let name = |note: &EventNote| event(note, "pod-a", Timestamp::UNIX_EPOCH).metadata.name.unwrap();
        let first = name(&note());
        assert_eq!(first, event(&note(), "pod-b", Timestamp::now()).metadata.name.unwrap());
        for other in [
            EventNote { note: "else".to_owned(), ..note() },
            EventNote { reason: "Conflict".to_owned(), ..note() },
            EventNote { uid: Some("2".into()), ..note() },
            EventNote { about: ObjectKey::new(Kind::Service, "shop", "web"), ..note() },
        ] {
            assert_ne!(name(&other), first, "{other:?}");
        }
    }

    #[test]
    fn an_event_fits_the_server_limits_whatever_it_is_about() {
        let long = EventNote {
            about: ObjectKey::new(Kind::IngressClass, "", "a.".repeat(120) + "b"),
            note: "ü".repeat(2_000),
            ..note()
        };
        let event = event(&long, &"i".repeat(300), Timestamp::UNIX_EPOCH);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.regarding.unwrap().namespace, None);
        assert_eq!(event.note.unwrap().len(), NOTE_LIMIT);
        assert_eq!(event.reporting_instance.unwrap().len(), 128);
    }
}
