//! AdmissionReview (`admission.k8s.io/v1`): read from, and written to the API server.
//!
//! Source: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#webhook-request-and-response>

use std::borrow::Cow;

use headwater_model::finding::Finding;
use headwater_model::origin::ObjectKey;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::value::RawValue;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server asks. Fields that are not needed are passed over, those of newer versions too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Review<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

/// Its objects are left as text until it is clear that they are needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) operation: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) sub_resource: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) dry_run: Option<bool>,
    #[serde(default, borrow)]
    pub(crate) object: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) old_object: Option<&'a RawValue>,
}

/// Why a body is not a review. Nothing of it is quoted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReviewError {
    #[error("the body is not an AdmissionReview of {API_VERSION} in JSON")]
    NotReview,
    #[error("the AdmissionReview has no request")]
    NoRequest,
    #[error("request.uid is empty or longer than {MAX_UID} bytes")]
    Uid,
}

/// A UUID has 36.
const MAX_UID: usize = 128;

/// Reads a body.
///
/// # Errors
/// [`ReviewError`].
pub(crate) fn parse(body: &[u8]) -> Result<Request<'_>, ReviewError> {
    let review: Review<'_> = serde_json::from_slice(body).map_err(|_| ReviewError::NotReview)?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(ReviewError::NotReview);
    }
    let request = review.request.ok_or(ReviewError::NoRequest)?;
    if request.uid.is_empty() || request.uid.len() > MAX_UID {
        return Err(ReviewError::Uid);
    }
    Ok(request)
}

/// Whether an object waits for its finalizers.
pub(crate) fn is_being_deleted(object: &RawValue) -> bool {
    let metadata = field(object, "metadata");
    let at = metadata.and_then(|metadata| field(metadata, "deletionTimestamp"));
    at.is_some_and(|at| at.get().starts_with('"'))
}

/// The value of a field, without a copy of the others. (A derived struct would also read a list, by position.)
fn field<'a>(object: &'a RawValue, name: &'static str) -> Option<&'a RawValue> {
    struct Find(&'static str);
    impl<'de> Visitor<'de> for Find {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                match key == self.0 {
                    true => found = Some(map.next_value()?),
                    false => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Find(name)).ok().flatten()
}

/// What the API server is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Allowed { warnings: Vec<String> },
    Denied { denial: Denial, warnings: Vec<String> },
}

/// Why an object is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Denial {
    /// `Invalid` (422): trying again does not help. `Timeout` (504): it may.
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The object, and what is wrong with it by field.
    pub(crate) object: Option<ObjectKey>,
    pub(crate) causes: Vec<Cause>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cause {
    reason: &'static str,
    message: String,
    field: String,
}

impl Cause {
    pub(crate) fn of(finding: &Finding) -> Self {
        let mend = if finding.mend.is_empty() { String::new() } else { format!(" (mend: {})", finding.mend) };
        Self {
            reason: finding.reason,
            message: super::verdict::plain(&format!("{}{mend}", finding.message)),
            field: super::verdict::plain(if finding.field.is_empty() { "metadata.name" } else { &finding.field }),
        }
    }
}

/// The body of the answer.
pub(crate) fn answer(uid: &str, verdict: &Verdict) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer<'a> {
        api_version: &'static str,
        kind: &'static str,
        response: Response<'a>,
    }
    #[derive(Serialize)]
    struct Response<'a> {
        uid: &'a str,
        allowed: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Status<'a>>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        warnings: &'a [String],
    }
    #[derive(Serialize)]
    struct Status<'a> {
        status: &'static str,
        code: u16,
        reason: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<Details<'a>>,
    }
    #[derive(Serialize)]
    struct Details<'a> {
        kind: &'static str,
        name: &'a str,
        causes: &'a [Cause],
    }
    let (warnings, status) = match verdict {
        Verdict::Allowed { warnings } => (warnings, None),
        Verdict::Denied { denial, warnings } => {
            let details = denial.object.as_ref().filter(|_| !denial.causes.is_empty()).map(|object| Details {
                kind: object.kind.as_str(),
                name: &object.id.name,
                causes: &denial.causes,
            });
            let Denial { code, reason, message, .. } = denial;
            (warnings, Some(Status { status: "Failure", code: *code, reason, message, details }))
        }
    };
    let response = Response { uid, allowed: status.is_none(), status, warnings };
    serde_json::to_vec(&Answer { api_version: API_VERSION, kind: KIND, response })
        .expect("strings and numbers are JSON")
}
