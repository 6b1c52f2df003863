//! Which annotations speak of auth.

use std::collections::{BTreeMap, BTreeSet};

use headwater_model::alb::config;
use headwater_model::finding::Finding;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::INVALID_AUTH;
use crate::lookup::Lookup;

/// Names behind a prefix, sorted. `auth-enable` is ALB's.
const NAMES: [&str; 13] = [
    "auth-always-set-cookie",
    "auth-enable",
    "auth-method",
    "auth-proxy-set-headers",
    "auth-realm",
    "auth-request-redirect",
    "auth-response-headers",
    "auth-secret",
    "auth-secret-type",
    "auth-signin",
    "auth-signin-redirect-param",
    "auth-type",
    "auth-url",
];

/// Whether the name, without its prefix, speaks of auth in a way that is obeyed.
pub(crate) fn is_name(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}

/// What is said of auth for one path, or for all.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AuthAnnotations {
    found: Vec<Written>,
    /// Whether one annotation of the Ingress does not say which path it is for: then every path is in doubt.
    pub(crate) misplaced: bool,
    /// Whether they may name objects of other namespaces: those of an ALB do.
    anywhere: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Written {
    /// Path of the field.
    field: Box<str>,
    name: &'static str,
    value: Box<str>,
}

/// One annotation, or the field that says the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    /// Its path.
    pub(super) field: &'a str,
    pub(super) value: &'a str,
}

impl AuthAnnotations {
    pub(crate) fn read(lookup: &Lookup<'_>) -> Self {
        let written = NAMES.into_iter().filter_map(|name| {
            let said = lookup.get(name)?;
            let field = format!("metadata.annotations[{}]", said.full_name).into();
            Some(Written { field, name, value: said.value.into() })
        });
        Self { found: written.collect(), ..Self::default() }
    }

    /// What `config.auth` of an ALB2, Frontend or Rule says, as annotations would say it.
    pub(crate) fn of_config(auth: &config::Auth) -> Self {
        let mut found = Vec::new();
        let mut say = |name: &'static str, field: &str, value: Option<&str>| {
            if let Some(value) = value {
                found.push(Written { field: format!("spec.config.auth.{field}").into(), name, value: value.into() });
            }
        };
        if let Some(forward) = &auth.forward {
            // Without a URL it is still meant to keep somebody out.
            say("auth-url", "forward.url", Some(forward.url.as_deref().unwrap_or("")));
            say("auth-method", "forward.method", forward.method.as_deref());
            say("auth-proxy-set-headers", "forward.auth_headers_cm_ref", forward.auth_headers_cm_ref.as_deref());
            say("auth-request-redirect", "forward.auth_request_redirect", forward.auth_request_redirect.as_deref());
            let headers = (!forward.upstream_headers.is_empty()).then(|| forward.upstream_headers.join(","));
            say("auth-response-headers", "forward.upstream_headers", headers.as_deref());
            say("auth-signin", "forward.signin", forward.signin.as_deref());
            let param = forward.signin_redirect_param.as_deref().filter(|_| forward.signin.is_some());
            say("auth-signin-redirect-param", "forward.signin_redirect_param", param);
            say("auth-always-set-cookie", "forward.always_set_cookie", forward.always_set_cookie.then_some("true"));
        }
        if let Some(basic) = &auth.basic {
            say("auth-type", "basic.auth_type", Some(&basic.auth_type));
            say("auth-realm", "basic.realm", Some(&*basic.realm).filter(|realm| !realm.is_empty()));
            say("auth-secret", "basic.secret", Some(&basic.secret));
            say("auth-secret-type", "basic.secret_type", Some(&*basic.secret_type).filter(|kind| !kind.is_empty()));
        }
        if found.is_empty() {
            // Somebody asks for auth and does not say which.
            found.push(Written { field: "spec.config.auth".into(), name: "auth-url", value: "".into() });
        }
        Self { found, misplaced: false, anywhere: true }
    }

    /// `name` or `namespace/name`, where the object may be.
    pub(super) fn reference(&self, namespace: &str, value: &str) -> Option<NamespacedName> {
        if self.anywhere
            && let Some((namespace, _)) = value.trim().split_once('/')
        {
            return reference(namespace, value);
        }
        reference(namespace, value)
    }

    /// Whether it is left to what is inherited: at most it is switched on.
    pub(crate) fn says_nothing(&self) -> bool {
        let is_on = |written: &Written| {
            written.name == "auth-enable" && crate::annotations::parse_bool(&written.value) == Some(true)
        };
        !self.misplaced && self.found.iter().all(is_on)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && !self.misplaced
    }

    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        let written = self.found.iter().find(|written| written.name == name)?;
        Some(Found { field: &written.field, value: &written.value })
    }

    /// The Secret and the ConfigMap that they name, in the Ingress's own namespace.
    pub(crate) fn references(&self, namespace: &str) -> impl Iterator<Item = ObjectKey> {
        let named = [("auth-secret", Kind::Secret), ("auth-proxy-set-headers", Kind::ConfigMap)];
        named.into_iter().filter_map(move |(name, kind)| {
            Some(ObjectKey { kind, id: self.reference(namespace, self.find(name)?.value)? })
        })
    }
}

