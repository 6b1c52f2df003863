//! The access log: one line a request, written by the worker into its own buffer.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_model::client::Provenance;
use headwater_model::settings::AccessLogFormat;
use headwater_process::access_log::LineBuffer;

use crate::accept::Accepted;
use crate::message::Request;
use crate::record::Record;

mod stream;

/// Longest target, host or user agent in a line, in bytes.
const MAX_TEXT: usize = 2048;

/// The access log of one worker.
pub(crate) struct AccessLog {
    lines: RefCell<LineBuffer>,
    clock: Clock,
}

impl AccessLog {
    pub(crate) fn new(lines: LineBuffer) -> Self {
        Self { lines: RefCell::new(lines), clock: Clock::new() }
    }

    /// Hands what is buffered to the writer.
    pub(crate) fn flush(&self) {
        self.lines.borrow_mut().flush();
    }

    pub(crate) fn write<R: Request>(&self, accepted: &Accepted, request: &R, record: &Record<'_>, ended: Instant) {
        let mut user_agent: &[u8] = b"";
        request.each_value("user-agent", |value| user_agent = value);
        let asked = Asked {
            method: request.method(),
            target: request.target(),
            version: request.version(),
            host: request.authority(),
            user_agent,
        };
        self.line(accepted, &asked, record, ended);
    }

    pub(crate) fn write_unparsed(&self, accepted: &Accepted, record: &Record<'_>, ended: Instant) {
        let asked = Asked { method: "", target: "", version: "", host: b"", user_agent: b"" };
        self.line(accepted, &asked, record, ended);
    }

    fn line(&self, accepted: &Accepted, asked: &Asked<'_>, record: &Record<'_>, ended: Instant) {
        let format = accepted.settings().access_log;
        if format == AccessLogFormat::Off {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        lines.line(|out| match format {
            AccessLogFormat::Json => json(out, &self.clock, accepted, asked, record, ended),
            AccessLogFormat::Text => text(out, &self.clock, accepted, asked, record, ended),
            AccessLogFormat::Off => {}
        });
    }
}

/// What the request said.
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    version: &'a str,
    host: &'a [u8],
    user_agent: &'a [u8],
}

/// Keys are always the same and in the same order; what is not known is left out.
fn json(out: &mut Vec<u8>, clock: &Clock, accepted: &Accepted, asked: &Asked<'_>, record: &Record<'_>, ended: Instant) {
    out.extend_from_slice(b"{\"time\":\"");
    clock.write(ended, out);
    out.extend_from_slice(b"\",\"client\":\"");
    let provenance = client(out, accepted, record);
    out.extend_from_slice(b"\",\"peer\":\"");
    out.extend_from_slice(accepted.peer_text.as_bytes());
    // Writing to a vector does not fail.
    let _ = write!(out, "\",\"provenance\":\"{provenance}\"");
    string(out, ",\"method\":", asked.method.as_bytes());
    string(out, ",\"host\":", asked.host);
    string(out, ",\"target\":", asked.target.as_bytes());
    string(out, ",\"protocol\":", asked.version.as_bytes());
    number(out, ",\"status\":", u64::from(record.status));
    number(out, ",\"sent_bytes\":", record.sent_bytes);
    seconds(out, ",\"duration_seconds\":", ended.saturating_duration_since(record.started));
    if let Some(connect) = record.connect {
        seconds(out, ",\"connect_seconds\":", connect);
    }
    if let Some(first_byte) = record.first_byte {
        seconds(out, ",\"first_byte_seconds\":", first_byte);
    }
    if let Some(endpoint) = &record.endpoint {
        out.extend_from_slice(b",\"endpoint\":\"");
        out.extend_from_slice(endpoint.text.as_bytes());
        out.push(b'"');
        number(out, ",\"attempts\":", u64::from(record.attempts));
    }
    let listener = accepted.slot.current();
    string(out, ",\"listener\":", listener.snapshot.name.as_bytes());
    if let Some(rule) = record.rule {
        let _ = write!(out, ",\"route\":\"{}\"", rule.origin);
        string(out, ",\"rule\":", rule.field.as_bytes());
    }
    if let Some(sni) = &accepted.sni {
        string(out, ",\"sni\":", sni.as_bytes());
    }
    if !asked.user_agent.is_empty() {
        string(out, ",\"user_agent\":", asked.user_agent);
    }
    if let Some(fault) = &record.fault {
        string(out, ",\"fault\":", fault.reason.word().as_bytes());
        string(out, ",\"fault_by\":", fault.reason.by().as_str().as_bytes());
        if !fault.detail.is_empty() {
            string(out, ",\"fault_detail\":", fault.detail.as_bytes());
        }
    }
    out.push(b'}');
}

