//! The headers of an answer on its way to a client.
//!
//! What a node sends is mostly only passed on, and a map of headers is made to be asked: to fill one costs several times as
//! much as to look at every byte once. So the lines of a node's head stay lines, each checked and with its name in lower case,
//! until somebody wants to change more of them than one.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::head::{LineEnd, line};

/// The headers of an answer, without those that concern one connection only.
#[derive(Debug)]
pub(crate) enum Fields {
    /// As a node has sent them.
    Sent(Box<Sent>),
    /// As they were made here, or came by HTTP/2.
    Made(HeaderMap),
}

/// Lines of a node's head.
#[derive(Debug)]
pub(crate) struct Sent {
    head: Bytes,
    lines: Lines,
    /// What the head announces of the body, which stands in no line.
    length: Option<u64>,
    /// What was added, in place of lines of the same names.
    added: SmallVec<[(HeaderName, HeaderValue); 1]>,
}

/// Where headers stand in a head: as many as most have stand in place.
pub(crate) type Lines = SmallVec<[Line; 12]>;

/// Where a header stands in a head. Its name has letters of HTTP's tokens alone, in lower case; its value what values may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    name: u32,
    name_end: u32,
    value: u32,
    value_end: u32,
}

/// A line that is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadLine {
    Name,
    Value,
}

impl Line {
    /// Reads the line of a head that begins at `start`, and writes its name in lower case there. No blank stands before the
    /// colon, and none begins it (RFC 9112 §5).
    pub(crate) fn read(head: &mut [u8], start: usize) -> Result<(Self, LineEnd), BadLine> {
        let mut colon = start;
        for byte in &mut head[start..] {
            let lower = TOKEN[usize::from(*byte)];
            if lower == 0 {
                break;
            }
            *byte = lower;
            colon += 1;
        }
        if colon == start || colon - start > NAME_BYTES_MAX || head.get(colon) != Some(&b':') {
            return Err(BadLine::Name);
        }
        let mut value = colon + 1;
        while matches!(head.get(value), Some(b' ' | b'\t')) {
            value += 1;
        }
        // The first control but a tab has to be that of the line's end.
        let text = value + find_control(&head[value..]).ok_or(BadLine::Value)?;
        let next = match &head[text..] {
            [b'\n', ..] => text + 1,
            [b'\r', b'\n', ..] => text + 2,
            _ => return Err(BadLine::Value),
        };
        let mut value_end = text;
        while value < value_end && matches!(head[value_end - 1], b' ' | b'\t') {
            value_end -= 1;
        }
        let place = |at: usize| u32::try_from(at).map_err(|_| BadLine::Name);
        let line =
            Self { name: place(start)?, name_end: place(colon)?, value: place(value)?, value_end: place(value_end)? };
        Ok((line, LineEnd { text, next }))
    }

    pub(crate) fn name(self, head: &[u8]) -> &[u8] {
        &head[self.name as usize..self.name_end as usize]
    }

    pub(crate) fn value(self, head: &[u8]) -> &[u8] {
        &head[self.value as usize..self.value_end as usize]
    }

    /// The whole line with its end, where it is what would be written for its name and value.
    fn as_written(self, head: &[u8]) -> Option<&[u8]> {
        let Self { name, name_end, value, value_end } = self;
        let end = value_end as usize + 2;
        let is_plain = value == name_end + 2
            && head[name_end as usize + 1] == b' '
            && head.get(value_end as usize..end).is_some_and(|line_end| line_end == b"\r\n");
        is_plain.then(|| &head[name as usize..end])
    }

    fn to_header(self, head: &Bytes) -> (HeaderName, HeaderValue) {
        let name = HeaderName::from_bytes(self.name(head)).expect("a name was checked when it was read");
        let value = HeaderValue::from_maybe_shared(head.slice_ref(self.value(head)));
        (name, value.expect("a value was checked when it was read"))
    }
}

/// Where the first byte stands that no value may have (RFC 9110 §5.5): a control but the tab.
fn find_control(text: &[u8]) -> Option<usize> {
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = 0x80 * EACH;
    // Eight at a time, as far as none is a tab either: hardly any value has one.
    let is_plain = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        let without = word ^ (0x7f * EACH);
        let below_blank = word.wrapping_sub(0x20 * EACH) & !word & HIGH;
        let delete = without.wrapping_sub(EACH) & !without & HIGH;
        below_blank | delete == 0
    };
    let mut from = 0;
    for word in text.as_chunks::<8>().0 {
        if !is_plain(word)
            && let Some(at) = word.iter().position(is_control)
        {
            return Some(from + at);
        }
        from += word.len();
    }
    text[from..].iter().position(is_control).map(|at| from + at)
}

