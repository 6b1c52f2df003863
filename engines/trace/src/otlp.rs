//! OTLP 1: spans into the body of `POST /v1/traces`, and the answer out of its body.
//!
//! <https://opentelemetry.io/docs/specs/otlp/>; numbers of fields from `opentelemetry/proto/trace/v1/trace.proto`.

use std::borrow::Cow;

use crate::context::Span;
use crate::wire::{self, Value};

/// `SPAN_KIND_SERVER`.
const SERVER: u64 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;
/// Longest text of a span, in bytes.
const MAX_TEXT: usize = 2048;
/// Of the flags of a span: it is known whether its parent is in another process, and it is.
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// Spans as they stand in a request, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    bytes: Vec<u8>,
    count: u32,
}

impl Spans {
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that they take.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// A server span while it is written. Texts longer than 2 KiB are cut; what is no UTF-8 in them is replaced.
#[derive(Debug)]
pub struct SpanWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> SpanWriter<'a> {
    /// Times are nanoseconds since the epoch. `scratch` is cleared, and lends its memory.
    pub fn begin(scratch: &'a mut Vec<u8>, span: &Span, name: &[&[u8]], start: u64, end: u64) -> Self {
        scratch.clear();
        wire::bytes(1, &span.trace.0, scratch);
        wire::bytes(2, &span.id.0, scratch);
        if let Some(state) = &span.state {
            wire::bytes(3, state.as_bytes(), scratch);
        }
        if let Some(parent) = &span.parent {
            wire::bytes(4, &parent.0, scratch);
        }
        match name {
            [name] => wire::bytes(5, text(name).as_bytes(), scratch),
            parts => wire::bytes(5, text(&parts.concat()).as_bytes(), scratch),
        }
        wire::number(6, SERVER, scratch);
        wire::fixed64(7, start, scratch);
        wire::fixed64(8, end.max(start), scratch);
        let remote = if span.parent.is_some() { PARENT_IS_REMOTE } else { 0 };
        wire::fixed32(16, u32::from(span.flags()) | PARENT_IS_KNOWN | remote, scratch);
        Self { out: scratch }
    }

    /// An attribute of a text.
    pub fn text(&mut self, name: &str, value: &[u8]) {
        let value = text(value);
        attribute(9, name, value.as_bytes(), self.out);
    }

    /// An attribute of a text whose name is in two parts.
    pub fn text_below(&mut self, prefix: &str, name: &[u8], value: &[u8]) {
        let mut whole = String::with_capacity(prefix.len() + name.len());
        whole.push_str(prefix);
        whole.push_str(&text(name));
        whole.make_ascii_lowercase();
        self.text(&whole, value);
    }

    /// An attribute of a number.
    pub fn number(&mut self, name: &str, value: u64) {
        let any = 1 + wire::varint_len(value);
        wire::open(9, wire::field_len(name.len()) + wire::field_len(any), self.out);
        wire::bytes(1, name.as_bytes(), self.out);
        wire::open(2, any, self.out);
        wire::number(3, value, self.out);
    }

    /// The span is one of an error.
    pub fn error(&mut self, message: &str) {
        let message = text(message.as_bytes());
        let described = if message.is_empty() { 0 } else { wire::field_len(message.len()) };
        wire::open(15, described + 1 + wire::varint_len(ERROR), self.out);
        if !message.is_empty() {
            wire::bytes(2, message.as_bytes(), self.out);
        }
        wire::number(3, ERROR, self.out);
    }

    /// Puts the span behind the others.
    pub fn end(self, spans: &mut Spans) {
        wire::bytes(2, self.out, &mut spans.bytes);
        spans.count += 1;
    }
}

/// `KeyValue { key, value: AnyValue { string_value } }`.
fn attribute(field: u32, name: &str, value: &[u8], out: &mut Vec<u8>) {
    let any = wire::field_len(value.len());
    wire::open(field, wire::field_len(name.len()) + wire::field_len(any), out);
    wire::bytes(1, name.as_bytes(), out);
    wire::open(2, any, out);
    wire::bytes(1, value, out);
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.len() <= MAX_TEXT {
        return String::from_utf8_lossy(bytes);
    }
    // Not in the middle of a character, where it is one.
    let cut = (MAX_TEXT - 3..=MAX_TEXT).rev().find(|at| bytes[*at] & 0xc0 != 0x80).unwrap_or(MAX_TEXT);
    String::from_utf8_lossy(&bytes[..cut])
}

