//! The table in docs/source-ip.md: read, compared, written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use headwater_testkit::services::{Family, Transport};

use crate::implementation::Implementation;
use crate::scenario::{Cell, Mode, Policy, Row, rows};

const BEGIN: &str = "<!-- The tables up to the next mark are what tests/services saw; UPDATE=1 writes them. -->\n";
const END: &str = "<!-- End of the tables. -->\n";

/// What stands where nothing was measured yet.
const UNKNOWN: &str = "?";

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column {
    /// Who programs the nodes.
    pub implementation: Implementation,
    /// How the client is kept.
    pub mode: Mode,
}

/// All columns in the order of the page.
pub const COLUMNS: [(Column, &str); 5] = [
    (Column { implementation: Implementation::Nftables, mode: Mode::Preserve }, "kube-proxy nftables"),
    (Column { implementation: Implementation::Iptables, mode: Mode::Preserve }, "kube-proxy iptables"),
    (Column { implementation: Implementation::Headwater, mode: Mode::Preserve }, "preserve"),
    (Column { implementation: Implementation::Headwater, mode: Mode::PreserveDirect }, "preserve-direct"),
    (Column { implementation: Implementation::Headwater, mode: Mode::Masquerade }, "masquerade"),
];

/// Cells of a row by column.
type Cells = [String; 5];

/// One word when all four answers are the same; otherwise each word with where it holds.
pub fn cell(answers: &Cell) -> String {
    let mut by_answer: BTreeMap<String, Vec<(Family, Transport)>> = BTreeMap::new();
    for (family, transport, answer) in answers {
        by_answer.entry(answer.to_string()).or_default().push((*family, *transport));
    }
    if by_answer.len() == 1 {
        return by_answer.into_keys().collect();
    }
    let place = |answers: Vec<(Family, Transport)>| {
        let name = |family: Family| if family == Family::V4 { "IPv4" } else { "IPv6" };
        let of = |family: Family| answers.iter().filter(|(other, _)| *other == family).count();
        let by = |transport: Transport| answers.iter().filter(|(_, other)| *other == transport).count();
        if let Some(family) = Family::ALL.into_iter().find(|family| of(*family) == 2 && answers.len() == 2) {
            return name(family).to_owned();
        }
        if let Some(transport) = Transport::ALL.into_iter().find(|transport| by(*transport) == 2 && answers.len() == 2)
        {
            return transport.as_str().to_owned();
        }
        let words = answers.iter().map(|(family, transport)| format!("{} {}", name(*family), transport.as_str()));
        words.collect::<Vec<_>>().join(", ")
    };
    let parts = by_answer.into_iter().map(|(answer, places)| format!("{answer} ({})", place(places)));
    parts.collect::<Vec<_>>().join("; ")
}

fn page() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/source-ip.md"))
}

/// Why the cells of a row differ: `None` when nobody has said.
pub type Why = fn(&Row) -> Option<&'static str>;

