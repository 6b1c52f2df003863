//! Why the columns of the table differ.

use headwater_services_tests::object::Frontend;
use headwater_services_tests::scenario::{Path, Policy, Row};

/// The reason for a row; `None` where nothing differs.
pub(crate) fn why(row: &Row) -> Option<&'static str> {
    match (row.policy, row.frontend, row.path) {
        (Policy::Empty, Frontend::LoadBalancer | Frontend::ExternalIp, Path::Node(..)) => Some(
            "With iptables kube-proxy refuses these in INPUT and FORWARD only. What the node itself sends leaves it, \
             as if there were no such Service, and ends elsewhere.",
        ),
        (
            Policy::Cluster | Policy::Local | Policy::HostCluster | Policy::HostLocal,
            Frontend::NodePort,
            Path::Loopback(_),
        ) => Some(
            "With iptables kube-proxy serves node ports at 127.0.0.1 too, and from there masquerades; with nftables, as \
             Headwater, at the addresses of the node only.",
        ),
        (Policy::OtherPort, Frontend::ClusterIp, _) => Some(
            "With nftables kube-proxy refuses every port of a cluster IP that its Service does not have, and so does \
             Headwater. With iptables such packets leave the node by its default route.",
        ),
        (Policy::Cluster | Policy::HostCluster, frontend, path) if frontend != Frontend::ClusterIp => {
            let here = row.policy == Policy::HostCluster;
            match path {
                // What is for the node itself is not masqueraded by anybody.
                Path::Outside(1) | Path::Balancer(1) | Path::Pod(1, 1) | Path::Pod(3, 1) | Path::Node(3, 1) if here => {
                    None
                }
                Path::Outside(1) | Path::Balancer(1) => Some(
                    "kube-proxy masquerades what comes from outside before it knows that the endpoint is on this node. \
                     Headwater translates the destination only.",
                ),
                Path::Outside(_) | Path::Balancer(_) => Some(
                    "kube-proxy masquerades, so that replies come back by the node that received the request. Headwater \
                     sends the packet as it is to the endpoint's node, by a tunnel, and that node translates.",
                ),
                Path::Hairpin | Path::Node(1, 1) | Path::Node(3, 3) => None,
                Path::Pod(..) | Path::Node(..) => Some(
                    "kube-proxy takes pods and nodes that use an external address for clients from outside. Headwater \
                     keeps them too.",
                ),
                Path::Loopback(_) => None,
            }
        }
        _ => None,
    }
}
