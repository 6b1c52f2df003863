//! Whether the pages say what the code does.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use headwater_model::settings::{GatewaySettingsSpec, ListenerBackendSpec, ListenerProtocol, ListenerSpec};
use headwater_translate::Options;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The part of a page below a heading, up to the next heading.
fn below<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split_once("\n#").map_or(rest, |(part, _)| part)
}

/// What stands in backquotes in the first column of a table, or anywhere in other text.
fn quoted(text: &str, first_column: bool) -> BTreeSet<String> {
    let parts = text.lines().filter(|line| line.starts_with('|') == first_column).map(|line| match first_column {
        true => line.split('|').nth(1).unwrap(),
        false => line,
    });
    let words = parts.flat_map(|part| part.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

/// Every field below a value, without lists' contents.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields_of) => {
            fields_of.iter().for_each(|(name, value)| fields(value, &format!("{path}.{name}"), found));
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn the_settings_page_names_every_field_and_no_other() {
    let mut expected = BTreeSet::new();
    fields(&serde_json::to_value(GatewaySettingsSpec::default()).unwrap(), "spec", &mut expected);
    let listener = ListenerSpec {
        name: String::new(),
        address: None,
        port: 0,
        protocol: ListenerProtocol::HTTP,
        client_address: None,
        backends: None,
        idle_timeout: None,
    };
    fields(&serde_json::to_value(listener).unwrap(), "spec.listeners[]", &mut expected);
    let backend = ListenerBackendSpec { service: String::new(), port: 0, weight: None };
    fields(&serde_json::to_value(backend).unwrap(), "spec.listeners[].backends[]", &mut expected);
    assert_eq!(quoted(&read("docs/settings.md"), true), expected);
}

/// Names that a list in the source of the translator has.
fn listed(path: &str) -> BTreeSet<String> {
    let source = read(path);
    let lines = source.lines().filter_map(|line| line.strip_prefix("    \"")?.strip_suffix("\","));
    lines.map(str::to_owned).collect()
}

/// The names of which `headwater check` does not say that they are not implemented.
fn obeyed(kind: &str, namespace: &str, name: &str, field: &str, pairs: &BTreeMap<String, &str>) -> BTreeSet<String> {
    let mut object = serde_json::json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}});
    match kind {
        "Ingress" => {
            object["apiVersion"] = "networking.k8s.io/v1".into();
            object["metadata"]["annotations"] = serde_json::to_value(pairs).unwrap();
            object["spec"] = serde_json::json!({});
        }
        _ => {
            object["apiVersion"] = "v1".into();
            object["data"] = serde_json::to_value(pairs).unwrap();
        }
    }
    let reading = headwater_kube_io::read_str("all.json", &object.to_string());
    assert_eq!(reading.objects.len(), 1, "{:#?}", reading.findings);
    let (findings, _) = headwater_control::check(reading, Options::embedded(), headwater_control::Extent::Whole);
    let warned: BTreeSet<&str> = findings
        .iter()
        .filter(|finding| finding.reason == "NotImplemented")
        .filter_map(|finding| finding.field.strip_prefix(field))
        .map(|name| name.trim_end_matches(']'))
        .collect();
    pairs.keys().filter(|name| !warned.contains(name.as_str())).cloned().collect()
}

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

#[test]
fn the_ingress_page_tells_obeyed_annotations_from_those_that_are_warned_of() {
    let page = read("docs/ingress.md");
    let known = listed("engines/translate/src/annotation_names.rs");
    let value = |name: &str| if name == "upstream-hash-by" { "$remote_addr" } else { "true" };
    let pairs = known.iter().map(|name| (format!("{PREFIX}{name}"), value(name))).collect();
    let obeyed: BTreeSet<String> = obeyed("Ingress", "a", "b", "metadata.annotations[", &pairs)
        .into_iter()
        .map(|name| name[PREFIX.len()..].to_owned())
        .collect();
    assert_eq!(quoted(below(&page, "### Obeyed"), true), obeyed);
    let refused = quoted(below(&page, "### Refused: protection that is missing"), false);
    let limits = quoted(below(&page, "### Warned of: limits that are missing, and details of protection"), false);
    let words = ["unavailable_guard", "false"].map(str::to_owned);
    let missing: BTreeSet<String> = refused.union(&limits).filter(|name| !words.contains(name)).cloned().collect();
    let idle = quoted(below(&page, "### Warned of: without effect"), false);
    assert!(missing.is_disjoint(&idle));
    let warned: BTreeSet<String> = missing.union(&idle).cloned().collect();
    assert_eq!(warned, known.difference(&obeyed).cloned().collect());
}

#[test]
fn the_ingress_page_tells_obeyed_keys_of_the_config_map_from_those_without_effect() {
    let page = read("docs/ingress.md");
    let known = listed("engines/translate/src/nginx_keys.rs");
    let pairs = known.iter().map(|name| (name.clone(), "true")).collect();
    let obeyed = obeyed("ConfigMap", "ingress-nginx", "ingress-nginx-controller", "data.", &pairs);
    assert_eq!(quoted(below(&page, "### Obeyed keys"), true), obeyed);
    assert_eq!(quoted(below(&page, "### Keys without effect"), false), known.difference(&obeyed).cloned().collect());
}

#[test]
fn links_between_the_papers_lead_somewhere() {
    let mut papers: Vec<PathBuf> =
        std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    papers.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)));
    papers.retain(|paper| paper.extension().is_some_and(|extension| extension == "md"));
    let mut broken = Vec::new();
    for paper in &papers {
        let text = std::fs::read_to_string(paper).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let aim = if file.is_empty() { paper.clone() } else { paper.parent().unwrap().join(file) };
            let is_there = |text: String| text.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            if !aim.exists() || (!heading.is_empty() && !std::fs::read_to_string(&aim).is_ok_and(is_there)) {
                broken.push(format!("{}: {target}", paper.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|char| char.is_alphanumeric() || matches!(char, '-' | '_')).collect()
}

/// Every query of a dashboard, with the variables as Grafana fills them in when nothing is chosen.
fn queries(dashboard: &Value) -> Vec<String> {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array());
    let filled = targets.flatten().map(|target| {
        variables.iter().fold(target["expr"].as_str().unwrap().replace("$__rate_interval", "30s"), |query, variable| {
            query.replace(&format!("\"${}\"", variable["name"].as_str().unwrap()), "\".*\"")
        })
    });
    filled.collect()
}

/// Names of metrics in a query or a rule file.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("metallb_") || word.starts_with("headwater_")).collect()
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = std::process::Command::new("promtool").args(arguments).arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_dashboard_and_the_alerts_of_addresses_ask_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/loadbalancer.json")).unwrap();
    let (queries, alerts) = (queries(&dashboard), read("deploy/prometheus/loadbalancer.yaml"));
    assert!(queries.len() > 20 && queries.iter().all(|query| !query.contains('$')), "{queries:#?}");
    let page = read("docs/metrics.md");
    let asked = queries
        .iter()
        .map(String::as_str)
        .chain(alerts.lines().filter(|line| line.contains("expr:") || line.contains(" by ")));
    let missing: BTreeSet<&str> = asked.flat_map(metrics).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, BTreeSet::new());
    // Prometheus itself reads each query.
    let rules = queries.iter().map(|query| serde_json::json!({"record": "query", "expr": query}));
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<Value>>()}]});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, rules.to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none"], &file);
}

#[test]
fn alerts_of_addresses_fire_at_what_they_are_for() {
    promtool(&["test", "rules"], &root().join("tests/house/prometheus/loadbalancer.yaml"));
}
