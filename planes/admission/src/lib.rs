//! A validating webhook: objects are judged before the API server stores them.
//!
//! ```text
//!  API server ──AdmissionReview──> review -> read (typed) -> Judge -> verdict ──> allowed, warnings or causes
//!                 TLS <── certificate <── files, or a Secret and a configuration that the leader keeps
//! ```
//!
//! Nothing that is judged is rendered, loaded or run. What is rejected and what is only warned of stands in `verdict`.
//!
//! Source: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>

mod certificate;
mod config;
mod judge;
mod metrics;
mod review;
mod reviewer;
mod run;
mod verdict;

pub use certificate::{Certificate, CertificateError, Lives, Managed};
pub use config::{AdmissionConfig, DEFAULT_ADDRESS, Failure};
pub use judge::{Candidate, Judge, Operation};
pub use metrics::AdmissionMetrics;
pub use reviewer::fuzz;
pub use run::{AdmissionError, AdmissionServer};
