//! The CustomResourceDefinitions of MetalLB's kinds, made from the types that read them.
//!
//! Objects of MetalLB may be there before Headwater comes to a cluster, so that these take whatever MetalLB's own take:
//! the same names and versions, no tighter bound, and no field that is dropped.
//!
//! A BGPPeer of `v1beta1` is one of `v1beta2` without the newer fields, so that nothing has to be converted.
//!
//! `UPDATE=1 cargo test -p headwater-model custom_resource` writes them to deploy/crds/metallb.

use schemars::{JsonSchema, json_schema};
use serde_json::{Value, json};

use super::GROUP;
use super::advertisement::{BgpAdvertisementSpec, L2AdvertisementSpec};
use super::community::{CommunityRef, CommunitySpec, CommunityValue};
use super::peer::{Asn, BfdProfileSpec, BgpPeerSpec, DynamicAsn};
use super::pool::{IpAddressPoolSpec, IpAddressPoolStatus};
use super::range::AddressRange;
use super::status::{BgpAnnouncement, ConfigurationStateStatus, L2Announcement};
use crate::object::SecretText;
use crate::selector::LabelOperator;
use crate::structural::{Details, Style, assert_is_written};
use crate::upstream_schema::{assert_takes, ours_alone};

text_schema! {
    AddressRange: json_schema!({"type": "string"});
    Asn: json_schema!({"type": "integer"});
    CommunityRef: json_schema!({"type": "string"});
    CommunityValue: json_schema!({"type": "string"});
    DynamicAsn: json_schema!({"type": "string", "enum": ["internal", "external"]});
    LabelOperator: json_schema!({"type": "string"});
    SecretText: json_schema!({"type": "string"});
}

fn schema_of<T: JsonSchema>(name: &str, details: Details) -> Value {
    let mut schema = crate::structural::schema_of::<T>(name, Style::Loose, details);
    make_selectors_atomic(&mut schema);
    schema
}

/// A selector is changed as a whole, never by parts: half of one means something else.
fn make_selectors_atomic(schema: &mut Value) {
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    let is_selector = fields.as_ref().is_some_and(|fields| fields.contains_key("matchExpressions"));
    for field in fields.into_iter().flat_map(|fields| fields.values_mut()) {
        make_selectors_atomic(field);
    }
    if let Some(items) = schema.get_mut("items") {
        make_selectors_atomic(items);
    }
    if is_selector {
        schema["x-kubernetes-map-type"] = "atomic".into();
        let terms = &mut schema["properties"]["matchExpressions"];
        terms["x-kubernetes-list-type"] = "atomic".into();
        terms["items"]["properties"]["values"]["x-kubernetes-list-type"] = "atomic".into();
    }
}

/// `spec` and `status`; a status that is none has no fields.
fn root(description: &str, spec: Option<Value>, status: Option<Value>) -> Value {
    let mut properties = json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "status": status.unwrap_or_else(|| json!({"type": "object"})),
    });
    if let Some(spec) = spec {
        properties["spec"] = spec;
    }
    json!({"openAPIV3Schema": {"type": "object", "description": description, "properties": properties}})
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

fn version(name: &str, storage: bool, columns: &[Value], schema: Value) -> Value {
    let mut version = json!({
        "name": name, "served": true, "storage": storage, "subresources": {"status": {}}, "schema": schema,
    });
    if !columns.is_empty() {
        version["additionalPrinterColumns"] = columns.into();
    }
    version
}

fn definition(kind: &str, plural: &str, versions: Vec<Value>) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}"), "labels": {"app.kubernetes.io/name": "headwater"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(),
            },
            "versions": versions,
        },
    })
}

