//! What comes out of manifests that hold.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use headwater_kube_io::{Reading, fuzz_read, read_dir, read_str};
use headwater_model::cluster::Object;
use headwater_model::origin::{Kind, ObjectKey};
use proptest::prelude::*;
use proptest::test_runner::Config;

fn told(reading: &Reading) -> Vec<String> {
    reading.findings.iter().map(ToString::to_string).collect()
}

fn names(reading: &Reading) -> Vec<String> {
    reading.objects.iter().map(|(object, location)| format!("{} {location}", object.key())).collect()
}

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: \"{value}\"}}\n")
}

fn data(reading: &Reading, name: &str) -> String {
    let key = ObjectKey::new(Kind::ConfigMap, "default", name);
    match reading.objects.iter().find(|(object, _)| object.key() == key) {
        Some((Object::ConfigMap(map), _)) => map.data["a"].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn documents_lists_and_json_all_give_objects() {
    let reading = read_str(
        "-",
        r#"# two documents and the lists of kubectl
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a, namespace: shop}
- apiVersion: v1
  kind: ConfigMapList
  items:
  - metadata: {name: b, namespace: ""}
---
apiVersion: networking.k8s.io/v1
kind: IngressList
items: []
---
{"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx", "namespace": "x"}}
"#,
    );
    assert_eq!(told(&reading), Vec::<String>::new());
    assert_eq!(
        names(&reading),
        ["Namespace shop -:2", "Service shop/a -:10", "ConfigMap default/b -:16", "IngressClass nginx -:22"]
    );

    let json = read_str("a.json", "{\"apiVersion\":\"v1\",\n\t\"kind\":\"Service\",\"metadata\":{\"name\":\"a\"}}\n{}");
    assert_eq!(names(&json), ["Service default/a a.json:1"]);
    assert_eq!(told(&json), ["a.json:3: kind: required field is missing"]);
}

#[test]
fn a_node_is_read_as_kubectl_prints_it() {
    let reading = read_str(
        "nodes.yaml",
        r#"apiVersion: v1
kind: Node
metadata:
  name: node-1.example.com
  uid: 6a8c
  resourceVersion: "7"
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {topology.kubernetes.io/zone: z1}
  annotations: {headwater.dev/tunnel: '{"address":"192.0.2.1"}'}
spec:
  podCIDR: 10.1.0.0/24
  podCIDRs: [10.1.0.0/24]
  providerID: kind://docker/node-1
  taints: [{key: a, effect: NoSchedule}]
  unschedulable: true
status:
  addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: node-1}]
  allocatable: {cpu: "2"}
  capacity: {cpu: "2"}
  conditions: [{type: Ready, status: "True", lastHeartbeatTime: "2026-01-01T00:00:00Z"}]
  daemonEndpoints: {kubeletEndpoint: {Port: 10250}}
  features: {supplementalGroupsPolicy: true}
  images: [{names: [a], sizeBytes: 1}]
  nodeInfo: {architecture: amd64}
  runtimeHandlers: [{name: runc, features: {userNamespaces: true}}]
"#,
    );
    assert_eq!(told(&reading), Vec::<String>::new());
    let [(Object::Node(node), _)] = &reading.objects[..] else { panic!("{reading:?}") };
    assert_eq!(
        (node.key().to_string(), &node.spec.pod_cidrs[..]),
        ("Node node-1.example.com".to_owned(), &["10.1.0.0/24".to_owned()][..])
    );
    assert_eq!(node.status.addresses[0].address, "192.0.2.1");
}

#[test]
fn null_reads_as_absent_and_anchors_as_copies() {
    let reading = read_str(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: &name web\n  labels: {app: *name}\n  annotations:\nspec:\n  type:\n  ports: null\nstatus:\n  loadBalancer: {}\n",
    );
    assert_eq!(told(&reading), Vec::<String>::new());
    let [(Object::Service(service), _)] = &reading.objects[..] else { panic!("{reading:?}") };
    assert_eq!(service.metadata.labels["app"], "web");
    assert!(service.spec.ports.is_empty());
}

