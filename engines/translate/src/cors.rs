//! Annotations about CORS.

use headwater_model::finding::Finding;
use headwater_model::gateway::{AllowedOrigin, Cors};

use crate::annotations::parse_bool;
use crate::filters::Reader;

/// ingress-nginx's defaults.
pub(crate) const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str =
    "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
pub(crate) const MAX_AGE: u32 = 1_728_000;

/// Most origins of one list.
pub(crate) const MAX_ORIGINS: usize = 256;

/// `None` unless `enable-cors` is true.
pub(crate) fn read(reader: &mut Reader<'_, '_>) -> Option<Cors> {
    if !reader.parsed("enable-cors", "true or false", parse_bool).unwrap_or(false) {
        return None;
    }
    let list = |text: &str| is_list(text).then(|| text.into());
    let origins = origins(reader);
    let methods = reader.parsed("cors-allow-methods", "a list of methods", list);
    let headers = reader.parsed("cors-allow-headers", "a list of header names", list);
    let expose = reader.parsed("cors-expose-headers", "a list of header names", list);
    let max_age = reader.parsed("cors-max-age", "a number of seconds", |text| text.parse().ok());
    let credentials = reader.parsed("cors-allow-credentials", "true or false", parse_bool);
    let cors = Cors {
        origins,
        methods: methods.unwrap_or_else(|| METHODS.into()),
        headers: headers.unwrap_or_else(|| HEADERS.into()),
        expose,
        credentials: credentials.unwrap_or(true),
        max_age: max_age.unwrap_or(MAX_AGE),
    };
    if credentials == Some(true)
        && cors.allows_all()
        && let Some(said) = reader.get("cors-allow-credentials")
    {
        let message = "browsers allow credentials to listed origins only, not to all; they are not allowed";
        let finding = Finding::warning("NoEffect", reader.object.clone(), message);
        reader.find(said, finding.mend("list the origins in cors-allow-origin"));
    }
    Some(cors)
}

/// An entry that is no origin is left out: nobody is let in by a mistake.
fn origins(reader: &mut Reader<'_, '_>) -> Vec<AllowedOrigin> {
    let Some(said) = reader.get("cors-allow-origin") else { return vec![AllowedOrigin::Any] };
    if said.value.trim().is_empty() {
        return vec![AllowedOrigin::Any];
    }
    let mut origins = Vec::new();
    for entry in said.value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse_origin(entry) {
            Some(origin) if origins.len() < MAX_ORIGINS => origins.push(origin),
            _ => {
                let shown: String = entry.chars().take(100).collect();
                let message = format!(
                    "{shown:?} is not an origin such as https://a.example or https://*.a.example; it is left out"
                );
                reader.find(said, Finding::error("InvalidValue", reader.object.clone(), message));
            }
        }
    }
    origins
}

/// `*`, `scheme://host[:port]`, or the same with `*.` in front of the host.
pub(crate) fn parse_origin(text: &str) -> Option<AllowedOrigin> {
    if text == "*" {
        return Some(AllowedOrigin::Any);
    }
    let plain = |rest: &str| {
        let (host, port) = rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let is_host =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        is_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if scheme.is_empty() || !is_scheme || text.len() > 512 {
        return None;
    }
    match rest.strip_prefix("*.") {
        Some(suffix) if plain(suffix) => {
            Some(AllowedOrigin::OneLabel { before: format!("{scheme}://").into(), after: format!(".{suffix}").into() })
        }
        None if plain(rest) => Some(AllowedOrigin::Exact(text.into())),
        _ => None,
    }
}

/// Tokens, commas and spaces.
pub(crate) fn is_list(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*, ".contains(&byte);
    !text.is_empty() && text.len() <= 4096 && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_a_whole() {
        let exact = |text: &str| Some(AllowedOrigin::Exact(text.into()));
        let wild =
            |before: &str, after: &str| Some(AllowedOrigin::OneLabel { before: before.into(), after: after.into() });
        for (text, expected) in [
            ("*", Some(AllowedOrigin::Any)),
            ("https://a.example", exact("https://a.example")),
            ("http://a.example:8080", exact("http://a.example:8080")),
            ("https://*.a.example:8443", wild("https://", ".a.example:8443")),
            ("capacitor://localhost", exact("capacitor://localhost")),
            ("a.example", None),
            ("https://a.example/", None),
            ("https://a*.example", None),
            ("https://*", None),
            ("https://a.example:x", None),
            ("://a", None),
            ("null", None),
        ] {
            assert_eq!(parse_origin(text), expected, "{text}");
        }
    }
}
