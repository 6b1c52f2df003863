use std::future::pending;

use headwater_model::cluster::Object;
use serde_json::{Value, json};

use super::*;

/// Refuses every path that does not begin with a slash, misses every Service but `there`, and never answers for the host
/// `slow.test`.
struct Paths;

impl Judge for Paths {
    async fn judge(&self, candidate: Candidate) -> Vec<Finding> {
        let key = candidate.key();
        let Object::Ingress(ingress) = candidate.object else { return Vec::new() };
        let mut findings = Vec::new();
        for (index, rule) in ingress.spec.rules.iter().enumerate() {
            if rule.host.as_deref() == Some("slow.test") {
                pending::<()>().await;
            }
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let field = format!("spec.rules[{index}]");
                let text = path.path.as_deref().unwrap_or_default();
                if !text.starts_with('/') {
                    findings.push(
                        Finding::error("InvalidPath", key.clone(), format!("{text:?} is no path")).at(field.clone()),
                    );
                }
                if path.backend.service.as_ref().is_none_or(|service| service.name != "there") {
                    let message = format!("no Service for {text:?}");
                    findings.push(Finding::error("MissingReference", key.clone(), message).at(field));
                }
            }
        }
        findings
    }

    async fn removal(&self, key: ObjectKey) -> Vec<Finding> {
        match &*key.id.name {
            "used" => vec![Finding::error("InUse", key, "somebody uses it")],
            "slow" => pending().await,
            _ => Vec::new(),
        }
    }
}

fn reviewer(failure: Failure) -> Reviewer<Paths> {
    let metrics = AdmissionMetrics::register(&headwater_process::metrics::Registry::new());
    Reviewer::new(Paths, failure, Duration::from_secs(2), metrics)
}

fn ingress(paths: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = paths
        .iter()
        .map(|(path, service)| {
            json!({"host": "a.test", "http": {"paths": [{"path": path, "pathType": "Prefix",
                "backend": {"service": {"name": service, "port": {"number": 80}}}}]}})
        })
        .collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"rules": rules}})
}

fn review(operation: &str, object: Value, old: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"},
        "operation": operation, "userInfo": {"username": "admin"}, "object": object, "oldObject": old,
        "dryRun": false, "options": {"kind": "CreateOptions"}, "newField": [1]}})
}

async fn ask(reviewer: &Reviewer<Paths>, review: &Value) -> (Word, Value) {
    let (word, answer) = reviewer.review(review.to_string().as_bytes()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        (answer["apiVersion"].as_str(), answer["kind"].as_str()),
        (Some("admission.k8s.io/v1"), Some("AdmissionReview"))
    );
    assert_eq!(answer["response"]["uid"], "u-1");
    (word, answer["response"].clone())
}

#[tokio::test]
async fn the_judge_decides_and_old_faults_are_forgiven() {
    let reviewer = reviewer(Failure::Allow);
    let (good, bad) = (ingress(&[("/", "there")]), ingress(&[("/", "there"), ("no", "there")]));
    let moved = ingress(&[("no", "there"), ("/", "there")]);
    let worse = ingress(&[("no", "there"), ("nor", "there")]);
    let missing = ingress(&[("/", "missing")]);
    let mut leaving = bad.clone();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z".into();
    let mut newer = good.clone();
    newer["spec"]["rules"][0]["http"]["paths"][0]["timeout"] = "5s".into();
    let mut unnamed = bad.clone();
    unnamed["metadata"] = json!({"generateName": "web-"});
    for (operation, object, old, word, warnings) in [
        ("CREATE", &good, &Value::Null, Word::Allowed, 0),
        ("CREATE", &bad, &Value::Null, Word::Denied, 0),
        ("CREATE", &missing, &Value::Null, Word::Warned, 1),
        ("CREATE", &newer, &Value::Null, Word::Warned, 1),
        ("CREATE", &unnamed, &Value::Null, Word::Warned, 1),
        ("UPDATE", &bad, &good, Word::Denied, 0),
        ("UPDATE", &bad, &bad, Word::Warned, 1),
        ("UPDATE", &moved, &bad, Word::Warned, 1),
        ("UPDATE", &worse, &bad, Word::Denied, 1),
        ("UPDATE", &leaving, &good, Word::Allowed, 0),
        ("UPDATE", &bad, &json!("no object"), Word::Denied, 0),
        ("DELETE", &Value::Null, &bad, Word::Allowed, 0),
        ("CONNECT", &bad, &Value::Null, Word::Allowed, 0),
    ] {
        let (found, response) = ask(&reviewer, &review(operation, object.clone(), old.clone())).await;
        assert_eq!(found, word, "{operation} {object} {response:#}");
        assert_eq!(response["allowed"], word != Word::Denied, "{response:#}");
        assert_eq!(response["warnings"].as_array().map_or(0, Vec::len), warnings, "{operation} {object} {response:#}");
    }
    let (_, response) = ask(&reviewer, &review("CREATE", bad.clone(), Value::Null)).await;
    assert_eq!(
        response["status"],
        json!({"status": "Failure", "code": 422, "reason": "Invalid",
            "message": "headwater refuses Ingress shop/web: spec.rules[1]: \"no\" is no path",
            "details": {"kind": "Ingress", "name": "web", "causes": [
                {"reason": "InvalidPath", "field": "spec.rules[1]", "message": "\"no\" is no path"}]}})
    );
    let mut status = review("UPDATE", bad, good);
    status["request"]["subResource"] = "status".into();
    assert_eq!(ask(&reviewer, &status).await.0, Word::Allowed);
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    let (word, response) = ask(&reviewer, &review("CREATE", other, Value::Null)).await;
    assert_eq!(word, Word::Warned);
    assert_eq!(response["warnings"], json!(["headwater does not judge objects of kind Deployment (apps/v1)"]));
}

