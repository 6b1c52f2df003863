//! Resources of MetalLB (`metallb.io`), as users wrote them: which addresses Services of type LoadBalancer get, and who
//! tells the network of them.
//!
//! A field that cannot be read refuses the object, with the name of the field. What a field says that no such object may
//! say, though each of its words can be read, is told by `faults`. What only several objects together can say wrong is
//! for whoever has all of them.
//!
//! Source: <https://metallb.io/apis/>.

pub mod advertisement;
pub mod community;
#[cfg(test)]
mod crd;
pub mod judge;
pub mod peer;
pub mod pool;
pub mod range;
pub mod status;
mod text;

use std::fmt;

pub use advertisement::{BgpAdvertisement, L2Advertisement};
pub use community::Community;
pub use peer::{Asn, BfdProfile, BgpPeer};
pub use pool::IpAddressPool;
pub use range::AddressRange;
pub use status::{ConfigurationState, ServiceBgpStatus, ServiceL2Status};

use crate::object::keyed;
use crate::origin::Kind;
use crate::selector::LabelSelector;

keyed! { IpAddressPool L2Advertisement BgpAdvertisement BgpPeer BfdProfile Community }
keyed! { ServiceL2Status ServiceBgpStatus ConfigurationState }

/// Those that users write, and that are judged together.
pub const WRITTEN_KINDS: [Kind; 6] = [
    Kind::IpAddressPool,
    Kind::L2Advertisement,
    Kind::BgpAdvertisement,
    Kind::BgpPeer,
    Kind::BfdProfile,
    Kind::Community,
];

/// API group of all of them.
pub const GROUP: &str = "metallb.io";

/// Where these objects are, unless another namespace is chosen.
pub const NAMESPACE: &str = "metallb-system";

/// Names the pool that a Service wants an address of.
pub const POOL_ANNOTATION: &str = "metallb.io/address-pool";

/// Names the addresses that a Service wants: at most one of each family, separated by commas.
pub const ADDRESSES_ANNOTATION: &str = "metallb.io/loadBalancerIPs";

/// Services with the same text here may share an address.
pub const SHARING_ANNOTATION: &str = "metallb.io/allow-shared-ip";

/// Tells of a Service which pool its addresses are of; written by who gave them.
pub const ALLOCATED_ANNOTATION: &str = "metallb.io/ip-allocated-from-pool";

/// What annotations of MetalLB began with once: each of the first three may stand below it as well.
pub const LEGACY_PREFIX: &str = "metallb.universe.tf/";

/// What annotations of MetalLB begin with.
pub const PREFIX: &str = "metallb.io/";

/// One thing that an object says and may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, as `spec.peerASN`.
    pub field: String,
    /// What is wrong with it, with its value.
    pub message: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Faults of the selectors in a list.
fn selector_faults(field: &str, selectors: &[LabelSelector], faults: &mut Vec<Fault>) {
    for (index, selector) in selectors.iter().enumerate() {
        if let Err((path, message)) = selector.check() {
            faults.push(Fault::new(format!("{field}[{index}].{path}"), message));
        }
        for (place, term) in selector.match_expressions.iter().enumerate() {
            let at = format!("{field}[{index}].matchExpressions[{place}]");
            duplicate_faults(&format!("{at}.values"), "match expression value in label selector", &term.values, faults);
            if selector.match_expressions[..place].contains(term) {
                faults.push(Fault::new(at, "this expression stands in the selector already"));
            }
        }
        if selectors[..index].contains(selector) {
            faults.push(Fault::new(format!("{field}[{index}]"), "this selector stands in the list already"));
        }
    }
}

/// Faults of a list of names: those that stand in it twice.
fn duplicate_faults(field: &str, what: &str, names: &[String], faults: &mut Vec<Fault>) {
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            faults.push(Fault::new(format!("{field}[{index}]"), format!("duplicate {what} \"{name}\"")));
        }
    }
}
