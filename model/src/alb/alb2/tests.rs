use std::time::Duration;

use serde_json::json;

use super::super::effective::{EffectiveAlb, GatewayPart, LoadBalancer, Projects};
use super::*;

fn with(config: Value) -> Result<EffectiveAlb, FieldError> {
    let value = json!({"metadata": {"name": "alb", "namespace": "n"}, "spec": {"config": config}});
    Alb2::parse(&value).map(|alb| alb.effective())
}

#[test]
fn silence_is_what_the_operator_makes_of_it() {
    let alb = with(json!({})).unwrap();
    assert_eq!((&*alb.name, &*alb.namespace), ("alb", "n"));
    assert_eq!((alb.network_mode, alb.replicas, &*alb.anti_affinity_key), (NetworkMode::Host, 3, "local"));
    assert!(alb.serves_rules && alb.serves_ingresses && alb.prometheus && alb.port_probe);
    assert!(alb.ipv6 && alb.http2 && alb.gzip && alb.readonly_root);
    assert!(!alb.cross_clusters && !alb.ingress_ssl_redirect && !alb.default_ingress_class && !alb.profile);
    assert_eq!((alb.metrics_port, alb.ingress_http_port, alb.ingress_https_port), (1936, Some(80), Some(443)));
    assert_eq!((alb.default_certificate, alb.ssl_strategy, alb.go_monitor_port), (None, SslStrategy::Never, None));
    assert_eq!((alb.worker_limit, alb.backlog), (8, 2048));
    assert_eq!(
        [alb.max_term, alb.interval, alb.reload_timeout, alb.resync_period],
        [30, 5, 600, 300].map(Duration::from_secs)
    );
    let shown = |resources: &super::super::effective::EffectiveResources| {
        let amounts = [&resources.limits, &resources.requests];
        amounts.map(|amounts| [amounts.cpu.as_str().to_owned(), amounts.memory.as_str().to_owned()].join(" "))
    };
    assert_eq!(shown(&alb.resources), ["2 2Gi", "50m 128Mi"]);
    assert_eq!(shown(&alb.alb_resources), ["200m 2Gi", "50m 128Mi"]);
    assert_eq!((alb.projects, alb.port_projects, alb.nics), (Projects::None, None, Vec::<String>::new()));
    assert_eq!((alb.gateway, alb.load_balancer), (None, None));
}

