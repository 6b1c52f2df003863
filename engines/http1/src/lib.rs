//! HTTP/1.0 and HTTP/1.1 messages between the wire and a proxy: strict, incremental, without copies.
//!
//! Heads ([`parse_request`], [`parse_response`]) become positions in the caller's buffer plus the facts a proxy acts
//! on: how the body is delimited, whether the connection persists, what must not be forwarded. Chunked bodies go
//! through [`ChunkedDecoder`]; the functions of [`encode`] write both.
//!
//! The rule of this crate: bytes that two recipients could read differently are refused, never repaired, because the
//! difference is what request smuggling lives on. What is refused beyond the RFCs' MUSTs is said where it happens.
//!
//! Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URIs).

#![warn(missing_docs)]

mod authority;
mod chunked;
mod class;
pub mod encode;
mod error;
mod fields;
mod header;
mod limits;
mod request;
mod response;

pub use authority::Authority;
pub use chunked::{ChunkedDecoder, Step};
pub use class::{is_field_value, is_target, is_token};
pub use error::{ChunkError, FieldError, FramingError, RequestError, ResponseError};
pub use fields::{Status, Version, parse_content_length};
pub use header::{Header, HeaderId, Span, is_forbidden_trailer, is_forwarding_name};
pub use limits::Limits;
pub use request::{BodyFraming, Method, RequestHead, Scheme, Target, parse_request};
pub use response::{ResponseFraming, ResponseHead, parse_response};
