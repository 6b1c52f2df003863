//! ingress-nginx's ConfigMap, read as settings of Headwater. GatewaySettings win over it, field by field.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use headwater_model::alb::config::SamplerName;
use headwater_model::client::ForwardedHeader;
use headwater_model::finding::Finding;
use headwater_model::gateway::{Balance, Template};
use headwater_model::object::ConfigMap;
use headwater_model::quantity::parse_duration;
use headwater_model::settings::{TlsVersion, parse_cidr};
use ipnet::IpNet;

use crate::access::network;
use crate::annotations::parse_bool;
use crate::balance::load_balance;
use crate::compression::{NginxGzip, is_media_type};
use crate::nginx_keys::is_known;
use crate::tracing::NginxOtel;

/// What a ConfigMap says; `None` where it is silent or wrong.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NginxConfig {
    pub(crate) use_forwarded_headers: bool,
    pub(crate) enable_real_ip: bool,
    pub(crate) compute_full_forwarded_for: bool,
    pub(crate) use_proxy_protocol: bool,
    pub(crate) forwarded_for_header: Option<ForwardedHeader>,
    pub(crate) proxy_real_ip_cidr: Option<Vec<IpNet>>,
    pub(crate) proxy_protocol_header_timeout: Option<Duration>,
    pub(crate) ssl_redirect: Option<bool>,
    pub(crate) force_ssl_redirect: Option<bool>,
    pub(crate) http_redirect_code: Option<u16>,
    pub(crate) no_tls_redirect_locations: Option<Vec<Box<str>>>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) keep_alive_requests: Option<u32>,
    pub(crate) client_header_timeout: Option<Duration>,
    pub(crate) client_body_timeout: Option<Duration>,
    pub(crate) proxy_connect_timeout: Option<Duration>,
    pub(crate) proxy_read_timeout: Option<Duration>,
    pub(crate) proxy_stream_timeout: Option<Duration>,
    pub(crate) proxy_body_size: Option<u64>,
    /// Bytes of the whole head, bytes of one line.
    pub(crate) large_client_header_buffers: Option<(u32, u32)>,
    pub(crate) use_http2: Option<bool>,
    pub(crate) http2_max_concurrent_streams: Option<u32>,
    pub(crate) min_tls_version: Option<TlsVersion>,
    pub(crate) ssl_session_tickets: Option<bool>,
    pub(crate) upstream_keepalive_connections: Option<u32>,
    pub(crate) upstream_keepalive_timeout: Option<Duration>,
    pub(crate) load_balance: Option<Balance>,
    pub(crate) otel: NginxOtel,
    pub(crate) gzip: NginxGzip,
    /// `whitelist-source-range`.
    pub(crate) allow: Option<Vec<IpNet>>,
    /// `denylist-source-range`.
    pub(crate) deny: Option<Vec<IpNet>>,
}

/// One key of the ConfigMap while it is read.
struct Entry<'a> {
    object: &'a ConfigMap,
    key: &'a str,
    value: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Entry<'_> {
    fn find(&mut self, finding: Finding) {
        self.findings.push(finding.at(format!("data.{}", self.key)));
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.find(Finding::warning(reason, self.object.key(), message));
    }

    /// The value, or an error that names it.
    fn parsed<T>(&mut self, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            let shown: String = self.value.chars().take(100).collect();
            let message = format!("{shown:?} is not {expected}; the default is used");
            self.find(Finding::error("InvalidValue", self.object.key(), message));
        }
        value
    }

    fn boolean(&mut self) -> Option<bool> {
        self.parsed(parse_bool(self.value), "true or false")
    }

    fn number(&mut self) -> Option<u32> {
        self.parsed(self.value.trim().parse().ok(), "a whole number")
    }

    fn seconds(&mut self) -> Option<Duration> {
        self.parsed(parse_seconds(self.value), "a number of seconds or a duration such as \"5s\"")
    }
}