/// `TIME CLIENT (PEER PROVENANCE) "METHOD HOST TARGET PROTOCOL" STATUS BYTES SECONDS ENDPOINT ROUTE FAULT`
fn text(out: &mut Vec<u8>, clock: &Clock, accepted: &Accepted, asked: &Asked<'_>, record: &Record<'_>, ended: Instant) {
    clock.write(ended, out);
    out.push(b' ');
    let provenance = client(out, accepted, record);
    let request = format!(
        "{} {} {} {}",
        asked.method,
        String::from_utf8_lossy(cut(asked.host)),
        String::from_utf8_lossy(cut(asked.target.as_bytes())),
        asked.version
    );
    let endpoint = record.endpoint.as_ref().map_or_else(|| "-".to_owned(), |endpoint| endpoint.text.to_string());
    let route = record.rule.map_or_else(|| "-".to_owned(), |rule| rule.origin.to_string());
    let fault = record.fault.as_ref().map_or("-", |fault| fault.reason.word());
    // `{:?}` escapes quotes and control characters.
    let _ = write!(
        out,
        " ({} {provenance}) {request:?} {} {} {:.6} {endpoint} {route:?} {fault}",
        accepted.peer_text,
        record.status,
        record.sent_bytes,
        ended.saturating_duration_since(record.started).as_secs_f64(),
    );
}

/// Writes the client's address; returns how it was learned.
fn client<'a>(out: &mut Vec<u8>, accepted: &'a Accepted, record: &'a Record<'_>) -> &'a Provenance {
    match &record.client {
        Some((client, provenance)) if *client != accepted.sender.addr => {
            let _ = write!(out, "{client}");
            provenance
        }
        known => {
            out.extend_from_slice(accepted.sender_text.as_bytes());
            known.as_ref().map_or(&accepted.sender.provenance, |(_, provenance)| provenance)
        }
    }
}

fn cut(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_TEXT).unwrap_or(bytes)
}

fn string(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    let value = cut(value);
    if value.iter().all(|byte| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\')) {
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
        return;
    }
    let _ = serde_json::to_writer(out, &String::from_utf8_lossy(value));
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Six digits behind the point.
fn seconds(out: &mut Vec<u8>, key: &str, value: Duration) {
    number(out, key, value.as_secs());
    out.push(b'.');
    digits(out, value.subsec_micros(), 6);
}

fn digits(out: &mut Vec<u8>, number: u32, count: u32) {
    for place in (0..count).rev() {
        out.push(b'0' + u8::try_from(number / 10_u32.pow(place) % 10).unwrap_or(0));
    }
}

/// The time of day as RFC 3339 text, UTC, milliseconds. The text is made, and the system's clock asked, once a second.
struct Clock {
    /// A moment, and the time of day that it was.
    anchor: Cell<(Instant, Duration)>,
    second: Cell<u64>,
    text: RefCell<Vec<u8>>,
}

impl Clock {
    fn new() -> Self {
        Self { anchor: Cell::new(Self::look()), second: Cell::new(0), text: RefCell::default() }
    }

    fn look() -> (Instant, Duration) {
        (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn at(&self, moment: Instant) -> Duration {
        let (anchor, time) = self.anchor.get();
        match moment.checked_duration_since(anchor) {
            Some(later) => time + later,
            None => time.saturating_sub(anchor.duration_since(moment)),
        }
    }

    fn write(&self, moment: Instant, out: &mut Vec<u8>) {
        let mut time = self.at(moment);
        if self.second.get() != time.as_secs() {
            // The system's clock may have been set.
            self.anchor.set(Self::look());
            time = self.at(moment);
            self.second.set(time.as_secs());
            let seconds = i64::try_from(time.as_secs()).unwrap_or_default();
            let text = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string();
            *self.text.borrow_mut() = text.trim_end_matches('Z').into();
        }
        out.extend_from_slice(&self.text.borrow());
        out.push(b'.');
        digits(out, time.subsec_millis(), 3);
        out.push(b'Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_clients_cannot_leave_their_quotes() {
        for value in [&b"plain"[..], b"a\"b", b"a\\", b"\r\n\x00", "é".as_bytes(), b"\xff"] {
            let mut out = Vec::new();
            string(&mut out, "{\"k\":", value);
            out.push(b'}');
            let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(parsed["k"], String::from_utf8_lossy(value).as_ref());
        }
    }

    #[test]
    fn seconds_have_six_digits() {
        let mut out = Vec::new();
        seconds(&mut out, "", Duration::from_micros(1_000_042));
        assert_eq!(out, b"1.000042");
    }

    #[test]
    fn the_clock_writes_rfc_3339() {
        let mut out = Vec::new();
        Clock::new().write(Instant::now(), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.len(), "2026-01-01T00:00:00.000Z".len(), "{text}");
        assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    }
}
