//! An HTTP/1.1 client that sends exactly the bytes it is given and reads strictly.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail, ensure};

use crate::dial::{Dial, Stream};
use crate::response::{Fields, Response};
use crate::wait::DEADLINE;

/// One connection, plain or TLS. Every method has the deadline of its [`Dial`].
#[derive(Debug)]
pub struct RawClient {
    dial: Dial,
    stream: Stream,
    buffer: Vec<u8>,
}

impl RawClient {
    /// Connects as `dial` says.
    ///
    /// # Errors
    /// What the kernel or rustls says.
    pub fn open(dial: &Dial) -> Result<Self> {
        Ok(Self { stream: dial.open()?, dial: dial.clone(), buffer: Vec::new() })
    }

    /// Connects without TLS.
    ///
    /// # Errors
    /// As [`RawClient::open`].
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::open(&Dial::to(address))
    }

    /// Connects without TLS from a chosen address.
    ///
    /// # Errors
    /// As [`RawClient::open`].
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<Self> {
        Self::open(&Dial::to(address).source(source))
    }

    /// The connection: certificate, ALPN, socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// This end's address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.socket().local_addr()?)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// What the kernel says, or the deadline.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.arm(self.dial.deadline);
        self.stream.write_all(bytes.as_ref()).context("send")?;
        self.stream.flush().context("send")
    }

    /// Tells the server that nothing more will be sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(&mut self) -> Result<()> {
        self.stream.arm(self.dial.deadline);
        self.stream.finish().context("finish sending")
    }

    /// Sends a request other than HEAD and reads its response.
    ///
    /// # Errors
    /// As [`RawClient::send`] and [`RawClient::read_response`].
    pub fn request(&mut self, bytes: impl AsRef<[u8]>) -> Result<Response> {
        self.send(bytes)?;
        self.read_response()
    }

    /// Reads the response to a request other than HEAD. A body without length is read to the end of the connection.
    ///
    /// # Errors
    /// When the response is malformed, ends early or is late.
    pub fn read_response(&mut self) -> Result<Response> {
        self.read_response_to("GET")
    }

    /// Reads the response to a request with this method, which decides about HEAD and CONNECT.
    ///
    /// # Errors
    /// As [`RawClient::read_response`].
    pub fn read_response_to(&mut self, method: &str) -> Result<Response> {
        self.stream.arm(self.dial.deadline);
        let mut interim = Vec::new();
        let mut response = loop {
            let response = self.head().context("response head")?;
            match response.status {
                100 | 102..=199 => interim.push(response.status),
                _ => break response,
            }
        };
        response.interim = interim;
        self.body(method, &mut response)
            .with_context(|| format!("body of response with status {}", response.status))?;
        Ok(response)
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// When the connection ends or the deadline passes first.
    pub fn read_exact(&mut self, length: usize) -> Result<Vec<u8>> {
        self.stream.arm(self.dial.deadline);
        self.take(length)
    }

    /// Reads up to and with `end`.
    ///
    /// # Errors
    /// When the connection ends or the deadline passes first.
    pub fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        self.stream.arm(self.dial.deadline);
        self.until(end)
    }

    /// Reads until the server closes in good order. A reset is an error with kind `ConnectionReset`; see
    /// [`RawClient::closed`] when either will do.
    ///
    /// # Errors
    /// On reset or at the deadline.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        self.stream.arm(self.dial.deadline);
        while self.fill().context("read to the end")? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits until the server closes or resets the connection, and returns what came before.
    ///
    /// # Errors
    /// When it is still open at the deadline.
    pub fn closed(&mut self) -> Result<Vec<u8>> {
        self.stream.arm(self.dial.deadline);
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(error).context("connection is still open");
                }
                Err(_) => break,
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn more(&mut self) -> Result<()> {
        if self.fill()? == 0 {
            bail!("connection ended after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..from + at + end.len()).collect());
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            self.more()?;
        }
    }

    fn line(&mut self) -> Result<String> {
        let line = self.until(b"\r\n")?;
        let line = String::from_utf8(line).context("line is not UTF-8")?;
        let line = line.strip_suffix("\r\n").unwrap_or_default().to_owned();
        ensure!(!line.contains(['\r', '\n', '\0']), "line {line:?} has a CR, LF or NUL inside");
        Ok(line)
    }

    fn fields(&mut self) -> Result<Fields> {
        let mut fields = Fields::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("line {line:?} has no colon"))?;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            ensure!(plain, "{name:?} is not a field name");
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    fn head(&mut self) -> Result<Response> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("{line:?} is not a status line"))?;
        Ok(Response { status, headers: self.fields()?, ..Response::default() })
    }

    fn body(&mut self, method: &str, response: &mut Response) -> Result<()> {
        let length = response.header("content-length");
        let encoding = response.header("transfer-encoding");
        ensure!(length.is_none() || encoding.is_none(), "both Content-Length and Transfer-Encoding");
        let none = method == "HEAD" || matches!(response.status, 101 | 204 | 304);
        if none || (method == "CONNECT" && response.status / 100 == 2) {
            return Ok(());
        }
        match (length, encoding) {
            (Some(length), _) => {
                let digits = length.bytes().all(|byte| byte.is_ascii_digit());
                ensure!(digits, "Content-Length {length:?} is not one number");
                response.body = self.take(length.parse()?)?;
            }
            (None, Some(encoding)) => {
                ensure!(encoding.eq_ignore_ascii_case("chunked"), "Transfer-Encoding is {encoding:?}");
                loop {
                    let line = self.line()?;
                    let digits = line.split(';').next().unwrap_or_default();
                    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    ensure!(plain, "{line:?} is not a chunk size");
                    let size = usize::from_str_radix(digits, 16)?;
                    if size == 0 {
                        break;
                    }
                    response.body.extend(self.take(size)?);
                    let end = self.take(2)?;
                    ensure!(end == b"\r\n", "chunk of {size} bytes is followed by {end:?}");
                }
                response.trailers = self.fields()?;
            }
            (None, None) => {
                while self.fill()? > 0 {}
                response.body = std::mem::take(&mut self.buffer);
            }
        }
        Ok(())
    }
}

/// Sends one datagram, from `source` if given, and returns the answer.
///
/// # Errors
/// When no answer comes before the deadline.
pub fn ask_udp(source: Option<IpAddr>, address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).context("bind UDP socket")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send(bytes)?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {address}"))?;
    buffer.truncate(length);
    Ok(buffer)
}
