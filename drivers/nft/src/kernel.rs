//! A connection to the kernel's nftables: applies batches, reads sets.

use std::io;

use rustix::io::Errno;

use crate::decode::{self, Answer};
use crate::encode::{Batch, Encoded};
use crate::error::{Malformed, NftError, Place, Refusal};
use crate::socket::{PATIENCE, Received, Socket};
use crate::types::{Data, Element, Set};
use crate::wire::{self, Writer};

/// Room for the refusals of a batch, in bytes: some thousand of them.
const RECEIVE_BYTES: usize = 4 << 20;

/// How often a set is read again because it was disturbed meanwhile.
const READS: u32 = 16;

/// A batch was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Elements added and deleted.
    pub elements: usize,
    /// Bytes sent.
    pub bytes: usize,
}

/// A generation of the ruleset of a network namespace: every commit makes the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Generation {
    /// Its number, never 0.
    pub id: u32,
    /// The process that made it, or that asks.
    pub pid: Option<u32>,
    /// The name of that process, as it is in `/proc/PID/comm`.
    pub program: String,
}

/// The elements of a set at one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dump {
    /// The generation of the ruleset, for [`Batch::at`].
    pub generation: u32,
    /// The elements, sorted, each once.
    pub elements: Vec<Element>,
    /// Elements that the set cannot have as it is declared to this crate, such as a catch-all: somebody else's.
    pub foreign: usize,
}

