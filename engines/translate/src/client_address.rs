//! The client-address policy of a listener: GatewaySettings over the ingress-nginx ConfigMap over the default, which
//! trusts nobody.

use headwater_model::client::{
    ClientAddressPolicy, EmitProxyProtocol, ForwardedHeader, ProxyProtocolMode, Trust, TrustedProxies,
};
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::ObjectKey;
use headwater_model::settings::{ClientAddressSpec, EmitProxyProtocolSpec, ProxyProtocolSpec};
use headwater_model::transparent::ASKED;

use crate::nginx_config_map::NginxConfig;

/// A `clientAddress` field and the object it stands in.
pub(crate) struct Written<'a> {
    pub(crate) object: &'a ObjectKey,
    /// `spec.clientAddress` or `spec.listeners[0].clientAddress`.
    pub(crate) field: &'a str,
    pub(crate) spec: &'a ClientAddressSpec,
    /// Of a listener of HTTP or HTTPS alone.
    pub(crate) of_requests: bool,
}

impl Written<'_> {
    fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.field)
    }

    fn error(&self, reason: &'static str, name: &str, message: impl Into<String>) -> Finding {
        Finding::error(reason, self.object.clone(), message).at(self.at(name))
    }

    fn warning(&self, reason: &'static str, name: &str, message: impl Into<String>) -> Finding {
        Finding::warning(reason, self.object.clone(), message).at(self.at(name))
    }
}

/// Compiles one policy. Whatever is contradictory or unreadable about trust ends in trusting nobody.
///
/// `nginx` is the ConfigMap with its key, where there is one.
pub(crate) fn policy(
    written: &Written<'_>,
    nginx: Option<(&ObjectKey, &NginxConfig)>,
    findings: &mut Vec<Finding>,
) -> ClientAddressPolicy {
    let spec = written.spec;
    let default = ClientAddressPolicy::default();
    let config = nginx.map(|(_, config)| config);
    let says_trust = spec.trusted_proxies.is_some() || spec.trusted_hops.is_some();

    let (forwarded_header, trust_scheme) = forwarded_header(written, config, findings);
    let proxy_protocol = match spec.proxy_protocol {
        Some(ProxyProtocolSpec::Off) => ProxyProtocolMode::Off,
        Some(ProxyProtocolSpec::Optional) => ProxyProtocolMode::Optional,
        Some(ProxyProtocolSpec::Required) => ProxyProtocolMode::Required,
        None if config.is_some_and(|config| config.use_proxy_protocol) => ProxyProtocolMode::Required,
        None => default.proxy_protocol,
    };
    let timeout = spec.proxy_protocol_timeout.map(|timeout| timeout.0);
    let timeout = timeout.or(config.and_then(|config| config.proxy_protocol_header_timeout));
    let policy = ClientAddressPolicy {
        trust: trust(written, config, findings),
        proxy_protocol,
        proxy_protocol_timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(default.proxy_protocol_timeout),
        forwarded_header,
        trust_scheme,
        toa: false,
        keep_unverified: spec.keep_unverified.unwrap_or_else(|| {
            config.is_some_and(|config| config.compute_full_forwarded_for && config.use_forwarded_headers)
        }),
        emit_forwarded: spec.emit_forwarded.unwrap_or(default.emit_forwarded),
    };
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        findings.push(written.error("InvalidValue", "proxyProtocolTimeout", "0 would refuse everybody; 5s is used"));
    }
    for (name, value) in [("toa", spec.toa), ("emitToa", spec.emit_toa)] {
        if value == Some(true) {
            let finding = written.error("NotAvailable", name, format!("{name} is not available yet, and stays off"));
            findings.push(finding.mend("use proxyProtocol and emitProxyProtocol to carry the client's address"));
        }
    }
    findings.extend(transparent(written));
    warn_of_consequences(written, nginx, &policy, says_trust, findings);
    policy
}

/// What to know of connections from clients' own addresses, where they are asked for.
fn transparent(written: &Written<'_>) -> Option<Finding> {
    if written.spec.transparent != Some(true) {
        return None;
    }
    let field = written.at("transparent");
    Some(match written.of_requests {
        true => {
            let message = "requests of several clients share connections to endpoints: they come from the gateway";
            written
                .error("NotAvailable", "transparent", message)
                .mend("remove it; the headers X-Real-IP and X-Forwarded-For, or emitProxyProtocol, tell the client")
        }
        false => {
            let message = "what is carried (TCP, UDP, TLS that passes through) reaches endpoints from the client's own \
                           address; requests do not";
            Finding::new(Severity::Info, ASKED, written.object.clone(), message)
                .at(field)
                .mend("have `headwater node --transparent` on its nodes, or the rules that `headwater check` prints")
        }
    })
}

