//! Annotations of an Ingress, as ingress-nginx names them.

use std::collections::BTreeMap;

use headwater_model::finding::Finding;
use headwater_model::gateway::AccessList;
use headwater_model::origin::ObjectKey;

use crate::access;
use crate::annotation_names::{GUARDS, PREFIX, is_known};
use crate::auth::{self, AuthAnnotations};
use crate::balance::{self, Balancing};
use crate::filters::{self, Reader, RouteFilters};
use crate::lookup::{ALB_NAMES, Lookup, Said, places};
use crate::service::Speech;
use crate::tracing::{self, TraceAnnotations};

/// What the annotations of one Ingress say about all of it, and about single paths.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Annotated {
    pub(crate) whole: Annotations,
    /// By indices of rule and path.
    at: BTreeMap<(usize, usize), Annotations>,
}

impl Annotated {
    /// Where the path has annotations of its own.
    pub(crate) fn at(&self, rule: usize, path: usize) -> Option<&Annotations> {
        self.at.get(&(rule, path))
    }

    /// All there are.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Annotations> {
        std::iter::once(&self.whole).chain(self.at.values())
    }

    /// Indices of rule and path of those.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.at.keys().copied()
    }
}

/// What the annotations of one Ingress, or of one of its paths, say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Annotations {
    pub(crate) auth: AuthAnnotations,
    pub(crate) filters: RouteFilters,
    pub(crate) trace: TraceAnnotations,
    pub(crate) ssl_redirect: Option<bool>,
    pub(crate) force_ssl_redirect: Option<bool>,
    pub(crate) preserve_trailing_slash: bool,
    /// `backend-protocol`.
    pub(crate) protocol: Option<BackendProtocol>,
    /// `ssl-passthrough`, which counts for whole Ingresses only.
    pub(crate) passthrough: bool,
    pub(crate) balancing: Balancing,
    pub(crate) access: Option<AccessList>,
    /// A canary never serves on its own.
    pub(crate) canary: bool,
    /// Asks for a protection that is not available: its rules refuse rather than let everybody in.
    pub(crate) guarded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum BackendProtocol {
    Known(Speech),
    /// Known to ingress-nginx or to nobody; backends are refused rather than spoken to in the wrong protocol.
    Unsupported,
}

/// Reads the annotations under the prefixes of [`Lookup`]; others are not looked at.
pub(crate) fn read_all(
    object: &ObjectKey,
    annotations: &BTreeMap<String, String>,
    domain: &str,
) -> (Annotated, Vec<Finding>) {
    let (mut whole, mut findings) = read(object, &Lookup::new(annotations, domain, None));
    let mut at = BTreeMap::new();
    for place in places(annotations, domain) {
        let (read, mut found) = read(object, &Lookup::new(annotations, domain, Some(place)));
        // What is wrong with the others was found already.
        found.retain(|finding| finding.field.starts_with("metadata.annotations[index."));
        findings.append(&mut found);
        at.insert(place, read);
    }
    let mut misplaced = auth::misplaced(object, annotations, domain);
    if !misplaced.is_empty() {
        findings.append(&mut misplaced);
        std::iter::once(&mut whole).chain(at.values_mut()).for_each(|read| read.auth.misplaced = true);
    }
    (Annotated { whole, at }, findings)
}