/// Reads every key; each that is not obeyed yields a finding that names it.
pub(crate) fn read(object: &ConfigMap, findings: &mut Vec<Finding>) -> NginxConfig {
    let mut config = NginxConfig::default();
    for (key, value) in &object.data {
        let mut entry = Entry { object, key, value, findings };
        match key.as_str() {
            "use-forwarded-headers" => config.use_forwarded_headers = entry.boolean().unwrap_or(false),
            "enable-real-ip" => config.enable_real_ip = entry.boolean().unwrap_or(false),
            "compute-full-forwarded-for" => config.compute_full_forwarded_for = entry.boolean().unwrap_or(false),
            "use-proxy-protocol" => config.use_proxy_protocol = entry.boolean().unwrap_or(false),
            "forwarded-for-header" => {
                config.forwarded_for_header = entry.parsed(value.trim().parse().ok(), "a header name");
            }
            "proxy-real-ip-cidr" => config.proxy_real_ip_cidr = trusted(&mut entry),
            "proxy-protocol-header-timeout" => config.proxy_protocol_header_timeout = entry.seconds(),
            "ssl-redirect" => config.ssl_redirect = entry.boolean(),
            "force-ssl-redirect" => config.force_ssl_redirect = entry.boolean(),
            "http-redirect-code" => {
                let code = value.trim().parse().ok().filter(|code| matches!(code, 301 | 302 | 307 | 308));
                config.http_redirect_code = entry.parsed(code, "301, 302, 307 or 308");
            }
            "no-tls-redirect-locations" => {
                let paths = value.split(',').map(str::trim).filter(|path| !path.is_empty());
                let paths: Option<Vec<Box<str>>> = paths.map(|p| p.starts_with('/').then(|| p.into())).collect();
                config.no_tls_redirect_locations = entry.parsed(paths, "a list of paths");
            }
            "keep-alive" => config.keep_alive = entry.seconds(),
            "keep-alive-requests" => config.keep_alive_requests = entry.number(),
            "client-header-timeout" => config.client_header_timeout = entry.seconds(),
            "client-body-timeout" => config.client_body_timeout = entry.seconds(),
            "proxy-connect-timeout" => config.proxy_connect_timeout = entry.seconds(),
            "proxy-read-timeout" => config.proxy_read_timeout = entry.seconds(),
            "proxy-stream-timeout" => config.proxy_stream_timeout = entry.seconds(),
            "proxy-body-size" => {
                config.proxy_body_size = entry.parsed(parse_nginx_size(value), "a size such as \"8m\"")
            }
            "large-client-header-buffers" => {
                config.large_client_header_buffers =
                    entry.parsed(parse_buffers(value), "a number and a size such as \"4 8k\"");
            }
            "use-http2" => config.use_http2 = entry.boolean(),
            "http2-max-concurrent-streams" => config.http2_max_concurrent_streams = entry.number(),
            "ssl-protocols" => config.min_tls_version = tls_versions(&mut entry),
            "ssl-session-tickets" => config.ssl_session_tickets = entry.boolean(),
            "upstream-keepalive-connections" => config.upstream_keepalive_connections = entry.number(),
            "upstream-keepalive-timeout" => config.upstream_keepalive_timeout = entry.seconds(),
            "load-balance" => config.load_balance = entry.parsed(load_balance(value), "round_robin or ewma"),
            key if gzip(key, &mut config.gzip, &mut entry) => {}
            key if otel(key, &mut config.otel, &mut entry) => {}
            "whitelist-source-range" => {
                // A list of which nothing can be read lets nobody in: no client has this address.
                let nobody = || vec![IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))];
                config.allow = networks(&mut entry).map(|read| if read.is_empty() { nobody() } else { read });
            }
            "denylist-source-range" => config.deny = networks(&mut entry),
            known if is_known(known) => {
                entry.warn("NotImplemented", format!("{known} is not available yet and has no effect"));
            }
            unknown => entry.warn("UnknownKey", format!("{unknown} is not a key of ingress-nginx; it has no effect")),
        }
    }
    config
}

/// Reads a key of tracing; false for any other.
fn gzip(key: &str, gzip: &mut NginxGzip, entry: &mut Entry<'_>) -> bool {
    match key {
        "use-gzip" => gzip.enable = entry.boolean(),
        "gzip-level" => {
            let level = entry.value.trim().parse().ok().filter(|level| (1..=9).contains(level));
            gzip.level = entry.parsed(level, "1 to 9");
        }
        "gzip-min-length" => gzip.min_length = entry.number().map(u64::from),
        "gzip-types" => {
            let types: Vec<Box<str>> = entry.value.split_whitespace().map(|text| text.to_lowercase().into()).collect();
            let fit = types.iter().all(|text| is_media_type(text));
            // nginx adds it to whatever is written.
            let types = types.into_iter().chain(["text/html".into()]).collect();
            gzip.types = entry.parsed(fit.then_some(types), "a list of media types");
        }
        _ => return false,
    }
    true
}

