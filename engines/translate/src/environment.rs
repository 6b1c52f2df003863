//! What is the same for all Ingresses: classes, gateways, the ConfigMap.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use crate::alb::Census;
use crate::class::Classes;
use crate::nginx_config_map;
use crate::options::Options;
use crate::settings::{Gateway, Reader, overlap};

/// Which gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GatewayId {
    /// The one without GatewaySettings.
    Default,
    /// That of a GatewaySettings object.
    Settings(NamespacedName),
    /// An ALB2.
    Alb(NamespacedName),
}

impl GatewayId {
    /// The GatewaySettings object of an Ingress's gateway; there is none of the default one's name.
    pub(crate) fn settings(&self) -> NamespacedName {
        match self {
            Self::Settings(id) | Self::Alb(id) => id.clone(),
            Self::Default => NamespacedName::new("", "default"),
        }
    }
}

/// Derived from IngressClasses, GatewaySettings and the ingress-nginx ConfigMap.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) classes: Classes,
    pub(crate) gateways: BTreeMap<GatewayId, Arc<Gateway>>,
    pub(crate) findings: Vec<Finding>,
    /// Secrets and ConfigMaps that it depends on, whether they exist or not.
    pub(crate) reads: Vec<ObjectKey>,
}

impl Environment {
    pub(crate) fn read(cluster: &Cluster, options: &Options, albs: &Census) -> Self {
        let mut findings = Vec::new();
        let mut reads = Vec::new();
        let classes = Classes::read(cluster, options, albs, &mut findings);

        let id = options.nginx_config_maps.iter().find(|id| cluster.config_maps.contains_key(id));
        let object = id.and_then(|id| cluster.config_maps.get(id));
        let nginx = object.map(|object| (object.key(), nginx_config_map::read(object, &mut findings)));
        reads.extend(options.nginx_config_maps.iter().map(|id| ObjectKey { kind: Kind::ConfigMap, id: id.clone() }));

        let mut reader = Reader {
            options,
            cluster,
            nginx: nginx.as_ref().map(|(key, config)| (key, config)),
            findings: &mut findings,
            reads: &mut reads,
        };
        let mut gateways: BTreeMap<GatewayId, Gateway> =
            classes.gateways().into_iter().map(|id| (id.clone(), reader.gateway(&id))).collect();
        let is_unused = |id: &NamespacedName| {
            !gateways.contains_key(&GatewayId::Settings(id.clone())) && !albs.settings.contains(id)
        };
        for (id, settings) in cluster.gateway_settings.iter().filter(|(id, _)| is_unused(id)) {
            let message = format!("no IngressClass, and no ALB2, that is served names {id}; it has no effect");
            findings.push(Finding::new(Severity::Info, "NotUsed", settings.key(), message));
        }
        settle_listeners(&mut gateways, cluster, &mut findings);
        findings.sort();
        findings.dedup();
        let gateways = gateways.into_iter().map(|(id, gateway)| (id, Arc::new(gateway))).collect();
        Self { classes, gateways, findings, reads }
    }

    /// Whether a change of the object can change the environment.
    pub(crate) fn depends_on(&self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::IngressClass | Kind::GatewaySettings => true,
            Kind::Secret | Kind::ConfigMap => self.reads.contains(key),
            _ => false,
        }
    }

    /// Whether Ingresses translate the same in both.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.classes == other.classes && self.gateways == other.gateways
    }
}

/// Two gateways that want one address and port: the older object keeps it.
fn settle_listeners(gateways: &mut BTreeMap<GatewayId, Gateway>, cluster: &Cluster, findings: &mut Vec<Finding>) {
    let mut order: Vec<GatewayId> = gateways.keys().cloned().collect();
    order.sort_by_key(|id| {
        let created =
            cluster.gateway_settings.get(&id.settings()).and_then(|settings| settings.metadata.creation_timestamp);
        (created.map_or(i64::MAX, |at| at.as_microsecond()), id.clone())
    });
    let mut taken = Vec::new();
    for id in order {
        let Some(gateway) = gateways.get_mut(&id) else { continue };
        let object = gateway.origin.key.clone();
        gateway.listeners.retain(|listener| {
            let place = listener.place();
            let owner = taken.iter().find(|(other, _)| overlap(*other, place)).map(|(_, owner)| owner);
            let Some(owner) = owner else {
                taken.push((place, object.clone()));
                return true;
            };
            let message = format!(
                "{} port {} belongs to {owner}, which is older; listener {} is not opened",
                listener.address, listener.port, listener.name
            );
            findings.push(
                Finding::error("Conflict", object.clone(), message)
                    .at(format!("spec.listeners[{}].port", listener.index)),
            );
            false
        });
    }
}