/// What is the same for all spans of a collector, as it stands in a request: who speaks, and with which tracer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Resource {
    /// `attributes` by name, each once.
    pub fn new<'a>(
        attributes: impl IntoIterator<Item = (&'a str, &'a str)>,
        scope_name: &str,
        scope_version: &str,
    ) -> Self {
        let mut resource = Vec::new();
        for (name, value) in attributes {
            attribute(1, name, value.as_bytes(), &mut resource);
        }
        let mut scope = Vec::new();
        wire::bytes(1, scope_name.as_bytes(), &mut scope);
        wire::bytes(2, scope_version.as_bytes(), &mut scope);
        Self { resource, scope }
    }
}

/// The body of `POST /v1/traces`.
pub fn export_request<'a>(resource: &Resource, spans: impl Iterator<Item = &'a Spans> + Clone) -> Vec<u8> {
    let spans_length: usize = spans.clone().map(Spans::size).sum();
    let scope_spans = wire::field_len(resource.scope.len()) + spans_length;
    let resource_spans = wire::field_len(resource.resource.len()) + wire::field_len(scope_spans);
    let mut out = Vec::with_capacity(wire::field_len(resource_spans));
    wire::open(1, resource_spans, &mut out);
    wire::bytes(1, &resource.resource, &mut out);
    wire::open(2, scope_spans, &mut out);
    wire::bytes(1, &resource.scope, &mut out);
    spans.for_each(|spans| out.extend_from_slice(&spans.bytes));
    out
}

/// What a collector did not take of a request that it answered with success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    pub spans: u64,
    /// Why, in the collector's words; may also stand there without any span refused.
    pub message: String,
}