/// Compares a column with the page; with `UPDATE=1` in the environment it is written there instead.
///
/// # Errors
/// For each cell that differs, and for each row whose columns differ without a reason.
pub fn compare(column: Column, seen: &[(Row, Cell)], why: Why) -> Result<()> {
    // Tests of several columns may write at the same time.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = std::fs::read_to_string(page()).context("docs/source-ip.md")?;
    let (before, rest) = text.split_once(BEGIN).context("docs/source-ip.md: no mark where the tables begin")?;
    let (tables, after) = rest.split_once(END).context("docs/source-ip.md: no mark where the tables end")?;
    let mut known = parse(tables);
    let place = COLUMNS.iter().position(|(other, _)| *other == column).context("a column of the page")?;
    let mut faults = String::new();
    for (row, answers) in seen {
        let answer = cell(answers);
        let cells = known.entry(*row).or_insert_with(|| std::array::from_fn(|_| UNKNOWN.to_owned()));
        if cells[place] != answer {
            writeln!(faults, "{row}: the page says {:?}, and the pod saw {answer:?}", cells[place])?;
            cells[place] = answer;
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(page(), format!("{before}{BEGIN}{}{END}{after}", render(&known, why)))?;
        return Ok(());
    }
    for (row, cells) in &known {
        let differ = cells.iter().filter(|cell| *cell != UNKNOWN).any(|cell| *cell != cells[0]);
        match (differ, why(row)) {
            (true, None) => writeln!(faults, "{row}: the columns differ, and nobody says why: {cells:?}")?,
            (false, Some(why)) => writeln!(faults, "{row}: nothing differs, but this is said: {why}")?,
            _ => {}
        }
    }
    ensure!(faults.is_empty(), "docs/source-ip.md, column {}:\n{faults}", COLUMNS[place].1);
    if render(&known, why) != tables {
        bail!("docs/source-ip.md: the tables are not as they would be written; run the tests with UPDATE=1");
    }
    Ok(())
}

/// The rows of the page; those that no longer exist are left out.
fn parse(tables: &str) -> BTreeMap<Row, Cells> {
    let named: BTreeMap<String, Row> = rows().into_iter().map(|row| (row.to_string(), row)).collect();
    let (mut known, mut title) = (BTreeMap::new(), "");
    for line in tables.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            title = heading;
        }
        let words: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", frontend, path, cells @ .., _why, ""] = words.as_slice()
            && let Some(row) = named.get(&format!("{title}, {frontend}, {path}"))
            && let Ok(cells) = <[&str; 5]>::try_from(cells)
        {
            known.insert(*row, cells.map(|cell| cell.trim_matches('*').to_owned()));
        }
    }
    known
}

fn render(known: &BTreeMap<Row, Cells>, why: Why) -> String {
    let mut text = String::new();
    let mut reasons: Vec<&str> = Vec::new();
    for policy in Policy::ALL {
        let heads = COLUMNS.map(|(_, name)| name).join(" | ");
        let _ = write!(
            text,
            "\n### {}\n\n| address | who asks | {heads} | |\n|---|---|{}---|\n",
            policy.title(),
            "---|".repeat(5)
        );
        for row in rows().into_iter().filter(|row| row.policy == policy) {
            let Some(cells) = known.get(&row) else { continue };
            let note = why(&row).map(|reason| {
                let place = reasons.iter().position(|other| *other == reason).unwrap_or_else(|| {
                    reasons.push(reason);
                    reasons.len() - 1
                });
                (place + 1).to_string()
            });
            // What differs from kube-proxy's default stands out.
            let cells = cells
                .iter()
                .map(|cell| if *cell == cells[0] || cell == UNKNOWN { cell.clone() } else { format!("**{cell}**") });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let _ = writeln!(text, "| {} | {} | {cells} | {} |", row.frontend, row.path, note.unwrap_or_default());
        }
    }
    if !reasons.is_empty() {
        text.push_str("\n### Why they differ\n\n");
        for (index, reason) in reasons.iter().enumerate() {
            let _ = writeln!(text, "{}. {reason}", index + 1);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Answer;

    fn answers(words: [Answer; 4]) -> Cell {
        let places = Family::ALL.iter().flat_map(|family| Transport::ALL.map(|transport| (*family, transport)));
        places.zip(words).map(|((family, transport), answer)| (family, transport, answer)).collect()
    }

    #[test]
    fn a_cell_says_where_answers_differ_and_nothing_more() {
        use Answer::{Dropped, IngressNode, Refused};
        for (words, text) in [
            ([Refused, Refused, Refused, Refused], "refused"),
            ([Refused, Refused, Dropped, Dropped], "dropped (IPv6); refused (IPv4)"),
            ([Refused, Dropped, Refused, Dropped], "dropped (UDP); refused (TCP)"),
            (
                [Refused, Refused, Refused, IngressNode],
                "ingress node (IPv6 UDP); refused (IPv4 TCP, IPv4 UDP, IPv6 TCP)",
            ),
        ] {
            assert_eq!(cell(&answers(words)), text);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let known: BTreeMap<Row, Cells> = rows()
            .into_iter()
            .enumerate()
            .map(|(index, row)| {
                (
                    row,
                    ["client", "client", UNKNOWN, "dropped (UDP); refused (TCP)", &format!("{index}")]
                        .map(str::to_owned),
                )
            })
            .collect();
        assert_eq!(parse(&render(&known, |_| Some("because"))), known);
    }
}
