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
        _ => None,
    }
}