#[test]
fn a_field_that_the_manifest_lacks_is_located_at_its_nearest_ancestor() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  annotations:\n    example.com/a: x\nspec:\n  rules:\n  - http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend:\n          service: {name: a, port: {number: 80}}\n";
    let reading = read_str("a.yaml", text);
    let key = ObjectKey::new(Kind::Ingress, "default", "web");
    for (field, line) in [
        ("", 1),
        ("metadata.annotations[example.com/a]", 6),
        ("metadata.annotations[example.com/b]", 5),
        ("spec.rules[0].http.paths[0].backend", 13),
        ("spec.rules[0].http.paths[0].backend.service.port.name", 14),
        ("spec.tls[0].secretName", 7),
    ] {
        assert_eq!(reading.locate(&key, field).unwrap().to_string(), format!("a.yaml:{line}"), "{field}");
    }
    assert_eq!(reading.locate(&ObjectKey::new(Kind::Ingress, "default", "other"), ""), None);
}

#[test]
fn the_first_of_two_manifests_for_one_object_counts() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::write(dir.path().join("b/c.yaml"), config_map("x", "third")).unwrap();
    fs::write(dir.path().join("a.yml"), config_map("x", "first") + "---\n" + &config_map("x", "second")).unwrap();
    let reading = read_dir(dir.path());
    assert_eq!(data(&reading, "x"), "first");
    let mend = "this object stands in a.yml:1 too, and that one counts (mend: remove or rename one of the two)";
    assert_eq!(
        told(&reading),
        [format!("a.yml:6: ConfigMap default/x: {mend}"), format!("b/c.yaml:1: ConfigMap default/x: {mend}")]
    );
}

#[test]
fn a_mounted_config_map_is_read_once_through_its_links() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("..2025_01_01/sub")).unwrap();
    fs::write(root.join("..2025_01_01/a.yaml"), config_map("a", "1")).unwrap();
    fs::write(root.join("..2025_01_01/sub/b.yaml"), config_map("b", "2")).unwrap();
    symlink("..2025_01_01", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    symlink("..data/sub", root.join("sub")).unwrap();
    let reading = read_dir(root);
    assert_eq!(told(&reading), Vec::<String>::new());
    assert_eq!(names(&reading), ["ConfigMap default/a a.yaml:1", "ConfigMap default/b sub/b.yaml:1"]);
}

#[test]
fn hidden_foreign_and_dangling_names_and_loops_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in [".hidden.yaml", "a.yaml~", "a.yaml.swp", "README.md", "a.txt"] {
        fs::write(root.join(name), "not: [valid").unwrap();
    }
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::write(root.join(".git/a.yaml"), "not: [valid").unwrap();
    fs::create_dir_all(root.join("d.yaml/e")).unwrap();
    symlink("..", root.join("d.yaml/up")).unwrap();
    symlink(".", root.join("self")).unwrap();
    symlink("loop.yaml", root.join("loop.yaml")).unwrap();
    symlink("nowhere", root.join("gone.yaml")).unwrap();
    fs::write(root.join("d.yaml/e/x.yaml"), config_map("x", "1")).unwrap();
    fs::hard_link(root.join("d.yaml/e/x.yaml"), root.join("y.yaml")).unwrap();
    let reading = read_dir(root);
    assert_eq!(names(&reading), ["ConfigMap default/x d.yaml/e/x.yaml:1"]);
    let told = told(&reading);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("loop.yaml cannot be read ("), "{told:?}");
}