/// Reads the body of a successful answer. What cannot be read refuses nothing.
pub fn refusal(body: &[u8]) -> Refusal {
    let mut found = Refusal::default();
    let mut rest = body;
    while let Some((field, value, more)) = wire::next(rest) {
        rest = more;
        let (1, Value::Bytes(mut partial)) = (field, value) else { continue };
        while let Some((field, value, more)) = wire::next(partial) {
            partial = more;
            match (field, value) {
                // Counted as `int64`: none is negative.
                (1, Value::Number(count)) => found.spans = u64::try_from(count.cast_signed()).unwrap_or(0),
                (2, Value::Bytes(message)) => found.message = text(message).into_owned(),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use headwater_model::gateway::{RootSampler, Sampler};
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::context::Parent;

    fn span(parent: Option<&str>) -> Span {
        let sampler = Sampler { parent_based: false, root: RootSampler::AlwaysOn };
        let parent = parent.and_then(|parent| Parent::parse(parent.as_bytes()));
        Span::begin(&sampler, parent, || Some("a=1".to_owned()), [1, 2, 3])
    }

    fn decoded(spans: &[Spans]) -> ExportTraceServiceRequest {
        let resource = Resource::new([("service.name", "alb"), ("k", "v")], "headwater", "1.2.3");
        ExportTraceServiceRequest::decode(&*export_request(&resource, spans.iter())).unwrap()
    }

    #[test]
    fn a_collector_reads_what_was_written() {
        let parent = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
        let (mut scratch, mut spans) = (Vec::new(), Spans::default());
        let mut writer = SpanWriter::begin(&mut scratch, &span(Some(&parent)), &[b"GET", b" ", b"/a"], 5, 9);
        writer.text("http.target", b"/a");
        writer.text_below("http.request.header.", b"X-A", b"\xff");
        writer.number("http.status_code", 502);
        writer.error("upstream_refused");
        writer.end(&mut spans);
        SpanWriter::begin(&mut scratch, &span(None), &[b"name"], 5, 4).end(&mut spans);
        let request = decoded(&[spans.clone(), Spans::default(), spans]);

        let [resource_spans] = &request.resource_spans[..] else { panic!("{request:?}") };
        let resource = &resource_spans.resource.as_ref().unwrap().attributes;
        assert_eq!(resource.iter().map(|a| &*a.key).collect::<Vec<_>>(), ["service.name", "k"]);
        let [scope_spans] = &resource_spans.scope_spans[..] else { panic!("{request:?}") };
        let scope = scope_spans.scope.as_ref().unwrap();
        assert_eq!((&*scope.name, &*scope.version, scope_spans.spans.len()), ("headwater", "1.2.3", 4));
        let span = &scope_spans.spans[0];
        assert_eq!((span.trace_id.clone(), span.span_id.clone()), (vec![0xab; 16], 3u64.to_be_bytes().to_vec()));
        assert_eq!((span.parent_span_id.clone(), &*span.trace_state, &*span.name), (vec![0xcd; 8], "a=1", "GET /a"));
        assert_eq!((span.kind, span.start_time_unix_nano, span.end_time_unix_nano, span.flags), (2, 5, 9, 0x301));
        let status = span.status.as_ref().unwrap();
        assert_eq!((status.code, &*status.message), (2, "upstream_refused"));
        let attributes: Vec<(&str, Any)> =
            span.attributes.iter().map(|a| (&*a.key, a.value.clone().unwrap().value.unwrap())).collect();
        assert_eq!(
            attributes,
            [
                ("http.target", Any::StringValue("/a".to_owned())),
                ("http.request.header.x-a", Any::StringValue("\u{fffd}".to_owned())),
                ("http.status_code", Any::IntValue(502)),
            ]
        );
        let root = &scope_spans.spans[1];
        assert_eq!((root.parent_span_id.len(), root.flags, root.status.is_none()), (0, 0x101, true));
        assert_eq!((root.start_time_unix_nano, root.end_time_unix_nano), (5, 5), "no span ends before it starts");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        for (unit, cut) in [("a", 2048), ("\u{e9}", 2048), ("\u{20ac}", 2046)] {
            assert_eq!(text(unit.repeat(3000).as_bytes()), unit.repeat(cut / unit.len()));
        }
        assert!(text(&[0x80; 5000]).len() <= 3 * MAX_TEXT);
    }

    #[test]
    fn a_refusal_is_read_and_nonsense_refuses_nothing() {
        let partial = ExportTracePartialSuccess { rejected_spans: 7, error_message: "full".to_owned() };
        let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
        assert_eq!(refusal(&answer.encode_to_vec()), Refusal { spans: 7, message: "full".to_owned() });
        let negative = ExportTracePartialSuccess { rejected_spans: -1, error_message: String::new() };
        let negative = ExportTraceServiceResponse { partial_success: Some(negative) };
        for body in [&b""[..], b"{}", &[0xff; 20], &negative.encode_to_vec()] {
            assert_eq!(refusal(body), Refusal::default());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_request_can_be_read_by_a_collector(
            name in proptest::collection::vec(any::<u8>(), 0..4000),
            values in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<u32>()), 0..20),
        ) {
            let (mut scratch, mut spans) = (Vec::new(), Spans::default());
            let mut writer = SpanWriter::begin(&mut scratch, &span(None), &[&name], 1, 2);
            for (value, number) in &values {
                writer.text("text", value);
                writer.number("number", u64::from(*number));
            }
            writer.end(&mut spans);
            let request = decoded(&[spans]);
            let found = &request.resource_spans[0].scope_spans[0].spans[0];
            prop_assert_eq!(found.attributes.len(), 2 * values.len());
            for (pair, (value, number)) in found.attributes.chunks(2).zip(&values) {
                let any = |index: usize| pair[index].value.clone().and_then(|any| any.value);
                prop_assert_eq!(any(0), Some(Any::StringValue(String::from_utf8_lossy(value).into_owned())));
                prop_assert_eq!(any(1), Some(Any::IntValue(i64::from(*number))));
            }
        }
    }
}
