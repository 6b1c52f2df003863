//! IPAddressPool (`metallb.io/v1beta1`): addresses that Services may get.

use serde::{Deserialize, Serialize};

use super::range::AddressRange;
use super::{Fault, duplicate_faults, selector_faults};
use crate::object::{Ignored, Metadata};
use crate::selector::LabelSelector;

/// An IPAddressPool as written, and what stands of its status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpAddressPool {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    pub spec: IpAddressPoolSpec,
    pub status: Option<IpAddressPoolStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IpAddressPoolSpec {
    /// Networks (192.0.2.0/24) and ranges (192.0.2.10-192.0.2.20), of either family. The first is used first.
    pub addresses: Vec<AddressRange>,
    /// Whether Services get addresses of it that do not ask for it; default true.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Whether to leave out IPv4 addresses that end with .0 or .255; default false.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Which Services may use it, and before which other pools; default: all of them, after pools that say something here.
    pub service_allocation: Option<ServiceAllocation>,
}

fn yes() -> bool {
    true
}

/// Which Services may get addresses of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools with a lower number come first; 0 and silence come after all others.
    #[serde(default)]
    pub priority: i64,
    /// Namespaces of the Services, besides those that namespaceSelectors name.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Labels of the Services' namespaces; one of the selectors has to match.
    #[serde(default)]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Labels of the Services; one of the selectors has to match.
    #[serde(default)]
    pub service_selectors: Vec<LabelSelector>,
}

/// How many addresses of a pool are given away, and how many are left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpAddressPoolStatus {
    /// Addresses of IPv4 that Services have.
    #[serde(rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// Addresses of IPv6 that Services have.
    #[serde(rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// Addresses of IPv4 that are left.
    #[serde(rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// Addresses of IPv6 that are left; the largest number of 64 bits where there are more than 2^62.
    #[serde(rename = "availableIPv6")]
    pub available_ipv6: i64,
}

impl IpAddressPoolSpec {
    /// What no pool may say.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.addresses.is_empty() {
            faults.push(Fault::new("spec.addresses", "pool has no prefixes defined"));
        }
        for (index, range) in self.addresses.iter().enumerate() {
            if let Some(other) = self.addresses[..index].iter().find(|other| other.overlaps(range)) {
                let message = format!("CIDR \"{range}\" overlaps with already defined CIDR \"{other}\"");
                faults.push(Fault::new(format!("spec.addresses[{index}]"), message));
            }
        }
        if let Some(allocation) = &self.service_allocation {
            let field = |name: &str| format!("spec.serviceAllocation.{name}");
            duplicate_faults(&field("namespaces"), "namespace", &allocation.namespaces, &mut faults);
            selector_faults(&field("namespaceSelectors"), &allocation.namespace_selectors, &mut faults);
            selector_faults(&field("serviceSelectors"), &allocation.service_selectors, &mut faults);
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pool(spec: Value) -> IpAddressPoolSpec {
        serde_json::from_value::<IpAddressPool>(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap().spec
    }

    #[test]
    fn silence_gives_addresses_to_whoever_needs_one() {
        let spec = pool(json!({"addresses": ["192.0.2.0/24"]}));
        assert!(spec.auto_assign && !spec.avoid_buggy_ips && spec.service_allocation.is_none());
        assert_eq!(spec.faults(), []);
    }

    #[test]
    fn a_pool_that_says_something_twice_is_told_where() {
        let selector = json!({"matchLabels": {"a": "b"}});
        for (spec, field, words) in [
            (json!({"addresses": []}), "spec.addresses", "no prefixes"),
            (json!({"addresses": ["10.0.0.0/24", "10.0.0.3-10.0.0.4"]}), "spec.addresses[1]", "overlaps"),
            (
                json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": {"namespaces": ["a", "b", "a"]}}),
                "spec.serviceAllocation.namespaces[2]",
                "duplicate namespace \"a\"",
            ),
            (
                json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": {"namespaceSelectors": [selector, selector]}}),
                "spec.serviceAllocation.namespaceSelectors[1]",
                "already",
            ),
            (
                json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": {"serviceSelectors": [
                    {"matchExpressions": [{"key": "a", "operator": "In"}]},
                ]}}),
                "spec.serviceAllocation.serviceSelectors[0].matchExpressions[0].values",
                "needs",
            ),
        ] {
            let faults = pool(spec).faults();
            let [fault] = &faults[..] else { panic!("{faults:?}") };
            assert_eq!(fault.field, field);
            assert!(fault.message.contains(words), "{fault}");
        }
    }
}