fn otel(key: &str, otel: &mut NginxOtel, entry: &mut Entry<'_>) -> bool {
    let text = entry.value.trim();
    match key {
        "enable-opentelemetry" => otel.enable = entry.boolean(),
        "opentelemetry-trust-incoming-span" => otel.trust = entry.boolean(),
        "opentelemetry-operation-name" if text.is_empty() => {}
        "opentelemetry-operation-name" => {
            otel.span_name = entry.parsed(Template::parse(text).ok(), "a text with variables that are known");
        }
        "otlp-collector-host" => otel.host = Some(text.to_owned()).filter(|text| !text.is_empty()),
        "otlp-collector-port" => {
            let port = text.parse().ok().filter(|port| *port != 0);
            otel.port = entry.parsed(port, "a port");
        }
        "otel-service-name" => otel.service = Some(text.to_owned()).filter(|text| !text.is_empty()),
        "otel-sampler" => {
            let sampler = match text.to_ascii_lowercase().as_str() {
                "alwayson" => Some(SamplerName::AlwaysOn),
                "alwaysoff" => Some(SamplerName::AlwaysOff),
                "traceidratiobased" => Some(SamplerName::TraceIdRatio),
                _ => None,
            };
            otel.sampler = entry.parsed(sampler, "AlwaysOn, AlwaysOff or TraceIdRatioBased");
        }
        "otel-sampler-ratio" => {
            let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            otel.ratio = entry.parsed(ratio, "a share from 0 to 1");
        }
        "otel-sampler-parent-based" => otel.parent_based = entry.boolean(),
        "otel-max-queuesize" => otel.queue = entry.number(),
        "otel-schedule-delay-millis" => otel.delay_millis = entry.number(),
        "otel-max-export-batch-size" => otel.batch = entry.number(),
        _ => return false,
    }
    true
}

/// One wrong entry voids the list: who is trusted must not rest on half a line.
fn trusted(entry: &mut Entry<'_>) -> Option<Vec<IpNet>> {
    let nets = entry.value.split(',').map(str::trim).filter(|net| !net.is_empty());
    let parsed: Result<Vec<IpNet>, &str> = nets.map(|net| parse_cidr(net).ok_or(net)).collect();
    match parsed {
        Ok(nets) if !nets.is_empty() => Some(nets),
        Ok(_) => None,
        Err(wrong) => {
            let shown: String = wrong.chars().take(100).collect();
            let message = format!("{shown:?} is not a network; nobody is trusted");
            entry.find(Finding::error("InvalidValue", entry.object.key(), message));
            None
        }
    }
}

/// The networks of a list of clients; each entry that is none is told, and left out. `None`: nothing is written.
fn networks(entry: &mut Entry<'_>) -> Option<Vec<IpNet>> {
    let texts: Vec<&str> = entry.value.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let mut read = Vec::with_capacity(texts.len());
    for text in &texts {
        match network(text) {
            Some(network) => read.push(network),
            None => {
                let shown: String = text.chars().take(100).collect();
                let message = format!("{shown:?} is not a network; it is left out of {}", entry.key);
                entry.find(Finding::error("InvalidValue", entry.object.key(), message));
            }
        }
    }
    (!texts.is_empty()).then_some(read)
}

fn tls_versions(entry: &mut Entry<'_>) -> Option<TlsVersion> {
    let mut min = None;
    let mut has_1_3 = false;
    for version in entry.value.split_whitespace() {
        match version {
            "TLSv1.3" => has_1_3 = true,
            "TLSv1.2" => min = Some(TlsVersion::V1_2),
            "TLSv1.1" | "TLSv1" | "SSLv3" | "SSLv2" => {
                entry.warn("NotImplemented", format!("{version} is broken and never offered; 1.2 is the least"));
                min = Some(TlsVersion::V1_2);
            }
            _ => return entry.parsed(None, "a list of TLSv1.2 and TLSv1.3"),
        }
    }
    if min.is_some() && !has_1_3 {
        entry.warn("NotImplemented", "TLS 1.3 cannot be switched off and stays offered".to_owned());
    }
    let min = min.or(has_1_3.then_some(TlsVersion::V1_3));
    entry.parsed(min, "a list of TLSv1.2 and TLSv1.3")
}

fn parse_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => parse_duration(text).ok(),
    }
}

