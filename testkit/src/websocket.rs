//! A WebSocket client, by an implementation independent of the product's.

use anyhow::{Context, Result, anyhow, bail};
use tokio_tungstenite::tungstenite::{self, Message, client::ClientRequestBuilder, http::Uri};

use crate::dial::{Dial, Stream};
use crate::response::{Fields, Seen};

/// An open WebSocket. Each operation has the deadline of its [`Dial`].
#[derive(Debug)]
pub struct WebSocket {
    dial: Dial,
    socket: tungstenite::WebSocket<Stream>,
    /// Headers of the 101 response.
    pub headers: Fields,
}

impl WebSocket {
    /// Connects and completes the handshake.
    ///
    /// # Errors
    /// When the connection fails, or the server answers with another status than 101; the text names the status.
    pub fn open(dial: &Dial, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let stream = dial.open()?;
        let scheme = if dial.tls.is_some() { "wss" } else { "ws" };
        let uri: Uri = format!("{scheme}://{host}{path}").parse()?;
        let mut request = ClientRequestBuilder::new(uri);
        for (name, value) in headers {
            request = request.with_header(*name, *value);
        }
        let (socket, response) = tungstenite::client::client(request, stream)
            .map_err(|error| anyhow!("WebSocket handshake with {}: {error}", dial.address))?;
        let text = |value: &tungstenite::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(Self { dial: dial.clone(), socket, headers })
    }

    fn arm(&mut self) {
        self.socket.get_mut().arm(self.dial.deadline);
    }

    /// The next text or binary message.
    ///
    /// # Errors
    /// When the server closes, or at the deadline.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        self.arm();
        loop {
            match self.socket.read().context("no WebSocket message")? {
                Message::Text(text) => return Ok(text.as_bytes().to_vec()),
                Message::Binary(bytes) => return Ok(bytes.to_vec()),
                Message::Close(frame) => bail!("server closed the WebSocket: {frame:?}"),
                _ => {}
            }
        }
    }

    /// What a whoami origin saw: its first message.
    ///
    /// # Errors
    /// As [`WebSocket::receive`], or when the message is another one.
    pub fn seen(&mut self) -> Result<Seen> {
        Seen::parse(&self.receive()?)
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// What the kernel says, or the deadline.
    pub fn send_text(&mut self, text: &str) -> Result<()> {
        self.arm();
        self.socket.send(Message::text(text)).context("send WebSocket message")
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// What the kernel says, or the deadline.
    pub fn send_binary(&mut self, bytes: &[u8]) -> Result<()> {
        self.arm();
        self.socket.send(Message::binary(bytes.to_vec())).context("send WebSocket message")
    }

    /// Closes in good order: waits for the server's close frame and for the end of the connection.
    ///
    /// # Errors
    /// When the server does not close before the deadline.
    pub fn close(mut self) -> Result<()> {
        self.arm();
        self.socket.close(None).context("send WebSocket close")?;
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
                Err(error) => return Err(error).context("WebSocket did not close in good order"),
            }
        }
    }
}
