//! The head of an upstream's response: from bytes to what is passed on.

use bytes::BytesMut;
use http::{Method, StatusCode};

use crate::proxy::fields::{BadLine, Fields, Line, Lines};
use crate::proxy::framing::Framing;
use crate::proxy::head::{LineEnd, find_end, line_end, read_digits};
use crate::proxy::headers::{ConnectionHeader, is_hop_by_hop};

/// A response as far as its body.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// Without those that concern the upstream's connection only.
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the connection may be used again behind the body.
    pub(crate) keep_alive: bool,
}

/// What the start of the input holds.
#[derive(Debug)]
pub(crate) enum Read {
    /// Not a whole head yet.
    More,
    /// A head of the kind that comes before the real one (1xx, but not 101).
    Interim(ResponseHead),
    /// The head. With a status of 101 what follows is no HTTP any more.
    Head(ResponseHead),
}

/// A head that is not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("the upstream's response is no HTTP/1 response: {0}")]
    Malformed(Malformed),
    #[error("the upstream's response has a head over the bound")]
    TooLarge,
    #[error("the upstream's response frames its body in a way that cannot be believed")]
    Framing,
    #[error("the upstream switches to a protocol that nobody asked for")]
    Upgrade,
}

/// What is wrong with a head's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("its version")]
    Version,
    #[error("its status line")]
    Status,
    #[error("a header's name")]
    Name,
    #[error("a header's value")]
    Value,
}

impl From<BadLine> for Malformed {
    fn from(bad: BadLine) -> Self {
        match bad {
            BadLine::Name => Self::Name,
            BadLine::Value => Self::Value,
        }
    }
}

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) headers: usize,
    /// Of a request's target.
    pub(crate) target: usize,
}

