//! `headwater status`

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use crate::check::print;
use crate::vips;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Admin port of the gateway or controller to ask
    #[arg(long, default_value_t = headwater_process::admin::DEFAULT_ADDRESS, value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Form of the answer
    #[arg(short, long, default_value = "text", value_name = "FORM", value_parser = ["text", "json"])]
    output: String,
}

#[derive(clap::Subcommand)]
enum What {
    /// Who has which address of a load balancer, who announces it, and why not
    Vips(vips::Args),
}

/// Exits with 1 when anything is refused.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(What::Vips(args)) = &args.what {
        return vips::run(args);
    }
    let answer = headwater_process::admin::fetch(args.admin, "/status")
        .with_context(|| format!("no gateway answers at {} (start one with: headwater up DIR)", args.admin))?;
    let status: Value = serde_json::from_str(&answer).context("answer of the admin port")?;
    match &*args.output {
        "json" => print(&(serde_json::to_string_pretty(&status)? + "\n")),
        _ => print(&table(&status)),
    }
    let refused = list(&status, "findings").any(|finding| finding["severity"] == "error")
        || list(&status, "listeners").any(|listener| !listener["error"].is_null())
        || list(&status, "faults").next().is_some()
        || !status["addresses"]["problem"].is_null();
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list<'a>(status: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    status[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn table(status: &Value) -> String {
    let mut lines = Vec::new();
    match status["leading"].as_bool() {
        Some(leading) => {
            let role = if leading { "it leads" } else { "another leads" };
            lines.push(format!("headwater {}, controller, {role}", text(status, "version")));
        }
        None => lines.extend([
            format!("headwater {}, snapshot {}", text(status, "version"), status["generation"]),
            String::new(),
            format!("{:<17} {:<25} {:<9} STATE", "LISTENER", "ADDRESS", "PROTOCOL"),
        ]),
    }
    for listener in list(status, "listeners") {
        let state = listener["error"].as_str().unwrap_or("listening");
        let address = listener["address"].as_str().or(listener["asked"].as_str()).unwrap_or("-");
        lines.push(format!("{:<17} {address:<25} {:<9} {state}", text(listener, "name"), text(listener, "protocol")));
    }
    if list(status, "findings").next().is_some() {
        lines.extend([String::new(), "FINDINGS".to_owned()]);
    }
    for finding in list(status, "findings") {
        let place = match (finding["location"]["file"].as_str(), &finding["location"]["line"]) {
            (Some(file), line) => format!("{file}:{line}: "),
            (None, _) => String::new(),
        };
        let object = &finding["object"];
        let object = match (text(object, "kind"), text(object, "namespace"), text(object, "name")) {
            ("", ..) => String::new(),
            (kind, "", name) => format!("{kind} {name}: "),
            (kind, namespace, name) => format!("{kind} {namespace}/{name}: "),
        };
        let field = match text(finding, "field") {
            "" => String::new(),
            field => format!("{field}: "),
        };
        lines.push(format!("{}: {place}{object}{field}{}", text(finding, "severity"), text(finding, "message")));
        if !text(finding, "mend").is_empty() {
            lines.push(format!("    mend: {}", text(finding, "mend")));
        }
    }
    let problem = status["addresses"]["problem"].as_str();
    lines.extend(problem.map(|problem| format!("error: addresses of Services: {problem}")));
    lines.extend(list(status, "faults").map(|fault| format!("error: {}", fault.as_str().unwrap_or(""))));
    lines.join("\n") + "\n"
}