#[tokio::test]
async fn a_fault_of_form_rejects_own_kinds_and_warns_of_others() {
    let reviewer = reviewer(Failure::Allow);
    let settings = json!({"apiVersion": "headwater.dev/v1alpha1", "kind": "GatewaySettings",
        "metadata": {"name": "edge", "namespace": "headwater"}, "spec": {"limits": {"headerCount": "many"}}});
    let (word, response) = ask(&reviewer, &review("CREATE", settings.clone(), Value::Null)).await;
    assert_eq!(word, Word::Denied);
    assert_eq!(response["status"]["details"]["causes"][0]["field"], "spec.limits.headerCount");
    assert_eq!(ask(&reviewer, &review("UPDATE", settings.clone(), settings)).await.0, Word::Warned);
    let mut strange = ingress(&[("/", "there")]);
    strange["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = "Regex".into();
    let (word, response) = ask(&reviewer, &review("CREATE", strange, Value::Null)).await;
    assert_eq!(word, Word::Warned, "{response:#}");
}

#[tokio::test(start_paused = true)]
async fn what_others_need_is_kept_and_everything_else_may_go() {
    let profile = |name: &str| {
        json!({"apiVersion": "metallb.io/v1beta1", "kind": "BFDProfile",
            "metadata": {"name": name, "namespace": "metallb-system"}, "spec": {}})
    };
    let removal = |name: &str| review("DELETE", Value::Null, profile(name));
    for (failure, name, word) in [
        (Failure::Allow, "used", Word::Denied),
        (Failure::Allow, "free", Word::Allowed),
        (Failure::Allow, "slow", Word::Late),
        (Failure::Deny, "slow", Word::Late),
    ] {
        let (found, response) = ask(&reviewer(failure), &removal(name)).await;
        assert_eq!(found, word, "{response:#}");
        let is_allowed = name == "free" || (name == "slow" && failure == Failure::Allow);
        assert_eq!(response["allowed"], is_allowed, "{response:#}");
    }
    let (_, response) = ask(&reviewer(Failure::Allow), &removal("used")).await;
    let message = "headwater refuses BFDProfile metallb-system/used: somebody uses it";
    assert_eq!(response["status"]["message"], message);
    let (word, _) = ask(&reviewer(Failure::Deny), &review("DELETE", Value::Null, Value::Null)).await;
    assert_eq!(word, Word::Allowed, "nothing says what goes");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_judged_in_time_is_decided_by_the_setting() {
    let mut slow = ingress(&[("/", "there")]);
    slow["spec"]["rules"][0]["host"] = "slow.test".into();
    let slow = review("CREATE", slow, Value::Null);
    let (word, response) = ask(&reviewer(Failure::Allow), &slow).await;
    assert_eq!((word, &response["allowed"]), (Word::Late, &json!(true)));
    assert_eq!(response["warnings"], json!(["headwater did not answer in time; this object was not judged"]));
    let (word, response) = ask(&reviewer(Failure::Deny), &slow).await;
    assert_eq!((word, &response["allowed"]), (Word::Late, &json!(false)));
    assert_eq!((&response["status"]["code"], &response["status"]["reason"]), (&json!(504), &json!("Timeout")));
}

#[tokio::test]
async fn what_is_no_review_is_refused_without_being_quoted() {
    let reviewer = reviewer(Failure::Allow);
    let mut v1beta1 = review("CREATE", json!({}), Value::Null);
    v1beta1["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut without = review("CREATE", json!({}), Value::Null);
    without["request"] = Value::Null;
    let mut nameless = review("CREATE", json!({}), Value::Null);
    nameless["request"]["uid"] = "".into();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, said) in [
        ("", "not an AdmissionReview"),
        ("hush", "not an AdmissionReview"),
        (deep.as_str(), "not an AdmissionReview"),
        (&v1beta1.to_string(), "not an AdmissionReview"),
        (&without.to_string(), "no request"),
        (&nameless.to_string(), "request.uid"),
    ] {
        let error = reviewer.review(body.as_bytes()).await.err().unwrap().to_string();
        assert!(error.contains(said) && !error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn an_object_of_any_depth_or_width_is_answered() {
    let reviewer = reviewer(Failure::Allow);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(1_000_000));
    for object in [deep, wide] {
        let body = format!(
            "{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{{\"uid\":\"u-1\",\
             \"operation\":\"CREATE\",\"object\":{object}}}}}"
        );
        let (word, _) = reviewer.review(body.as_bytes()).await.unwrap();
        assert_eq!(word, Word::Warned);
    }
}