impl HeadLimits {
    /// The bound on bytes as the `h2` crate takes it, which refuses a head that is as large as that. It counts as RFC 9113
    /// §6.5.2 does: names and values, and 32 bytes more for each.
    pub(crate) fn header_list_max(&self) -> u32 {
        u32::try_from(self.bytes).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// Reads a head from the start of `input`, of which `seen` bytes were looked at before without finding its end.
///
/// # Errors
/// [`BadHead`]: the connection is of no use any more.
pub(crate) fn read(input: &mut BytesMut, seen: usize, method: &Method, limits: HeadLimits) -> Result<Read, BadHead> {
    // Parsing would start over with every attempt, so it is attempted once: when the end of the head is there.
    let Some(end) = find_end(input, seen) else {
        return if input.len() > limits.bytes { Err(BadHead::TooLarge) } else { Ok(Read::More) };
    };
    if end > limits.bytes {
        return Err(BadHead::TooLarge);
    }
    let head = input.split_to(end);
    let first = line_end(&head, 0).ok_or(BadHead::Malformed(Malformed::Version))?;
    let (status, is_1_1) = read_status(&head[..first.text]).map_err(BadHead::Malformed)?;
    let is_interim = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    let head = collect(head, first, status, is_1_1, method, limits.headers)?;
    Ok(if is_interim { Read::Interim(head) } else { Read::Head(head) })
}

/// The status, and whether it is HTTP/1.1 (RFC 9112 §4).
fn read_status(line: &[u8]) -> Result<(StatusCode, bool), Malformed> {
    let (version, rest) = line.split_at_checked(8).ok_or(Malformed::Version)?;
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(Malformed::Version),
    };
    let (code, reason) = rest.strip_prefix(b" ").and_then(|rest| rest.split_at_checked(3)).ok_or(Malformed::Status)?;
    let is_text = |b: &u8| *b == b'\t' || *b >= b' ' && *b != 0x7f;
    if !(reason.is_empty() || reason[0] == b' ' && reason.iter().all(is_text)) {
        return Err(Malformed::Status);
    }
    Ok((StatusCode::from_bytes(code).map_err(|_| Malformed::Status)?, is_1_1))
}

/// Reads the headers of a head, which come behind its `first` line.
fn collect(
    mut head: BytesMut,
    first: LineEnd,
    status: StatusCode,
    is_1_1: bool,
    method: &Method,
    headers_max: usize,
) -> Result<ResponseHead, BadHead> {
    let mut lines = Lines::new();
    let mut connection = ConnectionHeader::default();
    let mut length = None;
    // Whoever is odd about where a head or a body ends has it from somebody who may see another end: the answer is passed
    // on, and nothing behind it is believed.
    let mut is_odd = first.is_lone_newline();
    // Whether there is a `Transfer-Encoding`, and whether it is the one that we ask for.
    let mut chunked = None;
    let mut number = 0;
    let mut at = first.next;
    while !matches!(head[at..], [b'\n', ..] | [b'\r', b'\n', ..]) {
        if number == headers_max {
            return Err(BadHead::TooLarge);
        }
        number += 1;
        let (line, end) = Line::read(&mut head, at).map_err(|bad| BadHead::Malformed(bad.into()))?;
        is_odd |= end.is_lone_newline();
        at = end.next;
        let value = line.value(&head);
        match line.name(&head) {
            b"content-length" => {
                let announced = read_length(value).ok_or(BadHead::Framing)?;
                // The same length said twice is said once, whether in one line or in two.
                if length.is_some_and(|before| before != announced) {
                    return Err(BadHead::Framing);
                }
                is_odd |= length.is_some() || value.contains(&b',');
                length = Some(announced);
            }
            b"transfer-encoding" => {
                if chunked.replace(value.eq_ignore_ascii_case(b"chunked")).is_some() {
                    return Err(BadHead::Framing);
                }
            }
            b"connection" => connection.take(value),
            b"upgrade" if status == StatusCode::SWITCHING_PROTOCOLS => lines.push(line),
            name if is_hop_by_hop(name) => {}
            _ => lines.push(line),
        }
    }
    for name in &connection.named {
        lines.retain(|line| line.name(&head) != name.as_str().as_bytes());
    }
    is_odd |= head[at..] != *b"\r\n";
    let mut keep_alive = if is_1_1 { !connection.close } else { connection.keep_alive && !connection.close };
    let without_body = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match (chunked, length) {
        // A chunked response to HEAD has no body either, and must not be announced as one.
        _ if without_body => Framing::None,
        (Some(chunked), announced) => {
            // We never ask for another coding, and HTTP/1.0 has none.
            if !is_1_1 || !chunked {
                return Err(BadHead::Framing);
            }
            if announced.is_some() {
                // Somebody on the way may believe the length: nothing behind this body can be trusted.
                length = None;
                keep_alive = false;
            }
            Framing::Chunked
        }
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    // RFC 9110 §8.6.
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        length = None;
    }
    let keep_alive = keep_alive && !is_odd && framing != Framing::UntilClose;
    Ok(ResponseHead { status, fields: Fields::sent(head, lines, length), framing, keep_alive })
}

/// A list of equal numbers counts as one (RFC 9110 §8.6).
fn read_length(value: &[u8]) -> Option<u64> {
    let mut lengths = value.split(|b| *b == b',').map(|text| read_digits(text.trim_ascii()));
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, headers: 10, target: 100 };

