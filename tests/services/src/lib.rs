//! What pods see of their clients, through every kind of Service: packets against predictions and against kube-proxy.
//!
//! One API server holds the objects for all. Each implementation ([`Implementation`]) has a topology of its own
//! ([`headwater_testkit::services`]), whose nodes have the same names and addresses everywhere, so that all of them
//! read the same and are asked the same.

pub mod implementation;
pub mod object;
pub mod parallel;
pub mod prediction;
pub mod scenario;
pub mod stand;
pub mod table;
pub mod translated;