fn forwarded_header(
    written: &Written<'_>,
    config: Option<&NginxConfig>,
    findings: &mut Vec<Finding>,
) -> (ForwardedHeader, bool) {
    match written.spec.forwarded_header.as_deref().map(str::parse::<ForwardedHeader>) {
        Some(Ok(header)) => (header, true),
        Some(Err(invalid)) => {
            let message = format!("{invalid}; no header is read");
            findings.push(written.error("InvalidValue", "forwardedHeader", message));
            (ForwardedHeader::None, true)
        }
        None => match config {
            Some(config) if config.use_forwarded_headers || config.enable_real_ip => {
                let header = config.forwarded_for_header.clone().filter(|_| config.use_forwarded_headers);
                (header.unwrap_or(ForwardedHeader::XForwardedFor), config.use_forwarded_headers)
            }
            _ => (ForwardedHeader::None, true),
        },
    }
}

fn trust(written: &Written<'_>, config: Option<&NginxConfig>, findings: &mut Vec<Finding>) -> Trust {
    let spec = written.spec;
    match (&spec.trusted_proxies, spec.trusted_hops) {
        (Some(_), Some(_)) => {
            let message = "trustedProxies and trustedHops exclude each other; nobody is trusted";
            findings.push(written.error("InvalidValue", "trustedHops", message).mend("remove one of the two"));
            Trust::default()
        }
        (Some(proxies), None) => Trust::Proxies(proxies.iter().map(|cidr| cidr.0).collect()),
        (None, Some(hops)) => Trust::Hops(hops),
        (None, None) => {
            let nets = config.and_then(|config| config.proxy_real_ip_cidr.clone());
            Trust::Proxies(nets.map(TrustedProxies::new).unwrap_or_default())
        }
    }
}

fn warn_of_consequences(
    written: &Written<'_>,
    nginx: Option<(&ObjectKey, &NginxConfig)>,
    policy: &ClientAddressPolicy,
    says_trust: bool,
    findings: &mut Vec<Finding>,
) {
    let spec = written.spec;
    if let Trust::Proxies(proxies) = &policy.trust
        && proxies.covers_a_whole_family()
    {
        let message = "every address of a family is trusted: anybody can claim to be any client";
        let mend = "list the networks of your load balancers";
        findings.push(match nginx {
            Some((map, _)) if !says_trust => {
                Finding::warning("TrustsEverybody", map.clone(), message).at("data.proxy-real-ip-cidr").mend(mend)
            }
            _ => written.warning("TrustsEverybody", "trustedProxies", message).mend(mend),
        });
    }
    if !policy.trust.is_nobody() {
        return;
    }
    if let Some((map, config)) = nginx.filter(|_| !says_trust) {
        let missing = |finding: Finding| {
            finding.at("data.proxy-real-ip-cidr").mend("list the networks of your load balancers in proxy-real-ip-cidr")
        };
        if config.use_proxy_protocol && spec.proxy_protocol.is_none() {
            let message = "use-proxy-protocol needs proxy-real-ip-cidr, which is not set: nobody is trusted, so that \
                           every connection is refused";
            findings.push(missing(Finding::error("MissingKey", map.clone(), message)));
        }
        if (config.use_forwarded_headers || config.enable_real_ip) && spec.forwarded_header.is_none() {
            let key = if config.use_forwarded_headers { "use-forwarded-headers" } else { "enable-real-ip" };
            let message = format!(
                "{key} is on and proxy-real-ip-cidr is not set: nobody is trusted (ingress-nginx would trust \
                 everybody), so that forwarding headers are not believed"
            );
            findings.push(missing(Finding::warning("MissingKey", map.clone(), message)));
        }
    }
    match spec.proxy_protocol {
        Some(ProxyProtocolSpec::Required) => {
            let message = "Required while nobody is trusted: every connection is refused";
            findings.push(written.warning("TrustsNobody", "proxyProtocol", message).mend("set trustedProxies"));
        }
        Some(ProxyProtocolSpec::Optional) => {
            let message = "Optional while nobody is trusted: every PROXY header is refused";
            findings.push(written.warning("TrustsNobody", "proxyProtocol", message).mend("set trustedProxies"));
        }
        _ => {}
    }
    if spec.forwarded_header.is_some() && policy.forwarded_header != ForwardedHeader::None {
        let message = format!("{} is never believed while nobody is trusted", policy.forwarded_header);
        findings.push(written.warning("TrustsNobody", "forwardedHeader", message).mend("set trustedProxies"));
    }
}

pub(crate) fn emit_proxy_protocol(spec: &ClientAddressSpec) -> EmitProxyProtocol {
    match spec.emit_proxy_protocol {
        None | Some(EmitProxyProtocolSpec::Off) => EmitProxyProtocol::Off,
        Some(EmitProxyProtocolSpec::V1) => EmitProxyProtocol::V1,
        Some(EmitProxyProtocolSpec::V2) => EmitProxyProtocol::V2,
    }
}