    fn parse(text: &str, method: &Method) -> Result<ResponseHead, BadHead> {
        let mut input = BytesMut::from(text);
        match read(&mut input, 0, method, LIMITS)? {
            Read::Head(head) => Ok(head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_are_framed_as_the_head_says() {
        use Framing::{Chunked, Length, None, UntilClose};
        let ok = "HTTP/1.1 200 OK\r\n";
        for (head, expected) in [
            (format!("{ok}Content-Length: 5\r\n\r\n"), Ok((Length(5), true))),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\n"), Ok((Length(5), false))),
            (format!("{ok}Content-Length: 5, 5\r\n\r\n"), Ok((Length(5), false))),
            // A lone LF, at the end of whichever line.
            ("HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n".into(), Ok((Length(5), false))),
            (format!("{ok}Content-Length: 5\n\r\n"), Ok((Length(5), false))),
            (format!("{ok}Content-Length: 5\r\n\n"), Ok((Length(5), false))),
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
            ("HTTP/1.1 099 x\r\n\r\n".into(), Err(BadHead::Malformed(Malformed::Status))),
            ("HTTP/1.1 2x0 x\r\n\r\n".into(), Err(BadHead::Malformed(Malformed::Status))),
            ("HTTP/2 200 OK\r\n\r\n".into(), Err(BadHead::Malformed(Malformed::Version))),
            (format!("{ok}X: a\r\n b\r\n\r\n"), Err(BadHead::Malformed(Malformed::Name))),
            (format!("{ok}X : a\r\n\r\n"), Err(BadHead::Malformed(Malformed::Name))),
            (format!("{ok}X: a\0\r\n\r\n"), Err(BadHead::Malformed(Malformed::Value))),
            (format!("{ok}{}\r\n", "X: y\r\n".repeat(11)), Err(BadHead::TooLarge)),
            (format!("{ok}X: {}\r\n\r\n", "y".repeat(1100)), Err(BadHead::TooLarge)),
        ] {
            let parsed = parse(&head, &Method::GET).map(|head| (head.framing, head.keep_alive));
            assert_eq!(parsed, expected, "{head:?}");
        }
        let head = parse(&format!("{ok}Content-Length: 5\r\n\r\n"), &Method::HEAD).unwrap();
        assert_eq!((head.framing, head.fields.length()), (None, Some(5)));
    }

    #[test]
    fn what_concerns_the_connection_stays_here() {
        let text = "HTTP/1.1 200 OK\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a\r\nConnection: x-hop, keep-alive\r\nSet-Cookie: b\r\nContent-Length: 0\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\n";
        let head = parse(text, &Method::GET).unwrap();
        let headers = head.fields.into_map();
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        headers.sort_unstable();
        assert_eq!(headers, [("content-length", "0"), ("set-cookie", "a"), ("set-cookie", "b")]);
    }

    #[test]
    fn heads_come_in_pieces_and_after_others() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok";
        let mut input = BytesMut::new();
        let (mut seen, mut interim) = (0, Vec::new());
        for byte in text.bytes() {
            input.extend_from_slice(&[byte]);
            match read(&mut input, seen, &Method::GET, LIMITS).unwrap() {
                Read::More => seen = input.len(),
                Read::Interim(head) => {
                    seen = 0;
                    interim.push((head.status.as_u16(), head.fields.into_map().len()));
                }
                Read::Head(head) => {
                    assert_eq!((head.framing, &interim[..]), (Framing::Length(2), &[(100, 0), (103, 1)][..]));
                    assert!(input.is_empty());
                    return;
                }
            }
        }
        panic!("no head");
    }

    /// Names in lower case, and values.
    type Headers = Vec<(String, Vec<u8>)>;

    /// What another parser makes of a head: its status and headers.
    fn by_httparse(text: &[u8]) -> Option<(u16, Headers)> {
        let mut slots = [httparse::EMPTY_HEADER; LIMITS.headers];
        let mut response = httparse::Response::new(&mut slots);
        let used = response.parse(text).ok()?;
        let headers = response.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect();
        (used == httparse::Status::Complete(text.len())).then_some((response.code?, headers))
    }

    proptest! {
        #[test]
        fn a_head_that_is_taken_means_the_same_to_another_parser(
            status in "HTTP/1\\.[01] [1-9x][0-9]{2}( [ -~\t\u{80}]{0,8})?\r?\n",
            lines in prop::collection::vec("[a-zA-Z!:_ \t-]{0,9}:[ \t]{0,2}[ -~\t\r\u{0}\u{7f}\u{80}]{0,9}[ \t]{0,2}\r?\n", 0..5),
        ) {
            let text = format!("{status}{}\r\n", lines.concat());
            let mut input = BytesMut::from(&*text);
            if let Ok(Read::Head(head)) = read(&mut input, 0, &Method::GET, LIMITS) {
                prop_assert!(input.is_empty() || lines.concat().contains("\n\r\n") || lines.concat().contains("\n\n"));
                let text = &text.as_bytes()[..text.len() - input.len()];
                let other = by_httparse(text);
                prop_assert!(other.is_some(), "{:?}", String::from_utf8_lossy(text));
                let (code, mut headers) = other.unwrap();
                headers.retain(|(name, _)| !["connection", "upgrade", "te"].contains(&&**name));
                let mut ours: Headers =
                    head.fields.into_map().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
                ours.sort();
                headers.sort();
                prop_assert_eq!((head.status.as_u16(), ours), (code, headers));
            }
        }
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
        fuzz::hammer(1, &seeds, |bytes| {
            let (mut whole, first) = (BytesMut::from(bytes), &bytes[..bytes.len() / 2]);
            let at_once = format!("{:?}", read(&mut whole, 0, &Method::GET, LIMITS));
            if let Ok(Read::More) = read(&mut BytesMut::from(first), 0, &Method::GET, LIMITS) {
                let later = read(&mut BytesMut::from(bytes), first.len(), &Method::GET, LIMITS);
                assert_eq!(format!("{later:?}"), at_once);
            }
        });
    }
}
