//! Every way a peer can be wrong, one variant each.
//!
//! `reason()` is a stable word for logs and metrics; the text says what to change; `status()` is the answer to give.

use thiserror::Error;

macro_rules! reasons {
    ($type:ident { $($variant:ident => $reason:literal),* $(,)? }) => {
        impl $type {
            /// A short stable word for logs and metric labels.
            pub const fn reason(self) -> &'static str {
                match self { $($type::$variant => $reason),* }
            }
        }
    };
}

/// What is wrong with a line of a header or trailer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// A line ends in LF without CR.
    #[error("line ends in LF alone; end lines with CRLF")]
    BareLineFeed,
    /// A CR that no LF follows.
    #[error("CR inside a line; end lines with CRLF")]
    BareCarriageReturn,
    /// A line begins with white space: obsolete folding (RFC 9112 section 5.2), or a first line made to look empty.
    #[error("header line begins with white space; send each header on one line")]
    ObsoleteFold,
    /// A line begins with a colon.
    #[error("header name is empty")]
    EmptyName,
    /// White space inside or behind a name: RFC 9112 section 5.1.
    #[error("white space between header name and colon; remove it")]
    SpaceBeforeColon,
    /// A byte that no token may contain.
    #[error("header name contains a byte that is not a token character")]
    InvalidName,
    /// A line without a colon.
    #[error("header line has no colon")]
    MissingColon,
    /// A control byte or DEL in a value.
    #[error("header value contains a control byte")]
    InvalidValue,
    /// More lines than [`crate::Limits`] allow.
    #[error("too many header lines; send fewer")]
    TooManyFields,
}

reasons!(FieldError {
    BareLineFeed => "bare_lf",
    BareCarriageReturn => "bare_cr",
    ObsoleteFold => "obsolete_fold",
    EmptyName => "empty_header_name",
    SpaceBeforeColon => "space_before_colon",
    InvalidName => "invalid_header_name",
    MissingColon => "missing_colon",
    InvalidValue => "invalid_header_value",
    TooManyFields => "too_many_headers",
});

/// What is wrong with the headers that say where a message ends and what happens to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum FramingError {
    /// More than one `Content-Length` line, equal or not.
    #[error("content-length is repeated; send it once")]
    RepeatedContentLength,
    /// Not one decimal number without sign and leading zeros, below 2^63.
    #[error("content-length is not one decimal number below 2^63")]
    InvalidContentLength,
    /// Both ways to frame a body at once: RFC 9112 section 6.3.
    #[error("content-length together with transfer-encoding; send one of them")]
    LengthAndTransferEncoding,
    /// More than one `Transfer-Encoding` line.
    #[error("transfer-encoding is repeated; send it once")]
    RepeatedTransferEncoding,
    /// Malformed, or `chunked` repeated, not last, or disguised.
    #[error("transfer-encoding is malformed; send exactly chunked")]
    InvalidTransferEncoding,
    /// A well-formed coding other than `chunked`.
    #[error("transfer-encoding names a coding other than chunked; send exactly chunked")]
    UnsupportedTransferCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message: RFC 9112 section 6.1.
    #[error("transfer-encoding in an HTTP/1.0 message; use content-length")]
    TransferEncodingInHttp10,
    /// `content_length`, `transfer_encoding` and the like, which some servers read as the real ones.
    #[error("header name spells a framing header with underscores; use hyphens")]
    DisguisedFramingHeader,
    /// `Connection` is not a list of tokens.
    #[error("connection is not a list of tokens")]
    InvalidConnection,
    /// `Connection` nominates a header that a hop must not remove: framing, routing, credentials or forwarding.
    #[error("connection nominates a header that is meant for every recipient; remove it there")]
    ForbiddenConnectionOption,
    /// `Connection` nominates more headers than [`crate::Limits`] allow.
    #[error("connection nominates too many headers; send fewer")]
    TooManyConnectionOptions,
    /// More than one `Upgrade` line.
    #[error("upgrade is repeated; send one list")]
    RepeatedUpgrade,
    /// `Upgrade` is not a list of protocols.
    #[error("upgrade is not a list of protocols")]
    InvalidUpgrade,
    /// A body announced where there can be none: RFC 9112 sections 6.1 and 6.2, RFC 9110 section 9.3.6.
    #[error("content-length or transfer-encoding where no body is possible; remove it")]
    BodyNotAllowed,
}

