use serde_json::{Value, json};

use super::super::config::{Fraction, SamplerName};
use super::*;

/// An ALB2, a Frontend on port 80 and a Rule with these configs; null: none.
fn objects(alb: Value, frontend: Value, rule: Value) -> (Alb2, Frontend, Rule) {
    let object = |spec: Value| json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    (
        Alb2::parse(&object(json!({"config": alb}))).unwrap(),
        Frontend::parse(&object(json!({"port": 80, "protocol": "http", "config": frontend}))).unwrap(),
        Rule::parse(&object(json!({"config": rule}))).unwrap(),
    )
}

fn otel(alb: Value, frontend: Value, rule: Value) -> Option<EffectiveOtel> {
    let of = |otel: Value| json!({"otel": otel});
    let (alb, frontend, rule) = objects(of(alb), of(frontend), of(rule));
    Levels::of_rule(&alb, &frontend, &rule).otel()
}

#[test]
fn the_nearest_object_counts_as_a_whole() {
    let config = |connect: Option<u32>, realm: Option<&str>| {
        json!({
            "timeout": connect.map(|connect| json!({"proxy_connect_timeout_ms": connect})),
            "auth": realm.map(|realm| json!({"basic": {"realm": realm}})),
            "modsecurity": realm.map(|realm| json!({"enable": true, "transactionId": realm})),
        })
    };
    for (alb, frontend, rule, expected) in [
        (Some(1), Some(2), Some(3), Some((Level::Rule, 3))),
        (Some(1), Some(2), None, Some((Level::Frontend, 2))),
        (Some(1), None, None, Some((Level::Alb, 1))),
        (None, None, None, None),
        (Some(1), None, Some(3), Some((Level::Rule, 3))),
    ] {
        let of = |number: Option<u32>| config(number, number.map(|number| number.to_string()).as_deref());
        let (alb, frontend, rule) = objects(of(alb), of(frontend), of(rule));
        let levels = Levels::of_rule(&alb, &frontend, &rule);
        let timeout = levels.timeout().map(|it| (it.level, it.value.proxy_connect_timeout_ms.unwrap()));
        assert_eq!(timeout, expected);
        let expected = expected.map(|(level, number)| (level, number.to_string()));
        assert_eq!(levels.auth().map(|it| (it.level, it.value.basic.clone().unwrap().realm)), expected);
        assert_eq!(levels.modsecurity().map(|it| (it.level, it.value.transaction_id.clone().unwrap())), expected);
    }
    let (alb, frontend, rule) = objects(
        json!({"timeout": {"proxy_connect_timeout_ms": 1, "proxy_read_timeout_ms": 1}}),
        json!({"timeout": {"proxy_send_timeout_ms": 2}}),
        json!(null),
    );
    let timeout = *Levels::of_rule(&alb, &frontend, &rule).timeout().unwrap().value;
    assert_eq!(timeout, Timeout { proxy_send_timeout_ms: Some(2), ..Timeout::default() });
}

#[test]
fn a_level_can_undo_authentication_and_the_firewall() {
    let on = json!({"auth": {"basic": {"realm": "r"}}, "modsecurity": {"enable": true}});
    for off in [json!({}), json!({"enable": false}), json!({"enable": false, "basic": {"realm": "r"}})] {
        let (alb, frontend, rule) =
            objects(on.clone(), on.clone(), json!({"auth": off, "modsecurity": {"enable": false}}));
        let levels = Levels::of_rule(&alb, &frontend, &rule);
        assert_eq!((levels.auth(), levels.modsecurity()), (None, None), "{off}");
        assert!(Levels::of_port(&alb, &frontend).auth().is_some());
    }
}

#[test]
fn an_auth_that_only_says_it_is_on_still_asks() {
    let (alb, frontend, rule) = objects(json!(null), json!(null), json!({"auth": {"enable": true}}));
    let auth = Levels::of_rule(&alb, &frontend, &rule).auth().unwrap();
    assert_eq!((auth.level, &auth.value.forward, &auth.value.basic), (Level::Rule, &None, &None));
}

#[test]
fn the_timeout_of_a_tcp_port_is_the_frontends_before_the_albs() {
    let of = |ms: u32| json!({"timeout": {"proxy_read_timeout_ms": ms}});
    for (alb, frontend, expected) in [
        (of(1), of(2), Some(2)),
        (of(1), json!(null), Some(1)),
        (json!(null), of(2), Some(2)),
        (json!(null), json!(null), None),
    ] {
        let (alb, frontend, _) = objects(alb, frontend, json!(null));
        let timeout = Levels::of_port(&alb, &frontend).timeout();
        assert_eq!(timeout.and_then(|it| it.value.proxy_read_timeout_ms), expected);
    }
}

