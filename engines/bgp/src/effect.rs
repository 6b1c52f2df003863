//! What a session asks for.

use crate::config::Transport;
use crate::error::Down;
use crate::event::ConnectionId;
use crate::state::Negotiated;

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Ends in [`crate::Event::Connected`] or [`crate::Event::Unreached`].
    Connect { connection: ConnectionId, transport: Transport },
    /// In the order of the effects; [`crate::Event::Sent`] comes back.
    Send { connection: ConnectionId, bytes: Vec<u8> },
    /// Send what waits, then close; nothing more is to be told of it. Ends attempts to connect, too.
    Close { connection: ConnectionId },
    /// The session is established.
    Up(Box<Negotiated>),
    /// The session was established, and is no more.
    Down(Down),
    /// A connection ended before the session was established.
    Failed(Down),
}
