//! `headwater explain` as its users run it, and the page about it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs the words in the project's folder.
fn explain(words: &[&str], input: Option<&str>) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_remove("HEADWATER_LOG").current_dir(root()).arg("explain").args(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    stdin.write_all(input.unwrap_or_default().as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn text(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// Words of a command line, with single quotes.
fn words(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            found.push(part);
        } else {
            found.extend(part.split_whitespace());
        }
    }
    found
}

#[test]
fn the_page_shows_what_the_command_prints() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/explain.md"))?;
    let mut shown = 0;
    for block in page.split("```text\n$ headwater explain ").skip(1) {
        let (block, _) = block.split_once("```").context("the block ends")?;
        let (command, rest) = block.split_once('\n').context("a command has a line")?;
        // A command may go on after a backslash.
        let (command, expected) = match command.strip_suffix('\\') {
            Some(begin) => {
                let (more, rest) = rest.split_once('\n').context("the command goes on")?;
                (format!("{begin}{more}"), rest)
            }
            None => (command.to_owned(), rest),
        };
        let printed = text(&explain(&words(&command), None)?)?;
        ensure!(printed == expected, "docs/explain.md, {command}: the command prints\n{printed}");
        shown += 1;
    }
    ensure!(shown >= 3, "the page has {shown} examples");
    Ok(())
}

#[test]
fn json_has_every_hop_of_every_way() -> Result<()> {
    let asked = ["--from", "203.0.113.7", "tcp://203.0.113.10:80", "-f", "examples/explain", "--node", "node-1"];
    let json: Value = serde_json::from_str(&text(&explain(&[&asked[..], &["-o", "json"]].concat(), None)?)?)?;
    ensure!(json["question"]["target"] == "tcp://203.0.113.10:80", "{json:#}");
    let paths = json["answers"][0]["paths"].as_array().context("paths")?;
    let verdicts: Vec<&str> = paths.iter().filter_map(|path| path["verdict"]["kind"].as_str()).collect();
    ensure!(verdicts == ["kept", "lost"], "{json:#}");
    let hops = paths[0]["hops"].as_array().context("hops")?;
    ensure!(hops[0]["at"]["node"] == "node-1" && hops[0]["action"] == "tunnel", "{json:#}");
    ensure!(hops[0]["outer"]["destination"] == "192.0.2.12:8474", "{json:#}");
    ensure!(hops[1]["after"]["source"] == "203.0.113.7", "{json:#}");
    Ok(())
}

#[test]
fn manifests_come_by_standard_input_as_well() -> Result<()> {
    let manifests = std::fs::read_to_string(root().join("examples/explain/cluster.yaml"))?;
    let asked = ["--from", "203.0.113.7", "http://203.0.113.11/", "--node", "node-1", "-f", "-"];
    let printed = text(&explain(&asked, Some(&manifests))?)?;
    ensure!(printed.contains("dropped at hop 1: no endpoint is on this node"), "{printed}");
    let broken = explain(&asked, Some("kind: ["))?;
    ensure!(text(&broken)?.contains("unknown: there is no node node-1, nor any other"), "{broken:?}");
    ensure!(String::from_utf8_lossy(&broken.stderr).contains("not read: stdin:1"), "{broken:?}");
    Ok(())
}

#[test]
fn a_gateway_of_headwater_up_is_asked_where_no_nodes_are() -> Result<()> {
    let asked = ["--from", "203.0.113.7", "http://whoami.example.com:8080/", "-f", "examples/explain/gateway.yaml"];
    let printed = text(&explain(&asked, None)?)?;
    ensure!(printed.contains("answers 503 (no_service)"), "the Service is in the other file: {printed}");
    let printed =
        text(&explain(&["--from", "203.0.113.7", "http://localhost:8000/", "-f", "examples/quickstart"], None)?)?;
    ensure!(printed.contains("this machine"), "{printed}");
    Ok(())
}

#[test]
fn what_cannot_be_asked_is_said() -> Result<()> {
    for (words, expected) in [
        (&["--from", "203.0.113.7", "203.0.113.10:80", "-f", "examples/explain"][..], "has no scheme"),
        (&["--from", "pod/shop/web", "tcp://203.0.113.10:80", "-f", "examples/explain"], "for a pod give its address"),
        (&["--from", "203.0.113.7", "tcp://203.0.113.10:80", "-f", "examples/nothing"], "examples/nothing"),
        (&["--from", "203.0.113.7", "tcp://203.0.113.10:80", "-f", "examples", "-H", "x"], "NAME: VALUE"),
        (&["tcp://203.0.113.10:80", "-f", "examples/explain"], "--from"),
    ] {
        let output = explain(words, None)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && error.contains(expected), "{words:?}: {error}");
    }
    Ok(())
}