reasons!(FramingError {
    RepeatedContentLength => "repeated_content_length",
    InvalidContentLength => "invalid_content_length",
    LengthAndTransferEncoding => "length_and_transfer_encoding",
    RepeatedTransferEncoding => "repeated_transfer_encoding",
    InvalidTransferEncoding => "invalid_transfer_encoding",
    UnsupportedTransferCoding => "unsupported_transfer_coding",
    TransferEncodingInHttp10 => "transfer_encoding_in_http_1_0",
    DisguisedFramingHeader => "disguised_framing_header",
    InvalidConnection => "invalid_connection",
    ForbiddenConnectionOption => "forbidden_connection_option",
    TooManyConnectionOptions => "too_many_connection_options",
    RepeatedUpgrade => "repeated_upgrade",
    InvalidUpgrade => "invalid_upgrade",
    BodyNotAllowed => "body_not_allowed",
});

/// Why a request head is refused. The connection cannot be used after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// More than one empty line before the request line.
    #[error("request line is empty")]
    EmptyRequestLine,
    /// Not `method SP target SP version`.
    #[error("request line is not method, target and version separated by single spaces")]
    MalformedRequestLine,
    /// The method is not a token.
    #[error("method is not a token")]
    InvalidMethod,
    /// A byte that is not visible ASCII, or `#`, in the target.
    #[error("request target contains a byte other than visible ASCII; percent-encode it")]
    InvalidTarget,
    /// Neither a path, an absolute URI, `*`, nor (for CONNECT) host and port.
    #[error("request target is neither a path nor an absolute URI")]
    UnknownTargetForm,
    /// `*` with a method other than OPTIONS.
    #[error("request target * is for OPTIONS only")]
    AsteriskNeedsOptions,
    /// CONNECT with something other than `host:port`.
    #[error("CONNECT needs host:port as its target")]
    ConnectNeedsAuthority,
    /// An absolute URI whose scheme is neither http nor https.
    #[error("scheme of the request target is neither http nor https")]
    UnsupportedScheme,
    /// The authority of an absolute URI is not `host[:port]`.
    #[error("authority of the request target is not host or host:port")]
    InvalidAuthority,
    /// Not `HTTP/` digit `.` digit.
    #[error("version is malformed; send HTTP/1.1")]
    InvalidVersion,
    /// A version other than 1.0 and 1.1.
    #[error("version is not supported; send HTTP/1.1")]
    UnsupportedVersion,
    /// The request line is longer than [`crate::Limits`] allow.
    #[error("request line is too long")]
    RequestLineTooLong,
    /// The head is longer than [`crate::Limits`] allow.
    #[error("request head is too large")]
    HeadTooLarge,
    /// HTTP/1.1 without `Host`.
    #[error("host is missing")]
    MissingHost,
    /// More than one `Host` line.
    #[error("host is repeated; send it once")]
    RepeatedHost,
    /// `Host` is not a name, an IPv4 address or an IPv6 address in brackets, with an optional port.
    #[error("host is not host or host:port")]
    InvalidHost,
    /// The target names another authority than `Host`.
    #[error("host differs from the authority of the request target")]
    HostMismatch,
    /// `Expect` asks for something other than `100-continue`.
    #[error("expect asks for something other than 100-continue")]
    UnsupportedExpectation,
    /// A header line is malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The framing is malformed or ambiguous.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

impl RequestError {
    /// The status code to answer with before closing the connection: 400, 414, 417, 431, 501 or 505.
    pub const fn status(self) -> u16 {
        match self {
            RequestError::RequestLineTooLong => 414,
            RequestError::UnsupportedExpectation => 417,
            RequestError::HeadTooLarge | RequestError::Field(FieldError::TooManyFields) => 431,
            RequestError::Framing(FramingError::UnsupportedTransferCoding) => 501,
            RequestError::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// A short stable word for logs and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            RequestError::EmptyRequestLine => "empty_request_line",
            RequestError::MalformedRequestLine => "malformed_request_line",
            RequestError::InvalidMethod => "invalid_method",
            RequestError::InvalidTarget => "invalid_target",
            RequestError::UnknownTargetForm => "unknown_target_form",
            RequestError::AsteriskNeedsOptions => "asterisk_needs_options",
            RequestError::ConnectNeedsAuthority => "connect_needs_authority",
            RequestError::UnsupportedScheme => "unsupported_scheme",
            RequestError::InvalidAuthority => "invalid_authority",
            RequestError::InvalidVersion => "invalid_version",
            RequestError::UnsupportedVersion => "unsupported_version",
            RequestError::RequestLineTooLong => "request_line_too_long",
            RequestError::HeadTooLarge => "head_too_large",
            RequestError::MissingHost => "missing_host",
            RequestError::RepeatedHost => "repeated_host",
            RequestError::InvalidHost => "invalid_host",
            RequestError::HostMismatch => "host_mismatch",
            RequestError::UnsupportedExpectation => "unsupported_expectation",
            RequestError::Field(error) => error.reason(),
            RequestError::Framing(error) => error.reason(),
        }
    }
}

