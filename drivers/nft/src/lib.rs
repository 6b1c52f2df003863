//! Elements of nftables sets and maps, written to the kernel and read back: typed values, one atomic batch for each
//! change, over netlink.
//!
//! A table's chains, rules and sets are constant; [`load`] takes them as text, once, by the program `nft`. What changes
//! are elements, and those go as a [`Batch`] through a [`Kernel`]: all of it holds after [`Kernel::apply`], or nothing.
//! [`Kernel::dump`] reads a set, [`Events`] tells who changed a table.
//!
//! ```no_run
//! use headwater_nft::{Batch, Element, Family, Kernel, Kind, Name, Port, Proto, Set, Table, Tuple, Verdict};
//! use std::net::Ipv4Addr;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let table = Table::new(Family::Ip, Name::new("services")?);
//! let services = Set::verdict_map(&table, Name::new("svc")?, &[Kind::Ipv4, Kind::Proto, Kind::Port])?;
//! let key = Tuple::from([Ipv4Addr::new(10, 96, 0, 10).into(), Proto::TCP.into(), Port(80).into()]);
//! let mut batch = Batch::new();
//! batch.add(&services, &Element::verdict(key, Verdict::Goto(Name::new("n_2")?)))?;
//! Kernel::open()?.apply(batch)?;
//! # Ok(())
//! # }
//! ```
//!
//! Encoding and decoding are pure. Everything that touches the kernel blocks, for as long as the kernel needs (0.2 s for
//! 100,000 elements), and acts in the network namespace of the thread that opened the socket. `CAP_NET_ADMIN` is needed.
//!
//! Source: `include/uapi/linux/netfilter/nf_tables.h`, `nfnetlink.h` and `netlink.h` of Linux.

#![warn(missing_docs)]

pub mod decode;
mod encode;
mod error;
mod events;
mod fuzz;
mod kernel;
mod program;
mod rule;
mod socket;
mod types;
mod wire;

pub use encode::{Batch, Encoded, MAX_BATCH_BYTES};
pub use error::{EncodeError, Malformed, NameError, NftError, Place, Refusal, ShapeError};
pub use events::{Commit, Events, Notice, Object, Touched};
pub use fuzz::fuzz;
pub use kernel::{Applied, Dump, Generation, Kernel};
pub use program::load;
pub use rule::{Load, Remember};
pub use types::{
    Data, Element, Family, Field, Key, Kind, Mark, Name, Port, Proto, Set, SetData, Table, Tuple, Verdict,
};
