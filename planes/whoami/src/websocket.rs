//! WebSocket, server side (RFC 6455): the report as first message, then every message comes back.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message, all its fragments together.
const MAX_MESSAGE: usize = 16 << 20;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The value of `Sec-WebSocket-Accept`. RFC 6455, sections 1.3 and 4.2.1.
///
/// # Errors
/// A sentence for the client.
pub(crate) fn accept(version: Option<&str>, key: Option<&str>) -> Result<String, &'static str> {
    if version != Some("13") {
        return Err("Sec-WebSocket-Version is not 13");
    }
    let key = key.ok_or("Sec-WebSocket-Key is absent")?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err("Sec-WebSocket-Key is not 16 bytes in base64");
    }
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Ok(STANDARD.encode(hash.finalize()))
}

enum Fault {
    /// Close status and connection end.
    Close(u16),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Frame {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
}

async fn read_frame(io: &mut (impl AsyncRead + Unpin), room: usize) -> Result<Frame, Fault> {
    let first = io.read_u8().await?;
    let second = io.read_u8().await?;
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    let known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
    // Reserved bits need an extension; every frame of a client is masked (section 5.1).
    if first & 0x70 != 0 || !known || second & 0x80 == 0 {
        return Err(Fault::Close(1002));
    }
    let length = match second & 0x7f {
        126 => u64::from(io.read_u16().await?),
        127 => io.read_u64().await?,
        short => u64::from(short),
    };
    if opcode >= CLOSE && (length > 125 || !fin) {
        return Err(Fault::Close(1002));
    }
    if length > room as u64 {
        return Err(Fault::Close(1009));
    }
    let mut mask = [0; 4];
    io.read_exact(&mut mask).await?;
    let mut payload = Vec::new();
    (&mut *io).take(length).read_to_end(&mut payload).await?;
    if (payload.len() as u64) < length {
        return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    Ok(Frame { fin, opcode, payload })
}

async fn write_frame(io: &mut (impl AsyncWrite + Unpin), opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut head = vec![0x80 | opcode];
    match payload.len() {
        short @ ..=125 => head.push(short as u8),
        medium @ ..=65535 => {
            head.push(126);
            head.extend((medium as u16).to_be_bytes());
        }
        long => {
            head.push(127);
            head.extend((long as u64).to_be_bytes());
        }
    }
    io.write_all(&head).await?;
    io.write_all(payload).await?;
    io.flush().await
}

/// Speaks first with `greeting`, then sends each message back whole, until either side closes.
pub(crate) async fn echo<R, W>((reader, mut writer): (R, W), greeting: String) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = tokio::io::BufReader::new(reader);
    write_frame(&mut writer, TEXT, greeting.as_bytes()).await?;
    match echo_messages(&mut reader, &mut writer).await {
        Err(Fault::Close(status)) => {
            write_frame(&mut writer, CLOSE, &status.to_be_bytes()).await?;
            writer.shutdown().await
        }
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(Fault::Io(error)) => Err(error),
        Ok(()) => writer.shutdown().await,
    }
}

async fn echo_messages(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Fault> {
    // Opcode of the message under way; `CONTINUATION` between two messages.
    let mut kind = CONTINUATION;
    let mut message = Vec::new();
    loop {
        let frame = read_frame(reader, MAX_MESSAGE - message.len()).await?;
        match frame.opcode {
            PING => write_frame(writer, PONG, &frame.payload).await?,
            PONG => {}
            CLOSE if frame.payload.len() == 1 => return Err(Fault::Close(1002)),
            CLOSE => {
                write_frame(writer, CLOSE, &frame.payload).await?;
                return Ok(());
            }
            opcode => {
                // A message starts with its kind, and only then.
                if (opcode == CONTINUATION) == (kind == CONTINUATION) {
                    return Err(Fault::Close(1002));
                }
                if kind == CONTINUATION {
                    kind = opcode;
                }
                message.extend(frame.payload);
                if frame.fin {
                    if kind == TEXT && std::str::from_utf8(&message).is_err() {
                        return Err(Fault::Close(1007));
                    }
                    write_frame(writer, kind, &message).await?;
                    kind = CONTINUATION;
                    message.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_rfc_6455_is_answered_as_printed_there() {
        assert_eq!(accept(Some("13"), Some("dGhlIHNhbXBsZSBub25jZQ==")).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accept(Some("8"), Some("dGhlIHNhbXBsZSBub25jZQ==")).is_err());
        assert!(accept(Some("13"), Some("dGhlIHNhbXBsZQ==")).is_err());
    }

    async fn answers(client: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        echo((client, &mut out), "hi".to_owned()).await.unwrap();
        assert_eq!(out[..4], *b"\x81\x02hi");
        out.split_off(4)
    }

    #[tokio::test]
    async fn fragments_come_back_as_one_message_with_pings_answered_between() {
        let client = b"\x01\x81\0\0\0\0a\x89\x81\0\0\0\0p\x80\x81\x01\0\0\0c\x88\x82\0\0\0\0\x03\xe8";
        assert_eq!(answers(client).await, b"\x8a\x01p\x81\x02ab\x88\x02\x03\xe8");
    }

    #[tokio::test]
    async fn protocol_faults_close_with_their_status() {
        for (client, status) in [
            (&b"\x81\x01a"[..], 1002u16),
            (b"\xc1\x80\0\0\0\0", 1002),
            (b"\x83\x80\0\0\0\0", 1002),
            (b"\x80\x80\0\0\0\0", 1002),
            (b"\x09\x80\0\0\0\0", 1002),
            (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),
            (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),
            (b"\x81\x81\0\0\0\0\xff", 1007),
            (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
        ] {
            let [high, low] = status.to_be_bytes();
            assert_eq!(answers(client).await, [0x88, 2, high, low], "{client:?}");
        }
    }
}
