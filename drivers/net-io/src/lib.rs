//! Sockets as the planes need them: listeners, connections, datagrams, TLS, and bytes moved by the kernel.
//!
//! Works on any tokio runtime with `net` and `time`; [`resolve::resolve`] also needs its blocking pool.

pub mod connect;
pub mod datagram;
pub mod frame;
pub mod limits;
pub mod listen;
pub mod liveness;
pub mod peering;
pub mod resolve;
pub mod router;
pub mod splice;
pub mod tls;
pub mod transparent;