/// Annotations about auth whose prefix `index.RULE-PATH.` has no numbers in it.
pub(crate) fn misplaced(object: &ObjectKey, annotations: &BTreeMap<String, String>, domain: &str) -> Vec<Finding> {
    let suffix = format!(".alb.ingress.{domain}");
    let number = |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_place = |index: &str| index.split_once('-').is_some_and(|(rule, path)| number(rule) && number(path));
    let wrong = annotations.keys().filter_map(|full| {
        let (prefix, name) = full.rsplit_once('/')?;
        let index = prefix.strip_prefix("index.")?.strip_suffix(&*suffix)?;
        (is_name(name) && !is_place(index)).then(|| {
            let message = format!(
                "{index:?} is not the number of a rule, \"-\" and the number of a path; requests get 503 {INVALID_AUTH}"
            );
            Finding::error("InvalidValue", object.clone(), message).at(format!("metadata.annotations[{full}]"))
        })
    });
    wrong.collect()
}

/// Everything that is named, once.
pub(crate) fn references<'a>(
    annotations: impl Iterator<Item = &'a AuthAnnotations>,
    namespace: &str,
) -> BTreeSet<ObjectKey> {
    annotations.flat_map(|annotations| annotations.references(namespace)).collect()
}

/// `name`, or `namespace/name` with that very namespace.
fn reference(namespace: &str, value: &str) -> Option<NamespacedName> {
    let value = value.trim();
    let name = match value.split_once('/') {
        None => value,
        Some((own, name)) if own == namespace => name,
        Some(_) => return None,
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let sane = !name.is_empty() && name.len() <= 253 && name.bytes().all(plain);
    sane.then(|| NamespacedName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_sorted() {
        assert!(NAMES.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_path_that_is_not_told_is_found() {
        let object = ObjectKey::new(Kind::Ingress, "shop", "web");
        for (index, found) in
            [("0-1", 0), ("10-0", 0), ("0", 1), ("a-b", 1), ("0-", 1), ("0-1-2", 1), ("+0-1", 1), ("", 1)]
        {
            let annotations = pairs(&[(&format!("index.{index}.alb.ingress.example.org/auth-url"), "x")]);
            assert_eq!(misplaced(&object, &annotations, "example.org").len(), found, "{index}");
            assert_eq!(misplaced(&object, &annotations, "cpaas.io"), [], "{index}");
        }
    }

    #[test]
    fn only_objects_of_the_own_namespace_are_named() {
        for (secret, map, expected) in [
            ("users", "headers", vec!["Secret shop/users", "ConfigMap shop/headers"]),
            ("shop/users", " shop/headers", vec!["Secret shop/users", "ConfigMap shop/headers"]),
            ("kube-system/token", "headers", vec!["ConfigMap shop/headers"]),
            ("../x", "", vec![]),
            ("shop/a/b", "UPPER", vec![]),
        ] {
            let annotations = pairs(&[
                ("nginx.ingress.kubernetes.io/auth-secret", secret),
                ("nginx.ingress.kubernetes.io/auth-proxy-set-headers", map),
            ]);
            let read = AuthAnnotations::read(&Lookup::new(&annotations, "cpaas.io", None));
            let named: Vec<String> = references([&read].into_iter(), "shop").iter().map(ToString::to_string).collect();
            assert_eq!(named, expected, "{secret} {map}");
        }
    }
}
