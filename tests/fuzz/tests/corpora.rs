//! Every input that ever was interesting goes through its target again.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use headwater_fuzz::TARGETS;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(path)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_of_every_corpus_keeps_the_promises_of_its_target() {
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let corpus = here("corpus").join(name);
        for file in names_in(&corpus) {
            let bytes = fs::read(corpus.join(&file)).unwrap();
            if catch_unwind(|| target(&bytes)).is_err() {
                broken.push(format!("fuzz/corpus/{name}/{file}"));
            }
        }
    }
    assert!(broken.is_empty(), "inputs that break a promise (the panics stand above): {broken:#?}");
}

#[test]
fn every_target_has_a_binary_and_a_corpus_and_nothing_else_has() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&here("corpus")), targets);
    let sources = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&here("fuzz_targets")), sources);
    let manifest = fs::read_to_string(here("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "Cargo.toml has no [[bin]] {name}");
        let inputs = names_in(&here("corpus").join(name)).len();
        assert!(inputs >= 10, "fuzz/corpus/{name} has {inputs} inputs; 10 are the least that is worth replaying");
    }
}

/// Versions by name, as a lock file has them.
fn locked(path: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(here(path)).unwrap();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = \""))).unwrap();
            line.trim_end_matches('"').to_owned()
        };
        versions.entry(field("name")).or_default().insert(field("version"));
    }
    versions
}

#[test]
fn the_corpora_are_replayed_with_the_versions_of_the_workspace() {
    let workspace = locked("../Cargo.lock");
    let differing: Vec<String> = locked("Cargo.lock")
        .into_iter()
        .filter_map(|(name, versions)| {
            let others = workspace.get(&name)?;
            (!versions.is_subset(others)).then(|| format!("{name}: {versions:?}, workspace {others:?}"))
        })
        .collect();
    assert!(differing.is_empty(), "copy the workspace's Cargo.lock to fuzz/, run cargo metadata there: {differing:#?}");
}
