//! L2Advertisement and BGPAdvertisement (`metallb.io/v1beta1`): how the network learns of a pool's addresses.

use serde::Deserialize;

use super::community::CommunityRef;
use super::{Fault, duplicate_faults, selector_faults};
use crate::object::{Ignored, Metadata};
use crate::selector::LabelSelector;

/// An L2Advertisement as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L2Advertisement {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: L2AdvertisementSpec,
    #[serde(default)]
    pub status: Ignored,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Names of pools, besides those that ipAddressPoolSelectors name; where both are empty, all pools.
    #[serde(default)]
    pub ip_address_pools: Vec<String>,
    /// Labels of pools; one of the selectors has to match.
    #[serde(default)]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Labels of nodes that may announce; one of the selectors has to match. Empty: all nodes.
    #[serde(default)]
    pub node_selectors: Vec<LabelSelector>,
    /// Network interfaces of the nodes; empty: all that can be used.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Labels of Services; one of the selectors has to match. Empty: all Services. Never with addresses that are shared.
    #[serde(default)]
    pub service_selectors: Vec<LabelSelector>,
    /// Nodes that rather announce than others, by weight.
    #[serde(default)]
    pub preferred_node_selectors: Vec<PreferredNode>,
}

/// Nodes that rather announce than others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PreferredNode {
    /// What matching nodes gain, 1 to 100.
    pub weight: i32,
    /// Labels of the nodes.
    pub preference: LabelSelector,
}

impl L2AdvertisementSpec {
    /// What no L2Advertisement may say.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        pools_and_nodes(
            &self.ip_address_pools,
            &self.ip_address_pool_selectors,
            &self.node_selectors,
            &self.service_selectors,
            &mut faults,
        );
        duplicate_faults("spec.interfaces", "interface", &self.interfaces, &mut faults);
        for (index, PreferredNode { weight, preference }) in self.preferred_node_selectors.iter().enumerate() {
            let field = format!("spec.preferredNodeSelectors[{index}]");
            if !(1..=100).contains(weight) {
                faults.push(Fault::new(format!("{field}.weight"), format!("{weight} is not a number from 1 to 100")));
            }
            if let Err((path, message)) = preference.check() {
                faults.push(Fault::new(format!("{field}.preference.{path}"), message));
            }
        }
        faults
    }
}

/// A BGPAdvertisement as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpAdvertisement {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BgpAdvertisementSpec,
    #[serde(default)]
    pub status: Ignored,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BgpAdvertisementSpec {
    /// Bits of the prefix that is announced for an address of IPv4, 1 to 32; default 32.
    pub aggregation_length: Option<i32>,
    /// Bits of the prefix that is announced for an address of IPv6, 1 to 128; default 128.
    #[serde(rename = "aggregationLengthV6")]
    pub aggregation_length_v6: Option<i32>,
    /// LOCAL_PREF of the routes, for peers of our own AS.
    pub local_pref: Option<i64>,
    /// Communities of the routes: 64512:7, large:64512:7:9, or names that Communities define.
    #[serde(default)]
    pub communities: Vec<CommunityRef>,
    /// Names of pools, besides those that ipAddressPoolSelectors name; where both are empty, all pools.
    #[serde(default)]
    pub ip_address_pools: Vec<String>,
    /// Labels of pools; one of the selectors has to match.
    #[serde(default)]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Labels of nodes that may announce; one of the selectors has to match. Empty: all nodes.
    #[serde(default)]
    pub node_selectors: Vec<LabelSelector>,
    /// Names of BGPPeers that hear of it; empty: all.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Labels of Services; one of the selectors has to match. Empty: all Services. Only where nothing is aggregated.
    #[serde(default)]
    pub service_selectors: Vec<LabelSelector>,
}

impl BgpAdvertisementSpec {
    /// Bits of the prefixes of IPv4, where [`Self::faults`] has none.
    pub fn length_v4(&self) -> u8 {
        self.aggregation_length.and_then(|length| u8::try_from(length).ok()).unwrap_or(32).min(32)
    }

    /// Bits of the prefixes of IPv6, where [`Self::faults`] has none.
    pub fn length_v6(&self) -> u8 {
        self.aggregation_length_v6.and_then(|length| u8::try_from(length).ok()).unwrap_or(128).min(128)
    }

    /// LOCAL_PREF, where [`Self::faults`] has none.
    pub fn local_preference(&self) -> Option<u32> {
        self.local_pref.and_then(|preference| u32::try_from(preference).ok())
    }

