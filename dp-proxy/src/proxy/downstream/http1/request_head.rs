//! The head of a request: from bytes to what routes are matched by. Pure.
//!
//! A generic parser in front would only do twice what making names, values and targets does: every byte of them is checked
//! there.

use bytes::{Buf, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};

use crate::proxy::error::Refusal;
use crate::proxy::framing::Framing;
use crate::proxy::head::{Lines, LoneNewline, find_strict_end, read_digits, split_header};
use crate::proxy::headers::{ConnectionHeader, names_trailers};
use crate::proxy::upstream::response_head::HeadLimits;

/// A request as far as its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: Parts,
    pub(crate) framing: Result<Framing, BadFraming>,
    /// Whether the client wants to send another request behind this one.
    pub(crate) keep_alive: bool,
    /// Whether the client sends the body only when it is told to.
    pub(crate) expects_continue: bool,
    /// Whether what comes behind an answer's body is of use to the client.
    pub(crate) takes_trailers: bool,
}

/// What the start of the input holds.
#[derive(Debug)]
pub(crate) enum Read {
    /// Not a whole head yet.
    More,
    Head(Box<Head>),
}

/// A head of which nothing can be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("malformed request line")]
    Line,
    #[error("malformed target")]
    Target,
    #[error("unknown protocol version")]
    Version,
    #[error("malformed name of a header")]
    Name,
    #[error("malformed value of a header")]
    Value,
    #[error("a line that does not end in CRLF")]
    LineEnd,
    #[error("a head over the bound")]
    TooLarge,
    #[error("too many headers")]
    TooMany,
    #[error("a target over the bound")]
    TargetTooLong,
}

/// A body of which nobody can say where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadFraming {
    /// `Content-Length` and `Transfer-Encoding`.
    Twice,
    /// More than one `Content-Length`.
    Lengths,
    /// A `Content-Length` that is no number.
    Length,
    /// Anything but `Transfer-Encoding: chunked`, once.
    Coding,
    /// A `Transfer-Encoding` where there is none (HTTP/1.0).
    Version,
}

impl From<BadHead> for Refusal {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::TooLarge | BadHead::TooMany => Self::HeadTooLarge,
            BadHead::TargetTooLong => Self::TargetTooLong,
            BadHead::Line => Self::BadRequest("malformed request line"),
            BadHead::Target => Self::BadRequest("malformed target"),
            BadHead::Version => Self::BadRequest("unknown protocol version"),
            BadHead::Name => Self::BadRequest("malformed name of a header"),
            BadHead::Value => Self::BadRequest("malformed value of a header"),
            BadHead::LineEnd => Self::BadRequest("a line that does not end in CRLF"),
        }
    }
}

impl From<BadFraming> for Refusal {
    fn from(bad: BadFraming) -> Self {
        match bad {
            BadFraming::Twice => Self::BadRequest("both Content-Length and Transfer-Encoding"),
            BadFraming::Lengths => Self::BadRequest("more than one Content-Length"),
            BadFraming::Length => Self::BadRequest("malformed Content-Length"),
            BadFraming::Coding => Self::UnknownCoding,
            BadFraming::Version => Self::BadRequest("Transfer-Encoding with HTTP/1.0"),
        }
    }
}

/// Room for the headers of most requests: as many as a map of sixteen places holds.
const HEADERS_USUAL: usize = 12;

/// Reads a head from the start of `input`, of which `seen` bytes were looked at before without finding its end. Blank lines
/// before it are skipped (RFC 9112 §2.2).
///
/// # Errors
/// [`BadHead`]: the connection is of no use any more.
pub(crate) fn read(input: &mut BytesMut, mut seen: usize, limits: HeadLimits) -> Result<Read, BadHead> {
    while input.starts_with(b"\r\n") {
        input.advance(2);
        seen = 0;
    }
    // Looked at only up to the bound: what is wrong with a head must not depend on how much came behind it.
    let whole =
        find_strict_end(&input[..input.len().min(limits.bytes)], seen).map_err(|LoneNewline| BadHead::LineEnd)?;
    let Some(end) = whole else {
        return if input.len() > limits.bytes { Err(BadHead::TooLarge) } else { Ok(Read::More) };
    };
    let head = input.split_to(end).freeze();
    let mut lines = Lines(&head);
    let (method, target, version) = split_request_line(lines.next().unwrap_or_default()).ok_or(BadHead::Line)?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(BadHead::Version),
    };
    if target.len() > limits.target {
        return Err(BadHead::TargetTooLong);
    }
    // A fragment has no place here, and [`Uri`] would pass over whatever stands in one.
    if memchr::memchr(b'#', target).is_some() {
        return Err(BadHead::Target);
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(method).map_err(|_| BadHead::Line)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_| BadHead::Target)?;
    parts.version = version;
    let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
    let mut said = Said::default();
    for (number, line) in lines.enumerate() {
        if number == limits.headers {
            return Err(BadHead::TooMany);
        }
        let (name, value) = split_header(line).ok_or(BadHead::Name)?;
        let name = HeaderName::from_bytes(name).map_err(|_| BadHead::Name)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| BadHead::Value)?;
        said.hear(name.as_str(), &value);
        headers.append(name, value);
    }
    parts.headers = headers;
    Ok(Read::Head(Box::new(said.of(parts))))
}

/// Three words, and one blank between each two (RFC 9112 §3).
fn split_request_line(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = memchr::memchr(b' ', line)?;
    let last = memchr::memrchr(b' ', line).filter(|last| *last > first)?;
    Some((&line[..first], &line[first + 1..last], &line[last + 1..]))
}

/// What headers say about the connection and the body.
#[derive(Debug, Default)]
struct Said {
    connection: ConnectionHeader,
    /// The first length; `None` within: it is no number.
    length: Option<Option<u64>>,
    more_lengths: bool,
    /// Whether the body is chunked; `Some(false)`: it is coded in another way.
    chunked: Option<bool>,
    expects_continue: bool,
    takes_trailers: bool,
}

impl Said {
    fn hear(&mut self, name: &str, value: &HeaderValue) {
        match name {
            "connection" => self.connection.take(value.as_bytes()),
            "content-length" => {
                self.more_lengths |= self.length.is_some();
                self.length = Some(read_digits(value.as_bytes()));
            }
            "transfer-encoding" => {
                let is_only = self.chunked.is_none();
                self.chunked = Some(is_only && value.as_bytes().eq_ignore_ascii_case(b"chunked"));
            }
            "te" => self.takes_trailers |= names_trailers(value),
            "expect" => self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }

    fn of(self, parts: Parts) -> Head {
        let is_1_1 = parts.version == Version::HTTP_11;
        let Self { connection, length, more_lengths, chunked, expects_continue, takes_trailers } = self;
        let framing = match (chunked, length) {
            (Some(false), _) => Err(BadFraming::Coding),
            (Some(true), Some(_)) => Err(BadFraming::Twice),
            (Some(true), None) if is_1_1 => Ok(Framing::Chunked),
            (Some(true), None) => Err(BadFraming::Version),
            (None, Some(_)) if more_lengths => Err(BadFraming::Lengths),
            (None, Some(None)) => Err(BadFraming::Length),
            (None, Some(Some(length))) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::None),
        };
        let keep_alive = !connection.close && (is_1_1 || connection.keep_alive);
        Head { parts, framing, keep_alive, expects_continue: is_1_1 && expects_continue, takes_trailers }
    }
}

#[cfg(test)]
mod tests;