/// The longest name that a map of headers takes.
const NAME_BYTES_MAX: usize = 65_535;

/// The bytes of a token (RFC 9110 §5.6.2), in lower case; 0 for what is none.
const TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let letter = byte as u8;
        if letter.is_ascii_alphanumeric() {
            table[byte] = letter.to_ascii_lowercase();
        }
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = others[at];
        at += 1;
    }
    table
};

impl Fields {
    /// The headers of a head, of which `length` is what is announced of the body.
    pub(crate) fn sent(head: BytesMut, lines: Lines, length: Option<u64>) -> Self {
        Self::Sent(Box::new(Sent { head: head.freeze(), lines, length, added: SmallVec::new() }))
    }

    /// Every value of a header.
    pub(crate) fn get_all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> {
        let (sent, made) = match self {
            Self::Sent(sent) => (Some(sent), None),
            Self::Made(headers) => (None, Some(headers.get_all(name))),
        };
        let lines = sent.into_iter().flat_map(move |sent| sent.get_all(name));
        lines.chain(made.into_iter().flatten().map(HeaderValue::as_bytes))
    }

    /// What is announced of the body's length.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Sent(sent) => sent.length,
            Self::Made(headers) => {
                headers.get(header::CONTENT_LENGTH).and_then(|l| super::head::read_digits(l.as_bytes()))
            }
        }
    }

    /// Sets a header, whatever it was before; any but `Content-Length`.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self {
            Self::Sent(sent) => {
                let Sent { head, lines, added, .. } = &mut **sent;
                lines.retain(|line| line.name(head) != name.as_str().as_bytes());
                added.retain(|(other, _)| *other != name);
                added.push((name, value));
            }
            Self::Made(headers) => drop(headers.insert(name, value)),
        }
    }

    /// Appends all of them but `Content-Length` to a head that is written, and says whether a date is among them.
    pub(crate) fn write(&self, out: &mut Vec<u8>, mut is_written: impl FnMut(&[u8]) -> bool) -> bool {
        let mut has_date = false;
        let mut is_written = |name: &[u8]| {
            has_date |= name == b"date";
            is_written(name)
        };
        match self {
            Self::Sent(sent) => {
                let Sent { head, lines, added, .. } = &**sent;
                for sent in lines.iter().filter(|line| is_written(line.name(head))) {
                    match sent.as_written(head) {
                        // One copy in place of four.
                        Some(whole) => out.extend_from_slice(whole),
                        None => line(out, sent.name(head), sent.value(head)),
                    }
                }
                for (name, value) in added.iter().filter(|(name, _)| is_written(name.as_ref())) {
                    line(out, name.as_ref(), value.as_bytes());
                }
            }
            Self::Made(headers) => {
                let of_these = headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH);
                for (name, value) in of_these.filter(|(name, _)| is_written(name.as_ref())) {
                    line(out, name.as_ref(), value.as_bytes());
                }
            }
        }
        has_date
    }

    /// As a map, to be asked and changed.
    pub(crate) fn into_map(self) -> HeaderMap {
        let sent = match self {
            Self::Made(headers) => return headers,
            Self::Sent(sent) => sent,
        };
        let Sent { head, lines, length, added } = *sent;
        let mut headers = HeaderMap::with_capacity(lines.len() + added.len() + 1);
        for line in lines {
            let (name, value) = line.to_header(&head);
            headers.append(name, value);
        }
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        headers.extend(added);
        headers
    }
}

