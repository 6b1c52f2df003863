//! Why a Service has no address.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::origin::NamespacedName;
use thiserror::Error;

use crate::request::Port;

/// Why addresses could not be given, or not be kept; in the words of MetalLB.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocationError {
    #[error("no available IPs")]
    NoneAvailable,
    #[error("no available IPs in pool \"{0}\"")]
    NoneAvailableIn(Arc<str>),
    #[error("unknown pool \"{0}\"")]
    UnknownPool(Arc<str>),
    #[error("pool {0} not compatible for ip assignment")]
    NotForThisService(Arc<str>),
    #[error("{} is not allowed in config", Quoted(.0))]
    NotInAnyPool(Vec<IpAddr>),
    #[error("{} are not of one pool", Quoted(.0))]
    SeveralPools(Vec<IpAddr>),
    #[error("requested loadBalancer IP(s) {} is not compatible with requested address pool {pool}", Quoted(.addresses))]
    NotOfThatPool { addresses: Vec<IpAddr>, pool: Arc<str> },
    #[error("requested loadBalancer IP(s) {} does not match the ipFamily of the service", Quoted(.0))]
    OtherFamilies(Vec<IpAddr>),
    #[error("can't change sharing key for \"{service}\", address {address} also in use by {holder}")]
    SharingKey { service: NamespacedName, address: IpAddr, holder: NamespacedName },
    #[error("port {port} is already in use on \"{address}\" by {holder}")]
    PortInUse { port: Port, address: IpAddr, holder: NamespacedName },
    #[error("{} was given, and other addresses are requested", Quoted(.0))]
    OtherAddresses(Vec<IpAddr>),
    #[error("{} was given, and pool \"{pool}\" is requested", Quoted(.addresses))]
    OtherPool { addresses: Vec<IpAddr>, pool: Arc<str> },
}

struct Quoted<'a>(&'a [IpAddr]);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self.0.iter().map(|address| format!("\"{address}\"")).collect();
        f.write_str(&texts.join(", "))
    }
}
