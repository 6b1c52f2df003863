//! Services, EndpointSlices and Nodes, the same for an API server and for a directory of manifests.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use headwater_testkit::services::{Family, Topology};
use serde_json::{Value, json};

use super::traffic::{ACCEPT, ANSWER, BULK};

/// Where all Services are.
pub(super) const NAMESPACE: &str = "bench";

/// How many nodes endpoints are spread over.
pub(super) const NODES: usize = 3;

/// Bits of the network of a node's endpoints: 10.128.0.0/12, 10.144.0.0/12, 10.160.0.0/12.
pub(super) const ENDPOINT_BITS: u8 = 12;

/// Addresses of a network before this one are for endpoints that move.
const FIRST_ENDPOINT: usize = 256;

/// From here on are those that changes bring.
const FIRST_CHANGED: usize = 1 << 19;

/// Services that manifests of one file hold.
const OF_A_FILE: usize = 500;

/// The port of Services; the next are those of their other ports.
pub(super) const PORT: u16 = 80;

/// A pod as far as a Service knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: Ipv4Addr,
    /// From 1.
    pub(super) node: usize,
}

/// A Service and its EndpointSlice.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) cluster_ip: Ipv4Addr,
    /// That of the first port; the service then has all ports of [`super::traffic`].
    pub(super) node_port: Option<u16>,
    pub(super) external_ip: Option<Ipv4Addr>,
    /// Annotation `headwater.dev/source-ip`.
    pub(super) keep: Option<&'static str>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The address that the pod of a node answers at.
pub(super) fn endpoint(node: usize, number: usize) -> Endpoint {
    let network = Ipv4Addr::new(10, 128 + 16 * u8::try_from(node - 1).expect("there are three nodes"), 0, 0);
    let number = u32::try_from(number).expect("below the size of the network");
    Endpoint { address: Ipv4Addr::from(u32::from(network) + number), node }
}

/// One of many Services, with so many endpoints, spread over all nodes.
pub(super) fn filler(number: usize, endpoints: usize) -> Service {
    let of = |index: usize| endpoint((number + index) % NODES + 1, FIRST_ENDPOINT + number * endpoints + index);
    let place = u32::try_from(number).expect("some ten thousand Services");
    Service {
        name: format!("service-{number}"),
        cluster_ip: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 16, 0)) + place),
        node_port: None,
        external_ip: None,
        keep: None,
        endpoints: (0..endpoints).map(of).collect(),
    }
}

/// The same with another first endpoint, one that no change before had.
pub(super) fn changed(number: usize, endpoints: usize, change: usize) -> Service {
    let mut service = filler(number, endpoints);
    if let Some(first) = service.endpoints.first_mut() {
        *first = endpoint(first.node, FIRST_CHANGED + change % FIRST_CHANGED);
    }
    service
}

/// The Service whose only endpoint moves, so that any connection tells of it.
pub(super) fn mover(to: usize) -> Service {
    Service {
        name: "mover".to_owned(),
        cluster_ip: Ipv4Addr::new(10, 96, 8, 1),
        node_port: None,
        external_ip: None,
        keep: None,
        endpoints: vec![endpoint(1, to)],
    }
}

impl Service {
    pub(super) fn object(&self) -> Value {
        let port = |(index, (name, target)): (u16, (&str, u16))| {
            let mut port = json!({ "name": name, "port": PORT + index, "targetPort": target, "protocol": "TCP" });
            if let Some(first) = self.node_port {
                port["nodePort"] = (first + index).into();
            }
            port
        };
        let ports: Vec<Value> = (0..).zip(self.ports().iter().copied()).map(port).collect();
        let kind = if self.node_port.is_some() { "NodePort" } else { "ClusterIP" };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": self.name, "namespace": NAMESPACE },
            "spec": {
                "type": kind, "clusterIP": self.cluster_ip, "clusterIPs": [self.cluster_ip],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": ports,
            },
        });
        if let Some(address) = self.external_ip {
            object["spec"]["externalIPs"] = json!([address]);
        }
        if let Some(keep) = self.keep {
            object["metadata"]["annotations"] = json!({ "headwater.dev/source-ip": keep });
        }
        object
    }

    pub(super) fn slice(&self) -> Value {
        let ports = self.ports().iter().map(|(name, port)| json!({ "name": name, "port": port, "protocol": "TCP" }));
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": self.name, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": self.name },
            },
            "ports": ports.collect::<Vec<_>>(), "endpoints": self.endpoint_list(),
        })
    }

    pub(super) fn endpoint_list(&self) -> Value {
        let endpoints = self.endpoints.iter().map(|Endpoint { address, node }| {
            json!({ "addresses": [address], "nodeName": format!("node-{node}"), "conditions": { "ready": true } })
        });
        endpoints.collect()
    }

    fn ports(&self) -> &'static [(&'static str, u16)] {
        let all = &[("answer", ANSWER), ("accept", ACCEPT), ("bulk", BULK)];
        if self.node_port.is_some() { all } else { &all[..1] }
    }

    /// Both objects as documents of one file.
    fn manifests(&self) -> String {
        format!("---\n{}\n---\n{}\n", self.object(), self.slice())
    }
}

