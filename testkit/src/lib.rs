//! What tests are built from: origins, clients, certificates, manifest directories, hosts in network namespaces, and
//! Kubernetes clusters.
//!
//! Every operation has a deadline and says in its error what did not happen; nothing sleeps.
//!
//! ```
//! use headwater_testkit::{client::RawClient, origin::Origin};
//!
//! # fn main() -> anyhow::Result<()> {
//! let origin = Origin::http("one")?;
//! let mut client = RawClient::connect_from("127.0.0.5".parse()?, origin.address())?;
//! let seen = client.request("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")?.seen()?;
//! assert_eq!(seen.name(), "one");
//! assert_eq!(seen.peer()?.ip().to_string(), "127.0.0.5");
//! # Ok(())
//! # }
//! ```

pub mod ask;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod dial;
pub mod dir;
pub mod grpc;
pub mod http2;
pub mod lab;
pub mod origin;
pub mod port;
pub mod proxy;
pub mod response;
pub mod services;
pub mod wait;
pub mod websocket;

pub use headwater_whoami::Whoami;