fn pool() -> Value {
    let spec = schema_of::<IpAddressPoolSpec>(
        "spec",
        vec![("spec.autoAssign", json!({"default": true})), ("spec.avoidBuggyIPs", json!({"default": false}))],
    );
    let count = || json!({"format": "int64"});
    let status = schema_of::<IpAddressPoolStatus>(
        "status",
        vec![
            ("status.assignedIPv4", count()),
            ("status.assignedIPv6", count()),
            ("status.availableIPv4", count()),
            ("status.availableIPv6", count()),
        ],
    );
    let mut schema = root("Addresses that Services of type LoadBalancer may get.", Some(spec), Some(status));
    schema["openAPIV3Schema"]["required"] = json!(["spec"]);
    let columns = [
        column("Auto Assign", "boolean", ".spec.autoAssign"),
        column("Avoid Buggy IPs", "boolean", ".spec.avoidBuggyIPs"),
        column("Addresses", "string", ".spec.addresses"),
    ];
    definition("IPAddressPool", "ipaddresspools", vec![version("v1beta1", true, &columns, schema)])
}

fn advertisement_columns(last: Value) -> [Value; 4] {
    let mut nodes = column("Node Selectors", "string", ".spec.nodeSelectors");
    nodes["priority"] = 10.into();
    [
        column("IPAddressPools", "string", ".spec.ipAddressPools"),
        column("IPAddressPool Selectors", "string", ".spec.ipAddressPoolSelectors"),
        last,
        nodes,
    ]
}

fn l2_advertisement() -> Value {
    let weight = json!({"format": "int32", "minimum": 1, "maximum": 100});
    let spec = schema_of::<L2AdvertisementSpec>("spec", vec![("spec.preferredNodeSelectors[].weight", weight)]);
    let schema = root("Announces addresses of pools on the networks of nodes, by ARP and NDP.", Some(spec), None);
    let columns = advertisement_columns(column("Interfaces", "string", ".spec.interfaces"));
    definition("L2Advertisement", "l2advertisements", vec![version("v1beta1", true, &columns, schema)])
}

fn bgp_advertisement() -> Value {
    let message = "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default \
                   aggregationLength (32) and aggregationLengthV6 (128)";
    let rule = "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0 || ((!has(self.aggregationLength) || \
                self.aggregationLength == 32) && (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))";
    let spec = schema_of::<BgpAdvertisementSpec>(
        "spec",
        vec![
            ("spec", json!({"x-kubernetes-validations": [{"message": message, "rule": rule}]})),
            ("spec.aggregationLength", json!({"format": "int32", "minimum": 1, "default": 32})),
            ("spec.aggregationLengthV6", json!({"format": "int32", "default": 128})),
        ],
    );
    let schema = root("Announces addresses of pools to routers, by BGP.", Some(spec), None);
    let columns = advertisement_columns(column("Peers", "string", ".spec.peers"));
    definition("BGPAdvertisement", "bgpadvertisements", vec![version("v1beta1", true, &columns, schema)])
}

/// Fields that a BGPPeer of v1beta1 does not have.
const NEWER: [&str; 9] = [
    "connectTime",
    "disableMP",
    "dualStackAddressFamily",
    "dynamicASN",
    "enableGracefulRestart",
    "interface",
    "localASN",
    "passwordSecret",
    "vrf",
];

