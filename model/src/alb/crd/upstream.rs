//! What the ALB's own definitions hold, in `upstream.txt`. Taken from the ALB's chart v3.19.0.

use serde_json::{Value, json};

use super::definitions;
use crate::upstream_schema::{assert_takes, ours_alone};

const FACTS: &str = include_str!("upstream.txt");

#[test]
fn whatever_the_albs_own_definitions_take_ours_take() {
    let fields = assert_takes(FACTS, &definitions());
    assert!(fields > 500, "{fields}");
}

#[test]
fn what_the_albs_own_definitions_do_not_have_is_known_by_name() {
    let expected = [
        "ALB2 v2beta1 spec.config.auth.enable",
        "ALB2 v2 spec.config.auth.enable",
        "Frontend v1 spec.config.auth.enable",
        "Rule v1 spec.config.auth.enable",
    ];
    assert_eq!(ours_alone(FACTS, &definitions()), expected);
}

#[test]
fn names_versions_and_columns_are_the_albs_own() {
    let shown: Vec<Value> = definitions()
        .iter()
        .map(|definition| {
            let spec = &definition["spec"];
            let versions: Vec<Value> = spec["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|version| {
                    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
                    let columns: Vec<String> = columns
                        .map(|column| format!("{} {}", column["name"], column["jsonPath"]).replace('"', ""))
                        .collect();
                    json!([version["name"], version["served"], version["storage"], version["subresources"], columns])
                })
                .collect();
            let names = &spec["names"];
            json!([
                definition["metadata"]["name"],
                names["kind"],
                names["listKind"],
                names["singular"],
                names["shortNames"],
                spec["scope"],
                spec["conversion"]["strategy"],
                versions
            ])
        })
        .collect();
    let columns = [
        "manually-address .spec.address",
        "allocated-address .status.detail.address.msg",
        "state .status.state",
        "reason .status.reason",
        "mode .spec.config.networkMode",
    ];
    let status = json!({"status": {}});
    #[rustfmt::skip]
    let expected = [
        json!(["alaudaloadbalancer2.crd.alauda.io", "ALB2", "ALB2List", "alaudaloadbalancer2", ["alb2"], "Namespaced", "None", [
            ["v1", true, false, status, []], ["v2beta1", true, true, status, columns], ["v2", true, false, status, columns],
        ]]),
        json!(["frontends.crd.alauda.io", "Frontend", "FrontendList", "frontend", ["ft"], "Namespaced", "None", [
            ["v1", true, true, status, ["protocol .spec.protocol"]],
        ]]),
        json!(["rules.crd.alauda.io", "Rule", "RuleList", "rule", ["rl"], "Namespaced", "None", [
            ["v1", true, true, {}, [
                "priority .spec.priority", "matches .spec.dsl", "source-type .spec.source.type",
                "source-ns .spec.source.namespace", "source-name .spec.source.name",
            ]],
        ]]),
        json!(["timeoutpolicies.gateway.crd.alauda.io", "TimeoutPolicy", "TimeoutPolicyList", "timeoutpolicy", ["timeout"],
            "Namespaced", "None", [["v1alpha1", true, true, status, []]]]),
    ];
    assert_eq!(shown, expected);
    assert_eq!(definitions()[0]["spec"]["versions"][0]["deprecated"], true);
}
