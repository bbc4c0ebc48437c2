//! The head of an answer, and how its body is framed. Pure.

use http::header;
use http::{StatusCode, Version};

use crate::proxy::fields::Fields;
use crate::proxy::head::{line, number_line};

/// What matters of a request for the frame of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) version: Version,
    pub(crate) is_head: bool,
}

/// How a body is framed towards a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// There is none, whatever its length is said to be.
    None,
    /// So many bytes are to go.
    Length(u64),
    Chunked,
    /// By the end of the connection, for clients that know no chunks.
    UntilClose,
}

/// The frame of an answer's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) encoding: Encoding,
    /// The length that is told.
    pub(crate) announced: Option<u64>,
}

/// What becomes of the connection behind an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connection {
    /// It goes on, as one of this version does.
    GoesOn(Version),
    /// It is closed.
    Closes,
    /// It is switched to what the headers say.
    Switches,
}

impl Frame {
    /// The frame of a body of `exact` bytes, where that is known (RFC 9110 §6.4.1, §8.6; RFC 9112 §6.3).
    /// `told` is what the answer's head says of its length.
    pub(crate) fn of(status: StatusCode, told: Option<u64>, exact: Option<u64>, asked: Asked) -> Self {
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return Self { encoding: Encoding::None, announced: None };
        }
        if asked.is_head || status == StatusCode::NOT_MODIFIED {
            // What is told is of the answer that there would be.
            return Self { encoding: Encoding::None, announced: told.or(exact.filter(|length| *length > 0)) };
        }
        match exact.or(told) {
            Some(length) => Self { encoding: Encoding::Length(length), announced: Some(length) },
            None if asked.version == Version::HTTP_11 => Self { encoding: Encoding::Chunked, announced: None },
            None => Self { encoding: Encoding::UntilClose, announced: None },
        }
    }
}

/// Whether an answer says itself that it is the last on its connection.
pub(crate) fn says_close(fields: &Fields) -> bool {
    let mut values = fields.get_all(&header::CONNECTION);
    values.any(|value| value.split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close")))
}

/// Appends the head to `out`; `add_date` adds a date where it has none.
pub(crate) fn write(
    out: &mut Vec<u8>,
    status: StatusCode,
    fields: &Fields,
    frame: Frame,
    connection: Connection,
    add_date: impl FnOnce(&mut Vec<u8>),
) {
    write_status(out, status);
    let has_date = fields.write(out, |name| match name {
        b"transfer-encoding" => false,
        b"connection" => connection == Connection::Switches,
        _ => true,
    });
    if let Some(length) = frame.announced {
        number_line(out, b"content-length", length);
    } else if frame.encoding == Encoding::Chunked {
        line(out, b"transfer-encoding", b"chunked");
    }
    match connection {
        Connection::Closes => line(out, b"connection", b"close"),
        Connection::GoesOn(Version::HTTP_10) => line(out, b"connection", b"keep-alive"),
        Connection::GoesOn(_) | Connection::Switches => {}
    }
    if !has_date {
        add_date(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a head that comes before that of the answer (1xx, but not 101).
pub(in crate::proxy::downstream) fn write_interim(out: &mut Vec<u8>, status: StatusCode, fields: &Fields) {
    write_status(out, status);
    fields.write(out, |_| true);
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(headers: &[(&'static str, &'static str)]) -> Fields {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Fields::Made(headers.collect())
    }

    #[test]
    fn bodies_are_framed_by_what_is_known_of_them() {
        use Encoding::{Chunked, Length, None as No, UntilClose};
        let (get, old) =
            (Asked { version: Version::HTTP_11, is_head: false }, Asked { version: Version::HTTP_10, is_head: false });
        let head = Asked { is_head: true, ..get };
        for (status, told, exact, asked, encoding, announced) in [
            (200, None, Some(5), get, Length(5), Some(5)),
            (200, None, Some(0), get, Length(0), Some(0)),
            (200, None, None, get, Chunked, None),
            (200, None, None, old, UntilClose, None),
            (200, Some("7"), None, get, Length(7), Some(7)),
            (200, Some("7"), None, old, Length(7), Some(7)),
            // What is known wins over what is said.
            (200, Some("7"), Some(5), get, Length(5), Some(5)),
            (200, Some("x"), None, get, Chunked, None),
            (204, Some("7"), Some(7), get, No, None),
            (101, None, Some(0), get, No, None),
            (304, Some("7"), Some(0), get, No, Some(7)),
            (304, None, Some(0), get, No, None),
            (200, Some("7"), Some(0), head, No, Some(7)),
            (200, None, Some(0), head, No, None),
            (404, None, Some(36), head, No, Some(36)),
            (200, None, None, head, No, None),
        ] {
            let length = told.and_then(|told| fields(&[("content-length", told)]).length());
            let frame = Frame::of(StatusCode::from_u16(status).unwrap(), length, exact, asked);
            assert_eq!(frame, Frame { encoding, announced }, "{status} {told:?} {exact:?} {asked:?}");
        }
    }

    #[test]
    fn heads_say_what_becomes_of_the_connection() {
        let headers = [("content-length", "9"), ("transfer-encoding", "gzip"), ("connection", "x"), ("a", "b")];
        let text = |headers: &[_], encoding, announced, connection| {
            let mut out = Vec::new();
            write(&mut out, StatusCode::OK, &fields(headers), Frame { encoding, announced }, connection, |out| {
                line(out, b"date", b"now")
            });
            String::from_utf8(out).unwrap()
        };
        let goes_on = Connection::GoesOn(Version::HTTP_11);
        assert_eq!(
            text(&headers, Encoding::Length(5), Some(5), goes_on),
            "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 5\r\ndate: now\r\n\r\n"
        );
        assert_eq!(
            text(&headers, Encoding::Chunked, None, Connection::Closes),
            "HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\nconnection: close\r\ndate: now\r\n\r\n"
        );
        assert_eq!(
            text(&[("date", "then")], Encoding::None, None, Connection::GoesOn(Version::HTTP_10)),
            "HTTP/1.1 200 OK\r\ndate: then\r\nconnection: keep-alive\r\n\r\n"
        );
        assert_eq!(
            text(&[("connection", "upgrade")], Encoding::None, None, Connection::Switches),
            "HTTP/1.1 200 OK\r\nconnection: upgrade\r\ndate: now\r\n\r\n"
        );
        assert!(
            says_close(&fields(&[("connection", "x, Close")])) && !says_close(&fields(&[("connection", "closed")]))
        );
    }
}
