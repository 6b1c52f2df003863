//! `headwater check DIR|-`

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use headwater_control::Findings;
use headwater_kube_io::{UnknownKind, read_dir, read_str};
use headwater_model::finding::Severity;
use headwater_translate::Options;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests, or `-` for standard input
    source: PathBuf,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let reading = if args.source.as_os_str() == "-" {
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
    let (findings, unknown) = headwater_control::check(reading, Options::embedded());
    match args.output {
        Output::Text => print_text(&findings, &unknown, objects),
        Output::Json => print_json(&findings, &unknown, objects)?,
    }
    Ok(if findings.count(Severity::Error) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_text(findings: &Findings, unknown: &[UnknownKind], objects: usize) {
    for finding in findings {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        println!("{word}: {finding}");
    }
    for kind in unknown {
        println!("info: {}: {} of {} {} not read by this version", kind.first, kind.count, kind.api_version, kind.kind);
    }
    println!(
        "{objects} objects, {} errors, {} warnings",
        findings.count(Severity::Error),
        findings.count(Severity::Warning)
    );
}

fn print_json(findings: &Findings, unknown: &[UnknownKind], objects: usize) -> anyhow::Result<()> {
    #[derive(serde::Serialize)]
    struct Report<'a> {
        objects: usize,
        errors: usize,
        warnings: usize,
        findings: &'a Findings,
        unknown_kinds: Vec<serde_json::Value>,
    }
    let unknown_kinds = unknown
        .iter()
        .map(|kind| serde_json::json!({"apiVersion": kind.api_version, "kind": kind.kind, "count": kind.count, "first": kind.first}))
        .collect();
    let report = Report {
        objects,
        errors: findings.count(Severity::Error),
        warnings: findings.count(Severity::Warning),
        findings,
        unknown_kinds,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
