//! One document -> the objects in it: which kind, which name, and whether all of it holds.

use std::sync::Arc;

use headwater_model::alb::alb2::Alb2V1;
use headwater_model::alb::{Alb2, Frontend, Rule as AlbRule, TimeoutPolicy};
use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location, Severity};
use headwater_model::metallb::{
    BfdProfile, BgpAdvertisement, BgpPeer, Community, ConfigurationState, IpAddressPool, L2Advertisement,
    ServiceBgpStatus, ServiceL2Status,
};
use headwater_model::object::{
    ConfigMap, EndpointSlice, GatewaySettings, Ingress, IngressClass, Metadata, Namespace, Node, Secret, Service,
};
use headwater_model::origin::{Kind, ObjectKey};
use headwater_model::{alb, metallb};
use serde::de::DeserializeOwned;

use super::decode::{Fault, What, decode, decode_known};
use super::node::{Node as Tree, Value};
use super::path::LineTable;
use super::say::{self, Quote, clip};
use super::{FileReading, Manifest, Unread};

/// Namespace of a namespaced object that names none.
const DEFAULT_NAMESPACE: &str = "default";

pub(crate) fn read(file: &Arc<str>, document: &Tree, unknown: UnknownFields, reading: &mut FileReading) {
    Reader { file, unknown, reading }.document(document, None);
}

/// What becomes of an object that has fields which its API does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    /// It is refused: somebody mistyped a name.
    Refuse,
    /// It is read without them, where Kubernetes itself defines the kind: a newer server may know more.
    Skip,
}

struct Reader<'a> {
    file: &'a Arc<str>,
    unknown: UnknownFields,
    reading: &'a mut FileReading,
}

/// Kind and API version that the items of a typed list have without saying so.
#[derive(Clone, Copy)]
struct ListOf<'a> {
    kind: &'a str,
    api_version: &'a str,
}

