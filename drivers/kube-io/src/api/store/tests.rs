use headwater_model::observed::Observed;
use headwater_model::origin::Kind;
use serde_json::json;

use super::super::parse::Parser;
use super::*;
use crate::api::slim::Reader;

fn object(kind: Kind, namespace: &str, name: &str, spec: serde_json::Value) -> Item {
    let metadata = json!({ "name": name, "namespace": namespace, "resourceVersion": "1" });
    Parser::new(kind, false, Reader::Gateway).item(&json!({ "metadata": metadata, "spec": spec }).to_string()).unwrap()
}

fn ingress(namespace: &str, name: &str, class: &str) -> Item {
    object(Kind::Ingress, namespace, name, json!({ "ingressClassName": class }))
}

fn broken(namespace: &str, name: &str) -> Item {
    let item = object(Kind::Ingress, namespace, name, json!({ "rules": "none" }));
    assert!(item.object.is_err());
    item
}

fn all() -> Scope {
    Scope::whole(Kind::Ingress, "")
}

/// What changed, as `+shop/web headwater` and `-shop/web`.
fn told(store: &mut Store) -> Vec<String> {
    let (changes, _) = store.take();
    changes
        .iter()
        .map(|change| match change {
            Change::Set(Object::Ingress(ingress)) => {
                format!("+{} {}", ingress.id(), ingress.spec.ingress_class_name.as_deref().unwrap_or_default())
            }
            Change::Set(object) => format!("+{}", object.key()),
            Change::Removed(key) => format!("-{}", key.id),
        })
        .collect()
}

#[test]
fn a_list_replaces_what_its_scope_held_and_nothing_else() {
    let mut store = Store::default();
    store.list(&Scope::whole(Kind::Ingress, "a"), vec![ingress("a", "x", "1"), ingress("a", "y", "1")]);
    store.list(&Scope::whole(Kind::Ingress, "b"), vec![ingress("b", "x", "1")]);
    assert_eq!(told(&mut store), ["+a/x 1", "+a/y 1", "+b/x 1"]);
    store.list(&Scope::whole(Kind::Ingress, "a"), vec![ingress("a", "y", "2"), ingress("a", "z", "1")]);
    assert_eq!(told(&mut store), ["-a/x", "+a/y 2", "+a/z 1"]);
}

#[test]
fn what_did_not_change_is_not_told_and_stays_the_same_object() {
    let mut store = Store::default();
    store.list(&all(), vec![ingress("a", "x", "1")]);
    let (first, _) = store.take();
    store.list(&all(), vec![ingress("a", "x", "1")]);
    store.event(&all(), Event::Set(ingress("a", "x", "1")));
    assert!(!store.is_touched());
    store.event(&all(), Event::Set(ingress("a", "x", "2")));
    store.event(&all(), Event::Set(ingress("a", "x", "1")));
    assert_eq!(told(&mut store), [""; 0]);
    let Change::Set(Object::Ingress(before)) = &first[0] else { panic!("{first:?}") };
    assert_eq!(before.spec.ingress_class_name.as_deref(), Some("1"));
}

#[test]
fn changes_since_the_last_batch_become_one() {
    let mut store = Store::default();
    store.event(&all(), Event::Set(ingress("a", "x", "1")));
    store.event(&all(), Event::Set(ingress("a", "x", "2")));
    store.event(&all(), Event::Set(ingress("a", "y", "1")));
    store.event(&all(), Event::Gone(ingress("a", "y", "1").key));
    assert_eq!(told(&mut store), ["+a/x 2"]);
    store.event(&all(), Event::Gone(ingress("a", "x", "2").key));
    store.event(&all(), Event::Set(ingress("a", "x", "3")));
    assert_eq!(told(&mut store), ["+a/x 3"]);
}

