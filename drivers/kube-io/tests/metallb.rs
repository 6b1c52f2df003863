//! Resources of MetalLB, in manifests.

use headwater_kube_io::read_str;
use headwater_model::cluster::Object;
use headwater_model::finding::Severity;
use headwater_model::metallb::peer::BgpPeerSpec;

#[test]
fn every_kind_of_the_documentation_is_read() {
    let reading = read_str(
        "lb.yaml",
        r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {namespace: metallb-system, name: test-ippool}
spec:
  addresses: [13.1.1.1/24, 13.1.2.10-13.1.2.20, "fc00:f853:0ccd:e799::/124"]
  serviceAllocation: {priority: 50, namespaces: [a], namespaceSelectors: [{matchLabels: {foo: bar}}]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {namespace: metallb-system, name: l2}
spec: {ipAddressPools: [test-ippool], nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node-1}}]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {namespace: metallb-system, name: bgp}
spec: {ipAddressPools: [test-ippool], aggregationLength: 32, localPref: 100, communities: [64512:7, vpn], peers: [test-bgp-example]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {namespace: metallb-system, name: test-bgp-example}
spec:
  myASN: 64512
  peerASN: 64512
  peerAddress: 172.30.0.3
  peerPort: 180
  nodeSelectors: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [172.30.0.3]}]}]
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {namespace: metallb-system, name: bfd}
spec: {receiveInterval: 300, detectMultiplier: 3, echoMode: false}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {namespace: metallb-system, name: names}
spec: {communities: [{name: vpn, value: 1234:1}]}
---
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {namespace: metallb-system, name: l2-x}
status: {node: node-1, serviceName: s, serviceNamespace: d, interfaces: [{name: eth0}]}
---
apiVersion: metallb.io/v1beta1
kind: ServiceBGPStatus
metadata: {namespace: metallb-system, name: bgp-x}
status: {node: node-1, serviceName: s, serviceNamespace: d, peers: [test-bgp-example]}
---
apiVersion: metallb.io/v1beta1
kind: ConfigurationState
metadata: {namespace: metallb-system, name: controller}
status: {result: Valid}
"#,
    );
    assert!(reading.findings.is_empty(), "{:?}", reading.findings);
    let kinds: Vec<String> = reading.objects.iter().map(|(object, _)| object.key().kind.to_string()).collect();
    let expected = [
        "IPAddressPool",
        "L2Advertisement",
        "Community",
        "BFDProfile",
        "BGPPeer",
        "BGPAdvertisement",
        "ServiceL2Status",
        "ServiceBGPStatus",
        "ConfigurationState",
    ];
    assert_eq!(kinds, expected);
    let faults = |object: &Object| match object {
        Object::IpAddressPool(pool) => pool.spec.faults(),
        Object::L2Advertisement(advertisement) => advertisement.spec.faults(),
        Object::BgpAdvertisement(advertisement) => advertisement.spec.faults(),
        Object::BgpPeer(peer) => peer.spec.faults(),
        Object::BfdProfile(profile) => profile.spec.faults(),
        Object::Community(community) => community.spec.faults(),
        _ => Vec::new(),
    };
    assert!(reading.objects.iter().all(|(object, _)| faults(object).is_empty()));
}

#[test]
fn a_peer_of_the_older_version_is_the_same_peer() {
    let peer = |version: &str| -> BgpPeerSpec {
        let text = format!(
            "apiVersion: metallb.io/{version}\nkind: BGPPeer\nmetadata: {{name: p}}\nspec: {{myASN: 1, peerASN: 2, \
             peerAddress: fc00::1, holdTime: 1m30s, keepaliveTime: null, password: hush, nodeSelectors: \
             [{{matchLabels: {{a: b}}, matchExpressions: [{{key: c, operator: NotIn, values: [d]}}]}}]}}\n"
        );
        let reading = read_str("a.yaml", &text);
        assert!(reading.findings.is_empty(), "{:?}", reading.findings);
        let [(Object::BgpPeer(peer), _)] = &reading.objects[..] else { panic!("{reading:?}") };
        peer.spec.clone()
    };
    assert_eq!(peer("v1beta1"), peer("v1beta2"));
    let removed = read_str("a.yaml", "apiVersion: metallb.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: p}\n");
    let [finding] = &removed.findings[..] else { panic!("{removed:?}") };
    assert_eq!(finding.mend, "write \"metallb.io/v1beta2\"");
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_at_its_line() {
    for (kind, spec, place, words) in [
        ("IPAddressPool", "addresses: [1.2.3.4/33]", "spec.addresses[0]", "invalid CIDR \"1.2.3.4/33\""),
        ("IPAddressPool", "addresses: [1.2.3.4-1.2.3.3]", "spec.addresses[0]", "start IP 1.2.3.4 is after"),
        ("IPAddressPool", "autoAssign: true", "spec.addresses", "required field is missing"),
        ("IPAddressPool", "addresses: 1.2.3.4/24", "spec.addresses", "not a list"),
        (
            "L2Advertisement",
            "nodeSelectors: [{matchExpressions: [{key: a, operator: Near}]}]",
            "spec.nodeSelectors[0].matchExpressions[0].operator",
            "\"Near\" is not one of In, NotIn",
        ),
        ("BGPAdvertisement", "localPref: many", "spec.localPref", "not a whole number"),
        ("BGPPeer", "peerAddress: router", "spec.peerAddress", "\"router\" is not an IP address"),
        ("BGPPeer", "holdTime: 90", "spec.holdTime", "put it in quotes"),
        ("BGPPeer", "holdTime: soon", "spec.holdTime", "\"soon\" is not a duration"),
        ("BGPPeer", "routerID: fc00::1", "spec.routerID", "\"fc00::1\" is not an IPv4 address"),
        ("BGPPeer", "dynamicASN: both", "spec.dynamicASN", "\"both\" is not one of internal, external"),
        ("BGPPeer", "myASN: 4294967296", "spec.myASN", "4294967296"),
        ("Community", "communities: [{name: a, value: 1:2:3}]", "spec.communities[0].value", "is not a community"),
    ] {
        let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
        let text = format!("apiVersion: metallb.io/{version}\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n  {spec}\n");
        let reading = read_str("a.yaml", &text);
        let [finding] = &reading.findings[..] else { panic!("{spec}: {reading:?}") };
        let told = finding.to_string();
        assert!(finding.severity == Severity::Error && reading.objects.is_empty(), "{told}");
        assert!(finding.field == place && told.contains(words), "{spec}: {told}");
    }
}

#[test]
fn a_field_of_a_newer_metallb_is_a_warning() {
    let text = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: a}\n\
                spec: {addresses: [192.0.2.0/24], colour: red}\n";
    let reading = read_str("a.yaml", text);
    let [finding] = &reading.findings[..] else { panic!("{reading:?}") };
    assert_eq!((finding.severity, finding.field.as_str()), (Severity::Warning, "spec.colour"));
    assert!(matches!(&reading.objects[..], [(Object::IpAddressPool(_), _)]));
}
