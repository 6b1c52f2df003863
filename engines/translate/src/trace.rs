//! OpenTelemetry as an ALB and its annotations have it -> how requests are traced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::alb::config::{SamplerName, SamplerOptions};
use headwater_model::alb::inherit::EffectiveOtel;
use headwater_model::gateway::{Collector, HostPattern, RootSampler, Sampler, SpanExporter, Trace};

use crate::auth::parse_url;

/// Where spans are posted to below the address of a collector (OTLP over HTTP).
const TRACES: &str = "/v1/traces";
/// Most attributes of a resource that are written by users, and longest one, in bytes.
const MAX_RESOURCE: usize = 64;
const MAX_ATTRIBUTE: usize = 1024;
/// Share of a ratio that does not say one.
const DEFAULT_RATIO: f64 = 0.5;

/// Whose spans they are: attributes of the resource that users may overwrite. Empty ones are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TracedService<'a> {
    /// `service.name`: the ALB.
    pub name: &'a str,
    /// `service.namespace`: that of the ALB.
    pub namespace: &'a str,
    /// `service.type`: `alb`.
    pub kind: &'a str,
}

/// Something that is not obeyed as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceDoubt {
    /// Reason of the finding.
    pub reason: &'static str,
    /// Whether nothing is traced because of it.
    pub fatal: bool,
    /// Inside `otel`: `exporter.collector.address`.
    pub field: &'static str,
    pub message: String,
}

/// How requests are traced; `None` where the collector cannot be used, which is among the doubts.
pub fn trace(otel: &EffectiveOtel, service: TracedService<'_>) -> (Option<Trace>, Vec<TraceDoubt>) {
    let mut doubts = Vec::new();
    let mut doubt = |field, reason, message: String| doubts.push(TraceDoubt { reason, fatal: false, field, message });
    let asked = otel.collector.request_timeout;
    let timeout = otel.collector.timeout();
    if asked != timeout.as_secs() {
        let message = format!("{asked} is a number of seconds, and at least 1 and at most {}", timeout_limit());
        doubt("exporter.collector.request_timeout", "OutOfRange", format!("{message}; {} is used", timeout.as_secs()));
    }
    let queue = otel.batch.max_queue_size.clamp(1, SpanExporter::MAX_QUEUE);
    if queue != otel.batch.max_queue_size {
        let message = format!("{} is not 1 to {}; {queue} is used", otel.batch.max_queue_size, SpanExporter::MAX_QUEUE);
        doubt("exporter.batch_span_processor.max_queue_size", "OutOfRange", message);
    }
    let longest = u32::try_from(SpanExporter::MAX_INTERVAL.as_secs()).unwrap_or(u32::MAX);
    let interval = otel.batch.inactive_timeout.clamp(1, longest);
    if interval != otel.batch.inactive_timeout {
        let message = format!("{} is not 1 to {longest} seconds; {interval} is used", otel.batch.inactive_timeout);
        doubt("exporter.batch_span_processor.inactive_timeout", "OutOfRange", message);
    }
    let options = otel.sampler.options.unwrap_or_default();
    let sampler = sampler(otel.sampler.name, options, &mut doubt);
    let resource = resource(service, &otel.resource, &mut doubt);
    let collector = match collector(&otel.collector.address) {
        Ok(collector) => collector,
        Err(wrong) => {
            let shown: String = otel.collector.address.chars().take(100).collect();
            let message = format!("{shown:?} is not the address of a collector: {wrong}; nothing is traced");
            let field = "exporter.collector.address";
            doubts.push(TraceDoubt { reason: "InvalidValue", fatal: true, field, message });
            return (None, doubts);
        }
    };
    let exporter = SpanExporter {
        collector,
        timeout,
        queue,
        batch: SpanExporter::DEFAULT_BATCH,
        interval: Duration::from_secs(interval.into()),
        resource,
    };
    let trace = Trace {
        exporter: Arc::new(exporter),
        sampler,
        trust_incoming: !otel.flags.notrust_incoming_span,
        hide_upstream: otel.flags.hide_upstream_attrs,
        request_headers: otel.flags.report_http_request_header,
        response_headers: otel.flags.report_http_response_header,
        span_name: None,
    };
    (Some(trace), doubts)
}

fn timeout_limit() -> u64 {
    SpanExporter::MAX_TIMEOUT.as_secs()
}

