//! The line of a connection or flow that was carried.

use std::io::Write;
use std::time::Instant;

use headwater_model::settings::AccessLogFormat;

use super::{AccessLog, Clock, number, seconds, string};
use crate::stream::record::{Ended, Record};

impl AccessLog {
    pub(crate) fn write_stream(&self, record: &Record, ended: &Ended<'_>, now: Instant) {
        let mut lines = self.lines.borrow_mut();
        match record.settings.access_log {
            AccessLogFormat::Json => lines.line(|out| json(out, &self.clock, record, ended, now)),
            AccessLogFormat::Text => lines.line(|out| text(out, &self.clock, record, ended, now)),
            AccessLogFormat::Off => {}
        }
    }
}

/// The keys that requests have, as far as they mean something here; `received_bytes` and `end` besides.
fn json(out: &mut Vec<u8>, clock: &Clock, record: &Record, ended: &Ended<'_>, now: Instant) {
    let (client, sender) = (&record.client, &record.sender);
    out.extend_from_slice(b"{\"time\":\"");
    clock.write(now, out);
    // Writing to a vector does not fail.
    let _ = write!(
        out,
        "\",\"client\":\"{}\",\"peer\":\"{}\",\"provenance\":\"{}\",\"protocol\":\"{}\"",
        client.addr,
        sender.peer,
        client.provenance,
        record.kind.word()
    );
    number(out, ",\"received_bytes\":", record.received.get());
    number(out, ",\"sent_bytes\":", record.sent.get());
    seconds(out, ",\"duration_seconds\":", now.saturating_duration_since(record.started));
    if let Some(connect) = ended.connect {
        seconds(out, ",\"connect_seconds\":", connect);
    }
    if let Some(endpoint) = ended.endpoint {
        string(out, ",\"endpoint\":", endpoint.text.as_bytes());
        number(out, ",\"attempts\":", u64::from(record.attempts.get()));
    }
    string(out, ",\"end\":", ended.end.word().as_bytes());
    string(out, ",\"listener\":", record.listener.as_bytes());
    let _ = write!(out, ",\"route\":\"{}\"", record.route.origin);
    string(out, ",\"rule\":", record.route.field.as_bytes());
    if let Some(sni) = &record.sni {
        string(out, ",\"sni\":", sni.as_bytes());
    }
    if let Some(fault) = ended.fault {
        string(out, ",\"fault\":", fault.reason.word().as_bytes());
        string(out, ",\"fault_by\":", fault.reason.by().as_str().as_bytes());
        if !fault.detail.is_empty() {
            string(out, ",\"fault_detail\":", fault.detail.as_bytes());
        }
    }
    out.push(b'}');
}

/// `TIME CLIENT (PEER PROVENANCE) "PROTOCOL SNI" END RECEIVED SENT SECONDS ENDPOINT ROUTE FAULT`
fn text(out: &mut Vec<u8>, clock: &Clock, record: &Record, ended: &Ended<'_>, now: Instant) {
    let (client, sender) = (&record.client, &record.sender);
    clock.write(now, out);
    let asked = match &record.sni {
        Some(sni) => format!("{} {sni}", record.kind.word()),
        None => record.kind.word().to_owned(),
    };
    let _ = write!(
        out,
        " {} ({} {}) {asked:?} {} {} {} {:.6} {} {:?} {}",
        client.addr,
        sender.peer,
        client.provenance,
        ended.end.word(),
        record.received.get(),
        record.sent.get(),
        now.saturating_duration_since(record.started).as_secs_f64(),
        ended.endpoint.map_or("-", |endpoint| &*endpoint.text),
        record.route.origin.to_string(),
        ended.fault.map_or("-", |fault| fault.reason.word()),
    );
}
