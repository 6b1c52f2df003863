//! What would be wrong if an object were changed: asked before it is stored.

use std::collections::HashSet;

use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::{Finding, Severity};
use headwater_model::metallb::judge::{OVERLAP, in_use, is_judged};
use headwater_translate::Translator;

/// What a change would do to findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consequences {
    /// What would be wrong with the object itself.
    pub own: Vec<Finding>,
    /// What others would lose to it.
    pub others: Vec<Finding>,
}

/// Translates with the change, and then without it again: afterwards everything is as it was.
///
/// Costs what the change costs, twice.
pub(crate) fn what_if(cluster: &mut Cluster, translator: &mut Translator, change: &Change, now: i64) -> Consequences {
    let key = change.key();
    if let Change::Removed(_) = change {
        // Nobody but who needs it misses it.
        return Consequences { own: in_use(cluster, &key).into_iter().collect(), others: Vec::new() };
    }
    let undo = cluster.get(&key).map_or_else(|| Change::Removed(key.clone()), Change::Set);
    // Nothing changed: only to look at the findings.
    let before = translator.apply(cluster, &[], now).findings;
    cluster.apply(change);
    let after = translator.apply(cluster, std::slice::from_ref(&key), now).findings;
    cluster.apply(&undo);
    translator.apply(cluster, std::slice::from_ref(&key), now);
    let is_own = |finding: &&Finding| finding.object.as_ref() == Some(&key);
    let is_conflict = |finding: &&Finding| ["Conflict", OVERLAP].contains(&finding.reason) && !is_own(finding);
    // What one of them makes wrong with another is its own fault, since it came last.
    let is_fault = |finding: &&Finding| {
        let about = finding.object.as_ref();
        !is_own(finding)
            && finding.severity == Severity::Error
            && is_judged(key.kind)
            && about.is_some_and(|about| is_judged(about.kind))
    };
    let known: HashSet<&Finding> = before.iter().filter(|finding| is_conflict(finding) || is_fault(finding)).collect();
    let new = |finding: &&Finding| !known.contains(finding);
    let mut own: Vec<Finding> = after.iter().filter(is_own).cloned().collect();
    own.extend(after.iter().filter(is_fault).filter(new).map(|finding| {
        let about = finding.object.as_ref().map(ToString::to_string).unwrap_or_default();
        let message = format!("{about}: {}", finding.message);
        Finding { object: Some(key.clone()), field: String::new(), location: None, message, ..finding.clone() }
    }));
    let others = after.iter().filter(|finding| is_conflict(finding) && !is_fault(finding)).filter(new);
    Consequences { own, others: others.cloned().collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headwater_kube_io::read_str;
    use headwater_model::origin::{Kind, ObjectKey};
    use headwater_translate::Options;

    use super::*;

    const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {rules: [{host: shop.example, http: {paths: [{path: /old, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: young, namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z'}
spec: {rules: [{host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
";

    fn ingress(name: &str, created: &str, path: &str) -> Change {
        let text =
            CLUSTER.split("---").nth(1).unwrap().replace("name: old", &format!("name: {name}")).replace("/old", path);
        let reading = read_str("a.yaml", &text.replace("2026-01-01", created));
        Change::Set(reading.objects[0].0.clone())
    }

    #[test]
    fn a_question_tells_its_consequences_and_leaves_no_trace() {
        let mut cluster = Cluster::default();
        for (object, _) in &read_str("all.yaml", CLUSTER).objects {
            cluster.apply(&Change::Set(object.clone()));
        }
        let mut translator = Translator::new(Options::embedded());
        let first = translator.apply(&cluster, &[], 0);

        let good = what_if(&mut cluster, &mut translator, &ingress("new", "2026-03-01", "/new"), 0);
        assert_eq!(good, Consequences::default());
        let late = what_if(&mut cluster, &mut translator, &ingress("new", "2026-03-01", "/"), 0);
        assert!(matches!(&late.own[..], [finding] if finding.reason == "Conflict"), "{late:?}");
        let moved = what_if(&mut cluster, &mut translator, &ingress("old", "2026-01-01", "/"), 0);
        let robbed = ObjectKey::new(Kind::Ingress, "shop", "young");
        assert!(moved.own.is_empty(), "{moved:?}");
        assert!(matches!(&moved.others[..], [finding] if finding.object.as_ref() == Some(&robbed)), "{moved:?}");
        let gone = what_if(&mut cluster, &mut translator, &Change::Removed(robbed), 0);
        assert_eq!(gone, Consequences::default());

        let last = translator.apply(&cluster, &[], 0);
        assert_eq!(first.findings, last.findings);
        let hosts = |translation: &headwater_translate::Translation| {
            translation.snapshot.listeners.iter().map(|listener| Arc::clone(&listener.routes)).collect::<Vec<_>>()
        };
        assert_eq!(format!("{:?}", hosts(&first)), format!("{:?}", hosts(&last)));
    }
}
