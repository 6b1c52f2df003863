//! Services and EndpointSlices as tests write them: every number is chosen by the test, so that nothing is waited for
//! and nothing differs between two runs.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::services::{Family, Pod, Topology, Transport};
use serde_json::{Value, json};

/// The port of every Service, and that of its endpoints.
pub const PORT: u16 = 80;
/// Where pods answer.
pub const TARGET_PORT: u16 = 8080;

/// A Service of type LoadBalancer, both families, TCP and UDP, with addresses of every kind. Its number decides them.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// 1 to 250.
    pub number: u8,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// Merged into the Service's `spec` last.
    pub spec: Value,
    /// Annotations.
    pub annotations: Value,
    /// `ipMode` of its VIPs.
    pub ip_mode: &'static str,
    /// The address at which pods of every node are answered.
    pub proof: Frontend,
}

/// One endpoint of a Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Addresses, IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
    /// `node-N`.
    pub node: String,
    /// Merged into the endpoint: `conditions`, `zone`, `hints`.
    pub more: Value,
}

/// An address at which a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// `clusterIP:port`.
    ClusterIp,
    /// `node:nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `externalIPs`.
    ExternalIp,
}

impl Endpoint {
    /// A pod that is ready.
    pub fn of(pod: &Pod) -> Self {
        Self {
            addresses: Family::ALL.map(|family| pod.address(family)),
            node: format!("node-{}", pod.node()),
            more: json!({ "conditions": { "ready": true } }),
        }
    }

    /// With these fields too.
    #[must_use]
    pub fn with(mut self, more: Value) -> Self {
        self.more = more;
        self
    }
}

impl Service {
    /// With `externalTrafficPolicy: Cluster`.
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            local: false,
            spec: json!({}),
            annotations: json!({}),
            ip_mode: "VIP",
            // They come last, by a change of the status.
            proof: Frontend::LoadBalancer,
        }
    }

    /// With `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// With these fields of `spec`.
    #[must_use]
    pub fn with(mut self, spec: Value) -> Self {
        self.spec = spec;
        self
    }

    /// With `ipMode: Proxy`.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.ip_mode = "Proxy";
        self.proof = Frontend::ClusterIp;
        self
    }

    /// Its port on every node, of TCP and of UDP.
    pub fn node_port(&self) -> u16 {
        30000 + u16::from(self.number)
    }

    /// Its health check port, when it is Local.
    pub fn health_port(&self) -> u16 {
        31000 + u16::from(self.number)
    }

    /// Its address of a kind. That of a node port is the node's.
    pub fn address(&self, topology: &Topology<'_>, frontend: Frontend, node: usize, family: Family) -> SocketAddr {
        match frontend {
            Frontend::ClusterIp => SocketAddr::new(family.cluster_ip(10, self.number), PORT),
            Frontend::NodePort => SocketAddr::new(topology.node(node).address(family), self.node_port()),
            Frontend::LoadBalancer => SocketAddr::new(family.vip(self.number), PORT),
            Frontend::ExternalIp => SocketAddr::new(family.external_ip(self.number), PORT),
        }
    }

    fn object(&self) -> Value {
        let ips = Family::ALL.map(|family| family.cluster_ip(10, self.number));
        let ports = Transport::ALL.map(|transport| {
            json!({
                "name": transport.as_str().to_lowercase(), "protocol": transport.as_str(), "port": PORT,
                "targetPort": TARGET_PORT, "nodePort": self.node_port(),
            })
        });
        let mut spec = json!({
            "type": "LoadBalancer",
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "externalIPs": Family::ALL.map(|family| family.external_ip(self.number)),
            "externalTrafficPolicy": if self.local { "Local" } else { "Cluster" },
            "ports": ports,
        });
        if self.local {
            spec["healthCheckNodePort"] = self.health_port().into();
        }
        merge(&mut spec, &self.spec);
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": self.name, "annotations": self.annotations }, "spec": spec,
        })
    }

    fn slice(&self, family: Family, endpoints: &[Endpoint]) -> Value {
        let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let ports = Transport::ALL.map(|transport| {
            json!({ "name": transport.as_str().to_lowercase(), "protocol": transport.as_str(), "port": TARGET_PORT })
        });
        let endpoints = endpoints.iter().map(|endpoint| {
            let address = endpoint.addresses[usize::from(family == Family::V6)];
            let mut object = json!({ "addresses": [address], "nodeName": endpoint.node });
            merge(&mut object, &endpoint.more);
            object
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": version,
            "metadata": {
                "name": format!("{}-{}", self.name, version.to_lowercase()),
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "ports": ports, "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }

    /// Creates it with its VIPs and one EndpointSlice a family.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn create(&self, cluster: &Cluster, namespace: &str, endpoints: &[Endpoint]) -> Result<()> {
        for family in Family::ALL {
            cluster.create(&slices(namespace), &self.slice(family, endpoints)).await?;
        }
        cluster.create(&services(namespace), &self.object()).await?;
        let ingress = Family::ALL.map(|family| json!({ "ip": family.vip(self.number), "ipMode": self.ip_mode }));
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let stored = cluster.merge(&format!("{}/{}/status", services(namespace), self.name), &status).await?;
        stored["status"]["loadBalancer"]["ingress"].as_array().context("a Service without its VIPs")?;
        Ok(())
    }

    /// Replaces its endpoints.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn set_endpoints(&self, cluster: &Cluster, namespace: &str, endpoints: &[Endpoint]) -> Result<()> {
        for family in Family::ALL {
            let slice = self.slice(family, endpoints);
            let name = slice["metadata"]["name"].as_str().context("name of a slice")?;
            cluster.replace(&format!("{}/{name}", slices(namespace)), &slice).await?;
        }
        Ok(())
    }

    /// Removes it and its endpoints.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn delete(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        cluster.delete(&format!("{}/{}", services(namespace), self.name)).await?;
        for version in ["ipv4", "ipv6"] {
            cluster.delete(&format!("{}/{}-{version}", slices(namespace), self.name)).await?;
        }
        Ok(())
    }
}