#[test]
fn files_beyond_the_limits_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::File::create(root.join("huge.yaml")).unwrap().set_len((16 << 20) + 1).unwrap();
    fs::write(root.join("latin1.yaml"), b"a: b\n# caf\xe9\n").unwrap();
    let mut deep = root.to_path_buf();
    for _ in 0..40 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("x.yaml"), config_map("x", "1")).unwrap();
    let reading = read_dir(root);
    assert!(reading.objects.is_empty());
    let prefix = "d/".repeat(33);
    assert_eq!(
        told(&reading),
        [
            format!("directory {prefix} is nested deeper than 32 levels; it is not read"),
            "huge.yaml:1: the file is larger than 16777216 bytes".to_owned(),
            "latin1.yaml:1: the file is not UTF-8 (line 2)".to_owned(),
        ]
    );
}

#[test]
fn more_objects_than_the_limit_are_refused_file_by_file() {
    let items = "- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n".repeat(60_000);
    let dir = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml"] {
        fs::write(dir.path().join(file), format!("apiVersion: v1\nkind: List\nitems:\n{items}")).unwrap();
    }
    let findings = read_dir(dir.path()).findings;
    let refused: Vec<_> = findings.iter().filter(|finding| finding.reason == "TooManyObjects").collect();
    let [refused] = refused[..] else { panic!("{refused:?}") };
    assert_eq!(
        refused.to_string(),
        "b.yaml:1: with this file the directory has more than 100000 objects; it is not read"
    );
}

#[test]
fn a_file_and_a_missing_directory_can_be_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.yaml");
    fs::write(&path, config_map("x", "1")).unwrap();
    assert_eq!(names(&read_dir(&path)), ["ConfigMap default/x x.yaml:1"]);
    let reading = read_dir(dir.path().join("none"));
    assert_eq!(
        told(&reading),
        ["the directory cannot be read (no such file or directory); what was read from it before stays"]
    );
}

#[test]
fn five_thousand_files_are_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..5000 {
        fs::write(dir.path().join(format!("{n:04}.yaml")), config_map(&format!("c{n}"), "1")).unwrap();
    }
    let start = Instant::now();
    let reading = read_dir(dir.path());
    println!("5,000 files read in {:?}", start.elapsed());
    assert_eq!((reading.objects.len(), reading.findings.len()), (5000, 0));
}

proptest! {
    // Faults found are added to the tables as cases, not to a file of seeds.
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..512)) {
        fuzz_read(&data);
    }

    #[test]
    fn no_text_near_yaml_makes_the_reader_panic(
        text in "([a-z]{1,3}: |- |\\[|\\]|\\{|\\}|\\n( ){0,4}|&a |\\*a|<<: |\"|'|, |---\\n|kind: Ingress\\n|apiVersion: networking.k8s.io/v1\\n|metadata: \\{name: a\\}\\n|spec:|[|>]-?\\n|!!str |# |%|é|\\\\u00|[0-9-]){0,40}"
    ) {
        fuzz_read(text.as_bytes());
    }

    #[test]
    fn any_value_in_any_field_is_read_or_refused_with_its_place(
        field in "(metadata|spec|data|type|status)(\\.[a-z]{1,4}){0,2}",
        value in "(~|true|[0-9]{1,20}|-?[0-9]\\.[0-9]e[0-9]{1,3}|\\[\\]|\\{\\}|\\[a, 1\\]|\"\\PC{0,5}\")",
        kind in 0..Kind::ALL.len(),
    ) {
        let kind = Kind::ALL[kind];
        let mut nested = String::new();
        for step in field.split('.') {
            nested.push_str(&format!("{step}: {{"));
        }
        let nested = format!("{} {value}{}", nested.trim_end_matches('{'), "}".repeat(field.matches('.').count()));
        let text = format!("apiVersion: {}\nkind: {kind}\nmetadata: {{name: a}}\n{nested}\n", kind.api_version());
        let reading = read_str("a.yaml", &text);
        prop_assert!(reading.objects.len() + reading.findings.len() >= 1, "{text}");
        for finding in &reading.findings {
            prop_assert!(finding.location.is_some(), "{finding}");
        }
    }
}
