//! `headwater flags`: every command and flag as a page of documentation.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};

const HEAD: &str = "\
# Commands and flags

Every command of `headwater` with all its flags; `headwater COMMAND --help` prints the same. This page is made by
`headwater flags`, and a test compares the two.

Durations are written as in manifests: `500ms`, `30s`, `1m30s`.

## Every command
";

const TAIL: &str = "
## Environment

| variable | meaning |
|---|---|
| `HEADWATER_LOG` | what `--log` says, where that is not given |
| `KUBECONFIG` | files with credentials for an API server, outside a pod |
| `NODE_NAME` | name of this node's Node, where `--node-name` is not given; else the host's name |
| `POD_NAMESPACE` | namespace of Headwater's Leases, where `--lease-namespace` is not given |
| `POD_NAME` | name of this gateway's Lease, and of this process in Events and elections; else the host's name |
| `POD_UID` | with it the gateway's Lease is owned by its pod, and goes with it |

The chart sets the last four by the downward API. In a pod credentials come from the service account; API servers behind
an HTTP proxy (`HTTPS_PROXY`, `proxy-url`) are not supported.
";

/// Prints docs/flags.md.
pub(crate) fn run(root: &Command) -> anyhow::Result<ExitCode> {
    crate::check::print(&page(root));
    Ok(ExitCode::SUCCESS)
}

fn page(root: &Command) -> String {
    let mut text = String::from(HEAD);
    table(&mut text, root.get_arguments().filter(|arg| arg.is_global_set()));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let _ = write!(text, "\n## `headwater {}`\n\n{}\n", command.get_name(), about(command));
        table(&mut text, command.get_arguments().filter(|arg| !arg.is_global_set()));
        for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
            let _ = write!(text, "\n### `headwater {} {}`\n\n{}\n", command.get_name(), part.get_name(), about(part));
            table(&mut text, part.get_arguments().filter(|arg| !arg.is_global_set()));
        }
    }
    text.push_str(TAIL);
    text
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    about.map(ToString::to_string).unwrap_or_default() + "."
}

fn table<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    let mut rows = args.filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"));
    let Some(first) = rows.next() else { return };
    text.push_str("\n| flag | default | meaning |\n|---|---|---|\n");
    for arg in std::iter::once(first).chain(rows) {
        let (meaning, default) = meaning(arg);
        let _ = writeln!(text, "| {} | {default} | {meaning} |", name(arg));
    }
}

/// What a flag means, and what holds without it.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
    // Defaults that are no plain value stand in the text, in clap's own form.
    let (mut meaning, told) = match help.split_once(" [default: ") {
        Some((help, told)) => (help.to_owned(), told.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let takes_values = arg.get_action().takes_values();
    let possible = arg.get_possible_values();
    if takes_values && !possible.is_empty() {
        let words: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(meaning, ": {}", words.join(" or "));
    }
    if let Some(others) = arg.get_all_aliases().filter(|others| !others.is_empty()) {
        let _ = write!(meaning, " (also `--{}`)", others.join("`, `--"));
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match values.is_empty() || !takes_values {
        false => format!("`{}`", values.join(",")),
        true => told,
    };
    (meaning, default)
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match (arg.get_long(), arg.get_action()) {
        (Some(long), ArgAction::SetTrue) => format!("{short}`--{long}`"),
        (Some(long), _) => format!("{short}`--{long} {value}`"),
        (None, _) => format!("`{value}`"),
    }
}
