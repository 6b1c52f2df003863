//! Whether the program understands what the installation tells it.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn help(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_headwater")).args(arguments).arg("--help").output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// The lists below each `args:` of manifests in block style.
fn arguments(manifests: &str) -> Vec<Vec<&str>> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut within = false;
    for line in manifests.lines().map(str::trim) {
        match line.strip_prefix("- ") {
            _ if line == "args:" => {
                within = true;
                found.push(Vec::new());
            }
            Some(argument) if within => found.last_mut().unwrap().push(argument),
            _ => within = false,
        }
    }
    found
}

#[test]
fn rendered_manifests_give_arguments_that_are_understood() {
    let mut commands = BTreeSet::new();
    for file in ["manifests/headwater.yaml", "manifests/clear-status.yaml", "manifests/headwater-node.yaml"] {
        let manifests = read(file);
        for arguments in arguments(&manifests) {
            commands.insert(arguments[0].to_owned());
            // clap reads from the left, so that `--help` at the end only answers when all before it was taken.
            let (understood, text) = help(&arguments);
            assert!(understood, "{file}: {arguments:?}: {text}");
        }
    }
    assert_eq!(commands.into_iter().collect::<Vec<_>>(), ["controller", "gateway", "node"]);
}

#[test]
fn every_flag_that_the_chart_can_set_exists() {
    let flags = |file: &str| -> BTreeSet<String> {
        let text = read(&format!("helm/headwater/templates/{file}"));
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        let quoted = text.split("\"--").skip(1);
        let flags = lines.chain(quoted).map(|flag| flag.split(['=', ' ', '"']).next().unwrap().to_owned());
        flags.filter(|flag| !flag.contains('{')).collect()
    };
    for (command, files) in [
        ("gateway", &["gateway.yaml", "_helpers.tpl"][..]),
        ("controller", &["controller.yaml", "uninstall.yaml", "_helpers.tpl"]),
        ("node", &["node.yaml"]),
    ] {
        let (_, text) = help(&[command]);
        let known: BTreeSet<&str> = text.split(|char: char| char.is_whitespace() || "=,[".contains(char)).collect();
        for file in files {
            let flags = flags(file);
            assert!(!flags.is_empty(), "{file}");
            for flag in flags {
                assert!(known.contains(format!("--{flag}").as_str()), "{command} has no --{flag}, which {file} sets");
            }
        }
    }
}
