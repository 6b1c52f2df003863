//! A stand-in for an OpenTelemetry collector: takes OTLP over HTTP, decodes it with the types of the OpenTelemetry
//! project, and answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::origin::LOOPBACK;
use crate::wait;

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// 200; this many spans are said to be refused.
    Taken { refused: i64 },
    /// Any status, with an empty body, and perhaps `Retry-After: 0`.
    Status(u16),
    /// The request is read and never answered.
    Silence,
    /// The connection ends.
    Close,
}

impl Reply {
    pub const OK: Self = Self::Taken { refused: 0 };
}

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub span: Span,
    /// Attributes of its resource.
    pub resource: Vec<(String, String)>,
}

impl Received {
    /// An attribute as text; `None` where it is not there.
    pub fn get(&self, name: &str) -> Option<String> {
        find(&self.span.attributes, name)
    }

    /// The id of its trace in hexadecimal digits.
    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Its own id in hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// That of its parent; empty where it has none.
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn find(attributes: &[KeyValue], name: &str) -> Option<String> {
    attributes.iter().find(|attribute| attribute.key == name).map(text)
}

fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Received>,
    requests: Vec<String>,
    /// First come, first used; the last one stays.
    replies: Vec<Reply>,
    wrong: Vec<String>,
}

/// A collector; stops when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
}

impl Collector {
    /// Listens on a free port of 127.0.0.1. `replies` are used in this order; the last one for all that follow.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(replies: &[Reply]) -> Result<Self> {
        Self::listen(LOOPBACK, replies)
    }

    /// The same at an address of its own.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub fn listen(address: SocketAddr, replies: &[Reply]) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { replies: replies.to_vec(), ..State::default() }));
        let stopped = Arc::<AtomicBool>::default();
        let (shared, stop) = (state.clone(), stopped.clone());
        thread::Builder::new().name("collector".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (shared, stop) = (shared.clone(), stop.clone());
                thread::spawn(move || {
                    if let Err(error) = serve(stream, &shared, &stop) {
                        lock(&shared).wrong.push(format!("{error:#}"));
                    }
                });
            }
        })?;
        Ok(Self { address, state, stopped })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is answered from now on.
    pub fn answer(&self, reply: Reply) {
        lock(&self.state).replies = vec![reply];
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Received> {
        lock(&self.state).spans.clone()
    }

    /// First lines and headers of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// Waits until this many spans have come.
    ///
    /// # Errors
    /// When they do not, or when something else than OTLP came.
    pub fn wait(&self, count: usize) -> Result<Vec<Received>> {
        let enough = wait::until(wait::DEADLINE, || {
            let state = lock(&self.state);
            state.spans.len() >= count || !state.wrong.is_empty()
        });
        let state = lock(&self.state);
        anyhow::ensure!(state.wrong.is_empty(), "the collector could not read: {:?}", state.wrong);
        enough.with_context(|| format!("{} spans of {count}", state.spans.len()))?;
        Ok(state.spans.clone())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, state: &Mutex<State>, stopped: &AtomicBool) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                // The gateway is done with the connection.
                Ok(0) | Err(_) if head.is_empty() => return Ok(()),
                read => anyhow::ensure!(read? > 0, "a head without end: {head}"),
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .into_iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let length = header("content-length").ok_or_else(|| anyhow!("no length: {head}"))?.parse()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        anyhow::ensure!(head.starts_with("POST "), "not a POST: {head}");
        anyhow::ensure!(header("content-type").as_deref() == Some("application/x-protobuf"), "type: {head}");
        let request = ExportTraceServiceRequest::decode(&*body)?;
        let reply = {
            let mut state = lock(state);
            state.requests.push(head);
            let reply = match &state.replies[..] {
                [] => Reply::OK,
                [last] => *last,
                _ => state.replies.remove(0),
            };
            if let Reply::Taken { .. } = reply {
                for resource_spans in request.resource_spans {
                    let resource = resource_spans.resource.unwrap_or_default().attributes;
                    let resource: Vec<_> = resource.iter().map(|a| (a.key.clone(), text(a))).collect();
                    let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    state.spans.extend(spans.map(|span| Received { span, resource: resource.clone() }));
                }
            }
            reply
        };
        match reply {
            Reply::Taken { refused } => {
                let partial = ExportTracePartialSuccess { rejected_spans: refused, error_message: String::new() };
                let partial_success = (refused > 0).then_some(partial);
                let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                writer.write_all(head.as_bytes())?;
                writer.write_all(&body)?;
            }
            Reply::Status(status) => {
                write!(writer, "HTTP/1.1 {status} x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n")?;
            }
            Reply::Silence => {
                // Until the gateway gives up, or the test is over.
                let mut byte = [0];
                while !stopped.load(Ordering::Relaxed) && reader.read(&mut byte)? > 0 {}
                return Ok(());
            }
            Reply::Close => return Ok(()),
        }
    }
}