/// The kernel's nftables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// When the kernel has no netfilter, or no descriptor is left.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open(RECEIVE_BYTES)?, sequence: 1 })
    }

    /// The port of the socket, which [`Commit::port`](crate::Commit::port) names as the author of its changes.
    pub fn port(&self) -> u32 {
        self.socket.port
    }

    fn sequences(&mut self, count: usize) -> u32 {
        let first = self.sequence;
        self.sequence = first.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        first
    }

    /// Applies a batch: all of it, or nothing.
    ///
    /// # Errors
    /// [`NftError::Refused`] names the set and element that the kernel did not take. After [`NftError::Lost`] and
    /// [`NftError::Silent`] it is not known whether the batch was applied; after all others it was not.
    pub fn apply(&mut self, batch: Batch) -> Result<Applied, NftError> {
        if batch.is_empty() {
            return Ok(Applied::default());
        }
        let first = self.sequences(batch.messages() + 2);
        let encoded = batch.encode(first);
        self.socket.send(encoded.bytes())?;
        let mut outcome = Outcome::new(&encoded);
        while !outcome.complete {
            match self.socket.receive(outcome.refusal.is_none())? {
                Received::Datagram(bytes) => {
                    for message in decode::messages(bytes) {
                        outcome.take(&message?)?;
                    }
                }
                Received::Lost => outcome.lost = true,
                Received::Nothing => break,
            }
        }
        outcome.result()
    }

    /// Reads all elements of a set.
    ///
    /// # Errors
    /// [`NftError::Absent`] when there is no such set.
    pub fn dump(&mut self, set: &Set) -> Result<Dump, NftError> {
        for _ in 0..READS {
            let before = self.generation()?.id;
            let Some((mut elements, foreign)) = self.read(set)? else { continue };
            elements.sort_unstable();
            // The kernel walks a hash table from its start for each part of the answer, and skips what it has told. If the
            // table grows meanwhile, which no generation tells, elements change places: some are told twice, and as many
            // not at all.
            let once = elements.windows(2).all(|pair| pair[0].key != pair[1].key);
            if once && self.generation()?.id == before {
                return Ok(Dump { generation: before, elements, foreign });
            }
        }
        Err(NftError::Changing { set: set.clone(), attempts: READS })
    }

    /// One pass over a set; `None` if it was disturbed.
    fn read(&mut self, set: &Set) -> Result<Option<(Vec<Element>, usize)>, NftError> {
        const REQUEST: &str = "elements of a set";
        let mut writer = Writer::default();
        let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
        let start = writer.begin(wire::NFT_MSG_GETSETELEM, flags, set.table().family.number(), 0);
        writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, set.table().name.as_str());
        writer.text(wire::NFTA_SET_ELEM_LIST_SET, set.name().as_str());
        writer.end(start);
        let (mut elements, mut foreign, mut intact) = (Vec::new(), 0, true);
        let ended = self.ask(REQUEST, writer, |message| {
            intact &= message.flags & wire::NLM_F_DUMP_INTR == 0;
            if message.kind == wire::NFT_MSG_NEWSETELEM {
                foreign += decode::elements(set, message, &mut elements)?;
            }
            Ok(false)
        });
        match ended {
            Ok(()) => Ok(intact.then_some((elements, foreign))),
            Err(NftError::Lost) => Ok(None),
            Err(NftError::Request { source, .. }) if is(&source, Errno::NOENT) => {
                Err(NftError::Absent { set: set.clone() })
            }
            // The set went away, or the kernel was interrupted, in the middle.
            Err(NftError::Request { source, .. }) if is(&source, Errno::INTR) || is(&source, Errno::AGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The generation of the ruleset now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn generation(&mut self) -> Result<Generation, NftError> {
        const REQUEST: &str = "generation of the ruleset";
        let mut writer = Writer::default();
        let start = writer.begin(wire::NFT_MSG_GETGEN, wire::NLM_F_REQUEST, 0, 0);
        writer.end(start);
        let mut found = None;
        self.ask(REQUEST, writer, |message| {
            found = decode::generation(message)?;
            Ok(found.is_some())
        })?;
        found.ok_or(NftError::Silent { request: REQUEST, seconds: PATIENCE.as_secs() })
    }

    /// Sends a request, and gives `each` every message of the answer until that returns true or the answer ends.
    fn ask(
        &mut self,
        request: &'static str,
        mut writer: Writer,
        mut each: impl FnMut(&decode::Message<'_>) -> Result<bool, Malformed>,
    ) -> Result<(), NftError> {
        let sequence = self.sequences(1);
        writer.set_sequence(0, sequence);
        self.socket.send(&writer.bytes)?;
        loop {
            let bytes = match self.socket.receive(true)? {
                Received::Datagram(bytes) => bytes,
                Received::Lost => return Err(NftError::Lost),
                Received::Nothing => return Err(NftError::Silent { request, seconds: PATIENCE.as_secs() }),
            };
            for message in decode::messages(bytes) {
                let message = message?;
                // What belongs to an earlier request is of no interest any more.
                if message.sequence != sequence {
                    continue;
                }
                match decode::answer(&message)? {
                    Some(Answer::Done) => return Ok(()),
                    Some(Answer::Refused { errno, .. }) if errno == Errno::PERM.raw_os_error() => {
                        return Err(NftError::NotPermitted { doing: "read" });
                    }
                    Some(Answer::Refused { errno, .. }) => {
                        return Err(NftError::Request { request, source: io::Error::from_raw_os_error(errno) });
                    }
                    None if each(&message)? => return Ok(()),
                    None => {}
                }
            }
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// What the answers to a batch say, taken one by one.
///
/// Every message that was refused is answered, and so is the last one. The batch as a whole (its first message) is
/// answered only if it was refused.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    batch: &'a Encoded,
    refusal: Option<(usize, i32, Option<u32>, Option<String>)>,
    others: usize,
    lost: bool,
    complete: bool,
}

impl<'a> Outcome<'a> {
    pub(crate) fn new(batch: &'a Encoded) -> Self {
        Self { batch, refusal: None, others: 0, lost: false, complete: false }
    }

    pub(crate) fn take(&mut self, message: &decode::Message<'_>) -> Result<(), Malformed> {
        let Some(index) = self.batch.index(message.sequence) else { return Ok(()) };
        let answer = decode::answer(message)?;
        if let Some(Answer::Refused { errno, offset, text }) = answer {
            // The batch as a whole goes before all others.
            match &self.refusal {
                Some(_) if index > 0 => self.others += 1,
                _ => self.refusal = Some((index, errno, offset, text)),
            }
            self.complete |= index == 0;
        }
        self.complete |= index == self.batch.messages();
        Ok(())
    }

    pub(crate) fn result(self) -> Result<Applied, NftError> {
        let Some((index, errno, offset, text)) = self.refusal else {
            return match (self.lost, self.complete) {
                (true, _) => Err(NftError::Lost),
                (false, true) => Ok(Applied { elements: self.batch.elements(), bytes: self.batch.bytes().len() }),
                (false, false) => Err(NftError::Silent { request: "batch", seconds: PATIENCE.as_secs() }),
            };
        };
        if errno == Errno::PERM.raw_os_error() && index == 0 {
            return Err(NftError::NotPermitted { doing: "changed" });
        }
        if let (Some(expected), 0, ERESTART) = (self.batch.generation(), index, errno) {
            return Err(NftError::Stale { expected });
        }
        let place = self.batch.place(index, offset);
        let mut why = explain(errno, &place, self.batch.deletes(index));
        if let Some(text) = text {
            why = format!("{why} ({text})");
        }
        Err(NftError::Refused(Box::new(Refusal { place, errno, why, others: self.others })))
    }
}

/// The kernel's own number for "do that again"; user space has no name for it.
const ERESTART: i32 = 85;

/// What an error number means at this place.
fn explain(errno: i32, place: &Place, deletes: bool) -> String {
    let number = Errno::from_raw_os_error(errno);
    let text = match (place, number) {
        (Place::Element(..), Errno::NOENT) if deletes => "it is not in the set",
        (Place::Element(_, element), Errno::NOENT) if matches!(element.data, Some(Data::Verdict(_))) => {
            "the table has no chain of that name"
        }
        (Place::Table(_), Errno::NOENT) => "there is no such table",
        (Place::Set(_), Errno::NOENT) => "there is no such table or set; load it first",
        (_, Errno::EXIST | Errno::BUSY) if !deletes => {
            "its key is there already with other data; delete that in the same batch"
        }
        (_, Errno::NFILE) => "the set has as many elements as its size allows",
        (Place::Element(..) | Place::Set(_), Errno::INVAL) => "the set is declared with other types or flags",
        (_, Errno::NOMEM | Errno::NOBUFS) => "out of memory",
        _ => return io::Error::from_raw_os_error(errno).to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Family, Kind, Name, Port, Table};
    use crate::wire::NLMSG_HEADER;

    const FIRST: u32 = u32::MAX - 1;

    fn batch() -> Encoded {
        let name = |text| Name::new(text).unwrap();
        let table = Table::new(Family::Inet, name("t"));
        let ports = Set::plain(&table, name("ports"), &[Kind::Port]).unwrap();
        let mut batch = Batch::at(9);
        batch.add_table(&table);
        for port in 1..=3 {
            batch.add(&ports, &Element::member([Port(port).into()])).unwrap();
        }
        batch.delete(&ports, &[Port(4).into()].into()).unwrap();
        batch.encode(FIRST)
    }

    /// Index of a message, error number, offset of an attribute.
    type Said = (u32, i32, Option<u32>);

    /// The kernel's answer to the message with this index.
    fn answer(index: u32, errno: i32, offset: Option<u32>) -> Vec<u8> {
        let mut payload = (-errno).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; NLMSG_HEADER]);
        if let Some(offset) = offset {
            payload.extend_from_slice(&8_u16.to_ne_bytes());
            payload.extend_from_slice(&wire::NLMSGERR_ATTR_OFFS.to_ne_bytes());
            payload.extend_from_slice(&offset.to_ne_bytes());
        }
        let length = u32::try_from(NLMSG_HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&wire::NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&(wire::NLM_F_CAPPED | wire::NLM_F_ACK_TLVS).to_ne_bytes());
        bytes.extend_from_slice(&FIRST.wrapping_add(index).to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Where the second element of the second message starts, from the start of the message: behind its headers, the
    /// names of table and set, the header of the list and the first element.
    const SECOND: u32 = 20 + 8 + 12 + 4 + 16;

    #[test]
    fn answers_become_one_outcome() {
        let (eperm, enoent, enomem, einval) = (1, 2, 12, 22);
        let cases: [(&[Said], bool, &str); 13] = [
            (&[(3, 0, None)], false, "applied"),
            (&[(3, 0, None)], true, "netlink answers were lost: read the sets again"),
            (&[], false, "netlink: no answer to batch in 10 s"),
            (&[(1, 0, None), (900, enoent, None)], false, "netlink: no answer to batch in 10 s"),
            (
                &[(0, eperm, None)],
                false,
                "netfilter in this network namespace may not be changed: CAP_NET_ADMIN is missing",
            ),
            (&[(0, ERESTART, None)], false, "ruleset is no longer generation 9: read the sets again"),
            (&[(0, enomem, None)], false, "batch: refused by the kernel: out of memory"),
            // The commit itself: the batch is answered first, then its last message as if nothing were wrong.
            (&[(0, enomem, None), (3, 0, None)], false, "batch: refused by the kernel: out of memory"),
            (
                &[(2, enoent, None), (3, 0, None)],
                false,
                "set inet t ports: refused by the kernel: there is no such table or set; load it first",
            ),
            (
                &[(2, einval, Some(SECOND)), (3, enoent, None)],
                false,
                "set inet t ports: element 2: refused by the kernel: the set is declared with other types or flags \
                 (and 1 more)",
            ),
            (&[(3, enoent, None)], true, "set inet t ports: element 4: refused by the kernel: it is not in the set"),
            (
                &[(1, einval, Some(20)), (3, 0, None)],
                false,
                "table inet t: refused by the kernel: Invalid argument (os error 22)",
            ),
            // The end of a batch is nothing that it is about.
            (&[(4, einval, None)], false, "batch: refused by the kernel: Invalid argument (os error 22)"),
        ];
        for (answers, lost, expected) in cases {
            let encoded = batch();
            let mut outcome = Outcome::new(&encoded);
            outcome.lost = lost;
            for (index, errno, offset) in answers {
                let bytes = answer(*index, *errno, *offset);
                outcome.take(&decode::messages(&bytes).next().unwrap().unwrap()).unwrap();
            }
            let said = outcome.result().map_or_else(|error| error.to_string(), |_| "applied".to_owned());
            assert_eq!(said, expected, "{answers:?}");
        }
    }
}
