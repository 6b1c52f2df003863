//! The objects known right now, by kind and key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alb::{Alb2, Frontend, Rule, TimeoutPolicy};
use crate::metallb::{
    BfdProfile, BgpAdvertisement, BgpPeer, Community, ConfigurationState, IpAddressPool, L2Advertisement,
    ServiceBgpStatus, ServiceL2Status,
};
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
    IpAddressPool(Arc<IpAddressPool>),
    L2Advertisement(Arc<L2Advertisement>),
    Community(Arc<Community>),
    BfdProfile(Arc<BfdProfile>),
    BgpPeer(Arc<BgpPeer>),
    BgpAdvertisement(Arc<BgpAdvertisement>),
    ServiceL2Status(Arc<ServiceL2Status>),
    ServiceBgpStatus(Arc<ServiceBgpStatus>),
    ConfigurationState(Arc<ConfigurationState>),
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
            Self::IpAddressPool(o) => o.key(),
            Self::L2Advertisement(o) => o.key(),
            Self::Community(o) => o.key(),
            Self::BfdProfile(o) => o.key(),
            Self::BgpPeer(o) => o.key(),
            Self::BgpAdvertisement(o) => o.key(),
            Self::ServiceL2Status(o) => o.key(),
            Self::ServiceBgpStatus(o) => o.key(),
            Self::ConfigurationState(o) => o.key(),
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
    pub ip_address_pools: Keyed<IpAddressPool>,
    pub l2_advertisements: Keyed<L2Advertisement>,
    pub communities: Keyed<Community>,
    pub bfd_profiles: Keyed<BfdProfile>,
    pub bgp_peers: Keyed<BgpPeer>,
    pub bgp_advertisements: Keyed<BgpAdvertisement>,
    pub service_l2_statuses: Keyed<ServiceL2Status>,
    pub service_bgp_statuses: Keyed<ServiceBgpStatus>,
    pub configuration_states: Keyed<ConfigurationState>,
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
            Kind::IpAddressPool => self.ip_address_pools.get(id).cloned().map(Object::IpAddressPool),
            Kind::L2Advertisement => self.l2_advertisements.get(id).cloned().map(Object::L2Advertisement),
            Kind::Community => self.communities.get(id).cloned().map(Object::Community),
            Kind::BfdProfile => self.bfd_profiles.get(id).cloned().map(Object::BfdProfile),
            Kind::BgpPeer => self.bgp_peers.get(id).cloned().map(Object::BgpPeer),
            Kind::BgpAdvertisement => self.bgp_advertisements.get(id).cloned().map(Object::BgpAdvertisement),
            Kind::ServiceL2Status => self.service_l2_statuses.get(id).cloned().map(Object::ServiceL2Status),
            Kind::ServiceBgpStatus => self.service_bgp_statuses.get(id).cloned().map(Object::ServiceBgpStatus),
            Kind::ConfigurationState => self.configuration_states.get(id).cloned().map(Object::ConfigurationState),
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
                    Object::IpAddressPool(o) => drop(self.ip_address_pools.insert(id, o)),
                    Object::L2Advertisement(o) => drop(self.l2_advertisements.insert(id, o)),
                    Object::Community(o) => drop(self.communities.insert(id, o)),
                    Object::BfdProfile(o) => drop(self.bfd_profiles.insert(id, o)),
                    Object::BgpPeer(o) => drop(self.bgp_peers.insert(id, o)),
                    Object::BgpAdvertisement(o) => drop(self.bgp_advertisements.insert(id, o)),
                    Object::ServiceL2Status(o) => drop(self.service_l2_statuses.insert(id, o)),
                    Object::ServiceBgpStatus(o) => drop(self.service_bgp_statuses.insert(id, o)),
                    Object::ConfigurationState(o) => drop(self.configuration_states.insert(id, o)),
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
                Kind::IpAddressPool => drop(self.ip_address_pools.remove(id)),
                Kind::L2Advertisement => drop(self.l2_advertisements.remove(id)),
                Kind::Community => drop(self.communities.remove(id)),
                Kind::BfdProfile => drop(self.bfd_profiles.remove(id)),
                Kind::BgpPeer => drop(self.bgp_peers.remove(id)),
                Kind::BgpAdvertisement => drop(self.bgp_advertisements.remove(id)),
                Kind::ServiceL2Status => drop(self.service_l2_statuses.remove(id)),
                Kind::ServiceBgpStatus => drop(self.service_bgp_statuses.remove(id)),
                Kind::ConfigurationState => drop(self.configuration_states.remove(id)),
            },
        }
    }
}
