//! Resources of Alauda's ALB, in manifests.

use headwater_kube_io::{Reading, read_str};
use headwater_model::cluster::Object;
use headwater_model::finding::Severity;

fn told(reading: &Reading) -> Vec<(Severity, String)> {
    reading.findings.iter().map(|finding| (finding.severity, finding.to_string())).collect()
}

#[test]
fn every_version_of_an_alb2_is_read_and_v1_has_no_config() {
    for (version, has_config) in [("v2beta1", true), ("v2", true), ("v1", false)] {
        let text = format!(
            "apiVersion: crd.alauda.io/{version}\nkind: ALB2\nmetadata: {{name: demo, namespace: cpaas-system}}\n\
             spec: {{address: 192.0.2.1, type: nginx, config: {{replicas: 2, enableIPV6: \"false\"}}}}\n"
        );
        let reading = read_str("a.yaml", &text);
        let [(Object::Alb2(alb), _)] = &reading.objects[..] else { panic!("{version}: {reading:?}") };
        assert_eq!((alb.spec.config.is_some(), alb.effective().replicas), (has_config, if has_config { 2 } else { 3 }));
        // A v1 object never had a config: its field is not known.
        assert_eq!(told(&reading).len(), usize::from(!has_config), "{version}: {:?}", told(&reading));
    }
}

#[test]
fn an_unknown_field_is_a_warning_and_a_broken_one_an_error_at_its_line() {
    let rule = |more: &str| {
        format!(
            "apiVersion: crd.alauda.io/v1\nkind: Rule\nmetadata: {{name: r, namespace: a}}\nspec:\n  priority: 4\n{more}"
        )
    };
    let reading = read_str("a.yaml", &rule("  colour: red\n"));
    assert!(matches!(&reading.objects[..], [(Object::Rule(_), _)]), "{reading:?}");
    let [(Severity::Warning, text)] = &told(&reading)[..] else { panic!("{:?}", told(&reading)) };
    assert!(text.starts_with("a.yaml:6: Rule a/r: spec.colour: "), "{text}");
    for (more, place) in [
        ("  dslx:\n  - type: 7\n", "a.yaml:7: Rule a/r: spec.dslx[0].type: "),
        ("  certificate_name: a/b/c\n", "a.yaml:6: Rule a/r: spec.certificate_name: "),
        (
            "  config:\n    timeout:\n      proxy_read_timeout_ms: -1\n",
            "a.yaml:8: Rule a/r: spec.config.timeout.proxy_read_timeout_ms: ",
        ),
    ] {
        let reading = read_str("a.yaml", &rule(more));
        let [(Severity::Error, text)] = &told(&reading)[..] else { panic!("{more}: {:?}", told(&reading)) };
        assert!(text.starts_with(place) && reading.objects.is_empty(), "{text}");
    }
}

#[test]
fn frontends_and_timeout_policies_are_read_and_other_groups_have_kinds_of_their_own() {
    let reading = read_str(
        "a.yaml",
        "apiVersion: crd.alauda.io/v1
kind: Frontend
metadata: {name: demo-00080, labels: {alb2.cpaas.io/name: demo}}
spec: {port: 80, protocol: http, certificate_name: ''}
---
apiVersion: gateway.crd.alauda.io/v1alpha1
kind: TimeoutPolicy
metadata: {name: t}
spec: {targetRef: {kind: Gateway, name: g}, default: {proxy_read_timeout_ms: 1}}
---
apiVersion: rules.example.org/v1
kind: Rule
metadata: {name: other}
",
    );
    let kinds: Vec<String> = reading.objects.iter().map(|(object, _)| object.key().to_string()).collect();
    assert_eq!(kinds, ["Frontend default/demo-00080", "TimeoutPolicy default/t"]);
    assert!(matches!(&told(&reading)[..], [(Severity::Info, _)]), "{:?}", told(&reading));
    assert_eq!(reading.unknown_kinds.len(), 1);
}