impl Reader<'_> {
    fn document(&mut self, node: &Tree, list: Option<ListOf<'_>>) {
        if !matches!(node.value, Value::Mapping(_)) {
            return self.refuse(
                node,
                node.line,
                "NotAnObject",
                "",
                "this is not a Kubernetes object (a mapping with apiVersion, kind and metadata)",
            );
        }
        let written = |field| node.get(field).filter(|node| !node.is_null());
        let (kind, api_version) = match (written("kind"), written("apiVersion"), list) {
            (None, None, Some(list)) => (list.kind, list.api_version),
            (None, ..) => {
                return self.refuse(node, node.line, "MissingField", "kind", "required field is missing");
            }
            (_, None, _) => {
                return self.refuse(node, node.line, "MissingField", "apiVersion", "required field is missing");
            }
            (Some(kind), Some(api_version), _) => match (kind.text(), api_version.text()) {
                (Some(kind), Some(api_version)) => (kind, api_version),
                (None, _) => return self.refuse(node, kind.line, "WrongType", "kind", "not a string"),
                (_, None) => return self.refuse(node, api_version.line, "WrongType", "apiVersion", "not a string"),
            },
        };
        match node.get("items").map(|items| &items.value) {
            Some(Value::List(items)) if kind.ends_with("List") => {
                let of = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
                let list = of.map(|kind| ListOf { kind, api_version });
                items.iter().for_each(|item| self.document(item, list));
            }
            Some(Value::Null) if kind.ends_with("List") => {}
            _ => self.object(node, kind, api_version),
        }
    }

    fn object(&mut self, node: &Tree, kind: &str, api_version: &str) {
        let line_of = |field: &str| node.entry(field).map_or(node.line, |entry| entry.line);
        let Some(known) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else {
            if let Some(near) = misspelt(kind, api_version) {
                let finding = self
                    .error(
                        "UnknownKind",
                        line_of("kind"),
                        format!("\"{}\" is not a kind of {near_api}", clip(kind), near_api = near.api_version()),
                    )
                    .at("kind")
                    .mend(format!("did you mean \"{near}\"?"));
                return self.push(node, None, None, vec![finding]);
            }
            return self.unread(node, kind, api_version);
        };
        if api_version != known.api_version() && !known.other_api_versions().contains(&api_version) {
            if !is_meant(known, api_version) {
                return self.unread(node, kind, api_version);
            }
            let (key, display) = identity(node, known);
            let message = format!("\"{}\" is not read for kind {known}", clip(api_version));
            let mut finding = self
                .error("WrongApiVersion", line_of("apiVersion"), message)
                .at("apiVersion")
                .mend(format!("write \"{}\"", known.api_version()));
            finding.object = display;
            return self.push(node, key, None, vec![finding]);
        }
        match known {
            Kind::Namespace => self.decode::<Namespace>(node, known),
            Kind::Service => self.decode::<Service>(node, known),
            Kind::EndpointSlice => self.decode::<EndpointSlice>(node, known),
            Kind::Secret => self.decode::<Secret>(node, known),
            Kind::ConfigMap => self.decode::<ConfigMap>(node, known),
            Kind::IngressClass => self.decode::<IngressClass>(node, known),
            Kind::Ingress => self.decode::<Ingress>(node, known),
            Kind::GatewaySettings => self.decode::<GatewaySettings>(node, known),
            Kind::Node => self.decode::<Node>(node, known),
            Kind::Alb2 if api_version.ends_with("/v1") => self.decode::<Alb2V1>(node, known),
            Kind::Alb2 => self.decode::<Alb2>(node, known),
            Kind::Frontend => self.decode::<Frontend>(node, known),
            Kind::Rule => self.decode::<AlbRule>(node, known),
            Kind::TimeoutPolicy => self.decode::<TimeoutPolicy>(node, known),
            Kind::IpAddressPool => self.decode::<IpAddressPool>(node, known),
            Kind::L2Advertisement => self.decode::<L2Advertisement>(node, known),
            Kind::Community => self.decode::<Community>(node, known),
            Kind::BfdProfile => self.decode::<BfdProfile>(node, known),
            Kind::BgpPeer => self.decode::<BgpPeer>(node, known),
            Kind::BgpAdvertisement => self.decode::<BgpAdvertisement>(node, known),
            Kind::ServiceL2Status => self.decode::<ServiceL2Status>(node, known),
            Kind::ServiceBgpStatus => self.decode::<ServiceBgpStatus>(node, known),
            Kind::ConfigurationState => self.decode::<ConfigurationState>(node, known),
            _ => self.unread(node, kind, api_version),
        }
    }

    fn decode<T: Typed>(&mut self, node: &Tree, kind: Kind) {
        let (key, display) = identity(node, kind);
        let place = |line| Location { file: self.file.clone(), line };
        let mut findings: Vec<Finding> = Vec::new();
        // Objects of the ALB and of MetalLB were written for another program, which may know more fields than we do.
        let skips = is_foreign(kind) || (self.unknown == UnknownFields::Skip && kind != Kind::GatewaySettings);
        let mut refused = false;
        let decoded = decode::<T>(node).or_else(|faults: Vec<Fault>| {
            for fault in faults {
                let skipped = skips && matches!(fault.what, What::Unknown { .. });
                let location = place(fault.line);
                let mut finding = say::finding(fault, Quote::of(kind), display.as_ref(), location);
                if skipped {
                    finding.severity = Severity::Warning;
                }
                refused |= !skipped;
                findings.push(finding);
            }
            if refused { Err(()) } else { decode_known::<T>(node).map_err(drop) }
        });
        if let Some(metadata) = node.get("metadata") {
            for (field, allowed) in [("name", name_rule(kind)), ("namespace", Rule::Label)] {
                let Some(entry) = metadata.entry(field) else { continue };
                let Some(text) = entry.value.text() else { continue };
                if (field == "namespace" && text.is_empty()) || allowed.holds(text) {
                    continue;
                }
                let mut finding = say::error(
                    "InvalidName",
                    place(entry.line),
                    format!("\"{}\" is not {}", clip(text), allowed.name()),
                )
                .at(format!("metadata.{field}"))
                .mend(allowed.mend());
                finding.object = display.clone();
                findings.push(finding);
                refused = true;
            }
        }
        let object = match (&key, decoded) {
            (Some(key), Ok(object)) if !refused => Some(object.into_object(key.id.namespace.clone())),
            _ => None,
        };
        if display.is_none() {
            for finding in &mut findings {
                finding.message = format!("{kind} without a name: {}", finding.message);
            }
        }
        self.push(node, key, object, findings);
    }

    fn unread(&mut self, node: &Tree, kind: &str, api_version: &str) {
        self.reading.unread.push(Unread {
            kind: clip(kind).into(),
            api_version: clip(api_version).into(),
            line: node.line,
        });
    }

    fn refuse(&mut self, node: &Tree, line: u32, reason: &'static str, field: &str, message: &str) {
        let finding = self.error(reason, line, message).at(field);
        self.push(node, None, None, vec![finding]);
    }

    fn error(&self, reason: &'static str, line: u32, message: impl Into<String>) -> Finding {
        say::error(reason, Location { file: self.file.clone(), line }, message)
    }

    fn push(&mut self, node: &Tree, key: Option<ObjectKey>, object: Option<Object>, findings: Vec<Finding>) {
        let lines = Arc::new(LineTable::of(node));
        self.reading.manifests.push(Manifest { key, object, line: node.line, lines, findings });
    }
}

