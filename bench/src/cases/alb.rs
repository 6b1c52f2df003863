//! What Rules of an ALB cost by their number and kind, and what asking an authentication server costs.

use anyhow::{Context, Result};

use super::requests::{ratio, rounds, section};
use super::{Case, Lab};
use crate::albs::{Mix, manifest};
use crate::load::Load;
use crate::manifests::{HOST, checked, wrk_script};
use crate::report::{Check, Section};
use crate::subject::{ROOM, Subject};

/// Rules that there are, and how many of them are asked for. What matching costs shows where the same few are asked for;
/// where each is, what is kept of each of them has to come from memory as well.
const SIZES: [(usize, usize); 4] = [(10, 10), (1_000, 1_000), (10_000, 10_000), (10_000, 10)];

/// One kind of Rule in three numbers.
pub(super) fn rules(lab: &Lab, case: Case, mix: Mix) -> Result<Section> {
    let binary = lab.headwater.first().context("Headwater is measured against itself here")?;
    let folder = lab.new_folder("alb")?;
    let (mut subjects, mut names) = (Vec::new(), Vec::new());
    for (count, asked) in SIZES {
        let script = folder.join(format!("{asked}.lua"));
        std::fs::write(&script, wrk_script(asked, mix.lua()))?;
        let port = 20_000 + lab.next_number();
        let name = if asked == count { format!("{count} rules") } else { format!("{count} rules, {asked} asked") };
        let (subject, _) = Subject::headwater_with(lab, &name, binary, None, Some(&manifest(port, mix, count)), &[])?;
        subjects.push((subject.at(port), Load::WrkScript { script }));
        names.push(name);
    }
    let runs = rounds(lab, &mut subjects)?;
    let check = |of: &str| Check {
        what: format!("CPU per request, {of} / 10 rules"),
        unit: "x",
        value: ratio(&runs, of, "10 rules"),
        goal: 1.05,
        stretch: 1.02,
    };
    let title = match mix {
        Mix::Host => "ALB Rules by HOST EQ, 1 KiB body",
        Mix::Prefix => "ALB Rules by URL STARTS_WITH on one host, 1 KiB body",
        Mix::Regex => "ALB Rules by URL REGEX on one host, 1 KiB body",
        Mix::Header => "ALB Rules by HEADER EQ on one host, 1 KiB body",
    };
    let checks = names[1..].iter().map(|name| check(name)).collect();
    let mut section = section(lab, case, title, &names, &["10 rules"], checks, &runs);
    for (subject, _) in &subjects {
        let seconds = subject.ready_after.as_secs_f64();
        section.notes.push(format!("{}: first response {seconds:.2} s after the start", subject.name));
    }
    Ok(section)
}

/// A request that an authentication server is asked about first, beside nginx's `auth_request`.
pub(super) fn forward_auth(lab: &Lab) -> Result<Section> {
    let binary = lab.headwater.first().context("Headwater is measured beside nginx here")?;
    let plain = Load::Wrk { tls: false, host: HOST, path: "/1k" };
    let asked = Load::Wrk { tls: false, host: HOST, path: "/checked/1k" };
    let more = checked(lab.origins[1]);
    let headwater =
        |name: &str| Ok::<_, anyhow::Error>(Subject::headwater_with(lab, name, binary, None, Some(&more), &[])?.0);
    let names = ["headwater plain", "headwater asked", "nginx"].map(str::to_owned);
    let mut subjects = vec![
        (headwater(&names[0])?, plain),
        (headwater(&names[1])?, asked.clone()),
        (Subject::nginx(lab, ROOM)?, asked),
    ];
    let runs = rounds(lab, &mut subjects)?;
    let checks = vec![
        Check {
            what: "CPU per request with forward auth, headwater / nginx".to_owned(),
            unit: "x",
            value: ratio(&runs, &names[1], &names[2]),
            goal: 1.0,
            stretch: 0.8,
        },
        Check {
            what: "CPU per request, asked / plain".to_owned(),
            unit: "x",
            value: ratio(&runs, &names[1], &names[0]),
            // A second request to a second server.
            goal: 2.0,
            stretch: 1.7,
        },
    ];
    let title = "forward auth: an authentication server is asked about every request, 1 KiB body";
    Ok(section(lab, Case::ForwardAuth, title, &names, &["headwater plain", "nginx"], checks, &runs))
}
