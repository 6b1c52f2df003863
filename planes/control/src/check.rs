//! Translates what was read once, without running anything.

use headwater_kube_io::{Reading, UnknownKind};
use headwater_model::cluster::{Change, Cluster};
use headwater_translate::{Options, Translator};

use crate::source::locate;
use crate::{Findings, clock};

/// Every finding, and the kinds that nobody reads.
pub fn check(reading: Reading, options: Options) -> (Findings, Vec<UnknownKind>) {
    let mut cluster = Cluster::default();
    let mut keys = Vec::with_capacity(reading.objects.len());
    for (object, _) in &reading.objects {
        keys.push(object.key());
        cluster.apply(&Change::Set(object.clone()));
    }
    let translation = Translator::new(options).apply(&cluster, &keys, clock::now());
    let located = translation.findings.iter().cloned().map(|finding| locate(finding, |k, f| reading.locate(k, f)));
    let findings = Findings::new(reading.findings.iter().cloned().chain(located));
    (findings, reading.unknown_kinds)
}
