//! Tracing as annotations of an Ingress and the ingress-nginx ConfigMap ask for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::alb::config::{
    BatchSpanProcessor, Collector, Exporter, Flags, Fraction, Otel, Sampler, SamplerName, SamplerOptions,
};
use headwater_model::alb::inherit::EffectiveOtel;
use headwater_model::finding::Finding;
use headwater_model::gateway::{SpanExporter, Template, Trace};
use headwater_model::origin::ObjectKey;

use crate::annotations::parse_bool;
use crate::lookup::{Lookup, Said};
use crate::trace::{TracedService, collector, trace};

/// Names that are read here.
pub(crate) const READ: [&str; 5] = [
    "enable-opentelemetry",
    "opentelemetry-operation-name",
    "opentelemetry-trust-incoming-span",
    // As the ALB's code spells it.
    "opentelemetry-trust-incoming-spans",
    "otel",
];

/// What annotations say of tracing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TraceAnnotations {
    enable: Option<bool>,
    trust: Option<bool>,
    span_name: Option<Template>,
    /// With the name of its annotation.
    otel: Option<(Otel, String)>,
    /// The name of the annotation that `enable` came from.
    enabled_by: String,
}

impl TraceAnnotations {
    /// Reads one set of annotations.
    pub(crate) fn read(object: &ObjectKey, lookup: &Lookup<'_>, findings: &mut Vec<Finding>) -> Self {
        let mut wrong = |said: Said<'_>, expected: String, effect: &str| {
            let shown: String = said.value.chars().take(100).collect();
            let finding =
                Finding::error("InvalidValue", object.clone(), format!("{shown:?} is not {expected}; {effect}"));
            findings.push(finding.at(format!("metadata.annotations[{}]", said.full_name)));
        };
        let mut read = Self::default();
        let mut boolean = |name: &str| {
            let said = lookup.get(name)?;
            let value = parse_bool(said.value);
            if value.is_none() {
                wrong(said, "true or false".to_owned(), "the default is used");
            }
            value
        };
        read.enable = boolean(READ[0]);
        read.trust = boolean(READ[2]).or_else(|| boolean(READ[3]));
        if let Some(said) = [READ[0], READ[2], READ[3]].iter().find_map(|name| lookup.get(name)) {
            read.enabled_by = said.full_name.to_owned();
        }
        if let Some(said) = lookup.get(READ[1]).filter(|said| !said.value.trim().is_empty()) {
            match Template::parse(said.value.trim()) {
                Ok(name) => read.span_name = Some(name),
                Err(error) => wrong(said, format!("a name of spans: {error}"), "method and target are used"),
            }
        }
        if let Some(said) = lookup.get("otel").filter(|said| !said.value.trim().is_empty()) {
            match serde_json::from_str::<Otel>(said.value) {
                Ok(otel) => read.otel = Some((otel, said.full_name.to_owned())),
                Err(error) => wrong(said, format!("a configuration of tracing: {error}"), "it has no effect"),
            }
        }
        read
    }

    /// What they say as the level below an ALB2 and a Frontend, with the name of the annotation that says it; `None`:
    /// nothing. `above`: flags of those levels.
    ///
    /// The ALB's own annotation counts where it enables, and then alone. Trust is nothing without tracing, so that it
    /// enables too.
    pub(crate) fn below_alb(&self, above: Flags) -> Option<(Otel, &str)> {
        if let Some((otel, name)) = self.otel.as_ref().filter(|(otel, _)| otel.enable) {
            return Some((otel.clone(), name));
        }
        let enable = self.enable.or(self.trust.is_some().then_some(true))?;
        let flags = self.trust.map(|trust| Flags { notrust_incoming_span: !trust, ..above });
        Some((Otel { enable, exporter: None, sampler: None, flags, resource: BTreeMap::new() }, &self.enabled_by))
    }

    pub(crate) fn span_name(&self) -> Option<&Template> {
        self.span_name.as_ref()
    }

    /// How requests are traced that these annotations are for.
    pub(crate) fn resolve(
        &self,
        object: &ObjectKey,
        defaults: &TraceDefaults,
        findings: &mut Vec<Finding>,
    ) -> Option<Arc<Trace>> {
        if *self == Self::default() {
            return defaults.trace.clone();
        }
        let own = self.otel.as_ref().filter(|(otel, _)| otel.enable);
        let enable = own.is_some() || self.enable.unwrap_or(defaults.is_enabled);
        if !enable {
            return None;
        }
        let mut base = Otel { enable: true, ..defaults.otel.clone() };
        if let (None, Some(trust)) = (own, self.trust) {
            let flags = base.flags.unwrap_or_default();
            base.flags = Some(Flags { notrust_incoming_span: !trust, ..flags });
        }
        let annotation = own.map_or(&*self.enabled_by, |(_, name)| name);
        let field = format!("metadata.annotations[{annotation}]");
        let Some(otel) = EffectiveOtel::merge([Some(&base), own.map(|(otel, _)| otel)]) else {
            let finding =
                Finding::warning("MissingReference", object.clone(), "there is no collector; nothing is traced");
            let mend = "set otlp-collector-host of the ConfigMap, or exporter.collector.address of otel";
            findings.push(finding.at(field).mend(mend));
            return None;
        };
        let (found, doubts) = trace(&otel, defaults.service());
        for doubt in doubts {
            let message = format!("otel.{}: {}", doubt.field, doubt.message);
            let finding = match doubt.fatal {
                true => Finding::error(doubt.reason, object.clone(), message),
                false => Finding::warning(doubt.reason, object.clone(), message),
            };
            findings.push(finding.at(field.clone()));
        }
        let waits =
            own.is_some_and(|(otel, _)| otel.exporter.as_ref().is_some_and(|e| e.batch_span_processor.is_some()));
        let mut found = found?;
        found.span_name = self.span_name.clone().or_else(|| defaults.span_name.clone());
        Some(Arc::new(if waits { found } else { defaults.batched(found) }))
    }
}

