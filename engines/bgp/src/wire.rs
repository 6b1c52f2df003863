//! Messages on the wire.

pub(crate) mod frame;
pub(crate) mod open;
pub(crate) mod reader;
pub(crate) mod render;
pub(crate) mod update;
