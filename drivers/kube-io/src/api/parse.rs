//! JSON of an API server -> objects, slim; what is wrong with those that are none.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::alb::{Alb2, Frontend, Rule, TimeoutPolicy};
use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location};
use headwater_model::metallb::judge::is_judged;
use headwater_model::metallb::{
    BfdProfile, BgpAdvertisement, BgpPeer, Community, ConfigurationState, IpAddressPool, L2Advertisement,
    ServiceBgpStatus, ServiceL2Status,
};
use headwater_model::object::{ConfigMap, GatewaySettings, Given, Ingress, IngressClass, Namespace, Secret};
use headwater_model::observed::{Condition, Observed, PublishedAddress};
use headwater_model::origin::{Kind, ObjectKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::slim::{self, Names, Reader};
use super::write::FIELD_MANAGER;
use crate::manifest::say::{self, Quote};
use crate::manifest::{Typed, decode_known, read_json};

/// Reason of the finding about an object that does not parse.
pub(crate) const INVALID_OBJECT: &str = "InvalidObject";

/// One object as the server sent it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) key: ObjectKey,
    pub(crate) object: Result<Object, Box<Finding>>,
    pub(crate) observed: Option<Arc<Observed>>,
    /// `metadata.resourceVersion`.
    pub(crate) version: Box<str>,
}

/// Reads the objects of one watch.
#[derive(Debug)]
pub(crate) struct Parser {
    kind: Kind,
    observe: bool,
    reader: Reader,
    names: Names,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    name: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    uid: Option<Cow<'a, str>>,
    resource_version: Option<Cow<'a, str>>,
    generation: Option<i64>,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

impl Parser {
    /// `observe`: whether the server's side of each object is wanted too.
    pub(crate) fn new(kind: Kind, observe: bool, reader: Reader) -> Self {
        let observe = observe
            && matches!(
                kind,
                Kind::Ingress
                    | Kind::Service
                    | Kind::GatewaySettings
                    | Kind::IngressClass
                    | Kind::ConfigMap
                    | Kind::Secret
            );
        Self { kind, observe, reader, names: Names::default() }
    }

    /// Reads one object.
    ///
    /// # Errors
    /// What keeps it from being told which object it is: then it is no object of an API server.
    pub(crate) fn item(&mut self, json: &str) -> Result<Item, serde_json::Error> {
        let Envelope { metadata, status } = serde_json::from_str(json)?;
        let observed = self.observe.then(|| Arc::new(observed(&metadata, status)));
        let version = required(metadata.resource_version, "metadata.resourceVersion")?.into();
        let name: Arc<str> = required(metadata.name, "metadata.name")?.into();
        let mut namespace: Arc<str> = metadata.namespace.unwrap_or_default().into();
        self.names.share(&mut namespace);
        let key = ObjectKey::new(self.kind, namespace, name);
        let reader = self.reader;
        let object = match self.kind {
            Kind::Namespace => self.object::<Namespace>(&key, json, |_, _| {}),
            Kind::Service => self.object(&key, json, |service, _| slim::service(service, reader)),
            Kind::EndpointSlice => self.object(&key, json, |slice, names| slim::endpoint_slice(slice, reader, names)),
            Kind::Secret => self.object::<Secret>(&key, json, |_, _| {}),
            Kind::ConfigMap => self.object::<ConfigMap>(&key, json, |_, _| {}),
            Kind::IngressClass => self.object::<IngressClass>(&key, json, |_, _| {}),
            Kind::Ingress => self.object::<Ingress>(&key, json, |_, _| {}),
            Kind::GatewaySettings => self.object::<GatewaySettings>(&key, json, |_, _| {}),
            Kind::Node => self.object(&key, json, |node, _| slim::node(node, reader)),
            Kind::Alb2 => self.object::<Alb2>(&key, json, |_, _| {}),
            Kind::Frontend => self.object::<Frontend>(&key, json, |_, _| {}),
            Kind::Rule => self.object::<Rule>(&key, json, |_, _| {}),
            Kind::TimeoutPolicy => self.object::<TimeoutPolicy>(&key, json, |_, _| {}),
            Kind::IpAddressPool => self.object::<IpAddressPool>(&key, json, |_, _| {}),
            Kind::L2Advertisement => self.object::<L2Advertisement>(&key, json, |_, _| {}),
            Kind::Community => self.object::<Community>(&key, json, |_, _| {}),
            Kind::BfdProfile => self.object::<BfdProfile>(&key, json, |_, _| {}),
            Kind::BgpPeer => self.object::<BgpPeer>(&key, json, |_, _| {}),
            Kind::BgpAdvertisement => self.object::<BgpAdvertisement>(&key, json, |_, _| {}),
            Kind::ServiceL2Status => self.object::<ServiceL2Status>(&key, json, |_, _| {}),
            Kind::ServiceBgpStatus => self.object::<ServiceBgpStatus>(&key, json, |_, _| {}),
            Kind::ConfigurationState => self.object::<ConfigurationState>(&key, json, |_, _| {}),
            other => Err(Box::new(Finding::error(INVALID_OBJECT, key.clone(), format!("kind {other} is not read")))),
        };
        Ok(Item { key, object, observed, version })
    }

