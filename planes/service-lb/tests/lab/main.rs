//! Three nodes in network namespaces with the plane, and clients outside. Needs root.

mod connections;
mod packets;
mod support;
