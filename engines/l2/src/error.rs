//! What can be wrong with a frame.

/// Why a frame is passed over. All of these come from whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It ends too early.
    #[error("{what} has {bytes} bytes, at least {least} are needed")]
    Short {
        /// What was being read.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it has to be.
        least: usize,
    },
    /// It is of another protocol.
    #[error("{what} is {value:#x}, not {expected:#x}")]
    Other {
        /// The field.
        what: &'static str,
        /// What it says.
        value: u32,
        /// What it would have to say.
        expected: u32,
    },
    /// A rule of its protocol is broken.
    #[error("{0}")]
    Invalid(&'static str),
}
