//! What is told of load balancers: ServiceL2Status, ServiceBGPStatus, ConfigurationState (`metallb.io/v1beta1`).

use serde::{Deserialize, Serialize};

use crate::object::{Ignored, Metadata};
use crate::observed::Condition;

/// Label of a status object that names the node.
pub const NODE_LABEL: &str = "metallb.io/node";

/// Label of a status object that names the Service.
pub const SERVICE_NAME_LABEL: &str = "metallb.io/service-name";

/// Label of a status object that names the Service's namespace.
pub const SERVICE_NAMESPACE_LABEL: &str = "metallb.io/service-namespace";

/// Which node announces a Service on its network.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2Status {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Ignored,
    #[serde(default)]
    pub status: L2Announcement,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct L2Announcement {
    /// The node that announces.
    #[serde(default)]
    pub node: String,
    /// Name of the Service.
    #[serde(default)]
    pub service_name: String,
    /// Namespace of the Service.
    #[serde(default)]
    pub service_namespace: String,
    /// The interfaces; empty: all that can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceName>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InterfaceName {
    /// Name of the interface.
    #[serde(default)]
    pub name: String,
}

/// To whom a node announces a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBgpStatus {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Ignored,
    #[serde(default)]
    pub status: BgpAnnouncement,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BgpAnnouncement {
    /// The node that announces.
    #[serde(default)]
    pub node: String,
    /// Name of the Service.
    #[serde(default)]
    pub service_name: String,
    /// Namespace of the Service.
    #[serde(default)]
    pub service_namespace: String,
    /// Names of the BGPPeers, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// Whether the resources of MetalLB make sense together, as one component sees it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationState {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub status: ConfigurationStateStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Valid, Invalid or Unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,
    /// What is wrong; empty where nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_summary: String,
    /// The same as conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<std::collections::BTreeMap<String, String>>"))]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ConfigurationResult {
    Valid,
    Invalid,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_as_it_is_read() {
        let text = r#"{"node":"n","serviceName":"s","serviceNamespace":"d","interfaces":[{"name":"eth0"}]}"#;
        let status: L2Announcement = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        let everywhere = L2Announcement { interfaces: Vec::new(), ..status };
        assert!(!serde_json::to_string(&everywhere).unwrap().contains("interfaces"));
        let text = r#"{"result":"Invalid","errorSummary":"pool \"a\" has no prefixes defined"}"#;
        let status: ConfigurationStateStatus = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
    }
}
