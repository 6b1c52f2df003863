//! The answer for people.

use std::fmt::Write as _;

use crate::answer::{Action, Answer, Cause, Explanation, Flow, Hop, Path, Place, VerdictKind};

/// Endpoints of a path that are listed.
const MOST: usize = 8;

/// Text of an explanation; lines end in a line feed.
pub fn render(explanation: &Explanation) -> String {
    let mut out = String::new();
    let question = &explanation.question;
    let _ = writeln!(out, "{} -> {}", question.from, question.target);
    for note in &explanation.notes {
        let _ = writeln!(out, "  {note}");
    }
    for answer in &explanation.answers {
        out.push('\n');
        self::answer(&mut out, answer);
    }
    out
}

fn answer(out: &mut String, answer: &Answer) {
    match &answer.nodes[..] {
        [] => {}
        [node] => drop(writeln!(out, "received by node {node}")),
        [first, others @ ..] => {
            let names: Vec<&str> = others.iter().take(MOST).map(|name| &**name).collect();
            let more = others.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(out, "received by node {first}; the same by {}{more}", names.join(", "));
        }
    }
    let total: u64 = answer.paths.iter().map(|path| u64::from(path.weight)).sum();
    for path in &answer.paths {
        if answer.paths.len() > 1 {
            let _ = writeln!(out, "  {} of {total} to {}", path.weight, ends(path));
        }
        self::path(out, path);
    }
}

fn ends(path: &Path) -> String {
    let listed = list(path.endpoints.iter());
    match &path.endpoint_node {
        Some(node) => format!("{listed} on node {node}"),
        None => listed,
    }
}

fn list<T: ToString>(all: impl ExactSizeIterator<Item = T>) -> String {
    let count = all.len();
    let mut text = all.take(MOST).map(|item| item.to_string()).collect::<Vec<_>>().join(", ");
    if count > MOST {
        let _ = write!(text, " and {} more", count - MOST);
    }
    text
}

fn path(out: &mut String, path: &Path) {
    for (number, hop) in (1..).zip(&path.hops) {
        self::hop(out, number, hop, path);
    }
    for leg in &path.reply {
        let outer = leg.outer.as_ref().map(|outer| format!(", in {}", flow(outer, path))).unwrap_or_default();
        let _ = writeln!(out, "   back  {:<14} {}{outer}", place(&leg.at), flow(&leg.flow, path));
    }
    if let Some(sees) = &path.sees {
        let who = match (path.verdict.kind, path.hops.last().map(|hop| hop.action)) {
            (VerdictKind::Answered, _) => "it",
            (_, Some(Action::Proxy)) => "backend",
            (_, Some(Action::Accept)) => "gateway",
            _ => "endpoint",
        };
        let mut seen = end(&sees.peer, path);
        for (name, value) in &sees.headers {
            let _ = write!(seen, "; {name}: {value}");
        }
        if let Some(named) = &sees.proxy_header {
            let _ = write!(seen, "; PROXY header of {named}");
        }
        let _ = writeln!(out, "   {who} sees {seen}");
    }
    for note in &path.notes {
        let _ = writeln!(out, "   note: {note}");
    }
    let verdict = &path.verdict;
    let at = verdict.hop.map(|hop| format!(" at hop {hop}")).unwrap_or_default();
    let _ = writeln!(out, "   {}{at}: {}", word(verdict.kind), verdict.why);
    for mend in &path.mends {
        let object = mend.object.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let field = if mend.field.is_empty() { String::new() } else { format!("{}: ", mend.field) };
        let _ = writeln!(out, "   mend: {object}{field}{}", mend.change);
        let _ = writeln!(out, "         costs: {}", mend.cost);
    }
}

fn hop(out: &mut String, number: usize, hop: &Hop, path: &Path) {
    let before = flow(&hop.before, path);
    let change = match &hop.after {
        Some(after) if *after != hop.before => format!("{before}  =>  {}", flow(after, path)),
        Some(_) => before,
        None => format!("{before}  {}", if hop.action == Action::Drop { "(no answer)" } else { "(ends here)" }),
    };
    let _ = writeln!(out, "  {number:>2}  {:<14} {change}", place(&hop.at));
    if let Some(outer) = &hop.outer {
        let _ = writeln!(out, "      in {}", flow(outer, path));
    }
    let _ = writeln!(out, "      {}", hop.why);
    if !hop.causes.is_empty() {
        let _ = writeln!(out, "      by {}", causes(&hop.causes));
    }
}

/// What one object says stands together.
fn causes(all: &[Cause]) -> String {
    let mut text = String::new();
    let mut before: Option<&Cause> = None;
    for cause in all {
        let same = before.is_some_and(|before| before.object == cause.object && cause.object.is_some());
        match (same, &cause.object, before) {
            (true, ..) => text.push_str(", "),
            (false, Some(key), None) => drop(write!(text, "{key} ")),
            (false, Some(key), Some(_)) => drop(write!(text, "; {key} ")),
            (false, None, None) => {}
            (false, None, Some(_)) => text.push_str("; "),
        }
        text.push_str(&says(cause));
        text.truncate(text.trim_end().len());
        before = Some(cause);
    }
    text
}

fn says(cause: &Cause) -> String {
    match (&*cause.field, &*cause.value) {
        ("", value) => value.to_owned(),
        (field, "") => field.to_owned(),
        (field, value) => format!("{field}: {value}"),
    }
}

fn flow(flow: &Flow, path: &Path) -> String {
    format!("{} -> {}", end(&flow.source, path), end(&flow.destination, path))
}

/// Who is chosen is named where there is no choice.
fn end(end: &crate::End, path: &Path) -> String {
    match (end, &path.endpoints[..], &path.backends[..]) {
        (crate::End::Endpoint, [only], _) => only.to_string(),
        (crate::End::Backend, _, [only]) => only.clone(),
        (crate::End::Backend, _, all) => format!("one of {}", list(all.iter())),
        (crate::End::Endpoint, all, _) => format!("one of {}", list(all.iter())),
        _ => end.to_string(),
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::Node(name) => name.to_string(),
        Place::LoadBalancer => "load balancer".to_owned(),
        Place::Gateway => "gateway".to_owned(),
    }
}

fn word(kind: VerdictKind) -> &'static str {
    match kind {
        VerdictKind::Kept => "kept",
        VerdictKind::KeptInHeader => "kept in a header",
        VerdictKind::Lost => "lost",
        VerdictKind::Dropped => "dropped",
        VerdictKind::Refused => "refused",
        VerdictKind::Answered => "answered",
        VerdictKind::NotAService => "not a Service's",
        VerdictKind::Unknown => "unknown",
    }
}