fn read(object: &ObjectKey, lookup: &Lookup<'_>) -> (Annotations, Vec<Finding>) {
    let mut read = Annotations::default();
    let mut findings = Vec::new();
    for said in lookup.iter() {
        let Said { full_name, name, value } = said;
        let mut find = |finding: Finding| findings.push(finding.at(format!("metadata.annotations[{full_name}]")));
        let boolean = |find: &mut dyn FnMut(Finding)| {
            let parsed = parse_bool(value);
            if parsed.is_none() {
                find(invalid_value(object, value, "true or false", "the default is used"));
            }
            parsed
        };
        match name {
            "ssl-redirect" => read.ssl_redirect = boolean(&mut find),
            "force-ssl-redirect" => read.force_ssl_redirect = boolean(&mut find),
            "ssl-passthrough" => read.passthrough = boolean(&mut find).unwrap_or(false),
            "preserve-trailing-slash" => read.preserve_trailing_slash = boolean(&mut find).unwrap_or(false),
            "canary" => {
                read.canary = boolean(&mut find).unwrap_or(true);
                if read.canary {
                    let message = "canary Ingresses are not available yet; this one is not served";
                    find(Finding::warning("NotImplemented", object.clone(), message));
                }
            }
            "backend-protocol" => {
                let protocol = backend_protocol(value);
                if protocol == BackendProtocol::Unsupported {
                    let effect = "its backends are refused with 503";
                    find(invalid_value(object, value, "HTTP, HTTPS, GRPC or GRPCS", effect));
                }
                read.protocol = Some(protocol);
            }
            name if is_read_elsewhere(full_name, name) => {}
            name if closes(name, value) => {
                read.guarded = true;
                let message = format!("{full_name} is not available yet; requests get 503 {UNAVAILABLE_GUARD}");
                let mend = "remove it to serve everybody, or keep somebody else in front";
                find(Finding::error("NotImplemented", object.clone(), message).mend(mend));
            }
            name => find(unimplemented(object, full_name, name)),
        }
    }
    read.auth = AuthAnnotations::read(lookup);
    read.trace = TraceAnnotations::read(object, lookup, &mut findings);
    let mut reader = Reader { object, lookup, findings: &mut findings };
    read.balancing = balance::read(&mut reader);
    let access = access::read(&mut reader);
    read.filters = reader.filters();
    match access {
        Ok(list) => read.access = list,
        Err(access::Closed) => read.filters.broken = true,
    }
    (read, findings)
}

/// Whether a reader of its own looks at it. The policy of sessions is ALB's alone.
fn is_read_elsewhere(full_name: &str, name: &str) -> bool {
    let is_alb = !full_name.starts_with(PREFIX);
    filters::READ.contains(&name)
        || access::READ.contains(&name)
        || tracing::READ.contains(&name)
        || (balance::READ.contains(&name) && (is_alb || !ALB_NAMES.contains(&name)))
        || auth::is_name(name)
}

fn invalid_value(object: &ObjectKey, value: &str, expected: &str, effect: &str) -> Finding {
    let shown: String = value.chars().take(100).collect();
    Finding::error("InvalidValue", object.clone(), format!("{shown:?} is not {expected}; {effect}"))
}

/// Reason of the refusal of a rule whose protection is not available.
pub(crate) const UNAVAILABLE_GUARD: &str = "unavailable_guard";

/// Whether the annotation keeps somebody out. One that is spelt so and cannot be obeyed closes its Ingress: serving it
/// would let in whom it was written against.
fn closes(name: &str, value: &str) -> bool {
    match name {
        "enable-modsecurity" | "enable-owasp-core-rules" => parse_bool(value) != Some(false),
        "auth-tls-secret" => true,
        _ => false,
    }
}

fn unimplemented(object: &ObjectKey, full_name: &str, name: &str) -> Finding {
    let is_alb = !full_name.starts_with(PREFIX) && ALB_NAMES.contains(&name);
    if !is_known(name) && !is_alb {
        return Finding::warning(
            "UnknownAnnotation",
            object.clone(),
            format!("{full_name} is not an annotation that is known; it has no effect"),
        )
        .mend("correct its name, or remove it");
    }
    let message = if GUARDS.contains(&name) {
        format!("{full_name} is not available yet: requests are served WITHOUT this protection")
    } else {
        format!("{full_name} is not available yet and has no effect")
    };
    Finding::warning("NotImplemented", object.clone(), message)
}