fn peer() -> Value {
    let asn = |least: u32| json!({"format": "int64", "minimum": least, "maximum": u32::MAX});
    let spec = schema_of::<BgpPeerSpec>(
        "spec",
        vec![
            ("spec", json!({"required": ["myASN"]})),
            ("spec.myASN", asn(0)),
            ("spec.peerASN", asn(0)),
            ("spec.localASN", asn(1)),
            ("spec.peerPort", json!({"minimum": 1, "maximum": 16_384, "default": 179})),
            ("spec.disableMP", json!({"default": false})),
            ("spec.dualStackAddressFamily", json!({"default": false})),
            (
                "spec.connectTime",
                json!({"x-kubernetes-validations": [
                    {
                        "message": "connect time should be between 1 seconds to 65535",
                        "rule": "duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",
                    },
                    {
                        "message": "connect time should contain a whole number of seconds",
                        "rule": "duration(self).getMilliseconds() % 1000 == 0",
                    },
                ]}),
            ),
            (
                "spec.enableGracefulRestart",
                json!({"x-kubernetes-validations": [
                    {"message": "EnableGracefulRestart cannot be changed after creation", "rule": "self == oldSelf"},
                ]}),
            ),
        ],
    );
    let mut older = spec.clone();
    older["required"] = json!(["myASN", "peerASN", "peerAddress"]);
    older["properties"]["nodeSelectors"]["items"]["properties"]["matchExpressions"]["items"]["required"] =
        json!(["key", "operator", "values"]);
    let fields = older["properties"].as_object_mut().expect("just made");
    for name in NEWER {
        assert!(fields.remove(name).is_some(), "{name} is no field");
    }
    fields["peerPort"] = json!({"type": "integer", "minimum": 0, "maximum": 16_384});
    let description = "A router that hears of addresses, by BGP.";
    let columns = [
        column("Address", "string", ".spec.peerAddress"),
        column("ASN", "string", ".spec.peerASN"),
        column("BFD Profile", "string", ".spec.bfdProfile"),
        column("Multi Hops", "string", ".spec.ebgpMultiHop"),
    ];
    let mut v1beta1 = version("v1beta1", false, &columns, root(description, Some(older), None));
    v1beta1["deprecated"] = true.into();
    v1beta1["deprecationWarning"] = "v1beta1 is deprecated, please use v1beta2".into();
    let v1beta2 = version("v1beta2", true, &columns, root(description, Some(spec), None));
    definition("BGPPeer", "bgppeers", vec![v1beta1, v1beta2])
}

fn bfd_profile() -> Value {
    let range = |least: u32, most: u32| json!({"format": "int32", "minimum": least, "maximum": most});
    let spec = schema_of::<BfdProfileSpec>(
        "spec",
        vec![
            ("spec.receiveInterval", range(10, 60_000)),
            ("spec.transmitInterval", range(10, 60_000)),
            ("spec.detectMultiplier", range(2, 255)),
            ("spec.echoInterval", range(10, 60_000)),
            ("spec.minimumTtl", range(1, 254)),
        ],
    );
    let columns = [
        column("Passive Mode", "boolean", ".spec.passiveMode"),
        column("Transmit Interval", "integer", ".spec.transmitInterval"),
        column("Receive Interval", "integer", ".spec.receiveInterval"),
        column("Multiplier", "integer", ".spec.detectMultiplier"),
    ];
    let schema = root("How a router is watched, by BFD.", Some(spec), None);
    definition("BFDProfile", "bfdprofiles", vec![version("v1beta1", true, &columns, schema)])
}

fn community() -> Value {
    let schema =
        root("Names for communities of BGP routes.", Some(schema_of::<CommunitySpec>("spec", Vec::new())), None);
    definition("Community", "communities", vec![version("v1beta1", true, &[], schema)])
}

