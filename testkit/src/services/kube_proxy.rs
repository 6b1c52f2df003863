//! How kube-proxy is set up beside Headwater.

use std::path::Path;

use serde_json::{Value, json};

/// Addresses of all pods of a [`Topology`](super::Topology).
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:10:244::/56";
/// All cluster IPs.
pub const SERVICE_CIDR: &str = "10.96.0.0/16,fd00:10:96::/112";

/// A `KubeProxyConfiguration`: its defaults, but no sysctl outside of the node's network namespace.
///
/// `mode`: `nftables` or `iptables`. `pause`: its `minSyncPeriod`, the shortest between two changes of the kernel; `0s`
/// would mean its default of a second.
pub fn kube_proxy_configuration(mode: &str, kubeconfig: &Path, node: &str, pause: &str) -> Value {
    let pace = json!({ "minSyncPeriod": pause, "syncPeriod": "30s" });
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": kubeconfig },
        "hostnameOverride": node,
        "mode": mode,
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": CLUSTER_CIDR,
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
        "iptables": pace,
        "nftables": pace,
    })
}
