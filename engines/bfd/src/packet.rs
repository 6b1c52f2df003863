//! Control packets: RFC 5880 section 4.1.

use std::fmt;

/// Of a session; the numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    AdminDown = 0,
    Down = 1,
    Init = 2,
    Up = 3,
}

impl State {
    fn from_wire(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session left Up: the number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const EXPIRED: Self = Self(1);
    pub const ECHO_FAILED: Self = Self(2);
    pub const NEIGHBOUR_DOWN: Self = Self(3);
    pub const ADMINISTRATIVE: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "no packet came in time",
            2 => "no echo came back in time",
            3 => "the peer says that it is down",
            4 => "the forwarding plane was reset",
            5 => "the path is down",
            6 => "a concatenated path is down",
            7 => "administratively down",
            8 => "a reverse concatenated path is down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// What is wrong with a packet; it is dropped. RFC 5880 section 6.8.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    #[error("version {0}; only 1 is spoken")]
    Version(u8),
    #[error("length field {declared} of {found} bytes")]
    Length { declared: u8, found: usize },
    #[error("detect multiplier 0")]
    Multiplier,
    #[error("multipoint bit set")]
    Multipoint,
    #[error("my discriminator 0")]
    MyDiscriminator,
    #[error("your discriminator 0 in a state that needs it")]
    YourDiscriminator,
    #[error("authentication, which this session does not have")]
    Authenticated,
    #[error("poll and final at once")]
    PollFinal,
}

/// A packet without authentication. Intervals are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub diagnostic: Diagnostic,
    pub state: State,
    pub poll: bool,
    pub is_final: bool,
    pub control_plane_independent: bool,
    pub demand: bool,
    pub detect_multiplier: u8,
    pub my_discriminator: u32,
    pub your_discriminator: u32,
    pub desired_min_tx: u32,
    pub required_min_rx: u32,
    pub required_min_echo_rx: u32,
}

const LENGTH: usize = 24;

impl Control {
    /// Reads a packet.
    ///
    /// # Errors
    /// What RFC 5880 section 6.8.6 drops without asking the session.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let short = PacketError::Length { declared: bytes.get(3).copied().unwrap_or(0), found: bytes.len() };
        let packet = bytes.first_chunk::<LENGTH>().ok_or(short)?;
        let (version, flags) = (packet[0] >> 5, packet[1]);
        if version != 1 {
            return Err(PacketError::Version(version));
        }
        let declared = usize::from(packet[3]);
        if declared < LENGTH || declared > bytes.len() {
            return Err(short);
        }
        if packet[2] == 0 {
            return Err(PacketError::Multiplier);
        }
        if flags & 0x01 != 0 {
            return Err(PacketError::Multipoint);
        }
        if flags & 0x04 != 0 {
            return Err(PacketError::Authenticated);
        }
        let word = |at: usize| {
            let bytes: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes of a whole packet");
            u32::from_be_bytes(bytes)
        };
        let control = Self {
            diagnostic: Diagnostic(packet[0] & 0x1f),
            state: State::from_wire(flags >> 6),
            poll: flags & 0x20 != 0,
            is_final: flags & 0x10 != 0,
            control_plane_independent: flags & 0x08 != 0,
            demand: flags & 0x02 != 0,
            detect_multiplier: packet[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx: word(12),
            required_min_rx: word(16),
            required_min_echo_rx: word(20),
        };
        if control.my_discriminator == 0 {
            return Err(PacketError::MyDiscriminator);
        }
        if control.your_discriminator == 0 && control.state > State::Down {
            return Err(PacketError::YourDiscriminator);
        }
        if control.poll && control.is_final {
            return Err(PacketError::PollFinal);
        }
        Ok(control)
    }

    pub fn render(&self) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = 1 << 5 | (self.diagnostic.0 & 0x1f);
        packet[1] = (self.state as u8) << 6
            | u8::from(self.poll) << 5
            | u8::from(self.is_final) << 4
            | u8::from(self.control_plane_independent) << 3
            | u8::from(self.demand) << 1;
        packet[2] = self.detect_multiplier;
        packet[3] = 24;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (bytes, word) in packet[4..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        packet
    }
}
