//! The head of an upstream's response: from bytes to what is passed on.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

use super::framing::Framing;
use crate::proxy::headers::{ConnectionHeader, is_hop_by_hop};

/// A response as far as its body.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// Without those that concern the upstream's connection only.
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Whether the connection may be used again behind the body.
    pub(crate) keep_alive: bool,
}

/// What the start of the input holds.
#[derive(Debug)]
pub(crate) enum Read {
    /// Not a whole head yet.
    More,
    /// A head of the kind that comes before the real one (1xx); it is dropped.
    Informational,
    /// The head. With a status of 101 what follows is no HTTP any more.
    Head(Box<ResponseHead>),
}

/// A head that is not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("the upstream's response is no HTTP/1 response: {0}")]
    Malformed(httparse::Error),
    #[error("the upstream's response has a head over the bound")]
    TooLarge,
    #[error("the upstream's response frames its body in a way that cannot be believed")]
    Framing,
    #[error("the upstream switches to a protocol that nobody asked for")]
    Upgrade,
}

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) headers: usize,
}

/// Headers that are parsed without an allocation.
const HEADERS_INLINE: usize = 64;

/// Reads a head from the start of `input`, of which `seen` bytes were looked at before without finding its end.
///
/// # Errors
/// [`BadHead`]: the connection is of no use any more.
pub(crate) fn read(input: &mut BytesMut, seen: usize, method: &Method, limits: HeadLimits) -> Result<Read, BadHead> {
    // Parsing starts over with every attempt, so it is attempted once: when the end of the head is there.
    let Some(end) = find_end(input, seen) else {
        return if input.len() > limits.bytes { Err(BadHead::TooLarge) } else { Ok(Read::More) };
    };
    if end > limits.bytes {
        return Err(BadHead::TooLarge);
    }
    let head = input.split_to(end).freeze();
    let mut slots: SmallVec<[MaybeUninit<httparse::Header<'_>>; HEADERS_INLINE]> =
        SmallVec::from_elem(MaybeUninit::uninit(), limits.headers);
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, &head, &mut slots) {
        Ok(httparse::Status::Complete(used)) if used == head.len() => {}
        Ok(_) => return Err(BadHead::Malformed(httparse::Error::NewLine)),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(e) => return Err(BadHead::Malformed(e)),
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(BadHead::Malformed(httparse::Error::Status))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Read::Informational);
    }
    let is_1_1 = response.version == Some(1);
    collect(&head, response.headers, status, is_1_1, method).map(|head| Read::Head(Box::new(head)))
}

/// The number of bytes up to the end of a head: an empty line.
fn find_end(input: &[u8], seen: usize) -> Option<usize> {
    // The end may have begun with the last two bytes that were seen.
    let mut from = seen.saturating_sub(2);
    while let Some(newline) = memchr::memchr(b'\n', &input[from..]).map(|at| from + at) {
        match &input[newline + 1..] {
            [b'\n', ..] => return Some(newline + 2),
            [b'\r', b'\n', ..] => return Some(newline + 3),
            _ => from = newline + 1,
        }
    }
    None
}

fn collect(
    head: &Bytes,
    parsed: &[httparse::Header<'_>],
    status: StatusCode,
    is_1_1: bool,
    method: &Method,
) -> Result<ResponseHead, BadHead> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + 2);
    let mut connection = ConnectionHeader::default();
    let mut length = None;
    let mut encoding: Option<HeaderValue> = None;
    for header in parsed {
        let malformed = |_| BadHead::Malformed(httparse::Error::HeaderName);
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(malformed)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value))
            .map_err(|_| BadHead::Malformed(httparse::Error::HeaderValue))?;
        if name == header::CONTENT_LENGTH {
            let announced = read_length(&value).ok_or(BadHead::Framing)?;
            match length {
                None => length = Some(announced),
                // The same length said twice is said once.
                Some(before) if before == announced => continue,
                Some(_) => return Err(BadHead::Framing),
            }
        } else if name == header::TRANSFER_ENCODING {
            if encoding.replace(value).is_some() {
                return Err(BadHead::Framing);
            }
            continue;
        } else if name == header::CONNECTION {
            connection.take(&value);
            continue;
        } else if is_hop_by_hop(&name) && !(name == header::UPGRADE && status == StatusCode::SWITCHING_PROTOCOLS) {
            continue;
        }
        headers.append(name, value);
    }
    for name in &connection.named {
        headers.remove(name);
    }
    let mut keep_alive = if is_1_1 { !connection.close } else { connection.keep_alive && !connection.close };
    let without_body = *method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
    let framing = match (&encoding, length) {
        // A chunked response to HEAD has no body either, and must not be announced as one.
        _ if without_body => Framing::None,
        (Some(encoding), length) => {
            // We never ask for another coding, and HTTP/1.0 has none.
            if !is_1_1 || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(BadHead::Framing);
            }
            if length.is_some() {
                // Somebody on the way may believe the length: nothing behind this body can be trusted.
                headers.remove(header::CONTENT_LENGTH);
                keep_alive = false;
            }
            Framing::Chunked
        }
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    // RFC 9110 §8.6.
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::SWITCHING_PROTOCOLS) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let keep_alive = keep_alive && framing != Framing::UntilClose;
    Ok(ResponseHead { status, headers, framing, keep_alive })
}

