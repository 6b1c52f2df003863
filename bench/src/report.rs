//! What a run prints: for each case a table, the goals beside the figures, and how noisy it was.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::{Spread, Verdict};

/// One case.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) case: String,
    pub(crate) title: String,
    pub(crate) table: Table,
    /// What does not fit into the same columns.
    pub(crate) more_tables: Vec<Table>,
    pub(crate) checks: Vec<Check>,
    pub(crate) notes: Vec<String>,
    /// Every run, kept or not.
    pub(crate) raw: Value,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A figure with its goal.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) what: String,
    /// `x`, `ms`, `MiB`, `KiB` or `requests`.
    pub(crate) unit: &'static str,
    pub(crate) value: Option<Spread>,
    pub(crate) goal: f64,
    pub(crate) stretch: f64,
}

impl Check {
    pub(crate) fn verdict(&self) -> Verdict {
        Verdict::of(self.value.map(|value| value.median), self.goal, self.stretch)
    }
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }
}

impl fmt::Display for Table {
    /// Markdown, padded so that it reads as plain text too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| width(column).unwrap_or(0)).collect();
        for (number, line) in lines().enumerate() {
            for (cell, &width) in line.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                for &width in &widths {
                    write!(f, "|{:-<1$}", "", width + 2)?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}: {}\n\n{}", self.case, self.title, self.table)?;
        for table in &self.more_tables {
            writeln!(f, "{table}")?;
        }
        let mut goals = Table::new(&["figure", "median (min-max)", "goal", "stretch", "verdict"]);
        for check in &self.checks {
            let value = check.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2} {}", check.unit));
            goals.rows.push(vec![
                check.what.clone(),
                value,
                format!("<= {} {}", check.goal, check.unit),
                format!("{} {}", check.stretch, check.unit),
                check.verdict().to_string(),
            ]);
        }
        writeln!(f, "{goals}")?;
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        Ok(())
    }
}

/// The whole run as JSON.
pub(crate) fn json(preamble: &str, sections: &[Section]) -> String {
    let cases: Vec<_> = sections
        .iter()
        .map(|section| json!({ "case": section, "verdicts": section.checks.iter().map(Check::verdict).collect::<Vec<_>>() }))
        .collect();
    format!("{:#}\n", json!({ "machine": preamble.lines().collect::<Vec<_>>(), "cases": cases }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_columns_in_line() {
        let mut table = Table::new(&["proxy", "us"]);
        table.rows.push(vec!["nginx".to_owned(), "15.6 (14-18)".to_owned()]);
        let expected = "| proxy | us           |\n|-------|--------------|\n| nginx | 15.6 (14-18) |\n";
        assert_eq!(table.to_string(), expected);
    }
}