#[test]
fn every_field_has_its_effect() {
    let mut config = json!({
        "loadbalancerName": "another", "networkMode": "container", "nodeSelector": {"a": ""}, "replicas": 1,
        "antiAffinityKey": "system", "enableALb": false, "enablePrometheus": "false", "enablePortprobe": "false",
        "enableIPV6": "false", "enableHTTP2": "false", "enableGzip": "false", "enableIngress": "false",
        "enableCrossClusters": "true", "metricsPort": 11_782, "ingressHTTPPort": 0, "ingressHTTPSPort": 8443,
        "ingressSSLRedirect": true, "defaultSSLCert": "cpaas-system/dex.tls", "defaultSSLStrategy": "Both",
    });
    let more = json!({
        "defaultIngressClass": true, "loadbalancerType": "nginx", "ingressController": "alb2",
        "enableGoMonitor": true, "goMonitorPort": 1, "enableProfile": true, "workerLimit": 2, "backlog": 3,
        "maxTermSeconds": 4, "interval": 5, "reloadtimeout": 6, "resyncPeriod": 7, "syncPolicyInterval": 8,
        "cleanMetricsInterval": 9, "policyZip": true, "projects": ["p"], "enablePortProject": true,
        "portProjects": r#"[{"port":"113-333","projects":["p"]}]"#, "bindNIC": r#"{"nic":["eth0"]}"#,
        "overwrite": {"image": [{"nginx": "i"}], "configmap": [{"target": "v1", "name": "a/b"}]},
        "readonlyFS": false,
        "vip": {
            "enableLbSvc": true, "lbSvcIpFamilyPolicy": "SingleStack", "allocateLoadBalancerNodePorts": false,
            "lbSvcAnnotations": {"k": "v"},
        },
        "global": {"external": "is kept, and passed over"},
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let alb = with(config).unwrap();
    assert_eq!(&*alb.name, "alb");
    assert_eq!((alb.network_mode, alb.replicas, &*alb.anti_affinity_key), (NetworkMode::Container, 1, "system"));
    assert_eq!(alb.node_selector, [("a".to_owned(), String::new())].into());
    assert!(!alb.serves_rules && !alb.serves_ingresses && !alb.prometheus && !alb.port_probe);
    assert!(!alb.ipv6 && !alb.http2 && !alb.gzip && !alb.readonly_root);
    assert!(alb.cross_clusters && alb.ingress_ssl_redirect && alb.default_ingress_class && alb.profile);
    assert_eq!((alb.metrics_port, alb.ingress_http_port, alb.ingress_https_port), (11_782, None, Some(8443)));
    assert_eq!(alb.default_certificate, Some(NamespacedName::new("cpaas-system", "dex.tls")));
    assert_eq!((alb.ssl_strategy, alb.go_monitor_port), (SslStrategy::Both, Some(1)));
    assert_eq!((alb.worker_limit, alb.backlog), (2, 3));
    assert_eq!(
        [alb.max_term, alb.interval, alb.reload_timeout, alb.resync_period],
        [4, 5, 6, 7].map(Duration::from_secs)
    );
    assert_eq!(alb.projects, Projects::Only(vec!["p".to_owned()]));
    let ports = PortProject { port: PortRange { first: 113, last: 333 }, projects: vec!["p".to_owned()] };
    assert_eq!((alb.port_projects, alb.nics), (Some(vec![ports]), vec!["eth0".to_owned()]));
    assert_eq!(alb.overwrite.image[0].nginx.as_deref(), Some("i"));
    assert_eq!(alb.overwrite.configmap[0].name, "a/b");
    let load_balancer = LoadBalancer {
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        ip_family_policy: Some("SingleStack".to_owned()),
        allocate_node_ports: false,
    };
    assert_eq!(alb.load_balancer, Some(load_balancer));
}

#[test]
fn a_broken_field_is_named() {
    #[rustfmt::skip]
    let cases = [
        (json!({"enableIPV6": "yes"}), "enableIPV6", "\"yes\" is neither \"true\" nor \"false\""),
        (json!({"enableAlb": "true"}), "enableAlb", "boolean"),
        (json!({"replicas": -1}), "replicas", "-1"),
        (json!({"metricsPort": 65_536}), "metricsPort", "65536"),
        (json!({"networkMode": "bridge"}), "networkMode", "bridge"),
        (json!({"defaultSSLStrategy": "Sometimes"}), "defaultSSLStrategy", "Sometimes"),
        (json!({"defaultSSLCert": "dex.tls"}), "defaultSSLCert", "namespace/secret"),
        (json!({"portProjects": "[{"}), "portProjects", "not JSON"),
        (json!({"portProjects": r#"[{"port": "1"}, {"port": "9-1"}]"#}), "portProjects", "[1].port: \"9-1\""),
        (json!({"portProjects": r#"{"port": "1"}"#}), "portProjects", "in its JSON"),
        (json!({"portProjects": [{"port": "1"}]}), "portProjects", "a string"),
        (json!({"bindNIC": r#"{"nic": "eth0"}"#}), "bindNIC", "nic: "),
        (json!({"bindNIC": "eth0"}), "bindNIC", "not JSON"),
        (json!({"resources": {"limits": {"cpu": "much"}}}), "resources.limits.cpu", "\"much\" is not an amount"),
        (json!({"resources": {"alb": {"requests": {"memory": true}}}}), "resources.alb.requests.memory", "boolean"),
        (json!({"gateway": {"mode": "exclusive"}}), "gateway.mode", "exclusive"),
        (json!({"vip": {"lbSvcAnnotations": {"a": 1}}}), "vip.lbSvcAnnotations.a", "1"),
        (json!({"overwrite": {"image": [{"alb": 1}]}}), "overwrite.image[0].alb", "1"),
        (json!({"timeout": {"proxy_read_timeout_ms": 4_294_967_296_u64}}), "timeout.proxy_read_timeout_ms", "4294967296"),
    ];
    for (config, field, part) in cases {
        let error = with(config).unwrap_err();
        assert_eq!(error.field, format!("spec.config.{field}"), "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    let value = json!({"metadata": {"name": "a"}, "spec": {"type": "envoy"}});
    assert_eq!(Alb2::parse(&value).unwrap_err().field, "spec.type");
}

#[test]
fn switches_go_by_their_names_of_code_and_manual() {
    for name in ["enableALb", "enableAlb", "enableALB"] {
        assert!(!with(json!({(name): false})).unwrap().serves_rules, "{name}");
    }
    for value in [json!("false"), json!("False"), json!(false)] {
        assert!(!with(json!({"enableHTTP2": value})).unwrap().http2, "{value}");
    }
}

#[test]
fn amounts_are_text_or_numbers_each_by_itself_and_none_of_zero() {
    #[rustfmt::skip]
    let cases = [
        (json!({"limits": {"cpu": "210m", "memory": "256Mi"}}), ["210m", "256Mi", "50m", "128Mi"]),
        (json!({"limits": {"memory": "257Mi"}}), ["2", "257Mi", "50m", "128Mi"]),
        (json!({"limits": {"memory": ""}}), ["2", "2Gi", "50m", "128Mi"]),
        (json!({"limits": {"cpu": 4, "memory": 1_073_741_824}}), ["4", "1073741824", "50m", "128Mi"]),
        (json!({"limits": {"cpu": "0", "memory": 0}, "requests": {"cpu": 1}}), ["2", "2Gi", "1", "128Mi"]),
        (json!({"limits": {}}), ["2", "2Gi", "50m", "128Mi"]),
    ];
    for (resources, expected) in cases {
        let alb = with(json!({"resources": resources})).unwrap().resources;
        let found = [&alb.limits.cpu, &alb.limits.memory, &alb.requests.cpu, &alb.requests.memory];
        assert_eq!(found.map(Quantity::as_str), expected, "{resources}");
    }
}

#[test]
fn workers_are_whole_cores_within_the_limit() {
    #[rustfmt::skip]
    let cases = [
        (json!({}), 2), (json!({"resources": {"limits": {"cpu": "200m"}}}), 1),
        (json!({"resources": {"limits": {"cpu": "2100m"}}}), 3), (json!({"resources": {"limits": {"cpu": 64}}}), 8),
        (json!({"resources": {"limits": {"cpu": 64}}, "workerLimit": 16}), 16), (json!({"workerLimit": 0}), 1),
    ];
    for (config, workers) in cases {
        assert_eq!(with(config.clone()).unwrap().workers(), workers, "{config}");
    }
}

#[test]
fn a_gateway_is_shared_or_one_alone() {
    let shared = |name: &str| Some(GatewayPart::Shared(name.to_owned()));
    let alone = |namespace: &str, name: &str| Some(GatewayPart::Standalone(NamespacedName::new(namespace, name)));
    #[rustfmt::skip]
    let cases = [
        (json!({}), None), (json!({"name": "g"}), None), (json!({"enable": false, "mode": "shared"}), None),
        (json!({"enable": true}), shared("alb")), (json!({"mode": "shared"}), shared("alb")),
        (json!({"mode": "shared", "name": "g"}), shared("g")),
        (json!({"mode": "standalone"}), None), (json!({"mode": "standalone", "name": "g"}), alone("n", "g")),
        (json!({"mode": "standalone", "name": "g/m"}), alone("m", "g")),
    ];
    for (gateway, expected) in cases {
        let alb = with(json!({"gateway": gateway})).unwrap();
        let standalone = matches!(expected, Some(GatewayPart::Standalone(_)));
        assert_eq!(alb.gateway, expected, "{gateway}");
        assert_eq!((alb.serves_rules, alb.serves_ingresses, alb.port_probe), (!standalone, !standalone, !standalone));
        assert_eq!(alb.network_mode == NetworkMode::Container, standalone);
        assert_eq!(alb.load_balancer.is_some(), standalone);
    }
}

#[test]
fn container_mode_brings_a_load_balancer_unless_it_is_refused() {
    #[rustfmt::skip]
    let cases = [
        (json!({"networkMode": "container"}), true), (json!({"networkMode": "container", "vip": {"enableLbSvc": false}}), false),
        (json!({"networkMode": "host"}), false), (json!({"networkMode": "host", "vip": {"enableLbSvc": true}}), true),
    ];
    for (config, expected) in cases {
        assert_eq!(with(config.clone()).unwrap().load_balancer.is_some(), expected, "{config}");
    }
}

#[test]
fn projects_are_none_some_or_all() {
    #[rustfmt::skip]
    let cases = [
        (json!([]), None, false), (json!([]), Some("p"), false), (json!(["ALL_ALL"]), None, true),
        (json!(["ALL_ALL"]), Some("p"), true), (json!(["p", "ALL_ALL"]), Some("q"), true), (json!(["p"]), Some("p"), true),
        (json!(["p"]), Some("q"), false), (json!(["p"]), None, false),
    ];
    for (projects, project, admitted) in cases {
        let alb = with(json!({"projects": projects})).unwrap();
        assert_eq!(alb.projects.admits(project), admitted, "{projects} {project:?}");
    }
}

#[test]
fn versions_differ_in_what_is_read_of_them() {
    let object = |version: &str| {
        json!({
            "apiVersion": format!("crd.alauda.io/{version}"), "kind": "ALB2", "metadata": {"name": "a"},
            "spec": {
                "address": "a", "type": "nginx", "bind_address": "*", "domains": ["d"], "iaas_id": "i",
                "config": {"replicas": 1},
            },
        })
    };
    for (version, replicas, operated) in [("v1", 3, false), ("v2beta1", 1, true), ("v2", 1, true)] {
        let alb = Alb2::parse(&object(version)).unwrap();
        assert_eq!(alb.spec.address.as_deref(), Some("a"), "{version}");
        assert_eq!(alb.effective().replicas, replicas, "{version}");
        assert_eq!(alb.is_operated(&Domain::default()), operated, "{version}");
    }
    let mut broken = object("v1");
    broken["spec"]["domains"] = json!("d");
    assert_eq!(Alb2::parse(&broken).unwrap_err().field, "spec.domains");
}

#[test]
fn an_annotation_tells_the_operator_to_pass_over_or_that_a_config_was_there() {
    for (annotations, spec, operated) in [
        (json!({}), json!({}), false),
        (json!({}), json!({"config": {}}), true),
        (json!({"alb.cpaas.io/ignoreme": "true"}), json!({"config": {}}), false),
        (json!({"alb.cpaas.io/ignoreme": "false"}), json!({"config": {}}), true),
        (json!({"alb.cpaas.io/migrate-backup": "{}"}), json!({}), true),
        (json!({"alb.example.com/migrate-backup": "{}"}), json!({}), false),
    ] {
        let alb = Alb2::parse(&json!({"metadata": {"name": "a", "annotations": annotations}, "spec": spec})).unwrap();
        assert_eq!(alb.is_operated(&Domain::default()), operated, "{annotations}");
    }
}

#[test]
fn addresses_are_those_written_then_those_given() {
    let alb = Alb2::parse(&json!({
        "metadata": {"name": "a"},
        "spec": {"address": "192.0.2.1, 2001:db8::1,,lb.example.com"},
        "status": {"detail": {"address": {
            "ok": true, "ipv4": ["198.51.100.1"], "ipv6": ["2001:db8::2", " "], "host": ["given.example.com"],
        }}},
    }))
    .unwrap();
    let shown: Vec<String> = alb.addresses().iter().map(Address::to_string).collect();
    assert_eq!(
        shown,
        ["192.0.2.1", "2001:db8::1", "lb.example.com", "198.51.100.1", "2001:db8::2", "given.example.com"]
    );
    assert_eq!(alb.addresses()[0], Address::Ip("192.0.2.1".parse().unwrap()));
    assert_eq!(Alb2::parse(&json!({"metadata": {"name": "a"}})).unwrap().addresses(), []);
}

#[test]
fn the_config_is_written_as_it_is_read() {
    let config = json!({
        "enableIPV6": "false", "enableALb": true, "portProjects": r#"[{"port":"80","projects":["p"]}]"#,
        "bindNIC": r#"{"nic":["eth0"]}"#, "defaultSSLCert": "a/b", "resources": {"limits": {"cpu": "1"}},
    });
    let read: Alb2Config = parse(&config).unwrap();
    let written = super::super::without_nulls(&serde_json::to_value(&read).unwrap());
    assert_eq!(parse::<Alb2Config>(&written).unwrap(), read);
    for field in ["enableIPV6", "portProjects", "bindNIC", "defaultSSLCert"] {
        assert_eq!(written[field], config[field], "{field}");
    }
}

#[test]
fn the_albs_of_the_manual_are_read() {
    let alb = |version: &str, spec: Value| {
        let value = json!({
            "apiVersion": format!("crd.alauda.io/{version}"), "kind": "ALB2",
            "metadata": {"name": "alb-demo", "namespace": "cpaas-system"}, "spec": spec,
        });
        Alb2::parse(&value).unwrap()
    };
    let quick_start = alb(
        "v2beta1",
        json!({
            "address": "172.20.0.5", "type": "nginx",
            "config": {"networkMode": "host", "loadbalancerName": "alb-demo", "projects": ["ALL_ALL"], "replicas": 1},
        }),
    );
    assert_eq!(quick_start.addresses(), [Address::Ip("172.20.0.5".parse().unwrap())]);
    let effective = quick_start.effective();
    assert_eq!((effective.projects, effective.replicas, effective.load_balancer), (Projects::All, 1, None));
    let otel = alb(
        "v2",
        json!({
            "type": "nginx",
            "config": {
                "loadbalancerName": "otel-alb", "projects": ["ALL_ALL"], "replicas": 1,
                "otel": {"enable": true, "exporter": {"collector": {
                    "address": "http://jaeger.default.svc.cluster.local:4318", "request_timeout": 1000,
                }}},
                "resources": {
                    "alb": {"limits": {"cpu": "200m", "memory": "2Gi"}, "requests": {"cpu": "50m", "memory": "128Mi"}},
                    "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "50m", "memory": "128Mi"},
                },
            },
        }),
    );
    let levels = super::super::inherit::Levels { alb: otel.spec.config.as_ref(), ..Default::default() };
    let traced = levels.otel().unwrap();
    assert_eq!(
        (&*traced.collector.address, traced.collector.timeout()),
        ("http://jaeger.default.svc.cluster.local:4318", Duration::from_secs(60),)
    );
    assert_eq!(otel.effective().resources.limits.memory.as_str(), "1Gi");
    let standalone = alb(
        "v2beta1",
        json!({
            "type": "nginx",
            "config": {
                "enableAlb": false, "networkMode": "container", "vip": {"enableLbSvc": true, "lbSvcAnnotations": {}},
                "gateway": {"mode": "standalone", "name": "test"},
            },
        }),
    );
    let effective = standalone.effective();
    let gateway = GatewayPart::Standalone(NamespacedName::new("cpaas-system", "test"));
    assert_eq!((effective.gateway, effective.serves_rules), (Some(gateway), false));
    assert!(effective.load_balancer.is_some());
}
