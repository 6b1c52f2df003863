//! Translates what was read once, without running anything.

use headwater_kube_io::{Reading, UnknownKind};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::Kind;
use headwater_translate::{Options, Translator, is_about_secrets};

use crate::findings::located;
use crate::{Findings, clock};

/// How much of a cluster was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All that counts: what is not there does not exist.
    Whole,
    /// Perhaps some kinds only: what is named of a kind that nothing was read of may well exist.
    Part,
}

/// Every finding, and the kinds that nobody reads.
pub fn check(reading: Reading, options: Options, extent: Extent) -> (Findings, Vec<UnknownKind>) {
    let mut cluster = Cluster::default();
    let mut keys = Vec::with_capacity(reading.objects.len());
    for (object, _) in &reading.objects {
        keys.push(object.key());
        cluster.apply(&Change::Set(object.clone()));
    }
    let translation = Translator::new(options).apply(&cluster, &keys, clock::now());
    let translated = translation.findings.iter().cloned().map(|finding| located(finding, |k, f| reading.locate(k, f)));
    let mut findings: Vec<Finding> = reading.findings.iter().cloned().chain(translated).collect();
    if extent == Extent::Part {
        let refused: Vec<Kind> =
            reading.findings.iter().filter_map(|found| Some(found.object.as_ref()?.kind)).collect();
        for (kind, follows) in UNREAD {
            let read = keys.iter().any(|key| key.kind == kind) || refused.contains(&kind);
            let before = findings.len();
            findings.retain(|finding| read || !follows(finding));
            if findings.len() < before {
                findings.push(not_given(kind));
            }
        }
    }
    (Findings::new(findings), reading.unknown_kinds)
}

/// Whether a finding is there only because nothing of a kind was read.
type Follows = fn(&Finding) -> bool;

/// Kinds that may be missing from a part of a cluster.
const UNREAD: [(Kind, Follows); 3] = [
    (Kind::Service, |finding| finding.reason == "MissingReference" && finding.field.ends_with("ackend")),
    (Kind::EndpointSlice, |finding| finding.reason == "NoEndpoints"),
    (Kind::Secret, |finding| finding.reason == "MissingReference" && is_about_secrets(finding)),
];

fn not_given(kind: Kind) -> Finding {
    Finding {
        severity: Severity::Info,
        reason: "NotGiven",
        object: None,
        location: None,
        field: String::new(),
        message: format!("no {kind} was given, so that references to them are not checked"),
        mend: "kubectl get ingressclass,ingress,service,endpointslice,secret,cm -A -o yaml".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use headwater_kube_io::read_str;

    use super::*;

    const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  tls: [{hosts: [shop.example], secretName: cert}]
  rules: [{host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
";
    const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: shop}
spec: {ports: [{port: 80}]}
";

    #[test]
    fn what_is_missing_from_a_part_is_not_called_missing() {
        let reasons = |text: &str, extent: Extent| -> Vec<(Severity, &'static str)> {
            let (findings, _) = check(read_str("a.yaml", text), Options::embedded(), extent);
            let told = findings.iter().filter(|finding| finding.reason != "NoIngressClass");
            told.map(|finding| (finding.severity, finding.reason)).collect()
        };
        let missing = (Severity::Error, "MissingReference");
        let unknown = (Severity::Info, "NotGiven");
        assert_eq!(reasons(INGRESS, Extent::Whole), [missing, missing]);
        assert_eq!(reasons(INGRESS, Extent::Part), [unknown, unknown]);
        let other = SERVICE.replace("NAME", "other");
        assert_eq!(reasons(&format!("{INGRESS}{other}"), Extent::Part), [missing, unknown], "Services were given");
        let right = SERVICE.replace("NAME", "web");
        assert_eq!(reasons(&format!("{INGRESS}{right}"), Extent::Part), [unknown, unknown], "but no EndpointSlices");
    }
}
