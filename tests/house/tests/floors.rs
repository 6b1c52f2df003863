//! Who may depend on whom: `bin -> planes -> {process, drivers, engines} -> model`, siblings never.

#![allow(clippy::unwrap_used, reason = "what cannot be read of the project fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A package of the workspace: its folder, and what it is built with (development dependencies are not).
struct Package {
    name: String,
    folder: String,
    dependencies: Vec<String>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = root();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            folder: Path::new(package["manifest_path"].as_str().unwrap())
                .parent()
                .unwrap()
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            dependencies: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        })
        .collect()
}

fn floor(folder: &str) -> &str {
    folder.split('/').next().unwrap()
}

/// What each floor may be built with.
fn below(floor: &str) -> &'static [&'static str] {
    match floor {
        "model" => &[],
        "engines" | "drivers" | "process" => &["model"],
        "planes" => &["process", "drivers", "engines", "model"],
        "bin" => &["planes", "process", "drivers", "engines", "model"],
        // Tests and measurements look at everything; nothing is built with them.
        "testkit" | "tests" | "bench" | "fuzz" => &["planes", "process", "drivers", "engines", "model", "testkit"],
        other => panic!("floor {other} is not drawn in ARCHITECTURE.md"),
    }
}

#[test]
fn every_dependency_points_down() {
    let packages = packages();
    let mut wrong = Vec::new();
    for package in &packages {
        let allowed = below(floor(&package.folder));
        for dependency in &package.dependencies {
            let Some(target) = packages.iter().find(|other| other.name == *dependency) else { continue };
            if !allowed.contains(&floor(&target.folder)) {
                wrong.push(format!("{} -> {}", package.folder, target.folder));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies that do not point down: {wrong:#?}");
}

#[test]
fn only_its_owner_names_a_library_of_the_outside() {
    let owners: &[(&str, &[&str])] = &[
        // The tests' kubelet is a peer of its own.
        ("kube", &["drivers/kube-io", "testkit"]),
        ("notify", &["drivers/kube-io"]),
        ("netlink-*", &["drivers/nft", "drivers/netlink"]),
        ("saphyr-parser", &["drivers/kube-io"]),
        ("hyper", &["process"]),
        ("prometheus-client", &["process"]),
        // whoami is a server of its own, translate checks that key and certificate belong together.
        ("rustls", &["drivers/net-io", "engines/translate", "planes/whoami", "testkit", "bench"]),
        // Passwords are hashed in one place.
        ("bcrypt", &["engines/auth"]),
        ("md-5", &["engines/auth"]),
        // Endpoints are named by hashes, in cookies; nodes are elected by hashes.
        ("sha2", &["engines/auth", "engines/balance", "engines/l2"]),
        // Only what checks us speaks OTLP with the types of others.
        ("opentelemetry-proto", &["testkit"]),
        ("prost", &["testkit"]),
        ("tokio", &["drivers/*", "process", "planes/*", "bin/*", "testkit", "bench", "tests/*"]),
        ("anyhow", &["bin/*", "testkit", "tests/*", "bench"]),
    ];
    let fits = |folder: &str, owner: &str| match owner.strip_suffix("/*") {
        Some(floor) => folder.starts_with(&format!("{floor}/")),
        None => folder == owner,
    };
    let mut wrong = Vec::new();
    for package in packages() {
        for (library, owners) in owners {
            let names = package.dependencies.iter().any(|dependency| match library.strip_suffix('*') {
                Some(start) => dependency.starts_with(start),
                None => dependency == library,
            });
            if names && !owners.iter().any(|owner| fits(&package.folder, owner)) {
                wrong.push(format!("{} names {library}", package.folder));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn packages_are_named_after_their_folders() {
    for Package { name, folder, .. } in packages() {
        let last = folder.rsplit('/').next().unwrap();
        let expected = match (floor(&folder), last) {
            ("bin", last) => last.to_owned(),
            ("tests", "lab" | "conformance" | "cluster" | "services" | "fuzz") => format!("headwater-{last}-tests"),
            (_, last) => format!("headwater-{last}"),
        };
        assert_eq!(name, expected, "{folder}");
    }
}

/// Words in backquotes that look like paths of this project.
fn paths_named_in(text: &str) -> BTreeSet<String> {
    const FLOORS: [&str; 13] = [
        "bin/",
        "planes/",
        "process/",
        "drivers/",
        "engines/",
        "model/",
        "testkit/",
        "tests/",
        "fuzz/",
        "bench/",
        "examples/",
        "docs/",
        "deploy/",
    ];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| FLOORS.iter().any(|floor| word.starts_with(floor)) && !word.contains([' ', '*', '<', '{']))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_papers_name_what_exists() {
    let root = root();
    let mut papers = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    papers.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut missing = Vec::new();
    for paper in papers.iter().filter(|paper| paper.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(paper).unwrap_or_else(|error| panic!("{}: {error}", paper.display()));
        missing.extend(
            paths_named_in(&text)
                .into_iter()
                .filter(|path| !root.join(path.trim_end_matches('/')).exists())
                .map(|path| format!("{}: {path}", paper.display())),
        );
    }
    assert!(missing.is_empty(), "papers name what is not there: {missing:#?}");
}
