//! Which responses are compressed.

use std::sync::Arc;

use headwater_model::finding::Finding;
use headwater_model::gateway::Compression;
use headwater_model::origin::ObjectKey;
use headwater_model::settings::CompressionSpec;

/// What ingress-nginx's ConfigMap says of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NginxGzip {
    pub(crate) enable: Option<bool>,
    pub(crate) level: Option<u32>,
    pub(crate) min_length: Option<u64>,
    pub(crate) types: Option<Vec<Box<str>>>,
}

/// Reads it; a value that does not fit is told, and its default used.
pub(crate) fn compression(
    object: &ObjectKey,
    spec: &CompressionSpec,
    nginx: &NginxGzip,
    findings: &mut Vec<Finding>,
) -> Option<Arc<Compression>> {
    let default = Compression::default();
    let mut wrong = |field: &str, message: String| {
        findings.push(Finding::error("InvalidValue", object.clone(), message).at(format!("spec.compression.{field}")));
    };
    let level = match spec.level.or(nginx.level) {
        None => default.level,
        Some(level) => u8::try_from(level).ok().filter(|level| (1..=9).contains(level)).unwrap_or_else(|| {
            wrong("level", format!("{level} is not 1 to 9; {} is used", default.level));
            default.level
        }),
    };
    let types = match &spec.types {
        None => nginx.types.clone().unwrap_or(default.types),
        Some(written) => {
            let (types, others): (Vec<&String>, Vec<&String>) = written.iter().partition(|text| is_media_type(text));
            for text in others {
                let shown: String = text.chars().take(100).collect();
                wrong("types", format!("{shown:?} is not a media type (try \"text/plain\"); it is passed over"));
            }
            types.into_iter().map(|text| text.to_ascii_lowercase().into()).collect()
        }
    };
    let min_length = spec.min_length.map(|size| size.0).or(nginx.min_length).unwrap_or(default.min_length);
    let enabled = spec.enabled.or(nginx.enable).unwrap_or(false);
    enabled.then(|| Arc::new(Compression { level, min_length, types }))
}

/// Whether it is a type and a subtype (RFC 9110 section 8.3.1), without parameters.
pub(crate) fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(letter)
    };
    text.len() <= 255 && text.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use headwater_model::origin::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, nginx: NginxGzip) -> (Option<Arc<Compression>>, Vec<String>) {
        let key = ObjectKey::new(Kind::GatewaySettings, "a", "b");
        let mut findings = Vec::new();
        let read = compression(&key, &serde_json::from_value(spec).unwrap(), &nginx, &mut findings);
        (read, findings.into_iter().map(|finding| finding.field).collect())
    }

    #[test]
    fn settings_win_over_the_config_map_field_by_field() {
        let nginx =
            || NginxGzip { enable: Some(true), level: Some(1), min_length: Some(9), types: Some(vec!["a/b".into()]) };
        let found = |spec: Value, nginx| read(spec, nginx).0.map(|it| (it.level, it.min_length, it.types.len()));
        let all = Compression::TYPES.len();
        for (spec, nginx, expected) in [
            (json!({}), NginxGzip::default(), None),
            (json!({"level": 3}), NginxGzip::default(), None),
            (json!({"enabled": true}), NginxGzip::default(), Some((5, 256, all))),
            (json!({}), nginx(), Some((1, 9, 1))),
            (json!({"enabled": false}), nginx(), None),
            (json!({"level": 7, "minLength": "1Ki", "types": []}), nginx(), Some((7, 1024, 0))),
        ] {
            assert_eq!(found(spec.clone(), nginx), expected, "{spec}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_and_passed_over() {
        let (read, fields) =
            read(json!({"enabled": true, "level": 12, "types": ["Text/CSS", "css", "a/b;c=d"]}), NginxGzip::default());
        let read = read.unwrap();
        assert_eq!((read.level, &*read.types), (5, &["text/css".into()][..]));
        assert_eq!(fields, ["spec.compression.level", "spec.compression.types", "spec.compression.types"]);
    }
}
