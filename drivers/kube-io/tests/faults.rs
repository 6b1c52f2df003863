//! What is said about broken manifests, word for word.

use headwater_kube_io::{Reading, read_str};

fn told(reading: &Reading) -> Vec<String> {
    reading.findings.iter().map(ToString::to_string).collect()
}

/// `said` is the whole output for `text`, read as `shop.yaml`; no object may come out of it.
struct Case {
    name: &'static str,
    text: &'static str,
    said: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "not yaml",
        text: "kind: Service\nmetadata: {name: a\n",
        said: &["shop.yaml:2: not YAML: while parsing a flow mapping, did not find expected ',' or '}'"],
    },
    Case {
        name: "tab",
        text: "kind: Service\nmetadata:\n\tname: a\n",
        said: &["shop.yaml:3: not YAML: tabs disallowed within this context (block indentation)"],
    },
    Case {
        name: "bare value",
        text: "hello\n---\n- 1\n",
        said: &[
            "shop.yaml:1: this is not a Kubernetes object (a mapping with apiVersion, kind and metadata)",
            "shop.yaml:3: this is not a Kubernetes object (a mapping with apiVersion, kind and metadata)",
        ],
    },
    Case {
        name: "no kind",
        text: "apiVersion: v1\nmetadata: {name: a}\n",
        said: &["shop.yaml:1: kind: required field is missing"],
    },
    Case {
        name: "no apiVersion",
        text: "\nkind: Service\nmetadata: {name: a}\n",
        said: &["shop.yaml:2: apiVersion: required field is missing"],
    },
    Case {
        name: "no metadata",
        text: "apiVersion: v1\nkind: Service\n",
        said: &["shop.yaml:1: metadata: Service without a name: required field is missing"],
    },
    Case {
        name: "no name",
        text: "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: shop\n",
        said: &["shop.yaml:3: metadata.name: Service without a name: required field is missing"],
    },
    Case {
        name: "number for name",
        text: "apiVersion: v1\nkind: Service\nmetadata:\n  name: 123\n",
        said: &[
            "shop.yaml:4: metadata.name: Service without a name: 123 is a number, not a string (mend: put it in quotes: \"123\")",
        ],
    },
    Case {
        name: "a letter that YAML takes for a boolean",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: y}\n",
        said: &[
            "shop.yaml:3: metadata.name: Service without a name: y is a boolean, not a string (mend: put it in quotes: \"y\")",
        ],
    },
    Case {
        name: "bad names",
        text: "apiVersion: v1\nkind: Service\nmetadata:\n  name: a.b\n  namespace: Shop\n",
        said: &[
            "shop.yaml:4: Service Shop/a.b: metadata.name: \"a.b\" is not an RFC 1123 label (mend: use a-z, 0-9 and \"-\", at most 63, a letter or digit at both ends)",
            "shop.yaml:5: Service Shop/a.b: metadata.namespace: \"Shop\" is not an RFC 1123 label (mend: use a-z, 0-9 and \"-\", at most 63, a letter or digit at both ends)",
        ],
    },
    Case {
        name: "misspelt kind",
        text: "apiVersion: networking.k8s.io/v1\nkind: ingres\nmetadata: {name: a}\n",
        said: &[
            "shop.yaml:2: kind: \"ingres\" is not a kind of networking.k8s.io/v1 (mend: did you mean \"Ingress\"?)",
        ],
    },
    Case {
        name: "old api",
        text: "apiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: a}\n",
        said: &[
            "shop.yaml:1: Ingress default/a: apiVersion: \"networking.k8s.io/v1beta1\" is not read for kind Ingress (mend: write \"networking.k8s.io/v1\")",
        ],
    },
    Case {
        name: "older api",
        text: "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a, namespace: shop}\n",
        said: &[
            "shop.yaml:1: Ingress shop/a: apiVersion: \"extensions/v1beta1\" is not read for kind Ingress (mend: write \"networking.k8s.io/v1\")",
        ],
    },
    Case {
        name: "other group",
        text: "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n",
        said: &[
            "shop.yaml:1: kind Service (serving.knative.dev/v1) is not read by Headwater; 1 object is passed over",
            "shop.yaml:5: kind Deployment (apps/v1) is not read by Headwater; 2 objects are passed over",
        ],
    },
    Case {
        name: "unknown fields",
        text: "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  ingressClass: nginx\n  rules:\n    - hots: a.example\n      replicas: 3\n      http:\n        paths:\n          - path: /\n            pathtype: Prefix\n            backend: {service: {name: a, port: {nubmer: 80}}}\n",
        said: &[
            "shop.yaml:7: Ingress shop/web: spec.ingressClass: unknown field (mend: did you mean \"ingressClassName\"?)",
            "shop.yaml:9: Ingress shop/web: spec.rules[0].hots: unknown field (mend: did you mean \"host\"?)",
            "shop.yaml:10: Ingress shop/web: spec.rules[0].replicas: unknown field (mend: known here: host, http)",
            "shop.yaml:14: Ingress shop/web: spec.rules[0].http.paths[0].pathtype: unknown field (mend: did you mean \"pathType\"?)",
            "shop.yaml:15: Ingress shop/web: spec.rules[0].http.paths[0].backend.service.port.nubmer: unknown field (mend: did you mean \"number\"?)",
        ],
    },
    Case {
        name: "wrong types",
        text: "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  annotations:\n    nginx.ingress.kubernetes.io/ssl-redirect: true\n",
        said: &[
            "shop.yaml:6: Ingress default/web: metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirect]: true is a boolean, not a string (mend: put it in quotes: \"true\")",
        ],
    },
    Case {
        name: "yes is a boolean",
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  enable-brotli: yes\n",
        said: &[
            "shop.yaml:5: ConfigMap default/a: data.enable-brotli: yes is a boolean, not a string (mend: put it in quotes: \"yes\")",
        ],
    },
    Case {
        name: "number for text",
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: x\n  keep-alive: 75\n",
        said: &[
            "shop.yaml:6: ConfigMap default/a: data.keep-alive: 75 is a number, not a string (mend: put it in quotes: \"75\")",
        ],
    },
    Case {
        name: "number for port name",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    - name: 80\n      port: 80\n",
        said: &[
            "shop.yaml:6: Service default/a: spec.ports[0].name: 80 is a number, not a string (mend: put it in quotes: \"80\")",
        ],
    },
    Case {
        name: "text for number",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    - port: \"80\"\n",
        said: &[
            "shop.yaml:6: Service default/a: spec.ports[0].port: \"80\" is a string, not a number from 0 to 65535 (mend: remove the quotes)",
        ],
    },
    Case {
        name: "too large",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    - port: 70000\n",
        said: &["shop.yaml:6: Service default/a: spec.ports[0].port: 70000 is not a number from 0 to 65535"],
    },
    Case {
        name: "target port",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    - port: 80\n      targetPort: 70000\n",
        said: &[
            "shop.yaml:7: Service default/a: spec.ports[0].targetPort: 70000 is neither a port number (0 to 65535) nor a name",
        ],
    },
    Case {
        name: "mapping for list",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    port: 80\n",
        said: &[
            "shop.yaml:5: Service default/a: spec.ports: this is a mapping, not a list (mend: begin each entry with \"- \")",
        ],
    },
    Case {
        name: "list for mapping",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  - ports\n",
        said: &["shop.yaml:4: Service default/a: spec: this is a list, not a mapping"],
    },
    Case {
        name: "missing",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    - name: http\n      port:\n",
        said: &["shop.yaml:6: Service default/a: spec.ports[0].port: required field is missing"],
    },
    Case {
        name: "word",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: Loadbalancer\n",
        said: &[
            "shop.yaml:5: Service default/a: spec.type: \"Loadbalancer\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName (mend: did you mean \"LoadBalancer\"?)",
        ],
    },
    Case {
        name: "number for word",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  tls:\n    minVersion: 1.2\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.tls.minVersion: 1.2 is a number, not one of 1.2, 1.3 (mend: put it in quotes: \"1.2\")",
        ],
    },
    Case {
        name: "duration",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  timeouts:\n    header: 15\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.timeouts.header: 15 is a number, not a string (mend: put it in quotes: \"15\")",
        ],
    },
    Case {
        name: "duration text",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  timeouts:\n    header: 15x\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.timeouts.header: \"15x\" is not a duration (try \"5s\", \"1m30s\" or \"250ms\")",
        ],
    },
    Case {
        name: "size",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  limits:\n    bodyBytes: 1.5\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.limits.bodyBytes: 1.5 is neither a number nor a size (try 1048576 or \"1Mi\")",
        ],
    },
    Case {
        name: "address",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  listeners:\n    - {name: http, port: 80, protocol: HTTP, address: 1.2.3}\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.listeners[0].address: \"1.2.3\": invalid IP address syntax",
        ],
    },
    Case {
        name: "network",
        text: "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {name: a}\nspec:\n  clientAddress:\n    trustedProxies: [10.0.0.0/8, 10.0.0.0/33]\n",
        said: &[
            "shop.yaml:6: GatewaySettings default/a: spec.clientAddress.trustedProxies[1]: \"10.0.0.0/33\" is not a network (try \"10.0.0.0/8\" or \"2001:db8::1\")",
        ],
    },
    Case {
        name: "timestamp",
        text: "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: yesterday}\n",
        said: &[
            "shop.yaml:3: Namespace a: metadata.creationTimestamp: \"yesterday\" is not a time of RFC 3339 (try \"2025-01-31T12:00:00Z\")",
        ],
    },
    Case {
        name: "duplicate key",
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: x\n  b: w\n  a: z\n",
        said: &["shop.yaml:7: ConfigMap default/a: data.a: this key stands here a second time, first in line 5"],
    },
    Case {
        name: "secret",
        text: "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  pin: 123456\n  key: hunter2!\n",
        said: &["shop.yaml:5: Secret default/a: data.pin: this is a number, not a string (mend: put it in quotes)"],
    },
    Case {
        name: "secret base64",
        text: "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  key: hunter2!\n",
        said: &["shop.yaml:5: Secret default/a: data.key: not base64 (plain text belongs under stringData)"],
    },
    Case {
        name: "secret metadata",
        text: "apiVersion: v1\nkind: Secret\nmetadata: {name: a, creationTimestamp: hunter2}\n",
        said: &[
            "shop.yaml:3: Secret default/a: metadata.creationTimestamp: not valid here (values of Secrets are not shown)",
        ],
    },
    Case {
        name: "item of a list",
        text: "apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Service\n    metadata: {name: a}\n    spec:\n      ports:\n        - port: http\n",
        said: &[
            "shop.yaml:9: Service default/a: spec.ports[0].port: \"http\" is a string, not a number from 0 to 65535",
        ],
    },
    Case {
        name: "alias",
        text: "apiVersion: v1\nkind: Service\nmetadata: &a\n  name: a\n  labels: *b\n",
        said: &["shop.yaml:5: not YAML: while parsing node, found unknown anchor"],
    },
];