/// What a status says of whose it is never changes.
fn identity(more: &[&'static str]) -> Details {
    let rules = json!({"x-kubernetes-validations": [{"message": "Value is immutable", "rule": "self == oldSelf"}]});
    more.iter().map(|field| (*field, rules.clone())).collect()
}

fn announcements() -> [Value; 2] {
    let columns = |node: &str| {
        [
            column(node, "string", ".status.node"),
            column("Service Name", "string", ".status.serviceName"),
            column("Service Namespace", "string", ".status.serviceNamespace"),
        ]
    };
    let fields = ["status.node", "status.serviceName", "status.serviceNamespace"];
    let spec = || Some(json!({"type": "object"}));
    let l2 = schema_of::<L2Announcement>("status", identity(&fields));
    let l2 = root("Which node announces a Service on its network.", spec(), Some(l2));
    let bgp = schema_of::<BgpAnnouncement>("status", identity(&fields));
    let bgp = root("Which routers a node announces a Service to.", spec(), Some(bgp));
    [
        definition(
            "ServiceL2Status",
            "servicel2statuses",
            vec![version("v1beta1", true, &columns("Allocated Node"), l2)],
        ),
        definition("ServiceBGPStatus", "servicebgpstatuses", vec![version("v1beta1", true, &columns("Node"), bgp)]),
    ]
}

fn configuration_state() -> Value {
    let text = |most: u32| json!({"type": "string", "maxLength": most});
    let mut reason = text(1024);
    reason["minLength"] = 1.into();
    reason["pattern"] = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$".into();
    let mut kind = text(316);
    kind["pattern"] = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$".into();
    let condition = json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": kind,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": reason,
            "message": text(32_768),
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let list = json!({
        "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    });
    let status = schema_of::<ConfigurationStateStatus>("status", vec![("status.conditions", list)]);
    let columns = [
        column("Result", "string", ".status.result"),
        column("ErrorSummary", "string", ".status.errorSummary"),
        column("Age", "date", ".metadata.creationTimestamp"),
    ];
    let schema = root("Whether the resources of metallb.io make sense together.", None, Some(status));
    definition("ConfigurationState", "configurationstates", vec![version("v1beta1", true, &columns, schema)])
}

/// Every definition, in the order in which objects refer to each other.
fn definitions() -> Vec<Value> {
    let [l2, bgp] = announcements();
    vec![
        pool(),
        l2_advertisement(),
        community(),
        bfd_profile(),
        peer(),
        bgp_advertisement(),
        l2,
        bgp,
        configuration_state(),
    ]
}

/// What MetalLB's own definitions hold. Taken from MetalLB of July 2026.
const FACTS: &str = include_str!("crd/upstream.txt");

#[test]
fn the_custom_resource_definitions_are_those_of_the_types() {
    for definition in definitions() {
        let file = format!("metallb/{GROUP}_{}.yaml", definition["spec"]["names"]["plural"].as_str().unwrap());
        assert_is_written(&definition, &file, "model/src/metallb");
    }
}

#[test]
fn whatever_metallbs_own_definitions_take_ours_take() {
    let fields = assert_takes(FACTS, &definitions());
    assert!(fields > 200, "{fields}");
    assert_eq!(ours_alone(FACTS, &definitions()), Vec::<String>::new());
}

#[test]
fn names_versions_and_columns_are_metallbs_own() {
    let shown: Vec<String> = definitions()
        .iter()
        .flat_map(|definition| {
            let kind = &definition["spec"]["names"]["kind"];
            let versions = definition["spec"]["versions"].as_array().unwrap();
            versions.iter().map(move |version| {
                let columns: Vec<&str> = version["additionalPrinterColumns"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|column| column["name"].as_str().unwrap())
                    .collect();
                format!(
                    "{} {} {} {}",
                    kind.as_str().unwrap(),
                    version["name"].as_str().unwrap(),
                    version["storage"],
                    columns.join(",")
                )
            })
        })
        .collect();
    let advertisement = "IPAddressPools,IPAddressPool Selectors";
    assert_eq!(
        shown,
        [
            "IPAddressPool v1beta1 true Auto Assign,Avoid Buggy IPs,Addresses".to_owned(),
            format!("L2Advertisement v1beta1 true {advertisement},Interfaces,Node Selectors"),
            "Community v1beta1 true ".to_owned(),
            "BFDProfile v1beta1 true Passive Mode,Transmit Interval,Receive Interval,Multiplier".to_owned(),
            "BGPPeer v1beta1 false Address,ASN,BFD Profile,Multi Hops".to_owned(),
            "BGPPeer v1beta2 true Address,ASN,BFD Profile,Multi Hops".to_owned(),
            format!("BGPAdvertisement v1beta1 true {advertisement},Peers,Node Selectors"),
            "ServiceL2Status v1beta1 true Allocated Node,Service Name,Service Namespace".to_owned(),
            "ServiceBGPStatus v1beta1 true Node,Service Name,Service Namespace".to_owned(),
            "ConfigurationState v1beta1 true Result,ErrorSummary,Age".to_owned(),
        ]
    );
}
