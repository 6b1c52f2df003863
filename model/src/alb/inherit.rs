//! What a Rule takes from its Frontend, and both from their ALB.
//!
//! | of | from | how |
//! |---|---|---|
//! | `auth`, `timeout`, `modsecurity` | Rule, Frontend, ALB2 | the nearest object, as a whole |
//! | `otel` | Rule, Frontend, ALB2, defaults | field by field |
//! | `timeout` of tcp | Frontend, ALB2 | the nearest object, as a whole |
//! | `redirect` | of each its own | a Frontend's is for every request at the port |
//!
//! The default backend of a Frontend takes nothing but the Frontend's redirect. `keepalive` is a Frontend's alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::alb2::{Alb2, Alb2Config};
use super::config::{
    Auth, BatchSpanProcessor, Collector, Flags, Modsecurity, Otel, Redirect, Sampler, SamplerOptions, Timeout,
};
use super::effective::EffectiveAlb;
use super::frontend::{Frontend, FrontendConfig, FrontendSpec, Protocol};
use super::rule::{Rule, RuleConfig};

/// The object that something was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    Alb,
    Frontend,
    Rule,
}

/// A setting, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Inherited<'a, T> {
    pub level: Level,
    pub value: &'a T,
}

/// The configs that a request meets, each `None` where the object says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Levels<'a> {
    pub alb: Option<&'a Alb2Config>,
    pub frontend: Option<&'a FrontendConfig>,
    pub rule: Option<&'a RuleConfig>,
}

impl<'a> Levels<'a> {
    /// Those of a Rule.
    pub fn of_rule(alb: &'a Alb2, frontend: &'a Frontend, rule: &'a Rule) -> Self {
        Self { rule: rule.spec.config.as_ref(), ..Self::of_port(alb, frontend) }
    }

    /// Those of a port.
    pub fn of_port(alb: &'a Alb2, frontend: &'a Frontend) -> Self {
        Self { alb: alb.spec.config.as_ref(), frontend: frontend.spec.config.as_ref(), rule: None }
    }

    fn nearest<T>(
        &self,
        alb: fn(&'a Alb2Config) -> Option<&'a T>,
        frontend: fn(&'a FrontendConfig) -> Option<&'a T>,
        rule: fn(&'a RuleConfig) -> Option<&'a T>,
    ) -> Option<Inherited<'a, T>> {
        let at = |level, value: Option<&'a T>| value.map(|value| Inherited { level, value });
        at(Level::Rule, self.rule.and_then(rule))
            .or_else(|| at(Level::Frontend, self.frontend.and_then(frontend)))
            .or_else(|| at(Level::Alb, self.alb.and_then(alb)))
    }

    /// What a request has to show; `None`: nothing. An `auth` that asks for nothing undoes those above it.
    pub fn auth(&self) -> Option<Inherited<'a, Auth>> {
        self.nearest(|alb| alb.auth.as_ref(), |frontend| frontend.auth.as_ref(), |rule| rule.auth.as_ref())
            .filter(|auth| auth.value.asks())
    }

    /// Times towards backends, and those of a tcp Frontend towards its own; `None`: the defaults.
    pub fn timeout(&self) -> Option<Inherited<'a, Timeout>> {
        self.nearest(|alb| alb.timeout.as_ref(), |frontend| frontend.timeout.as_ref(), |rule| rule.timeout.as_ref())
    }

    /// The firewall that requests pass; `None`: none does. One that is not enabled undoes those above it.
    ///
    /// The annotation [`super::names::MODSECURITY_SNIPPET`] is that of the object of the same level.
    pub fn modsecurity(&self) -> Option<Inherited<'a, Modsecurity>> {
        self.nearest(
            |alb| alb.modsecurity.as_ref(),
            |frontend| frontend.modsecurity.as_ref(),
            |rule| rule.modsecurity.as_ref(),
        )
        .filter(|modsecurity| modsecurity.value.enable)
    }

    /// How requests are traced; `None`: they are not, for want of a nearest `enable: true` or of a collector.
    pub fn otel(&self) -> Option<EffectiveOtel> {
        EffectiveOtel::merge([
            self.alb.and_then(|alb| alb.otel.as_ref()),
            self.frontend.and_then(|frontend| frontend.otel.as_ref()),
            self.rule.and_then(|rule| rule.otel.as_ref()),
        ])
    }
}

/// Tracing with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveOtel {
    pub collector: Collector,
    pub batch: BatchSpanProcessor,
    pub sampler: Sampler,
    pub flags: Flags,
    pub resource: BTreeMap<String, String>,
}

impl EffectiveOtel {
    /// Merges levels field by field, the farthest first; `None`: nothing is traced.
    ///
    /// `collector`, `batch_span_processor` and `flags` have no optional fields, so that whoever has one has it whole. A
    /// `sampler` without `options` drops those above it: they were another sampler's.
    pub fn merge<'a>(levels: impl IntoIterator<Item = Option<&'a Otel>>) -> Option<Self> {
        let mut enable = false;
        let mut collector = None;
        let mut batch = BatchSpanProcessor::default();
        let mut sampler = Sampler::default();
        let mut flags = Flags::default();
        let mut resource = BTreeMap::new();
        for level in levels.into_iter().flatten() {
            enable = level.enable;
            if let Some(exporter) = &level.exporter {
                collector = exporter.collector.as_ref().or(collector);
                batch = exporter.batch_span_processor.unwrap_or(batch);
            }
            if let Some(nearer) = &level.sampler {
                let options = nearer.options.map(|nearer| {
                    let farther = sampler.options.unwrap_or_default();
                    SamplerOptions {
                        parent_name: nearer.parent_name.or(farther.parent_name),
                        fraction: nearer.fraction.or(farther.fraction),
                    }
                });
                sampler = Sampler { name: nearer.name, options };
            }
            flags = level.flags.unwrap_or(flags);
            resource.extend(level.resource.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        let collector = collector.filter(|_| enable)?.clone();
        Some(Self { collector, batch, sampler, flags, resource })
    }
}

/// Where every request at a port is sent; `None`: nowhere.
///
/// It is the Frontend's own, or the one to HTTPS that `ingressSSLRedirect` puts at the port of Ingresses without TLS.
/// Ports of tcp and udp redirect nothing.
pub fn frontend_redirect(alb: &EffectiveAlb, frontend: &FrontendSpec) -> Option<Redirect> {
    let protocol = frontend.protocol();
    if !protocol.is_l7() {
        return None;
    }
    if let Some(redirect) = frontend.config.as_ref().and_then(|config| config.redirect.clone()) {
        return Some(redirect);
    }
    let to_https =
        alb.ingress_ssl_redirect && protocol == Protocol::Http && alb.ingress_http_port == Some(frontend.port.get());
    to_https.then(|| Redirect { code: Some(308), scheme: Some("https".to_owned()), ..Redirect::default() })
}

#[cfg(test)]
mod tests;
