//! TCP and UDP carried unread, beside HAProxy's `mode tcp` and nginx's stream module.

use anyhow::Result;

use super::requests::{ratio, rounds, section};
use super::{Case, Lab};
use crate::load::Load;
use crate::manifests::{HOST, carried};
use crate::report::{Check, Section};
use crate::subject::{ROOM, Subject};

/// HTTP through a TCP listener, so that a megabyte of body is a megabyte carried.
pub(super) fn tcp(lab: &Lab, case: Case) -> Result<Section> {
    let (path, title, goals) = match case {
        Case::TcpSmall => ("/1k", "TCP carried, a request and 1 KiB back and forth on 64 connections", [1.0, 1.0]),
        _ => ("/1m", "TCP carried, 1 MiB for each request on 64 connections", [1.0, 1.0]),
    };
    let load = Load::Wrk { tls: false, host: HOST, path };
    let mut subjects = vec![Subject::direct(lab), Subject::haproxy_tcp(lab, ROOM)?, Subject::nginx_stream(lab, ROOM)?];
    subjects.extend(headwaters(lab)?);
    let mut subjects: Vec<_> = subjects.into_iter().map(|subject| (subject, load.clone())).collect();
    let runs = rounds(lab, &mut subjects)?;
    let checks = ["haproxy", "nginx"].into_iter().zip(goals).map(|(peer, goal)| Check {
        what: format!("CPU for each {}, headwater / {peer}", if path == "/1m" { "MiB" } else { "exchange" }),
        unit: "x",
        value: ratio(&runs, "headwater", peer),
        goal,
        stretch: 0.8,
    });
    let names: Vec<_> = subjects.iter().map(|(subject, _)| subject.name.clone()).collect();
    Ok(section(lab, case, title, &names, &["haproxy", "nginx"], checks.collect(), &runs))
}

/// Each Headwater with a TCP and a UDP Frontend at one port.
fn headwaters(lab: &Lab) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for (number, binary) in lab.headwater.iter().enumerate() {
        let name = if number == 0 { "headwater".to_owned() } else { format!("headwater-{}", number + 1) };
        let port = 20_000 + lab.next_number();
        let more = carried(port, lab.datagrams);
        subjects.push(Subject::headwater_with(lab, &name, binary, None, Some(&more), &[])?.0.at(port));
    }
    Ok(subjects)
}

/// One datagram of 100 bytes there and one back, 64 flows with one each under way.
pub(super) fn udp(lab: &Lab) -> Result<Section> {
    let mut subjects = vec![Subject::direct(lab).at(lab.datagrams.port()), Subject::nginx_stream(lab, ROOM)?];
    subjects.extend(headwaters(lab)?);
    let mut subjects: Vec<_> = subjects.into_iter().map(|subject| (subject, Load::Datagrams)).collect();
    let runs = rounds(lab, &mut subjects)?;
    let checks = vec![Check {
        what: "CPU for each datagram answered, headwater / nginx".to_owned(),
        unit: "x",
        value: ratio(&runs, "headwater", "nginx"),
        goal: 1.0,
        stretch: 0.8,
    }];
    let names: Vec<_> = subjects.iter().map(|(subject, _)| subject.name.clone()).collect();
    let title = "UDP carried, 100 B there and back, 64 flows with one datagram each under way";
    Ok(section(lab, Case::Udp, title, &names, &["nginx"], checks, &runs))
}