    fn object<T: Typed>(
        &mut self,
        key: &ObjectKey,
        json: &str,
        slim: impl FnOnce(&mut T, &mut Names),
    ) -> Result<Object, Box<Finding>> {
        // What is null for absent, and what is wrong, takes the slower way, which knows paths.
        let mut object: T = match serde_json::from_str(json) {
            Ok(object) => object,
            Err(_) => read_slowly(key, json)?,
        };
        slim(&mut object, &mut self.names);
        let metadata = object.metadata();
        // Advertisements choose pools by their labels, whoever reads them.
        let reader = if is_judged(key.kind) { Reader::LoadBalancer } else { self.reader };
        slim::metadata(metadata, reader, &mut self.names);
        metadata.name = key.id.name.clone();
        // Of Nodes alone somebody reads whether they are about to go.
        if key.kind != Kind::Node {
            metadata.deletion_timestamp = Given::default();
        }
        Ok(object.into_object(key.id.namespace.clone()))
    }
}

fn required<'a>(field: Option<Cow<'a, str>>, name: &'static str) -> Result<Cow<'a, str>, serde_json::Error> {
    filled(field).ok_or_else(|| serde::de::Error::missing_field(name))
}

fn filled(field: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    field.filter(|text| !text.is_empty())
}

fn read_slowly<T: Typed>(key: &ObjectKey, json: &str) -> Result<T, Box<Finding>> {
    let invalid = |message: String| Box::new(Finding::error(INVALID_OBJECT, key.clone(), message));
    let node = read_json(json).map_err(|error| invalid(error.to_string()))?;
    decode_known::<T>(&node).map_err(|faults| {
        let Some(fault) = faults.into_iter().next_back() else { return invalid("not valid".to_owned()) };
        let nowhere = Location { file: "".into(), line: 0 };
        let finding = say::finding(fault, Quote::of(key.kind), Some(key), nowhere);
        Box::new(Finding { reason: INVALID_OBJECT, location: None, ..finding })
    })
}

#[derive(Deserialize)]
struct ManagedFields<'a> {
    manager: Option<Cow<'a, str>>,
    subresource: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    load_balancer: Option<LoadBalancer<'a>>,
    #[serde(borrow)]
    conditions: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct LoadBalancer<'a> {
    #[serde(borrow)]
    ingress: Option<Vec<LoadBalancerIngress<'a>>>,
}

#[derive(Deserialize)]
struct LoadBalancerIngress<'a> {
    ip: Option<Cow<'a, str>>,
    hostname: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ports: Option<Vec<PortStatus<'a>>>,
}

#[derive(Deserialize)]
struct PortStatus<'a> {
    port: u16,
    #[serde(borrow)]
    protocol: Option<Cow<'a, str>>,
}

/// Whatever of it does not parse is left out: it is not the user's to mend.
fn observed(metadata: &Meta<'_>, status: Option<&RawValue>) -> Observed {
    let managers: Vec<ManagedFields<'_>> =
        metadata.managed_fields.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let status: Status<'_> = status.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let entries = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let (mut addresses, mut ports) = (Vec::new(), BTreeMap::new());
    for (address, of_it) in entries.into_iter().filter_map(published_address) {
        if !of_it.is_empty() {
            ports.insert(address.clone(), of_it);
        }
        addresses.push(address);
    }
    let conditions = status.conditions.unwrap_or_default();
    Observed {
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        generation: metadata.generation.unwrap_or_default(),
        addresses,
        ports,
        conditions: conditions
            .into_iter()
            .filter_map(|raw| serde_json::from_str::<Condition>(raw.get()).ok())
            .collect(),
        status_is_ours: managers.iter().any(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.as_deref() == Some("status")
        }),
    }
}

/// An address, and the TCP ports that stand beside it.
fn published_address(entry: LoadBalancerIngress<'_>) -> Option<(PublishedAddress, BTreeSet<u16>)> {
    let address = match (filled(entry.ip), filled(entry.hostname)) {
        (Some(ip), _) => ip.parse::<IpAddr>().ok().map(PublishedAddress::Ip),
        (None, Some(name)) => Some(PublishedAddress::Hostname(name.into_owned())),
        (None, None) => None,
    }?;
    let is_tcp = |port: &PortStatus<'_>| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let ports = entry.ports.unwrap_or_default().into_iter().filter(is_tcp).map(|port| port.port).collect();
    Some((address, ports))
}

#[cfg(test)]
mod tests;