impl Sent {
    fn get_all<'s>(&'s self, name: &'s HeaderName) -> impl Iterator<Item = &'s [u8]> {
        let lines = self.lines.iter().filter(|line| line.name(&self.head) == name.as_str().as_bytes());
        let added = self.added.iter().filter(move |(other, _)| other == name);
        lines.map(|line| line.value(&self.head)).chain(added.map(|(_, value)| value.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_maps_take_and_in_lower_case() {
        for byte in 0..=u8::MAX {
            let mut head = [b'X', byte, b':', b'v', b'\n'];
            let read = Line::read(&mut head, 0).map(|(line, _)| line);
            match HeaderName::from_bytes(&[b'X', byte]) {
                // A colon ends a name.
                Ok(name) => assert_eq!(read.unwrap().name(&head), name.as_str().as_bytes()),
                Err(_) if byte == b':' => assert_eq!(read.unwrap().value(&head), b":v"),
                Err(_) => assert_eq!(read.unwrap_err(), BadLine::Name, "{byte}"),
            }
        }
        for bad in [&b":v\r\n"[..], b"name", b"name\r\n", b"na me:\n", b" name:\n"] {
            assert_eq!(Line::read(&mut bad.to_owned(), 0).unwrap_err(), BadLine::Name, "{bad:?}");
        }
    }

    #[test]
    fn values_are_those_that_maps_take_without_blanks_around_them() {
        for byte in 0..=u8::MAX {
            let mut head = [b'n', b':', b' ', b'a', byte, b'b', b'\t', b'\r', b'\n'];
            let read = Line::read(&mut head, 0).map(|(line, _)| line.value(&head).to_vec());
            let expected = match byte {
                // It ends the line.
                b'\n' => Ok(b"a".to_vec()),
                _ => HeaderValue::from_bytes(&[b'a', byte, b'b']).map(|value| value.as_bytes().to_vec()),
            };
            assert_eq!(read, expected.map_err(|_| BadLine::Value), "{byte}");
        }
        for length in 0..30 {
            let plain = vec![b'~'; length];
            assert_eq!(find_control(&plain), None);
            for (at, byte) in (0..length).flat_map(|at| [0, 9, 31, 32, 127, 128, 255].map(|byte| (at, byte))) {
                let mut value = plain.clone();
                value[at] = byte;
                let expected = HeaderValue::from_bytes(&value).is_err().then_some(at);
                assert_eq!(find_control(&value), expected, "{value:?}");
            }
        }
        for (empty, text, next) in [(&b"n:\n"[..], 2, 3), (b"n:  \r\n\r\n", 4, 6), (b"n:\t\r\nm: v\r\n", 3, 5)] {
            let mut head = empty.to_owned();
            let (line, end) = Line::read(&mut head, 0).unwrap();
            assert!(line.value(&head).is_empty());
            assert_eq!((end.text, end.next), (text, next));
        }
        for bad in [&b"n: v"[..], b"n: v\r", b"n: v\rw\r\n"] {
            assert_eq!(Line::read(&mut bad.to_owned(), 0).unwrap_err(), BadLine::Value, "{bad:?}");
        }
    }

    fn sent(text: &str, length: Option<u64>) -> Fields {
        let mut head = BytesMut::from(text);
        let mut lines = Lines::new();
        let mut at = 0;
        while at < head.len() {
            let (line, end) = Line::read(&mut head, at).unwrap();
            lines.push(line);
            at = end.next;
        }
        Fields::sent(head, lines, length)
    }

    fn written(fields: &Fields) -> (String, bool) {
        let mut out = Vec::new();
        let has_date = fields.write(&mut out, |name| name != b"x-hidden");
        (String::from_utf8(out).unwrap(), has_date)
    }

    #[test]
    fn lines_and_a_map_of_them_say_the_same() {
        let mut fields = sent("Server: n\r\nSet-Cookie: a\r\nX-Hidden:1\r\nset-cookie:b\r\nDate: now\r\n", Some(5));
        fields.set(header::SERVER, HeaderValue::from_static("h"));
        fields.set(header::SERVER, HeaderValue::from_static("holdfast"));
        let expected = "set-cookie: a\r\nset-cookie: b\r\ndate: now\r\nserver: holdfast\r\n";
        assert_eq!(written(&fields), (expected.to_owned(), true));
        assert_eq!(fields.length(), Some(5));
        let cookies: Vec<_> = fields.get_all(&header::SET_COOKIE).collect();
        assert_eq!(cookies, [b"a", b"b"]);
        assert_eq!(fields.get_all(&header::SERVER).collect::<Vec<_>>(), [b"holdfast"]);
        let made = Fields::Made(fields.into_map());
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(sorted(&written(&made).0), sorted(expected));
        assert_eq!((made.length(), made.get_all(&header::SET_COOKIE).count()), (Some(5), 2));
        assert!(!written(&sent("x: y\r\n", None)).1);
    }
}
