//! How the engine reads inbound headers without owning them.

/// The header lines of one request.
///
/// Names are matched in any case but otherwise **exactly**: `X_Forwarded_For` is not read as `X-Forwarded-For`. A proxy
/// appends to the spelling it knows and lets the other pass, so that a client behind a trusted proxy could speak through
/// the other spelling. Both are one header only where they are removed, in [`verdict`](crate::verdict).
pub trait HeaderSource {
    /// Values of all lines called `name` (lower case), first line first.
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a;
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> HeaderSource for [(N, V)] {
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a {
        self.iter()
            .filter(move |(line, _)| line.as_ref().eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }
}

/// No headers: what TCP, TLS passthrough and UDP have.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHeaders;

impl HeaderSource for NoHeaders {
    fn values<'a>(&'a self, _name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a {
        std::iter::empty()
    }
}
