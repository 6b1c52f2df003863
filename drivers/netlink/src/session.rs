//! Requests and their answers.

use std::fmt;

use crate::decode::{self, Answer, Malformed, Message};
use crate::error::NetlinkError;
use crate::socket::{PATIENCE, Received, Socket};
use crate::wire;

/// Room for answers that were not fetched yet, in bytes; a dump waits for the reader.
const RECEIVE_BYTES: usize = 1 << 20;

/// A socket, one request at a time.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Socket,
    sequence: u32,
}

impl Session {
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(protocol, RECEIVE_BYTES)?, sequence: 0 })
    }

    /// Sends a request, which asks for a dump or for an acknowledgement, and gives `each` every message of the answer.
    /// Returns whether a dump was whole, rather than disturbed by changes.
    pub(crate) fn ask(
        &mut self,
        mut request: Vec<u8>,
        what: fmt::Arguments<'_>,
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.socket.send(&request)?;
        let mut whole = true;
        loop {
            let bytes = match self.socket.receive(true)? {
                Received::Datagram(bytes) => bytes,
                Received::Lost => return Err(NetlinkError::Lost { what: what.to_string() }),
                Received::Nothing => {
                    return Err(NetlinkError::Silent { what: what.to_string(), seconds: PATIENCE.as_secs() });
                }
            };
            for message in decode::messages(bytes) {
                let message = message.map_err(|why| NetlinkError::malformed(what, why))?;
                // What belongs to an earlier request is of no interest any more.
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & wire::NLM_F_DUMP_INTR == 0;
                match decode::answer(&message).map_err(|why| NetlinkError::malformed(what, why))? {
                    Some(Answer::Done) => return Ok(whole),
                    Some(Answer::Refused { errno, text }) => {
                        return Err(NetlinkError::refused(what.to_string(), errno, text));
                    }
                    None => each(&message).map_err(|why| NetlinkError::malformed(what, why))?,
                }
            }
        }
    }
}