#[test]
fn every_fault_is_said_with_its_place_and_what_to_do() {
    for Case { name, text, said } in CASES {
        let reading = read_str("shop.yaml", text);
        assert_eq!(told(&reading), *said, "{name}");
        assert!(reading.objects.is_empty(), "{name}: {:?}", reading.objects);
    }
}

#[test]
fn no_value_of_a_secret_is_ever_quoted() {
    let places = [
        "data: {key: %}",
        "data: {key: [%]}",
        "data: {key: {a: %}}",
        "data: [%]",
        "data: %",
        "stringData: {key: [%]}",
        "stringData: %",
        "type: [%]",
        "metadata: {name: a, labels: {a: [%]}}",
        "metadata: {name: a, creationTimestamp: %}",
        "metadata: {name: a, generation: %}",
        "immutable: {a: %",
        "data: {key: 'a' %}",
        "data: {key: *%}",
        "data: {key: %, key: %}",
    ];
    for place in places {
        for value in ["s3cr3t!", "31415926", "'31415926'"] {
            let filled = place.replace('%', value);
            let name = if place.contains("metadata") { "" } else { "metadata: {name: a}\n" };
            let reading = read_str("a.yaml", &format!("apiVersion: v1\nkind: Secret\n{name}{filled}\n"));
            let told = told(&reading);
            if value.starts_with('s') || place.contains('[') {
                assert!(!told.is_empty() || place.contains("labels"), "{filled} is not refused");
            }
            for line in told {
                assert!(!line.contains("s3cr3t") && !line.contains("31415926"), "{filled}: {line}");
            }
        }
    }
}
