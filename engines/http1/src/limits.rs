//! Bounds on what a peer may make us hold.

/// Bounds on one message: bytes for sizes, counts for lists.
///
/// Every bound has an error of its own, so that the answer can be 414 or 431 rather than a plain 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole head, from the first byte to the empty line that ends it. Default 65536.
    pub max_head_bytes: usize,
    /// Bytes of the request line or status line, without its CRLF. Default 16384.
    pub max_start_line_bytes: usize,
    /// Header lines in one head. Default 256.
    pub max_headers: usize,
    /// Header names that `Connection` may nominate for removal. Default 32.
    pub max_connection_options: usize,
    /// Bytes of chunk extensions behind one chunk size. Default 256.
    pub max_chunk_extension_bytes: usize,
    /// Bytes of chunk extensions in one body. Default 16384.
    pub max_chunk_extensions_total_bytes: usize,
    /// Bytes of a trailer section. Default 16384.
    pub max_trailer_bytes: usize,
    /// Trailer lines in one body. Default 64.
    pub max_trailers: usize,
}

impl Limits {
    /// The defaults named at each field.
    pub const DEFAULT: Limits = Limits {
        max_head_bytes: 64 * 1024,
        max_start_line_bytes: 16 * 1024,
        max_headers: 256,
        max_connection_options: 32,
        max_chunk_extension_bytes: 256,
        max_chunk_extensions_total_bytes: 16 * 1024,
        max_trailer_bytes: 16 * 1024,
        max_trailers: 64,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