#[test]
fn a_broken_version_leaves_the_last_good_one_until_it_is_mended_or_deleted() {
    let mut store = Store::default();
    store.list(&all(), vec![ingress("a", "x", "1"), broken("a", "y")]);
    assert_eq!(told(&mut store), ["+a/x 1"]);
    store.event(&all(), Event::Set(broken("a", "x")));
    assert_eq!(told(&mut store), [""; 0]);
    let findings = store.findings();
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "Ingress a/x: spec.rules: \"none\" is a string, not a list; the version read before stays",
            "Ingress a/y: spec.rules: \"none\" is a string, not a list",
        ]
    );
    // A list names it, so it is not gone.
    store.list(&all(), vec![broken("a", "x"), broken("a", "y")]);
    assert_eq!((told(&mut store), store.findings()), (vec![], findings));
    store.event(&all(), Event::Set(ingress("a", "x", "2")));
    store.event(&all(), Event::Gone(broken("a", "y").key));
    assert_eq!((told(&mut store), store.findings()), (vec!["+a/x 2".to_owned()], vec![]));
    store.event(&all(), Event::Set(broken("a", "x")));
    store.event(&all(), Event::Gone(broken("a", "x").key));
    assert_eq!((told(&mut store), store.findings()), (vec!["-a/x".to_owned()], vec![]));
}

#[test]
fn findings_without_end_are_counted() {
    let mut store = Store::default();
    store.list(&all(), (0..MAX_FINDINGS + 5).map(|i| broken("a", &format!("x{i:05}"))).collect());
    let findings = store.findings();
    assert_eq!(findings.len(), MAX_FINDINGS + 1);
    assert_eq!(findings[MAX_FINDINGS].to_string(), "5 more objects are not valid");
}

#[test]
fn only_objects_in_selected_namespaces_count_but_for_those_asked_for_by_name() {
    let namespaces = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<BTreeSet<Arc<str>>>();
    let mut store = Store::default();
    store.select(namespaces(&["a"]));
    store.list(&all(), vec![ingress("a", "x", "1"), ingress("b", "x", "1"), broken("b", "y")]);
    let config = object(Kind::ConfigMap, "b", "settings", json!({}));
    store.list(&Scope::one(&config.key), vec![config.clone()]);
    let class = object(Kind::IngressClass, "", "c", json!({}));
    store.list(&Scope::whole(Kind::IngressClass, ""), vec![class]);
    assert_eq!(told(&mut store), ["+ConfigMap b/settings", "+IngressClass c", "+a/x 1"]);
    assert_eq!(store.findings(), []);
    store.select(namespaces(&["b"]));
    assert_eq!(told(&mut store), ["-a/x", "+b/x 1"]);
    assert_eq!(store.findings().len(), 1);
    store.event(&all(), Event::Set(ingress("a", "x", "2")));
    assert_eq!(told(&mut store), [""; 0]);
}

#[test]
fn a_single_object_that_is_dropped_is_removed_alone() {
    let secret = |name| object(Kind::Secret, "a", name, json!({}));
    let mut store = Store::default();
    for name in ["x", "xx"] {
        store.list(&Scope::one(&secret(name).key), vec![secret(name)]);
    }
    store.take();
    store.clear(&Scope::one(&secret("x").key));
    assert_eq!(told(&mut store), ["-a/x"]);
    store.list(&Scope::one(&secret("xx").key), Vec::new());
    assert_eq!(told(&mut store), ["-a/xx"]);
}

#[test]
fn what_the_server_says_about_an_object_is_told_apart_from_the_object() {
    let with = |uid: &str| {
        let observed = Some(Arc::new(Observed { uid: uid.into(), ..Observed::default() }));
        Item { observed, ..ingress("a", "x", "1") }
    };
    let observed = |store: &mut Store| {
        let (changes, observed) = store.take();
        let uids = observed.into_iter().map(|(_, observed)| observed.map(|observed| observed.uid.to_string()));
        (changes.len(), uids.collect::<Vec<_>>())
    };
    let mut store = Store::default();
    store.event(&all(), Event::Set(with("1")));
    assert_eq!(observed(&mut store), (1, vec![Some("1".to_owned())]));
    store.event(&all(), Event::Set(with("2")));
    assert_eq!(observed(&mut store), (0, vec![Some("2".to_owned())]));
    store.event(&all(), Event::Gone(with("2").key));
    assert_eq!(observed(&mut store), (1, vec![None]));
}