/// Whether the kind is one of Alauda's ALB or of MetalLB.
fn is_foreign(kind: Kind) -> bool {
    let group = kind.api_version().split_once('/').map_or("", |(group, _)| group);
    [alb::GROUP, alb::GATEWAY_GROUP, metallb::GROUP].contains(&group)
}

/// A known kind of this very API version whose name is nearly what stands there.
fn misspelt(kind: &str, api_version: &str) -> Option<Kind> {
    let of_version: Vec<&str> =
        Kind::ALL.iter().filter(|known| known.api_version() == api_version).map(|known| known.as_str()).collect();
    // Two letters at most: `Endpoints` and `ReplicaSet` are kinds of their own.
    let near = say::nearest(kind, &of_version).filter(|near| near.len().abs_diff(kind.len()) <= 2)?;
    Kind::ALL.into_iter().find(|known| known.as_str() == near)
}

/// Whether an API version that does not serve the kind was still meant for it: its own group, a group of Kubernetes
/// itself, or none. A `Service` of `serving.knative.dev` is another thing.
fn is_meant(kind: Kind, api_version: &str) -> bool {
    let group = |api_version: &str| api_version.split_once('/').map(|(group, _)| group.to_owned()).unwrap_or_default();
    let written = group(api_version);
    written == group(kind.api_version()) || !written.contains('.') || written.ends_with(".k8s.io")
}

/// The object's key if it can be known, and the key to show in findings (whose names may be wrong).
fn identity(node: &Tree, kind: Kind) -> (Option<ObjectKey>, Option<ObjectKey>) {
    let field = |field| node.get("metadata").and_then(|metadata| metadata.get(field));
    let Some(name) = field("name").and_then(Tree::text) else { return (None, None) };
    let namespace = match field("namespace") {
        _ if !kind.is_namespaced() => Some(""),
        None => Some(DEFAULT_NAMESPACE),
        Some(node) if node.is_null() => Some(DEFAULT_NAMESPACE),
        Some(node) => node.text().map(|text| if text.is_empty() { DEFAULT_NAMESPACE } else { text }),
    };
    let Some(namespace) = namespace else { return (None, Some(ObjectKey::new(kind, "", clip(name)))) };
    let display = ObjectKey::new(kind, clip(namespace), clip(name));
    let holds = name_rule(kind).holds(name) && (namespace.is_empty() || Rule::Label.holds(namespace));
    (holds.then(|| ObjectKey::new(kind, namespace, name)), Some(display))
}

/// What a name may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Label,
    Subdomain,
}

fn name_rule(kind: Kind) -> Rule {
    match kind {
        Kind::Namespace | Kind::Service => Rule::Label,
        _ => Rule::Subdomain,
    }
}

impl Rule {
    fn holds(self, name: &str) -> bool {
        let is_label = |label: &str| {
            label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match self {
            Self::Label => name.len() <= 63 && is_label(name),
            Self::Subdomain => name.len() <= 253 && name.split('.').all(is_label),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Label => "an RFC 1123 label",
            Self::Subdomain => "an RFC 1123 subdomain",
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Self::Label => "use a-z, 0-9 and \"-\", at most 63, a letter or digit at both ends",
            Self::Subdomain => "use a-z, 0-9, \"-\" and \".\", at most 253, a letter or digit at both ends",
        }
    }
}

/// The types behind the kinds.
pub(crate) trait Typed: DeserializeOwned {
    fn metadata(&mut self) -> &mut Metadata;

    /// The namespace is the effective one: `default` where the manifest is silent, none for cluster-scoped kinds.
    fn into_object(self, namespace: Arc<str>) -> Object;
}

macro_rules! typed {
    ($($kind:ident)*) => {$(
        impl Typed for $kind {
            fn metadata(&mut self) -> &mut Metadata {
                &mut self.metadata
            }

            fn into_object(mut self, namespace: Arc<str>) -> Object {
                self.metadata.namespace = namespace;
                Object::$kind(Arc::new(self))
            }
        }
    )*};
}

typed! { Namespace Service EndpointSlice Secret ConfigMap IngressClass Ingress GatewaySettings Node }
typed! { Alb2 Frontend TimeoutPolicy }
typed! { IpAddressPool L2Advertisement BgpAdvertisement BgpPeer BfdProfile Community }
typed! { ServiceL2Status ServiceBgpStatus ConfigurationState }

impl Typed for AlbRule {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    fn into_object(mut self, namespace: Arc<str>) -> Object {
        self.metadata.namespace = namespace;
        Object::Rule(Arc::new(self))
    }
}

impl Typed for Alb2V1 {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    fn into_object(self, namespace: Arc<str>) -> Object {
        Alb2::from(self).into_object(namespace)
    }
}
