//! Traces: which a request belongs to, whether it is told of, and what it becomes on the wire.
//!
//! 1. [`Span::begin`] reads `traceparent` and `tracestate` (W3C Trace Context), and asks the sampler.
//! 2. [`SpanWriter`] writes a span as OTLP has it, straight from what the request has; nothing is collected first.
//! 3. [`export_request`] puts spans into one request to a collector, and [`refusal`] reads what it said to them.

mod context;
mod otlp;
mod sample;
mod wire;

pub use context::{MAX_STATE, Parent, Span, SpanId, TraceId, state};
pub use otlp::{Refusal, Resource, SpanWriter, Spans, export_request, refusal};
pub use sample::sampled;

/// A fuzz target: any bytes as the headers of a request, and as the answer of a collector.
pub fn fuzz(bytes: &[u8]) {
    context::fuzz(bytes);
    let _ = refusal(bytes);
}