/// What the ConfigMap says of tracing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NginxOtel {
    pub(crate) enable: Option<bool>,
    pub(crate) trust: Option<bool>,
    pub(crate) span_name: Option<Template>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) service: Option<String>,
    pub(crate) sampler: Option<SamplerName>,
    pub(crate) ratio: Option<f64>,
    pub(crate) parent_based: Option<bool>,
    pub(crate) queue: Option<u32>,
    pub(crate) delay_millis: Option<u32>,
    pub(crate) batch: Option<u32>,
}

impl NginxOtel {
    /// Nothing said.
    pub(crate) const SILENT: Self = Self {
        enable: None,
        trust: None,
        span_name: None,
        host: None,
        port: None,
        service: None,
        sampler: None,
        ratio: None,
        parent_based: None,
        queue: None,
        delay_millis: None,
        batch: None,
    };
    /// Where collectors take OTLP over HTTP, and where over gRPC.
    const PORT: u16 = 4318;
    pub(crate) const GRPC_PORT: u16 = 4317;

    /// `http://host:port`; `None` without a host.
    fn address(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        let port = self.port.filter(|port| *port != Self::GRPC_PORT).unwrap_or(Self::PORT);
        // An IPv6 address may stand there without brackets.
        let bare = host.parse::<std::net::Ipv6Addr>().is_ok();
        Some(if bare { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") })
    }
}

impl Default for NginxOtel {
    fn default() -> Self {
        Self::SILENT
    }
}

/// What is traced where annotations do not say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TraceDefaults {
    is_enabled: bool,
    /// A level above annotations.
    otel: Otel,
    span_name: Option<Template>,
    service: String,
    interval: Duration,
    batch: u32,
    /// Of an Ingress without annotations of tracing.
    trace: Option<Arc<Trace>>,
}

/// As ingress-nginx waits for spans.
const DEFAULT_DELAY_MILLIS: u32 = 5000;
const DEFAULT_BATCH: u32 = 512;
const DEFAULT_RATIO: f64 = 0.01;
/// Time that the collector of the ConfigMap has for a request, in seconds; ingress-nginx has no key for it.
const TIMEOUT: u64 = 10;

impl TraceDefaults {
    /// From the ConfigMap; `complain` is told what is wrong with a key.
    pub(crate) fn new(nginx: &NginxOtel, mut complain: impl FnMut(&'static str, &'static str, String)) -> Self {
        let mut address = nginx.address();
        if let Some(wrong) = address.as_deref().and_then(|address| collector(address).err()) {
            let message = format!("does not name a collector: {wrong}; nothing is traced");
            complain("otlp-collector-host", "InvalidValue", message);
            address = None;
        }
        if nginx.port == Some(NginxOtel::GRPC_PORT) {
            let message = "4317 is where collectors take OTLP over gRPC; spans are sent over HTTP to 4318".to_owned();
            complain("otlp-collector-port", "NotObeyed", message);
        }
        let sampler = nginx.sampler.unwrap_or_default();
        let is_ratio = sampler == SamplerName::TraceIdRatio;
        let fraction = is_ratio.then(|| Fraction(nginx.ratio.unwrap_or(DEFAULT_RATIO)));
        let sampler = match nginx.parent_based.unwrap_or(true) {
            true => Sampler {
                name: SamplerName::ParentBase,
                options: Some(SamplerOptions { parent_name: Some(sampler), fraction }),
            },
            false => Sampler { name: sampler, options: Some(SamplerOptions { parent_name: None, fraction }) },
        };
        let collector = address.map(|address| Collector { address, request_timeout: TIMEOUT });
        let queue = nginx.queue.unwrap_or(BatchSpanProcessor::default().max_queue_size);
        let delay = nginx.delay_millis.unwrap_or(DEFAULT_DELAY_MILLIS).max(1);
        let batch = BatchSpanProcessor { max_queue_size: queue.clamp(1, SpanExporter::MAX_QUEUE), inactive_timeout: 1 };
        let flags = Flags { notrust_incoming_span: !nginx.trust.unwrap_or(true), ..Flags::default() };
        let otel = Otel {
            enable: true,
            exporter: Some(Exporter { collector, batch_span_processor: Some(batch) }),
            sampler: Some(sampler),
            flags: Some(flags),
            resource: BTreeMap::new(),
        };
        let is_enabled = nginx.enable.unwrap_or(false);
        let mut defaults = Self {
            is_enabled,
            otel,
            span_name: nginx.span_name.clone(),
            service: nginx.service.clone().unwrap_or_else(|| "headwater".to_owned()),
            interval: Duration::from_millis(delay.into()).min(SpanExporter::MAX_INTERVAL),
            batch: nginx.batch.unwrap_or(DEFAULT_BATCH).clamp(1, SpanExporter::MAX_BATCH),
            trace: None,
        };
        if is_enabled {
            let merged = EffectiveOtel::merge([Some(&defaults.otel)]);
            if merged.is_none() && nginx.host.is_none() {
                let message = "there is no collector (set otlp-collector-host); nothing is traced".to_owned();
                complain("enable-opentelemetry", "MissingReference", message);
            }
            let found = merged.and_then(|otel| trace(&otel, defaults.service()).0);
            defaults.trace = found.map(|found| {
                let span_name = defaults.span_name.clone();
                Arc::new(defaults.batched(Trace { span_name, ..found }))
            });
        }
        defaults
    }