/// nginx sizes: bytes, or with `k`, `m`, `g` as powers of 1024.
fn parse_nginx_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_buffers(text: &str) -> Option<(u32, u32)> {
    let (number, size) = text.trim().split_once(' ')?;
    let line = u32::try_from(parse_nginx_size(size)?).ok().filter(|line| *line >= 1024)?;
    let whole = number.parse::<u32>().ok().filter(|number| *number > 0)?.checked_mul(line)?;
    Some((whole, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_model::finding::Severity;

    fn read_pairs(pairs: &[(&str, &str)]) -> (NginxConfig, Vec<Finding>) {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let object = ConfigMap { data, ..ConfigMap::default() };
        let mut findings = Vec::new();
        (read(&object, &mut findings), findings)
    }

    #[test]
    fn obeyed_keys_are_read() {
        let (config, findings) = read_pairs(&[
            ("http-redirect-code", "301"),
            ("keep-alive", "75"),
            ("large-client-header-buffers", "4 8k"),
            ("no-tls-redirect-locations", "/.well-known/acme-challenge, /x"),
            ("proxy-body-size", "8m"),
            ("proxy-protocol-header-timeout", "3s"),
            ("proxy-real-ip-cidr", "10.0.0.0/8, 2001:db8::1"),
            ("ssl-protocols", "TLSv1.3"),
        ]);
        assert_eq!(findings, []);
        assert_eq!(config.http_redirect_code, Some(301));
        assert_eq!(config.keep_alive, Some(Duration::from_secs(75)));
        assert_eq!(config.large_client_header_buffers, Some((32_768, 8_192)));
        assert_eq!(config.no_tls_redirect_locations.unwrap().len(), 2);
        assert_eq!(config.proxy_body_size, Some(8 << 20));
        assert_eq!(config.proxy_protocol_header_timeout, Some(Duration::from_secs(3)));
        assert_eq!(config.proxy_real_ip_cidr.unwrap().len(), 2);
        assert_eq!(config.min_tls_version, Some(TlsVersion::V1_3));
    }

    #[test]
    fn wrong_values_name_key_and_value_and_leave_the_default() {
        for (key, value) in [
            ("use-proxy-protocol", "maybe"),
            ("http-redirect-code", "303"),
            ("keep-alive", "-1"),
            ("proxy-body-size", "8x"),
            ("proxy-real-ip-cidr", "10.0.0.0/8,10.0.0.0/99"),
            ("ssl-protocols", "TLSv9"),
            ("ssl-protocols", ""),
            ("large-client-header-buffers", "4"),
            ("load-balance", "least_conn"),
            ("otel-sampler", "sometimes"),
            ("otel-sampler-ratio", "1.5"),
            ("otlp-collector-port", "0"),
            ("opentelemetry-operation-name", "$nonsense"),
            ("no-tls-redirect-locations", "x"),
            ("forwarded-for-header", "a b"),
        ] {
            let (config, findings) = read_pairs(&[(key, value)]);
            assert_eq!(config, NginxConfig::default(), "{key}: {value}");
            assert_eq!(findings.len(), 1, "{key}: {value}");
            assert_eq!((findings[0].severity, findings[0].field.as_str()), (Severity::Error, &*format!("data.{key}")));
        }
    }

    #[test]
    fn lists_of_clients_are_read_and_a_broken_one_lets_nobody_in() {
        let nets = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>());
        for (value, allow, findings) in [
            ("10.0.0.0/8, 2001:db8::1", nets(&["10.0.0.0/8", "2001:db8::1/128"]), 0),
            ("10.0.0.0/8,office", nets(&["10.0.0.0/8"]), 1),
            ("office", nets(&["0.0.0.0/32"]), 1),
            ("", None, 0),
        ] {
            let (config, found) = read_pairs(&[("whitelist-source-range", value)]);
            assert_eq!((config.allow, found.len()), (allow, findings), "{value}");
        }
        let (config, _) = read_pairs(&[("denylist-source-range", "office,10.0.0.0/8")]);
        assert_eq!(config.deny, nets(&["10.0.0.0/8"]));
    }

    #[test]
    fn keys_that_are_not_obeyed_are_named() {
        let (config, findings) = read_pairs(&[("use-geoip2", "true"), ("use-gzzip", "true")]);
        assert_eq!(config, NginxConfig::default());
        let reasons: Vec<_> = findings.iter().map(|finding| finding.reason).collect();
        assert_eq!(reasons, ["NotImplemented", "UnknownKey"]);
    }
}