/// What Go's `strconv.ParseBool` accepts.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn backend_protocol(value: &str) -> BackendProtocol {
    match value.trim().to_ascii_uppercase().as_str() {
        "HTTP" => BackendProtocol::Known(Speech::Http),
        "HTTPS" => BackendProtocol::Known(Speech::Https),
        "GRPC" => BackendProtocol::Known(Speech::H2c),
        "GRPCS" => BackendProtocol::Known(Speech::H2),
        _ => BackendProtocol::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_model::finding::Severity;
    use headwater_model::origin::Kind;

    fn read_one(name: &str, value: &str) -> (Annotations, Vec<Finding>) {
        let key = ObjectKey::new(Kind::Ingress, "shop", "web");
        let annotations = BTreeMap::from([(format!("{PREFIX}{name}"), value.to_owned())]);
        read(&key, &Lookup::new(&annotations, "cpaas.io", None))
    }

    #[test]
    fn every_annotation_that_is_not_obeyed_is_named() {
        let obeyed = [
            "ssl-redirect",
            "force-ssl-redirect",
            "preserve-trailing-slash",
            "ssl-passthrough",
            "backend-protocol",
            "canary",
        ];
        let obeyed = |name: &&str| obeyed.contains(name) || is_read_elsewhere(PREFIX, name);
        for name in crate::annotation_names::NAMES.into_iter().filter(|name| !obeyed(name)) {
            let (annotations, findings) = read_one(name, "true");
            let guarded = closes(name, "true");
            assert_eq!(annotations, Annotations { guarded, ..Annotations::default() });
            assert_eq!(findings.len(), 1, "{name}");
            let severity = if guarded { Severity::Error } else { Severity::Warning };
            assert_eq!((findings[0].severity, findings[0].reason), (severity, "NotImplemented"));
            assert!(findings[0].message.contains(name));
        }
        assert_eq!(read_one("rewrite-tarket", "/").1[0].reason, "UnknownAnnotation");
        let other = BTreeMap::from([("nginx.ingress.kubernetes.iox/a".to_owned(), "b".to_owned())]);
        assert_eq!(read_all(&ObjectKey::new(Kind::Ingress, "a", "b"), &other, "cpaas.io").1, []);
    }

    #[test]
    fn a_path_may_have_annotations_of_its_own_and_findings_are_told_once() {
        let pairs = [
            ("nginx.ingress.kubernetes.io/ssl-redirect", "no"),
            ("nginx.ingress.kubernetes.io/proxy-read-timeout", "5"),
            ("alb.ingress.cpaas.io/proxy-read-timeout", "6s"),
            ("index.0-1.alb.ingress.cpaas.io/proxy-read-timeout", "x"),
            ("alb.ingress.cpaas.io/otel", "{}"),
            ("alb.ingress.cpaas.io/rewrite-reqest", "{}"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let key = ObjectKey::new(Kind::Ingress, "shop", "web");
        let (annotated, findings) = read_all(&key, &BTreeMap::from(pairs), "cpaas.io");
        assert!(annotated.at(0, 0).is_none());
        assert_ne!(annotated.at(0, 1), Some(&annotated.whole));
        let told: Vec<_> = findings.iter().map(|finding| (finding.reason, finding.field.as_str())).collect();
        let expected = [
            ("UnknownAnnotation", "metadata.annotations[alb.ingress.cpaas.io/rewrite-reqest]"),
            ("InvalidValue", "metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirect]"),
            ("InvalidValue", "metadata.annotations[alb.ingress.cpaas.io/otel]"),
            ("InvalidValue", "metadata.annotations[index.0-1.alb.ingress.cpaas.io/proxy-read-timeout]"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_protection_that_cannot_be_had_closes_its_ingress() {
        for (name, value, closed) in [
            ("auth-tls-secret", "a/b", true),
            ("denylist-source-range", "10.0.0.0/8", false),
            ("enable-modsecurity", "true", true),
            ("enable-modsecurity", "yes", true),
            ("enable-modsecurity", "false", false),
            ("auth-realm", "x", false),
            ("limit-rps", "5", false),
        ] {
            assert_eq!(read_one(name, value).0.guarded, closed, "{name}: {value}");
        }
    }

    #[test]
    fn values_are_read_and_wrong_ones_told() {
        assert_eq!(read_one("ssl-redirect", "false").0.ssl_redirect, Some(false));
        assert_eq!(read_one("ssl-redirect", "no").1[0].reason, "InvalidValue");
        assert_eq!(read_one("backend-protocol", "grpcs").0.protocol, Some(BackendProtocol::Known(Speech::H2)));
        assert_eq!(read_one("backend-protocol", "FCGI").0.protocol, Some(BackendProtocol::Unsupported));
        assert!(read_one("canary", "true").0.canary);
    }
}