/// Why a response head is refused. The upstream connection cannot be used after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// Not `version SP status [SP reason]`.
    #[error("status line is not version, three-digit status and reason")]
    MalformedStatusLine,
    /// A version other than 1.0 and 1.1.
    #[error("version is neither HTTP/1.0 nor HTTP/1.1")]
    UnsupportedVersion,
    /// Not three digits from 100 to 999.
    #[error("status is not a number from 100 to 999")]
    InvalidStatus,
    /// A control byte in the reason phrase.
    #[error("reason phrase contains a control byte")]
    InvalidReason,
    /// The status line is longer than [`crate::Limits`] allow.
    #[error("status line is too long")]
    StatusLineTooLong,
    /// The head is longer than [`crate::Limits`] allow.
    #[error("response head is too large")]
    HeadTooLarge,
    /// A header line is malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The framing is malformed or ambiguous.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

impl ResponseError {
    /// The status code to answer the downstream with: always 502.
    pub const fn status(self) -> u16 {
        502
    }

    /// A short stable word for logs and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            ResponseError::MalformedStatusLine => "malformed_status_line",
            ResponseError::UnsupportedVersion => "unsupported_version",
            ResponseError::InvalidStatus => "invalid_status",
            ResponseError::InvalidReason => "invalid_reason",
            ResponseError::StatusLineTooLong => "status_line_too_long",
            ResponseError::HeadTooLarge => "head_too_large",
            ResponseError::Field(error) => error.reason(),
            ResponseError::Framing(error) => error.reason(),
        }
    }
}

/// Why a chunked body is refused. The connection cannot be used after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No hexadecimal digit, or something else behind the digits.
    #[error("chunk size is not a hexadecimal number")]
    InvalidSize,
    /// More than 16 digits, or 2^63 and above.
    #[error("chunk size is too large")]
    SizeTooLarge,
    /// Not `;token[=token|quoted-string]`.
    #[error("chunk extension is malformed")]
    InvalidExtension,
    /// More extension bytes than [`crate::Limits`] allow.
    #[error("chunk extensions are too large; leave them out")]
    ExtensionsTooLarge,
    /// LF without CR.
    #[error("chunk line ends in LF alone; end lines with CRLF")]
    BareLineFeed,
    /// CR without LF.
    #[error("CR inside a chunk line; end lines with CRLF")]
    BareCarriageReturn,
    /// The chunk data is not followed by CRLF.
    #[error("chunk data is longer than the chunk size says")]
    MissingDataEnd,
    /// More trailer bytes than [`crate::Limits`] allow.
    #[error("trailers are too large")]
    TrailersTooLarge,
    /// A trailer line is malformed.
    #[error(transparent)]
    Trailer(#[from] FieldError),
}

impl ChunkError {
    /// The status code to answer a request with, if no answer has begun: 400 or 431.
    pub const fn status(self) -> u16 {
        match self {
            ChunkError::TrailersTooLarge | ChunkError::Trailer(FieldError::TooManyFields) => 431,
            _ => 400,
        }
    }

    /// A short stable word for logs and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            ChunkError::InvalidSize => "invalid_chunk_size",
            ChunkError::SizeTooLarge => "chunk_size_too_large",
            ChunkError::InvalidExtension => "invalid_chunk_extension",
            ChunkError::ExtensionsTooLarge => "chunk_extensions_too_large",
            ChunkError::BareLineFeed => "bare_lf",
            ChunkError::BareCarriageReturn => "bare_cr",
            ChunkError::MissingDataEnd => "missing_chunk_end",
            ChunkError::TrailersTooLarge => "trailers_too_large",
            ChunkError::Trailer(error) => error.reason(),
        }
    }
}
