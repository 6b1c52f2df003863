//! Where a message begins and ends, and of what type it is. RFC 4271 sections 4.1 and 6.1.

use crate::error::Notification;

/// Marker, length, type.
pub(crate) const HEADER: usize = 19;
/// Longest message.
pub(crate) const MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open => 29..=MAX,
            Self::Update => 23..=MAX,
            Self::Notification => 21..=MAX,
            Self::Keepalive => HEADER..=HEADER,
            // Those with filters (RFC 5291) are longer.
            Self::RouteRefresh => 23..=MAX,
        }
    }
}

/// Type and whole length of the message at the start of `bytes`; `None`: its header is not complete.
///
/// # Errors
/// A header that RFC 4271 section 6.1 refuses.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<(Kind, usize)>, Notification> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    if header[..16] != [0xff; 16] {
        return Err(Notification::new(1, 1));
    }
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let bad_length = || Notification::with(1, 2, &header[16..18]);
    if !(HEADER..=MAX).contains(&length) {
        return Err(bad_length());
    }
    let kind = match header[18] {
        1 => Kind::Open,
        2 => Kind::Update,
        3 => Kind::Notification,
        4 => Kind::Keepalive,
        5 => Kind::RouteRefresh,
        other => return Err(Notification::with(1, 3, [other])),
    };
    if kind.lengths().contains(&length) { Ok(Some((kind, length))) } else { Err(bad_length()) }
}

/// A message of this type; `body` has at most 4077 bytes.
pub(crate) fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).expect("bodies fit a message");
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind.code());
    bytes.extend_from_slice(body);
    bytes
}

/// The NOTIFICATION, its data cut to what fits.
pub(crate) fn notification(notification: &Notification) -> Vec<u8> {
    let mut body = vec![notification.code, notification.subcode];
    body.extend(notification.data.iter().take(MAX - HEADER - 2));
    message(Kind::Notification, &body)
}

/// The other way; the header made sure of two bytes.
pub(crate) fn parse_notification(body: &[u8]) -> Notification {
    match body {
        [code, subcode, data @ ..] => Notification::with(*code, *subcode, data),
        _ => Notification::new(0, 0),
    }
}
