//! `headwater status`

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Admin port of the gateway to ask
    #[arg(long, default_value_t = headwater_process::admin::DEFAULT_ADDRESS)]
    admin: SocketAddr,
    /// `text` or `json`
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// Exits with 1 when anything is refused.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = headwater_process::admin::fetch(args.admin, "/status")
        .with_context(|| format!("no gateway answers at {} (start one with: headwater up DIR)", args.admin))?;
    let status: Value = serde_json::from_str(&answer).context("answer of the admin port")?;
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    let refused = list(&status, "findings").any(|finding| finding["severity"] == "error")
        || list(&status, "listeners").any(|listener| !listener["error"].is_null())
        || list(&status, "faults").next().is_some();
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list<'a>(status: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    status[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn print(status: &Value) {
    println!("headwater {}, snapshot {}", text(status, "version"), status["generation"]);
    println!("\nLISTENER          ADDRESS                   PROTOCOL  STATE");
    for listener in list(status, "listeners") {
        let state = listener["error"].as_str().unwrap_or("listening");
        let address = listener["address"].as_str().unwrap_or("-");
        println!("{:<17} {address:<25} {:<9} {state}", text(listener, "name"), text(listener, "protocol"));
    }
    if list(status, "findings").next().is_some() {
        println!("\nFINDINGS");
    }
    for finding in list(status, "findings") {
        let object = &finding["object"];
        let place = match (finding["location"]["file"].as_str(), &finding["location"]["line"]) {
            (Some(file), line) => format!("{file}:{line}: "),
            (None, _) => String::new(),
        };
        let name = match text(object, "namespace") {
            "" => text(object, "name").to_owned(),
            namespace => format!("{namespace}/{}", text(object, "name")),
        };
        println!(
            "{}: {place}{} {name}: {}: {}",
            text(finding, "severity"),
            text(object, "kind"),
            text(finding, "field"),
            text(finding, "message")
        );
        if !text(finding, "mend").is_empty() {
            println!("    mend: {}", text(finding, "mend"));
        }
    }
    for fault in list(status, "faults") {
        println!("error: {}", fault.as_str().unwrap_or(""));
    }
}
