use serde_json::{Value, json};

use super::super::{FieldError, parse};
use super::*;

#[test]
fn samplers_go_by_the_names_of_the_manual_and_of_the_code() {
    #[rustfmt::skip]
    let cases = [
        ("always_on", SamplerName::AlwaysOn), ("always on", SamplerName::AlwaysOn), ("always-off", SamplerName::AlwaysOff),
        ("parent_base", SamplerName::ParentBase), ("parent-base", SamplerName::ParentBase),
        ("trace_id_ratio", SamplerName::TraceIdRatio), ("traceid-ratio", SamplerName::TraceIdRatio),
    ];
    for (text, name) in cases {
        let sampler: Sampler = parse(&json!({"name": text})).unwrap();
        assert_eq!(sampler.name, name, "{text}");
    }
    let error = parse::<Sampler>(&json!({"name": "sometimes"})).unwrap_err();
    assert_eq!(error.field, "name");
    assert!(error.message.contains("\"sometimes\""), "{error}");
}

#[test]
fn shares_of_traces_lie_between_none_and_all() {
    let read = |text: &str| parse::<SamplerOptions>(&json!({"fraction": text})).map(|options| options.fraction);
    for (text, share) in [("0", 0.0), ("0.1", 0.1), ("1", 1.0), ("1e-3", 0.001)] {
        assert_eq!(read(text).unwrap(), Some(Fraction(share)), "{text}");
    }
    assert_eq!(read("").unwrap(), None);
    for text in ["-0.1", "1.1", "NaN", "inf", "half"] {
        assert_eq!(read(text).unwrap_err().field, "fraction", "{text}");
    }
}

#[test]
fn what_the_schema_requires_is_required_when_its_parent_is_there() {
    fn missing<T: serde::de::DeserializeOwned>(value: &Value) -> String {
        match parse::<T>(value) {
            Ok(_) => "nothing".to_owned(),
            Err(FieldError { field, .. }) => field,
        }
    }
    assert_eq!(missing::<Otel>(&json!({})), "enable");
    assert_eq!(missing::<Otel>(&json!({"enable": true, "exporter": {}})), "nothing");
    assert_eq!(
        missing::<Otel>(&json!({"enable": true, "exporter": {"collector": {"request_timeout": 1}}})),
        "exporter.collector.address"
    );
    assert_eq!(
        missing::<Otel>(&json!({"enable": true, "exporter": {"collector": {"address": "a"}}})),
        "exporter.collector.request_timeout"
    );
    assert_eq!(
        missing::<Otel>(&json!({"enable": true, "exporter": {"batch_span_processor": {"max_queue_size": 1}}})),
        "exporter.batch_span_processor.inactive_timeout"
    );
    assert_eq!(
        missing::<Otel>(&json!({"enable": true, "flags": {"hide_upstream_attrs": true}})),
        "flags.notrust_incoming_span"
    );
    assert_eq!(missing::<Modsecurity>(&json!({"useCoreRules": true})), "enable");
}

#[test]
fn an_empty_text_is_an_absent_field() {
    let redirect: Redirect = parse(&json!({"url": "", "scheme": "", "host": "", "prefix_match": ""})).unwrap();
    assert_eq!(redirect, Redirect::default());
    let forward: ForwardAuth = parse(&json!({"method": "", "signin_redirect_param": ""})).unwrap();
    assert_eq!((forward.method(), forward.redirect_param()), ("GET", "rd"));
    let modsecurity: Modsecurity = parse(&json!({"enable": true, "cmRef": "", "transactionId": ""})).unwrap();
    assert_eq!(modsecurity, Modsecurity { enable: true, ..Modsecurity::default() });
    assert_eq!(parse::<TcpKeepalive>(&json!({"idle": "", "interval": ""})).unwrap(), TcpKeepalive::default());
}

#[test]
fn a_timeout_of_zero_is_the_default() {
    let timeout: Timeout = parse(&json!({"proxy_connect_timeout_ms": 0, "proxy_read_timeout_ms": 250})).unwrap();
    let seconds = [timeout.connect(), timeout.send(), timeout.read()].map(|time| time.as_secs_f64());
    assert_eq!(seconds, [5.0, 120.0, 0.25]);
    assert_eq!(parse::<Timeout>(&json!({"proxy_send_timeout_ms": -1})).unwrap_err().field, "proxy_send_timeout_ms");
}

#[test]
fn a_collector_is_waited_for_a_minute_at_most() {
    for (written, seconds) in [(0, 1), (5, 5), (1000, 60), (u64::MAX, 60)] {
        let collector = Collector { address: String::new(), request_timeout: written };
        assert_eq!(collector.timeout(), Duration::from_secs(seconds), "{written}");
    }
}

#[test]
fn a_status_of_zero_is_found() {
    for (code, status) in [(None, 302), (Some(0), 302), (Some(301), 301), (Some(308), 308)] {
        assert_eq!(Redirect { code, ..Redirect::default() }.status(), status);
    }
}

#[test]
fn affinity_is_what_the_policy_says_and_round_robin_for_what_nobody_knows() {
    #[rustfmt::skip]
    let cases = [
        ("", "", Affinity::RoundRobin), ("rr", "x", Affinity::RoundRobin), ("random", "", Affinity::RoundRobin),
        ("sip-hash", "", Affinity::SourceIp), ("ewma", "", Affinity::Ewma),
        ("cookie", "", Affinity::Cookie("JSESSIONID".to_owned())), ("cookie", "c", Affinity::Cookie("c".to_owned())),
        ("header", "x-user", Affinity::Header("x-user".to_owned())), ("header", "", Affinity::RoundRobin),
    ];
    for (policy, attribute, expected) in cases {
        let group: ServiceGroup =
            parse(&json!({"session_affinity_policy": policy, "session_affinity_attribute": attribute})).unwrap();
        assert_eq!(group.affinity(), expected, "{policy} {attribute}");
    }
}

#[test]
fn weights_are_bounded() {
    for (weight, expected) in [(json!(-5), 0), (json!(0), 0), (json!(7), 7), (json!(1000), 100), (Value::Null, 100)] {
        let service: WeightedService = parse(&json!({"name": "a", "port": 80, "weight": weight})).unwrap();
        assert_eq!(service.weight(), expected, "{weight}");
    }
}

#[test]
fn authentication_that_asks_for_nothing_or_is_off_asks_nobody() {
    #[rustfmt::skip]
    let cases = [
        (json!({}), false), (json!({"basic": {}}), true), (json!({"forward": {}}), true),
        (json!({"enable": false, "basic": {}}), false), (json!({"enable": true}), true),
    ];
    for (value, asks) in cases {
        assert_eq!(parse::<Auth>(&value).unwrap().asks(), asks, "{value}");
    }
}
