//! Whether a TLS connection is for an endpoint rather than for this gateway.

use std::sync::Arc;

use headwater_model::gateway::{StreamRoute, TlsTermination};
use headwater_net_io::tls::hello::{Hello, MAX_RECORDS, Peeked, peek};

use crate::buffer::Buffer;
use crate::io::Conn;
use crate::timer::Timer;

/// Reads as far as the name that the client asks for. `None`: TLS ends here, whatever it may be; the bytes read stay in
/// `buf`. Reads at most [`MAX_RECORDS`] bytes, until the timer's deadline.
pub(crate) async fn passed_through(
    termination: &TlsTermination,
    conn: &Conn,
    buf: &mut Buffer,
    timer: &Timer,
) -> Option<(Arc<StreamRoute>, Hello)> {
    if termination.passthrough.is_empty() {
        return None;
    }
    loop {
        match peek(buf) {
            Peeked::Hello(hello) => {
                let route = termination.passed_through(hello.server_name.as_deref()?)?.clone();
                return Some((route, hello));
            }
            Peeked::Other => return None,
            Peeked::Incomplete(need) => {
                debug_assert!(need <= MAX_RECORDS, "the parser gives up before");
                if buf.capacity() == 0 {
                    *buf = Buffer::small();
                }
                let missing = need.saturating_sub(buf.len());
                buf.reserve(missing);
                match timer.run(conn.read_buf(buf)).await {
                    Ok(Ok(n)) if n > 0 => {}
                    // Whoever answers TLS sees the same end.
                    _ => return None,
                }
            }
        }
    }
}
