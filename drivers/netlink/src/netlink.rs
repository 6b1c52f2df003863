//! The socket for links, addresses, neighbours, routes and rules.

use std::fmt;

use netlink_packet_core::Emitable as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::NetlinkError;
use crate::session::Session;
use crate::wire::{self, Writer};

/// How often something is read that others change meanwhile.
const READS: u32 = 16;

/// Links, addresses, neighbours, routes and rules of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    session: Session,
}

impl Netlink {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { session: Session::open(NETLINK_ROUTE)? })
    }

    /// Sends a change.
    pub(crate) fn change(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        what: fmt::Arguments<'_>,
    ) -> Result<(), NetlinkError> {
        self.session.ask(encode(message, flags | wire::NLM_F_ACK), what, |_| Ok(())).map(drop)
    }

    /// Asks for one thing; `read` makes of the answer what is wanted.
    pub(crate) fn get<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        what: fmt::Arguments<'_>,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut found = None;
        self.session.ask(encode(message, wire::NLM_F_ACK), what, |message| {
            if let Some(thing) = read(message.route()?) {
                found = Some(thing);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Asks for everything of a kind, until nobody changed it meanwhile; `read` picks what is wanted.
    pub(crate) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        what: fmt::Arguments<'_>,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut found = Vec::new();
        for _ in 0..READS {
            found.clear();
            let whole = self.session.ask(encode(message, wire::NLM_F_DUMP), what, |message| {
                found.extend(read(message.route()?));
                Ok(())
            })?;
            if whole {
                return Ok(found);
            }
        }
        Err(NetlinkError::Changing { what: what.to_string(), attempts: READS })
    }
}

/// A message of rtnetlink as bytes.
pub(crate) fn encode(message: &RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Writer::new(message.message_type(), flags, &payload).finish()
}