    fn service(&self) -> TracedService<'_> {
        TracedService { name: &self.service, namespace: "", kind: "" }
    }

    /// With the batches of the ConfigMap, which has finer words for them than an ALB.
    fn batched(&self, trace: Trace) -> Trace {
        let exporter = SpanExporter { batch: self.batch, interval: self.interval, ..(*trace.exporter).clone() };
        Trace { exporter: Arc::new(exporter), ..trace }
    }
}

#[cfg(test)]
mod tests {
    use headwater_model::gateway::{RootSampler, Sampler as Sampling};
    use headwater_model::origin::Kind;

    use super::*;

    fn resolved(nginx: &NginxOtel, pairs: &[(&str, &str)]) -> (Option<Arc<Trace>>, Vec<&'static str>) {
        let key = ObjectKey::new(Kind::Ingress, "shop", "web");
        let annotations = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut findings = Vec::new();
        let read = TraceAnnotations::read(&key, &Lookup::new(&annotations, "cpaas.io", None), &mut findings);
        let defaults = TraceDefaults::new(nginx, |_, reason, _| {
            findings.push(Finding::error(reason, key.clone(), ""));
        });
        let trace = read.resolve(&key, &defaults, &mut findings);
        (trace, findings.iter().map(|finding| finding.reason).collect())
    }

    const ENABLE: &str = "nginx.ingress.kubernetes.io/enable-opentelemetry";
    const TRUST: &str = "nginx.ingress.kubernetes.io/opentelemetry-trust-incoming-span";
    const NAME: &str = "nginx.ingress.kubernetes.io/opentelemetry-operation-name";
    const OTEL: &str = "alb.ingress.cpaas.io/otel";

    fn nginx(enable: bool) -> NginxOtel {
        NginxOtel { enable: Some(enable), host: Some("otel.svc".to_owned()), ..NginxOtel::SILENT }
    }

