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
        (_, Frontend::NodePort, Path::Loopback(_)) => Some(
            "With iptables kube-proxy serves node ports at 127.0.0.1 too, and from there masquerades; with nftables only \
             at the addresses of the node.",
        ),
        (Policy::OtherPort, Frontend::ClusterIp, _) => Some(
            "With nftables kube-proxy refuses every port of a cluster IP that its Service does not have. With iptables \
             such packets leave the node by its default route.",
        ),
        _ => None,
    }
}