/// The path of the Services of a namespace.
pub fn services(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/services")
}

fn slices(namespace: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                match value {
                    Value::Null => drop(into.remove(name)),
                    _ => merge(into.entry(name).or_insert(Value::Null), value),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// Creates the Node objects of the topology's nodes: addresses, pods' addresses, and a zone for each.
///
/// # Errors
/// When the API refuses.
pub async fn create_nodes(cluster: &Cluster, topology: &Topology<'_>) -> Result<()> {
    for node in topology.nodes() {
        let cidrs = Family::ALL.map(|family| node.pod_cidr(family));
        let labels = json!({
            "kubernetes.io/hostname": node.name(),
            "topology.kubernetes.io/zone": format!("zone-{}", node.number()),
        });
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name(), "labels": labels },
            "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
        });
        cluster.create("/api/v1/nodes", &object).await?;
        let addresses = Family::ALL.map(|family| json!({ "type": "InternalIP", "address": node.address(family) }));
        let conditions = json!([{ "type": "Ready", "status": "True", "reason": "Test" }]);
        let status = json!({ "status": { "addresses": addresses, "conditions": conditions } });
        cluster.merge(&format!("/api/v1/nodes/{}/status", node.name()), &status).await?;
    }
    Ok(())
}

/// Moves every node to another zone and back. kube-proxy 1.36 hears of its node's zone only by a change, when the first
/// message about the node comes before the proxier has asked for such (`NodeTopologyConfig` in pkg/proxy/config).
///
/// # Errors
/// When the API refuses.
pub async fn announce_zones(cluster: &Cluster, topology: &Topology<'_>) -> Result<()> {
    for node in topology.nodes() {
        for zone in ["elsewhere".to_owned(), format!("zone-{}", node.number())] {
            let patch = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
            cluster.merge(&format!("/api/v1/nodes/{}", node.name()), &patch).await?;
        }
    }
    Ok(())
}