/// Digits and nothing else; a list of equal numbers counts as one (RFC 9110 §8.6).
fn read_length(value: &HeaderValue) -> Option<u64> {
    let mut lengths = value.as_bytes().split(|b| *b == b',').map(|text| {
        let text = text.trim_ascii();
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        str::from_utf8(text).ok().filter(|_| digits)?.parse::<u64>().ok()
    });
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, headers: 10 };

    fn parse(text: &str, method: &Method) -> Result<ResponseHead, BadHead> {
        let mut input = BytesMut::from(text);
        match read(&mut input, 0, method, LIMITS)? {
            Read::Head(head) => Ok(*head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_are_framed_as_the_head_says() {
        use Framing::{Chunked, Length, None, UntilClose};
        let ok = "HTTP/1.1 200 OK\r\n";
        for (head, expected) in [
            (format!("{ok}Content-Length: 5\r\n\r\n"), Ok((Length(5), true))),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\n"), Ok((Length(5), true))),
            (format!("{ok}Content-Length: 5, 5\r\n\r\n"), Ok((Length(5), true))),
            (format!("{ok}Content-Length: 5\r\nConnection: close\r\n\r\n"), Ok((Length(5), false))),
            (format!("{ok}Transfer-Encoding: Chunked\r\n\r\n"), Ok((Chunked, true))),
            (format!("{ok}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok((Chunked, false))),
            (format!("{ok}\r\n"), Ok((UntilClose, false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n".into(), Ok((Length(5), false))),
            ("HTTP/1.0 200\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n".into(), Ok((Length(5), true))),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n".into(), Ok((None, true))),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".into(), Ok((None, true))),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Content-Length: 5, 6\r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Content-Length: +5\r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Content-Length: \r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Content-Length: 99999999999999999999\r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n"), Err(BadHead::Framing)),
            (format!("{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(BadHead::Framing)),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Err(BadHead::Framing)),
            ("HTTP/1.1 101 Switching\r\nContent-Length: 5\r\n\r\n".into(), Ok((None, true))),
            ("HTTP/1.1 999\r\n\r\n".into(), Ok((UntilClose, false))),
            ("HTTP/1.1 099 x\r\n\r\n".into(), Err(BadHead::Malformed(httparse::Error::Status))),
            ("HTTP/1.1 2x0 x\r\n\r\n".into(), Err(BadHead::Malformed(httparse::Error::Status))),
            ("HTTP/2 200 OK\r\n\r\n".into(), Err(BadHead::Malformed(httparse::Error::Version))),
            (format!("{ok}X: a\r\n b\r\n\r\n"), Err(BadHead::Malformed(httparse::Error::HeaderName))),
            (format!("{ok}X : a\r\n\r\n"), Err(BadHead::Malformed(httparse::Error::HeaderName))),
            (format!("{ok}X: a\0\r\n\r\n"), Err(BadHead::Malformed(httparse::Error::HeaderValue))),
            (format!("{ok}{}\r\n", "X: y\r\n".repeat(11)), Err(BadHead::TooLarge)),
            (format!("{ok}X: {}\r\n\r\n", "y".repeat(1100)), Err(BadHead::TooLarge)),
        ] {
            let parsed = parse(&head, &Method::GET).map(|head| (head.framing, head.keep_alive));
            assert_eq!(parsed, expected, "{head:?}");
        }
        let head = parse(&format!("{ok}Content-Length: 5\r\n\r\n"), &Method::HEAD).unwrap();
        assert_eq!((head.framing, head.headers["content-length"].to_str().unwrap()), (None, "5"));
    }

    #[test]
    fn what_concerns_the_connection_stays_here() {
        let text = "HTTP/1.1 200 OK\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a\r\nConnection: x-hop, keep-alive\r\nSet-Cookie: b\r\nContent-Length: 0\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\n";
        let head = parse(text, &Method::GET).unwrap();
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let mut headers: Vec<_> = headers.collect();
        headers.sort_unstable();
        assert_eq!(headers, [("content-length", "0"), ("set-cookie", "a"), ("set-cookie", "b")]);
    }

    #[test]
    fn heads_come_in_pieces_and_after_others() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok";
        let mut input = BytesMut::new();
        let (mut seen, mut informational) = (0, 0);
        for byte in text.bytes() {
            input.extend_from_slice(&[byte]);
            match read(&mut input, seen, &Method::GET, LIMITS).unwrap() {
                Read::More => seen = input.len(),
                Read::Informational => (seen, informational) = (0, informational + 1),
                Read::Head(head) => {
                    assert_eq!((head.framing, informational), (Framing::Length(2), 2));
                    assert!(input.is_empty());
                    return;
                }
            }
        }
        panic!("no head");
    }

    #[test]
    fn fuzz_heads_are_read_alike_wherever_reads_end() {
        let seeds: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\nhello",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        crate::fuzz::hammer(1, &seeds, |bytes| {
            let (mut whole, first) = (BytesMut::from(bytes), &bytes[..bytes.len() / 2]);
            let at_once = format!("{:?}", read(&mut whole, 0, &Method::GET, LIMITS));
            if let Ok(Read::More) = read(&mut BytesMut::from(first), 0, &Method::GET, LIMITS) {
                let later = read(&mut BytesMut::from(bytes), first.len(), &Method::GET, LIMITS);
                assert_eq!(format!("{later:?}"), at_once);
            }
        });
    }
}