fn sampler(
    name: SamplerName,
    options: SamplerOptions,
    doubt: &mut impl FnMut(&'static str, &'static str, String),
) -> Sampler {
    let ratio = || RootSampler::TraceIdRatio(options.fraction.map_or(DEFAULT_RATIO, |fraction| fraction.0));
    let (parent_based, root) = match name {
        SamplerName::AlwaysOn => (false, RootSampler::AlwaysOn),
        SamplerName::AlwaysOff => (false, RootSampler::AlwaysOff),
        SamplerName::TraceIdRatio => (false, ratio()),
        SamplerName::ParentBase => (
            true,
            match options.parent_name {
                None | Some(SamplerName::AlwaysOn) => RootSampler::AlwaysOn,
                Some(SamplerName::AlwaysOff) => RootSampler::AlwaysOff,
                Some(SamplerName::TraceIdRatio) => ratio(),
                Some(SamplerName::ParentBase) => {
                    let message = "parent_base says nothing of requests without a parent; always_on is used for them";
                    doubt("sampler.options.parent_name", "InvalidValue", message.to_owned());
                    RootSampler::AlwaysOn
                }
            },
        ),
    };
    // Options of another sampler may be those of a level above.
    Sampler { parent_based, root }
}

fn resource(
    service: TracedService<'_>,
    written: &BTreeMap<String, String>,
    doubt: &mut impl FnMut(&'static str, &'static str, String),
) -> BTreeMap<Box<str>, Box<str>> {
    let known =
        [("service.name", service.name), ("service.namespace", service.namespace), ("service.type", service.kind)];
    let mut resource: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
    let filled = |(_, value): &(&str, &str)| !value.is_empty();
    resource.extend(known.into_iter().filter(filled).map(|(name, value)| (name.into(), value.into())));
    let written = written.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (index, (name, value)) in written.filter(filled).enumerate() {
        if index == MAX_RESOURCE {
            doubt(
                "resource",
                "OutOfRange",
                format!("has more than {MAX_RESOURCE} attributes; the others are left out"),
            );
            break;
        }
        if name.is_empty() || name.len() > MAX_ATTRIBUTE || value.len() > MAX_ATTRIBUTE {
            let shown: String = name.chars().take(100).collect();
            let message = format!("{shown:?}: name and value have at most {MAX_ATTRIBUTE} bytes; it is left out");
            doubt("resource", "OutOfRange", message);
            continue;
        }
        resource.insert(name.into(), value.into());
    }
    resource
}

/// Reads `[http(s)://]host[:port][/path]`, to which `/v1/traces` is added unless it is there.
pub(crate) fn collector(text: &str) -> Result<Collector, String> {
    let text = text.trim();
    let url = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    if url.contains('$') || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it has a character that no URL has".to_owned());
    }
    let parsed = parse_url(&url, &HostPattern::Any)?;
    let target = parsed.target.to_string();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), format!("?{query}")),
        None => (target, String::new()),
    };
    let base = path.trim_end_matches('/');
    let base = base.strip_suffix(TRACES).unwrap_or(base);
    let server = parsed.server;
    let path = format!("{base}{TRACES}{query}").into();
    Ok(Collector { tls: server.tls, host: server.host, port: server.port, path })
}

#[cfg(test)]
mod tests {
    use headwater_model::alb::config::{self, BatchSpanProcessor, Flags, Fraction};

    use super::*;

    fn otel(address: &str) -> EffectiveOtel {
        EffectiveOtel {
            collector: config::Collector { address: address.to_owned(), request_timeout: 10 },
            batch: BatchSpanProcessor::default(),
            sampler: config::Sampler::default(),
            flags: Flags::default(),
            resource: BTreeMap::new(),
        }
    }

    const ALB: TracedService<'_> = TracedService { name: "alb-1", namespace: "cpaas-system", kind: "alb" };