    /// What no BGPAdvertisement may say.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (field, length, most) in [
            ("spec.aggregationLength", self.aggregation_length, 32),
            ("spec.aggregationLengthV6", self.aggregation_length_v6, 128),
        ] {
            if let Some(length) = length.filter(|length| !(1..=most).contains(length)) {
                faults.push(Fault::new(field, format!("invalid aggregation length {length}: it is 1 to {most}")));
            }
        }
        if let Some(preference) = self.local_pref.filter(|_| self.local_preference().is_none()) {
            let message = format!("invalid local preference {preference}: it is 0 to {}", u32::MAX);
            faults.push(Fault::new("spec.localPref", message));
        }
        for (index, community) in self.communities.iter().enumerate() {
            if self.communities[..index].contains(community) {
                let message = format!("duplicate community \"{community}\"");
                faults.push(Fault::new(format!("spec.communities[{index}]"), message));
            }
        }
        duplicate_faults("spec.peers", "peer", &self.peers, &mut faults);
        pools_and_nodes(
            &self.ip_address_pools,
            &self.ip_address_pool_selectors,
            &self.node_selectors,
            &self.service_selectors,
            &mut faults,
        );
        if !self.service_selectors.is_empty() && (self.length_v4() != 32 || self.length_v6() != 128) {
            let message = "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with \
                           default aggregationLength (32) and aggregationLengthV6 (128)";
            faults.push(Fault::new("spec.serviceSelectors", message));
        }
        faults
    }
}

fn pools_and_nodes(
    pools: &[String],
    pool_selectors: &[LabelSelector],
    node_selectors: &[LabelSelector],
    service_selectors: &[LabelSelector],
    faults: &mut Vec<Fault>,
) {
    duplicate_faults("spec.ipAddressPools", "pool", pools, faults);
    selector_faults("spec.ipAddressPoolSelectors", pool_selectors, faults);
    selector_faults("spec.nodeSelectors", node_selectors, faults);
    selector_faults("spec.serviceSelectors", service_selectors, faults);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(faults: Vec<Fault>) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_advertisement_is_for_everything() {
        let l2: L2Advertisement = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!((l2.spec.faults(), l2.spec), (vec![], L2AdvertisementSpec::default()));
        let bgp: BgpAdvertisement = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(bgp.spec.faults(), []);
        assert_eq!((bgp.spec.length_v4(), bgp.spec.length_v6(), bgp.spec.local_preference()), (32, 128, None));
    }

    #[test]
    fn what_no_advertisement_may_say_is_told_with_its_field() {
        let bgp = |spec: Value| told(serde_json::from_value::<BgpAdvertisementSpec>(spec).unwrap().faults());
        let l2 = |spec: Value| told(serde_json::from_value::<L2AdvertisementSpec>(spec).unwrap().faults());
        for (faults, start) in [
            (bgp(json!({"aggregationLength": 33})), "spec.aggregationLength: invalid aggregation length 33"),
            (bgp(json!({"aggregationLengthV6": 0})), "spec.aggregationLengthV6: invalid aggregation length 0"),
            (bgp(json!({"localPref": -1})), "spec.localPref: invalid local preference -1"),
            (bgp(json!({"communities": ["1:2", "a", "01:2"]})), "spec.communities[2]: duplicate community \"1:2\""),
            (bgp(json!({"peers": ["a", "a"]})), "spec.peers[1]: duplicate peer"),
            (
                bgp(json!({"serviceSelectors": [{}], "aggregationLength": 24})),
                "spec.serviceSelectors: serviceSelectors and aggregationLength are mutually exclusive",
            ),
            (l2(json!({"ipAddressPools": ["p", "p"]})), "spec.ipAddressPools[1]: duplicate pool"),
            (l2(json!({"interfaces": ["eth0", "eth0"]})), "spec.interfaces[1]: duplicate interface"),
            (l2(json!({"nodeSelectors": [{}, {}]})), "spec.nodeSelectors[1]: "),
            (
                l2(json!({"preferredNodeSelectors": [{"weight": 101, "preference": {}}]})),
                "spec.preferredNodeSelectors[0].weight: 101",
            ),
        ] {
            let [fault] = &faults[..] else { panic!("{start}: {faults:?}") };
            assert!(fault.starts_with(start), "{fault}");
        }
    }
}
