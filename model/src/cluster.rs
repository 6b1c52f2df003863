//! The objects known right now, by kind and key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alb::{Alb2, Frontend, Rule, TimeoutPolicy};
use crate::object::{
    ConfigMap, EndpointSlice, GatewaySettings, Ingress, IngressClass, Namespace, Node, Secret, Service,
};
use crate::origin::{Kind, NamespacedName, ObjectKey};

/// One object of any kind that Headwater reads.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Object {
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    IngressClass(Arc<IngressClass>),
    Ingress(Arc<Ingress>),
    GatewaySettings(Arc<GatewaySettings>),
    Node(Arc<Node>),
    Alb2(Arc<Alb2>),
    Frontend(Arc<Frontend>),
    Rule(Arc<Rule>),
    TimeoutPolicy(Arc<TimeoutPolicy>),
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Namespace(o) => o.key(),
            Self::Service(o) => o.key(),
            Self::EndpointSlice(o) => o.key(),
            Self::Secret(o) => o.key(),
            Self::ConfigMap(o) => o.key(),
            Self::IngressClass(o) => o.key(),
            Self::Ingress(o) => o.key(),
            Self::GatewaySettings(o) => o.key(),
            Self::Node(o) => o.key(),
            Self::Alb2(o) => o.key(),
            Self::Frontend(o) => o.key(),
            Self::Rule(o) => o.key(),
            Self::TimeoutPolicy(o) => o.key(),
        }
    }
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Created or replaced.
    Set(Object),
    Removed(ObjectKey),
}

impl Change {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Set(object) => object.key(),
            Self::Removed(key) => key.clone(),
        }
    }
}

type Keyed<T> = BTreeMap<NamespacedName, Arc<T>>;

/// Every object, as last read. Only objects that parsed are here.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub namespaces: Keyed<Namespace>,
    pub services: Keyed<Service>,
    pub endpoint_slices: Keyed<EndpointSlice>,
    pub secrets: Keyed<Secret>,
    pub config_maps: Keyed<ConfigMap>,
    pub ingress_classes: Keyed<IngressClass>,
    pub ingresses: Keyed<Ingress>,
    pub gateway_settings: Keyed<GatewaySettings>,
    pub nodes: Keyed<Node>,
    pub albs: Keyed<Alb2>,
    pub frontends: Keyed<Frontend>,
    pub rules: Keyed<Rule>,
    pub timeout_policies: Keyed<TimeoutPolicy>,
}

impl Cluster {
    /// The object of that key, as last read.
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        let id = &key.id;
        match key.kind {
            Kind::Namespace => self.namespaces.get(id).cloned().map(Object::Namespace),
            Kind::Service => self.services.get(id).cloned().map(Object::Service),
            Kind::EndpointSlice => self.endpoint_slices.get(id).cloned().map(Object::EndpointSlice),
            Kind::Secret => self.secrets.get(id).cloned().map(Object::Secret),
            Kind::ConfigMap => self.config_maps.get(id).cloned().map(Object::ConfigMap),
            Kind::IngressClass => self.ingress_classes.get(id).cloned().map(Object::IngressClass),
            Kind::Ingress => self.ingresses.get(id).cloned().map(Object::Ingress),
            Kind::GatewaySettings => self.gateway_settings.get(id).cloned().map(Object::GatewaySettings),
            Kind::Node => self.nodes.get(id).cloned().map(Object::Node),
            Kind::Alb2 => self.albs.get(id).cloned().map(Object::Alb2),
            Kind::Frontend => self.frontends.get(id).cloned().map(Object::Frontend),
            Kind::Rule => self.rules.get(id).cloned().map(Object::Rule),
            Kind::TimeoutPolicy => self.timeout_policies.get(id).cloned().map(Object::TimeoutPolicy),
        }
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Set(object) => {
                let id = object.key().id;
                match object.clone() {
                    Object::Namespace(o) => drop(self.namespaces.insert(id, o)),
                    Object::Service(o) => drop(self.services.insert(id, o)),
                    Object::EndpointSlice(o) => drop(self.endpoint_slices.insert(id, o)),
                    Object::Secret(o) => drop(self.secrets.insert(id, o)),
                    Object::ConfigMap(o) => drop(self.config_maps.insert(id, o)),
                    Object::IngressClass(o) => drop(self.ingress_classes.insert(id, o)),
                    Object::Ingress(o) => drop(self.ingresses.insert(id, o)),
                    Object::GatewaySettings(o) => drop(self.gateway_settings.insert(id, o)),
                    Object::Node(o) => drop(self.nodes.insert(id, o)),
                    Object::Alb2(o) => drop(self.albs.insert(id, o)),
                    Object::Frontend(o) => drop(self.frontends.insert(id, o)),
                    Object::Rule(o) => drop(self.rules.insert(id, o)),
                    Object::TimeoutPolicy(o) => drop(self.timeout_policies.insert(id, o)),
                }
            }
            Change::Removed(ObjectKey { kind, id }) => match kind {
                Kind::Namespace => drop(self.namespaces.remove(id)),
                Kind::Service => drop(self.services.remove(id)),
                Kind::EndpointSlice => drop(self.endpoint_slices.remove(id)),
                Kind::Secret => drop(self.secrets.remove(id)),
                Kind::ConfigMap => drop(self.config_maps.remove(id)),
                Kind::IngressClass => drop(self.ingress_classes.remove(id)),
                Kind::Ingress => drop(self.ingresses.remove(id)),
                Kind::GatewaySettings => drop(self.gateway_settings.remove(id)),
                Kind::Node => drop(self.nodes.remove(id)),
                Kind::Alb2 => drop(self.albs.remove(id)),
                Kind::Frontend => drop(self.frontends.remove(id)),
                Kind::Rule => drop(self.rules.remove(id)),
                Kind::TimeoutPolicy => drop(self.timeout_policies.remove(id)),
            },
        }
    }
}