    #[test]
    fn annotations_switch_what_the_config_map_prepares() {
        for (enabled, pairs, traced) in [
            (false, &[][..], false),
            (true, &[][..], true),
            (true, &[(ENABLE, "false")][..], false),
            (false, &[(ENABLE, "true")][..], true),
            (false, &[(TRUST, "true")][..], false),
            (true, &[(TRUST, "false")][..], true),
            (false, &[(OTEL, r#"{"enable":false}"#), (ENABLE, "true")][..], true),
            (false, &[(OTEL, r#"{"enable":true}"#), (ENABLE, "false")][..], true),
        ] {
            let (trace, findings) = resolved(&nginx(enabled), pairs);
            assert_eq!((trace.is_some(), findings.len()), (traced, 0), "{enabled} {pairs:?}");
        }
        let trusts = |pairs: &[(&str, &str)]| resolved(&nginx(true), pairs).0.unwrap().trust_incoming;
        assert!(trusts(&[]) && trusts(&[(TRUST, "true")]) && !trusts(&[(TRUST, "false")]));
        assert!(!trusts(&[("nginx.ingress.kubernetes.io/opentelemetry-trust-incoming-spans", "false")]));
    }

    #[test]
    fn the_config_map_has_the_defaults_of_ingress_nginx() {
        let trace = resolved(&nginx(true), &[]).0.unwrap();
        assert_eq!(trace.sampler, Sampling { parent_based: true, root: RootSampler::AlwaysOn });
        let SpanExporter { collector, queue, batch, interval, resource, .. } = &*trace.exporter;
        assert_eq!(collector.to_string(), "http://otel.svc:4318/v1/traces");
        assert_eq!((*queue, *batch, interval.as_millis(), &*resource["service.name"]), (2048, 512, 5000, "headwater"));
        let nginx = NginxOtel {
            port: Some(4400),
            service: Some("edge".to_owned()),
            sampler: Some(SamplerName::TraceIdRatio),
            ratio: Some(0.25),
            parent_based: Some(false),
            queue: Some(100),
            delay_millis: Some(250),
            batch: Some(10),
            trust: Some(false),
            span_name: Template::parse("HTTP $request_method").ok(),
            host: Some("2001:db8::1".to_owned()),
            ..nginx(true)
        };
        let trace = resolved(&nginx, &[(NAME, "$request_method of $host")]).0.unwrap();
        assert_eq!(trace.sampler, Sampling { parent_based: false, root: RootSampler::TraceIdRatio(0.25) });
        assert!(!trace.trust_incoming && trace.span_name == Template::parse("$request_method of $host").ok());
        let SpanExporter { collector, queue, batch, interval, resource, .. } = &*trace.exporter;
        assert_eq!(collector.to_string(), "http://[2001:db8::1]:4400/v1/traces");
        assert_eq!((*queue, *batch, interval.as_millis(), &*resource["service.name"]), (100, 10, 250, "edge"));
        assert_eq!(resolved(&nginx, &[]).0.unwrap().span_name, nginx.span_name);
    }

    #[test]
    fn the_annotation_of_the_alb_is_merged_over_the_config_map() {
        let own = r#"{"enable":true,"exporter":{"collector":{"address":"jaeger:4318","request_timeout":3}},
            "sampler":{"name":"trace_id_ratio","options":{"fraction":"0.1"}},"resource":{"team":"a"}}"#;
        let (trace, findings) = resolved(&NginxOtel::SILENT, &[(OTEL, own)]);
        assert_eq!(findings, [""; 0]);
        let trace = trace.unwrap();
        assert_eq!(trace.sampler, Sampling { parent_based: false, root: RootSampler::TraceIdRatio(0.1) });
        assert_eq!(trace.exporter.collector.to_string(), "http://jaeger:4318/v1/traces");
        assert_eq!((trace.exporter.timeout.as_secs(), &*trace.exporter.resource["team"]), (3, "a"));
        let waits = r#"{"enable":true,"exporter":{"batch_span_processor":{"max_queue_size":5,"inactive_timeout":7}}}"#;
        let trace = resolved(&nginx(false), &[(OTEL, waits)]).0.unwrap();
        assert_eq!((trace.exporter.queue, trace.exporter.interval.as_secs(), trace.exporter.batch), (5, 7, 256));
    }

    #[test]
    fn what_cannot_be_obeyed_is_told() {
        let grpc = NginxOtel { port: Some(4317), ..nginx(true) };
        let odd = NginxOtel { host: Some("a b".to_owned()), ..nginx(true) };
        for (nginx, pairs, expected) in [
            (NginxOtel::SILENT, &[(ENABLE, "true")][..], "MissingReference"),
            (nginx(true), &[(ENABLE, "yes")][..], "InvalidValue"),
            (nginx(true), &[(OTEL, "{}")][..], "InvalidValue"),
            (nginx(true), &[(NAME, "$nonsense")][..], "InvalidValue"),
            (NginxOtel { enable: Some(true), ..NginxOtel::SILENT }, &[][..], "MissingReference"),
            (grpc, &[][..], "NotObeyed"),
            (odd, &[][..], "InvalidValue"),
            (
                nginx(false),
                &[(OTEL, r#"{"enable":true,"exporter":{"collector":{"address":"ftp://a","request_timeout":1}}}"#)][..],
                "InvalidValue",
            ),
        ] {
            assert_eq!(resolved(&nginx, pairs).1, [expected], "{pairs:?}");
        }
    }
}