/// The topology's nodes. `tunnel`: as each Headwater writes of its own Node.
pub(super) fn nodes(topology: &Topology<'_>, tunnel: bool) -> Vec<Value> {
    let node = |node: &headwater_testkit::services::Node| {
        let cidrs = Family::ALL.map(|family| node.pod_cidr(family));
        let addresses = Family::ALL.map(|family| json!({ "type": "InternalIP", "address": node.address(family) }));
        let mut object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
            "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
            "status": { "addresses": addresses },
        });
        if tunnel {
            let end = json!({ "address": node.address(Family::V4) }).to_string();
            object["metadata"]["annotations"] = json!({ "headwater.dev/tunnel": end });
        }
        object
    };
    topology.nodes().iter().map(node).collect()
}

/// Writes Nodes and Services into a directory.
pub(super) fn write(directory: &Path, nodes: &[Value], services: &[Service]) -> Result<()> {
    let text: String = nodes.iter().map(|node| format!("---\n{node}\n")).collect();
    fs::write(directory.join("nodes.yaml"), text).with_context(|| directory.display().to_string())?;
    for (number, some) in services.chunks(OF_A_FILE).enumerate() {
        let text: String = some.iter().map(Service::manifests).collect();
        fs::write(directory.join(format!("services-{number}.yaml")), text)?;
    }
    Ok(())
}

/// Writes a Service into a file of its own, or replaces it, at once.
pub(super) fn write_one(directory: &Path, service: &Service) -> Result<()> {
    let new = directory.join(format!(".{}", service.name));
    fs::write(&new, service.manifests())?;
    Ok(fs::rename(&new, directory.join(format!("{}.yaml", service.name)))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_services_share_an_address_and_every_change_is_one() {
        let services: Vec<Service> = (0..50_000).map(|number| filler(number, 10)).collect();
        let clusters: BTreeSet<_> = services.iter().map(|service| service.cluster_ip).collect();
        assert_eq!(clusters.len(), services.len());
        assert!(clusters.iter().all(|ip| u32::from(*ip) >> 16 == 10 << 8 | 96), "outside of 10.96.0.0/16");
        let endpoints: BTreeSet<_> =
            services.iter().flat_map(|service| &service.endpoints).map(|endpoint| endpoint.address).collect();
        assert_eq!(endpoints.len(), 500_000);
        for service in &services[..100] {
            let nodes: BTreeSet<usize> = service.endpoints.iter().map(|endpoint| endpoint.node).collect();
            assert_eq!(nodes.len(), NODES, "{service:?}");
            assert!(service.endpoints.iter().all(|at| at.address.octets()[1] & 0xf0 == 128 + 16 * (at.node as u8 - 1)));
        }
        assert_ne!(changed(7, 10, 0).endpoints, changed(7, 10, 1).endpoints);
        assert_eq!(changed(7, 10, 1).endpoints[1..], filler(7, 10).endpoints[1..]);
        assert_ne!(mover(1).endpoint_list(), mover(2).endpoint_list());
    }

    #[test]
    fn only_services_with_node_ports_have_every_port() {
        let plain = filler(3, 2);
        assert_eq!(plain.object()["spec"]["ports"].as_array().unwrap().len(), 1);
        assert_eq!(plain.object()["metadata"].get("annotations"), None);
        let path = Service { node_port: Some(30_100), keep: Some("preserve"), ..plain };
        let object = path.object();
        let ports: Vec<_> = object["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["nodePort"]).collect();
        assert_eq!(ports, [30_100, 30_101, 30_102]);
        assert_eq!(object["metadata"]["annotations"]["headwater.dev/source-ip"], "preserve");
        assert_eq!(path.slice()["ports"].as_array().unwrap().len(), 3);
    }
}
