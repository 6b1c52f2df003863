//! Frontend (`crd.alauda.io/v1`): one port of an ALB, and what becomes of requests that no Rule takes.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{
    Auth, BackendProtocol, Keepalive, Modsecurity, Otel, Redirect, ServiceGroup, Source, Timeout, optional_protocol,
};
use super::names::Domain;
use super::text::{certificate, write_certificate};
use super::{FieldError, parse};
use crate::object::{Ignored, Metadata};
use crate::origin::NamespacedName;

/// A Frontend as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    pub spec: FrontendSpec,
    #[serde(default)]
    pub status: FrontendStatus,
}

impl Frontend {
    /// Reads a Frontend.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn parse(value: &Value) -> Result<Self, FieldError> {
        parse(value)
    }

    /// Name of the ALB that it belongs to, by its label; without one it belongs to none.
    pub fn alb(&self, domain: &Domain) -> Option<&str> {
        self.metadata.labels.get(&domain.name_label()).map(String::as_str)
    }

    /// The name that a Frontend of a port goes by, as `alb-demo-00080`.
    pub fn conventional_name(alb: &str, port: u16) -> String {
        format!("{alb}-{port:05}")
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FrontendSpec {
    /// 1 to 65535.
    pub port: NonZeroU16,
    /// `tcp`, `udp`, `http`, `https`, `grpc` or `grpcs`; see [`FrontendSpec::protocol`].
    #[serde(default)]
    pub protocol: String,
    /// TLS Secret for hosts that no Rule has one for: `namespace/name` or `namespace_name`.
    #[serde(
        default,
        rename = "certificate_name",
        deserialize_with = "certificate",
        serialize_with = "write_certificate"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub certificate_name: Option<NamespacedName>,
    /// What the Services of `serviceGroup` speak: `http` (default), `https`, `grpc`.
    #[serde(default, deserialize_with = "optional_protocol")]
    pub backend_protocol: Option<BackendProtocol>,
    /// Where requests go that no Rule takes, and all connections of tcp and udp.
    pub service_group: Option<ServiceGroup>,
    pub source: Option<Source>,
    pub config: Option<FrontendConfig>,
}

impl FrontendSpec {
    /// What the port speaks; `tcp` for a word that nobody knows, and for silence, as upstream has it.
    pub fn protocol(&self) -> Protocol {
        Protocol::parse(&self.protocol).unwrap_or(Protocol::Tcp)
    }

    /// The word for its protocol where nobody knows it: it is served as tcp.
    pub fn unknown_protocol(&self) -> Option<&str> {
        Protocol::parse(&self.protocol).is_none().then_some(&self.protocol)
    }

    /// Whether clients speak TLS with it: https, grpcs, and grpc with a certificate.
    pub fn terminates_tls(&self) -> bool {
        match self.protocol() {
            Protocol::Https | Protocol::Grpcs => true,
            Protocol::Grpc => self.certificate_name.is_some(),
            Protocol::Http | Protocol::Tcp | Protocol::Udp => false,
        }
    }

    /// What the Services of `serviceGroup` speak; gRPC at a port of gRPC unless another is written.
    pub fn backend_protocol(&self) -> BackendProtocol {
        self.backend_protocol.unwrap_or(match self.protocol() {
            Protocol::Grpc | Protocol::Grpcs => BackendProtocol::Grpc,
            _ => BackendProtocol::Http,
        })
    }
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Http,
    Https,
    Grpc,
    Grpcs,
}

impl Protocol {
    /// Reads a protocol, in lower case; `None` for a word that nobody knows.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Http, Self::Https, Self::Grpc, Self::Grpcs]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// Whether Rules count: everything but tcp and udp.
    pub fn is_l7(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `spec.config` of a Frontend.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FrontendConfig {
    pub otel: Option<Otel>,
    pub modsecurity: Option<Modsecurity>,
    pub auth: Option<Auth>,
    pub timeout: Option<Timeout>,
    /// For every request at the port.
    pub redirect: Option<Redirect>,
    pub keepalive: Option<Keepalive>,
}

/// `status` of a Frontend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FrontendStatus {
    /// By `host/pod`.
    pub instances: BTreeMap<String, Instance>,
}

/// One pod's view of the port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// Whether another process holds the port.
    pub conflict: bool,
    /// Seconds since 1970.
    pub probe_time: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frontend(spec: Value) -> Result<FrontendSpec, FieldError> {
        Frontend::parse(&json!({"metadata": {"name": "alb-demo-00080"}, "spec": spec})).map(|frontend| frontend.spec)
    }

    #[test]
    fn the_frontend_of_the_manual_is_read() {
        let frontend = Frontend::parse(&json!({
            "apiVersion": "crd.alauda.io/v1",
            "kind": "Frontend",
            "metadata": {
                "name": "alb-demo-00080", "namespace": "cpaas-system", "labels": {"alb2.cpaas.io/name": "alb-demo"},
            },
            "spec": {
                "port": 80, "protocol": "http", "certificate_name": "", "backendProtocol": "http",
                "serviceGroup": {
                    "session_affinity_policy": "",
                    "services": [{"name": "hello-world", "namespace": "default", "port": 80, "weight": 100}],
                },
            },
        }))
        .unwrap();
        assert_eq!(frontend.alb(&Domain::default()), Some("alb-demo"));
        assert_eq!(frontend.alb(&Domain::parse("example.com").unwrap()), None);
        assert_eq!(frontend.spec.port.get(), 80);
        assert_eq!(frontend.spec.protocol(), Protocol::Http);
        assert_eq!(frontend.spec.certificate_name, None);
        let group = frontend.spec.service_group.unwrap();
        assert_eq!(
            (&*group.services[0].name, group.services[0].port, group.services[0].weight()),
            ("hello-world", 80, 100)
        );
    }

    #[test]
    fn a_protocol_that_nobody_knows_is_tcp_and_is_told() {
        for (text, protocol, unknown) in [
            ("tcp", Protocol::Tcp, None),
            ("udp", Protocol::Udp, None),
            ("http", Protocol::Http, None),
            ("https", Protocol::Https, None),
            ("grpc", Protocol::Grpc, None),
            ("grpcs", Protocol::Grpcs, None),
            ("HTTP", Protocol::Tcp, Some("HTTP")),
            ("sctp", Protocol::Tcp, Some("sctp")),
            ("", Protocol::Tcp, Some("")),
        ] {
            let spec = frontend(json!({"port": 1, "protocol": text})).unwrap();
            assert_eq!((spec.protocol(), spec.unknown_protocol()), (protocol, unknown), "{text}");
        }
        assert_eq!(frontend(json!({"port": 1})).unwrap().protocol(), Protocol::Tcp);
    }

    #[test]
    fn grpc_is_tls_with_a_certificate_and_grpcs_always() {
        for (protocol, certificate, tls) in [
            ("http", "a/b", false),
            ("https", "", true),
            ("grpc", "", false),
            ("grpc", "a_b", true),
            ("grpcs", "", true),
            ("tcp", "a/b", false),
        ] {
            let spec = frontend(json!({"port": 1, "protocol": protocol, "certificate_name": certificate})).unwrap();
            assert_eq!(spec.terminates_tls(), tls, "{protocol} {certificate}");
        }
    }

    #[test]
    fn backends_of_grpc_speak_grpc_unless_another_is_written() {
        for (protocol, backend, expected) in [
            ("http", "", BackendProtocol::Http),
            ("https", "HTTPS", BackendProtocol::Https),
            ("grpc", "", BackendProtocol::Grpc),
            ("grpcs", "", BackendProtocol::Grpc),
            ("grpc", "grpcs", BackendProtocol::Grpcs),
            ("http", "$http_backend_protocol", BackendProtocol::Http),
        ] {
            let spec = frontend(json!({"port": 1, "protocol": protocol, "backendProtocol": backend})).unwrap();
            assert_eq!(spec.backend_protocol(), expected, "{protocol} {backend}");
        }
    }

    #[test]
    fn a_broken_field_is_named() {
        #[rustfmt::skip]
        let cases = [
            (json!({}), "spec.port"), (json!({"port": 0}), "spec.port"), (json!({"port": 65_536}), "spec.port"),
            (json!({"port": "80"}), "spec.port"), (json!({"port": 1, "protocol": 6}), "spec.protocol"),
            (json!({"port": 1, "certificate_name": "tls"}), "spec.certificate_name"),
            (json!({"port": 1, "backendProtocol": "spdy"}), "spec.backendProtocol"),
            (json!({"port": 1, "serviceGroup": {"services": [{"name": "a", "port": 80}, {"port": 80}]}}), "spec.serviceGroup.services[1].name"),
            (json!({"port": 1, "config": {"keepalive": {"tcp": {"idle": "long"}}}}), "spec.config.keepalive.tcp.idle"),
            (json!({"port": 1, "config": {"redirect": {"port": -1}}}), "spec.config.redirect.port"),
        ];
        for (spec, field) in cases {
            assert_eq!(frontend(spec).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_port_has_five_digits_in_the_name_of_its_frontend() {
        assert_eq!(Frontend::conventional_name("alb-demo", 80), "alb-demo-00080");
        assert_eq!(Frontend::conventional_name("a", 65_535), "a-65535");
    }
}
