//! `headwater flags`: every command and flag as a page of documentation.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};

/// Prints docs/flags.md.
pub(crate) fn run(root: &Command) -> anyhow::Result<ExitCode> {
    crate::check::print(&page(root));
    Ok(ExitCode::SUCCESS)
}

fn page(root: &Command) -> String {
    let mut text = String::from(
        "# Commands and flags\n\nMade by `headwater flags`; the tests compare this page with it.\n\nEvery command takes \
         these:\n",
    );
    table(&mut text, root.get_arguments().filter(|arg| arg.is_global_set()));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let _ = write!(text, "\n## `headwater {}`\n\n{}\n", command.get_name(), about(command));
        table(&mut text, command.get_arguments().filter(|arg| !arg.is_global_set()));
    }
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
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        // Defaults that are no plain value stand in the text, in clap's own form.
        let (help, told) = match help.split_once(" [default: ") {
            Some((help, told)) => (help.to_owned(), told.trim_end_matches(']').to_owned()),
            None => (help, String::new()),
        };
        let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match values.is_empty() || !arg.get_action().takes_values() {
            false => format!("`{}`", values.join(",")),
            true => told,
        };
        let _ = writeln!(text, "| {} | {default} | {help} |", name(arg));
    }
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    match (arg.get_long(), arg.get_action()) {
        (Some(long), ArgAction::SetTrue) => format!("`--{long}`"),
        (Some(long), _) => format!("`--{long} {value}`"),
        (None, _) => format!("`{value}`"),
    }
}