    #[test]
    fn an_address_names_a_collector_with_or_without_scheme_and_path() {
        for (address, expected) in [
            ("http://jaeger.default.svc.cluster.local:4318", "http://jaeger.default.svc.cluster.local:4318/v1/traces"),
            ("jaeger:4318", "http://jaeger:4318/v1/traces"),
            ("jaeger", "http://jaeger:80/v1/traces"),
            ("https://Otel.Example/", "https://otel.example:443/v1/traces"),
            ("https://otel.example/base/", "https://otel.example:443/base/v1/traces"),
            ("https://otel.example/v1/traces", "https://otel.example:443/v1/traces"),
            ("http://[2001:db8::1]:4318", "http://[2001:db8::1]:4318/v1/traces"),
            ("http://192.0.2.1/?token=a", "http://192.0.2.1:80/v1/traces?token=a"),
        ] {
            assert_eq!(collector(address).map(|found| found.to_string()).as_deref(), Ok(expected), "{address}");
        }
        for address in
            ["", "grpc://a", "http://", "http://a b", "a/$x", "http://user@host", "http://a:0", "http://a\u{e9}"]
        {
            assert!(collector(address).is_err(), "{address}");
            let (found, doubts) = trace(&otel(address), ALB);
            assert_eq!((found, doubts.len(), doubts[0].fatal), (None, 1, true), "{address}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_alb() {
        let (found, doubts) = trace(&otel("jaeger:4318"), ALB);
        assert_eq!(doubts, []);
        let found = found.unwrap();
        assert_eq!(found.sampler, Sampler { parent_based: false, root: RootSampler::AlwaysOn });
        assert!(found.trust_incoming && !found.hide_upstream && !found.request_headers && !found.response_headers);
        let SpanExporter { timeout, queue, batch, interval, resource, .. } = &*found.exporter;
        assert_eq!((timeout.as_secs(), *queue, *batch, interval.as_secs()), (10, 2048, 256, 2));
        let resource: Vec<(&str, &str)> = resource.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [("service.name", "alb-1"), ("service.namespace", "cpaas-system"), ("service.type", "alb")];
        assert_eq!(resource, expected);
    }

    #[test]
    fn flags_and_resource_are_obeyed() {
        let mut written = otel("a");
        written.flags = Flags {
            hide_upstream_attrs: true,
            notrust_incoming_span: true,
            report_http_request_header: true,
            report_http_response_header: true,
        };
        let user = [("service.name", "mine"), ("empty", ""), ("k", "v")];
        written.resource = user.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let found = trace(&written, ALB).0.unwrap();
        assert!(!found.trust_incoming && found.hide_upstream && found.request_headers && found.response_headers);
        let resource = &found.exporter.resource;
        assert_eq!((&*resource["service.name"], resource.get("empty"), &*resource["k"]), ("mine", None, "v"));
    }

    #[test]
    fn samplers_are_what_their_names_and_options_say() {
        use RootSampler::{AlwaysOff, AlwaysOn, TraceIdRatio};
        use SamplerName as Name;
        let quarter = Some(Fraction(0.25));
        for (name, parent_name, fraction, parent_based, root, doubts) in [
            (Name::AlwaysOn, None, None, false, AlwaysOn, 0),
            (Name::AlwaysOff, None, None, false, AlwaysOff, 0),
            (Name::TraceIdRatio, None, None, false, TraceIdRatio(0.5), 0),
            (Name::TraceIdRatio, None, quarter, false, TraceIdRatio(0.25), 0),
            (Name::ParentBase, None, None, true, AlwaysOn, 0),
            (Name::ParentBase, Some(Name::AlwaysOff), None, true, AlwaysOff, 0),
            (Name::ParentBase, Some(Name::TraceIdRatio), quarter, true, TraceIdRatio(0.25), 0),
            (Name::ParentBase, Some(Name::ParentBase), None, true, AlwaysOn, 1),
            (Name::AlwaysOn, Some(Name::AlwaysOff), quarter, false, AlwaysOn, 0),
        ] {
            let options = Some(SamplerOptions { parent_name, fraction });
            let written = EffectiveOtel { sampler: config::Sampler { name, options }, ..otel("a") };
            let (found, found_doubts) = trace(&written, ALB);
            let sampler = found.unwrap().sampler;
            assert_eq!(
                (sampler, found_doubts.len()),
                (Sampler { parent_based, root }, doubts),
                "{name:?} {parent_name:?}"
            );
        }
    }

    #[test]
    fn what_is_out_of_range_is_told_and_bounded() {
        for (request_timeout, max_queue_size, inactive_timeout, expected) in [
            (1000, 2048, 2, ["exporter.collector.request_timeout"]),
            (0, 2048, 2, ["exporter.collector.request_timeout"]),
            (10, 0, 2, ["exporter.batch_span_processor.max_queue_size"]),
            (10, u32::MAX, 2, ["exporter.batch_span_processor.max_queue_size"]),
            (10, 1, 0, ["exporter.batch_span_processor.inactive_timeout"]),
            (10, 1, 3600, ["exporter.batch_span_processor.inactive_timeout"]),
        ] {
            let mut written = otel("a");
            written.collector.request_timeout = request_timeout;
            written.batch = BatchSpanProcessor { max_queue_size, inactive_timeout };
            let (found, doubts) = trace(&written, ALB);
            let fields: Vec<&str> = doubts.iter().map(|doubt| doubt.field).collect();
            assert_eq!(fields, expected);
            let exporter = found.unwrap().exporter;
            assert!((1..=60).contains(&exporter.timeout.as_secs()) && (1..=60).contains(&exporter.interval.as_secs()));
            assert!((1..=SpanExporter::MAX_QUEUE).contains(&exporter.queue));
        }
        let resource = (0..100).map(|index| (format!("k{index:03}"), "v".to_owned())).collect();
        let (found, doubts) = trace(&EffectiveOtel { resource, ..otel("a") }, ALB);
        assert_eq!((found.unwrap().exporter.resource.len(), doubts.len()), (64 + 3, 1));
    }
}