#[test]
fn tracing_is_merged_field_by_field_and_the_nearest_enable_decides() {
    let collector = json!({"collector": {"address": "http://127.0.0.1:4318", "request_timeout": 1000}});
    let alb = json!({
        "enable": false,
        "exporter": collector,
        "sampler": {"name": "parent_base", "options": {"parent_name": "trace_id_ratio", "fraction": "0.1"}},
        "resource": {"x.x": "a1", "y": "a"},
    });
    let frontend = json!({"enable": true, "resource": {"a": "b", "y": "f"}});
    let rule = json!({
        "enable": true,
        "exporter": {"batch_span_processor": {"max_queue_size": 1, "inactive_timeout": 3}},
        "flags": {
            "hide_upstream_attrs": false, "notrust_incoming_span": true,
            "report_http_request_header": false, "report_http_response_header": false,
        },
    });
    let expected = EffectiveOtel {
        collector: Collector { address: "http://127.0.0.1:4318".to_owned(), request_timeout: 1000 },
        batch: BatchSpanProcessor { max_queue_size: 1, inactive_timeout: 3 },
        sampler: Sampler {
            name: SamplerName::ParentBase,
            options: Some(SamplerOptions {
                parent_name: Some(SamplerName::TraceIdRatio),
                fraction: Some(Fraction(0.1)),
            }),
        },
        flags: Flags { notrust_incoming_span: true, ..Flags::default() },
        resource: [("a", "b"), ("x.x", "a1"), ("y", "f")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    assert_eq!(otel(alb.clone(), frontend.clone(), rule), Some(expected.clone()));
    let untouched = EffectiveOtel { batch: BatchSpanProcessor::default(), flags: Flags::default(), ..expected };
    assert_eq!(otel(alb.clone(), frontend.clone(), json!(null)), Some(untouched));
    assert_eq!(otel(alb.clone(), json!(null), json!(null)), None);
    assert_eq!(otel(alb, frontend, json!({"enable": false})), None);
    assert_eq!(otel(json!(null), json!(null), json!(null)), None);
    assert_eq!(otel(json!({"enable": true}), json!(null), json!(null)), None, "there is no collector");
}

#[test]
fn a_sampler_brings_its_options_or_drops_those_of_another() {
    let alb = json!({
        "enable": true,
        "exporter": {"collector": {"address": "a:4318", "request_timeout": 1}},
        "sampler": {"name": "parent_base", "options": {"parent_name": "trace_id_ratio", "fraction": "0.1"}},
    });
    let sampler =
        |rule: Value| otel(alb.clone(), json!(null), json!({"enable": true, "sampler": rule})).unwrap().sampler;
    assert_eq!(sampler(json!({"name": "always_off"})), Sampler { name: SamplerName::AlwaysOff, options: None });
    let options = SamplerOptions { parent_name: Some(SamplerName::TraceIdRatio), fraction: Some(Fraction(0.5)) };
    assert_eq!(
        sampler(json!({"name": "parent_base", "options": {"fraction": "0.5"}})),
        Sampler { name: SamplerName::ParentBase, options: Some(options) }
    );
}

#[test]
fn a_port_redirects_by_its_own_word_or_as_the_port_of_ingresses() {
    let https = Redirect { code: Some(308), scheme: Some("https".to_owned()), ..Redirect::default() };
    let own = Redirect { url: Some("/a".to_owned()), ..Redirect::default() };
    #[rustfmt::skip]
    let cases = [
        (json!({}), json!({"port": 80, "protocol": "http"}), None),
        (json!({"ingressSSLRedirect": true}), json!({"port": 80, "protocol": "http"}), Some(&https)),
        (json!({"ingressSSLRedirect": false}), json!({"port": 80, "protocol": "http"}), None),
        (json!({"ingressSSLRedirect": true}), json!({"port": 81, "protocol": "http"}), None),
        (json!({"ingressSSLRedirect": true}), json!({"port": 80, "protocol": "https"}), None),
        (json!({"ingressSSLRedirect": true}), json!({"port": 80, "protocol": "tcp"}), None),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 8080}), json!({"port": 8080, "protocol": "http"}), Some(&https)),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 8080}), json!({"port": 80, "protocol": "http"}), None),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 0}), json!({"port": 80, "protocol": "http"}), None),
        (json!({"ingressSSLRedirect": true}), json!({"port": 80, "protocol": "http", "config": {"redirect": {"url": "/a"}}}), Some(&own)),
        (json!({}), json!({"port": 443, "protocol": "https", "config": {"redirect": {"url": "/a"}}}), Some(&own)),
        (json!({}), json!({"port": 443, "protocol": "tcp", "config": {"redirect": {"url": "/a"}}}), None),
    ];
    for (alb, frontend, expected) in cases {
        let object = |spec: &Value| json!({"metadata": {"name": "a"}, "spec": spec});
        let effective = Alb2::parse(&object(&json!({"config": alb}))).unwrap().effective();
        let found = frontend_redirect(&effective, &Frontend::parse(&object(&frontend)).unwrap().spec);
        assert_eq!(found.as_ref(), expected, "{alb} {frontend}");
    }
}
