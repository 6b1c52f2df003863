//! `headwater check DIR|-`

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use headwater_control::{Extent, Findings};
use headwater_kube_io::{UnknownKind, read_dir, read_str};
use headwater_model::finding::Severity;
use headwater_model::transparent;
use headwater_translate::Options;

use crate::cluster::{LabelArgs, MetallbArgs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests, or `-` for standard input, which may lack kinds: what is only named is not missed then
    source: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    metallb: MetallbArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let part = args.source.as_os_str() == "-";
    let reading = if part {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        read_str("stdin", &text)
    } else {
        let metadata = std::fs::metadata(&args.source).with_context(|| args.source.display().to_string())?;
        anyhow::ensure!(
            metadata.is_dir(),
            "{} is not a directory (for one file: headwater check - < FILE)",
            args.source.display()
        );
        read_dir(&args.source)
    };
    let objects = reading.objects.len();
    let extent = if part { Extent::Part } else { Extent::Whole };
    let metallb_namespace = args.metallb.metallb_namespace.clone();
    let options = Options { metallb_namespace, ..args.labels.embedded() };
    let (findings, unknown) = headwater_control::check(reading, options, extent);
    match args.output {
        Output::Text => print(&text(&findings, objects)),
        Output::Json => print(&json(&findings, &unknown, objects)?),
    }
    Ok(if findings.count(Severity::Error) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints, unless whoever reads has had enough (`| head`).
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn text(findings: &Findings, objects: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        text.push_str(&format!("{word}: {finding}\n"));
    }
    if let Some(commands) = by_hand(findings) {
        text.push_str("\non each node of a gateway that connects from clients' addresses, where no `headwater node ");
        text.push_str(&format!("--transparent` runs, as root:\n\n{commands}\n"));
    }
    let (errors, warnings) = (findings.count(Severity::Error), findings.count(Severity::Warning));
    text.push_str(&format!("{objects} objects, {errors} errors, {warnings} warnings\n"));
    text
}

/// What the kernel of a node needs for what is asked for, as commands.
fn by_hand(findings: &Findings) -> Option<String> {
    findings.iter().any(|finding| finding.reason == transparent::ASKED).then(transparent::commands)
}

fn json(findings: &Findings, unknown: &[UnknownKind], objects: usize) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Report<'a> {
        objects: usize,
        errors: usize,
        warnings: usize,
        findings: &'a Findings,
        unknown_kinds: Vec<serde_json::Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        transparent_commands: Option<String>,
    }
    let unknown_kinds = unknown
        .iter()
        .map(|kind| {
            let UnknownKind { kind, api_version, count, first } = kind;
            serde_json::json!({"apiVersion": api_version, "kind": kind, "count": count, "first": first})
        })
        .collect();
    let report = Report {
        objects,
        errors: findings.count(Severity::Error),
        warnings: findings.count(Severity::Warning),
        findings,
        unknown_kinds,
        transparent_commands: by_hand(findings),
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}
