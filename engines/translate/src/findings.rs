//! Findings, kept by the part of the translation that they came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::finding::Finding;
use headwater_model::gateway::HostPattern;
use headwater_model::origin::{Kind, NamespacedName};

use crate::environment::GatewayId;
use crate::pools::PoolKey;

/// Where findings come from. Their order is the order in which they are reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Environment,
    Ingress(NamespacedName),
    Names(GatewayId, HostPattern),
    Host(GatewayId, HostPattern),
    Defaults(GatewayId),
    Passthrough(GatewayId, HostPattern),
    Listeners(GatewayId),
    Pool(PoolKey),
    Alb(NamespacedName),
    /// What Frontends and Rules inherit from the ALB2.
    Inherited(NamespacedName),
    Frontend(NamespacedName),
    /// Of the listeners of a Frontend.
    Port(NamespacedName),
    Rule(NamespacedName),
    Policy(NamespacedName),
    /// Of an ALB2's class.
    IngressOfAlb(NamespacedName),
    Validity,
    Fallback,
    /// Of MetalLB's resources.
    Balancers,
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    by_source: BTreeMap<Source, Vec<Finding>>,
    stale: bool,
    all: Arc<[Finding]>,
}

impl Findings {
    /// Replaces what was found there before.
    pub(crate) fn set(&mut self, source: Source, findings: Vec<Finding>) {
        if findings.is_empty() {
            self.stale |= self.by_source.remove(&source).is_some();
        } else if self.by_source.get(&source) != Some(&findings) {
            self.by_source.insert(source, findings);
            self.stale = true;
        }
    }

    /// All of them; the same pointer as before when nothing changed.
    pub(crate) fn all(&mut self) -> Arc<[Finding]> {
        if std::mem::take(&mut self.stale) {
            let mut all: Vec<Finding> = self.by_source.values().flatten().cloned().collect();
            all.dedup();
            self.all = all.into();
        }
        self.all.clone()
    }
}

/// Whether only a reader of Secrets can know it: see [`Options::reads_secrets`](crate::Options::reads_secrets).
pub fn is_about_secrets(finding: &Finding) -> bool {
    match finding.reason {
        "InvalidCertificate" | "HostNotCovered" | "Expired" => true,
        "Forbidden" => finding.object.as_ref().is_some_and(|object| object.kind == Kind::Secret),
        "MissingReference" => {
            let auth = [
                "/auth-secret]",
                "/auth-proxy-set-headers]",
                "basic.secret",
                "forward.auth_headers_cm_ref",
                "certificate_name",
            ];
            finding.field.starts_with("spec.tls")
                || finding.field == "spec.upstream.tls.ca"
                || auth.iter().any(|name| finding.field.ends_with(name))
        }
        "InvalidSecret" | "InvalidConfigMap" => true,
        _ => false,
    }
}
