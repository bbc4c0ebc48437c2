//! Where a body ends, of a request or a response, and its pieces on the way there. Pure: bytes in, bytes out.
//!
//! Strict: what RFC 9112 does not allow is an error. A tolerated oddity here is a smuggled message there.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::{Lines, LoneNewline, find_strict_end, split_header};
use super::headers::may_trail;

/// How a body is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Up to the end of the connection.
    UntilClose,
}

/// Takes a body apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Decoder {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Ended,
}

/// Where in a chunked body the decoder stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chunk {
    /// Before a line with a size.
    Size,
    /// So many bytes of a chunk are to come.
    Data(u64),
    /// Behind a chunk's data.
    DataEnd,
    /// In the trailers, of which so many bytes were looked at without finding their end.
    Trailers(usize),
}

/// What a decoder made of its input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Decoded {
    /// A piece.
    Data(Bytes),
    /// What came behind the last piece (RFC 9110 §6.5), as far as it may be passed on; the end is next.
    Trailers(Box<HeaderMap>),
    /// More input is needed.
    More,
    /// The body is over.
    End,
}

/// A body that does not end as it must.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadBody {
    #[error("its body has a malformed chunk")]
    Chunk,
    #[error("its body has trailers that are malformed or over the bound")]
    Trailers,
    #[error("its body is cut short")]
    Short,
}

/// The longest line with a chunk's size: sixteen digits, and room for an extension that nobody reads.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// All trailers of a body together.
const TRAILERS_BYTES_MAX: usize = 16 << 10;

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Ended,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunk::Size),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        *self == Self::Ended
    }

    /// How much is left, where it is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes what it can from `input`.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, BadBody> {
        match self {
            Self::Ended => Ok(Decoded::End),
            Self::UntilClose => {
                Ok(if input.is_empty() { Decoded::More } else { Decoded::Data(input.split().freeze()) })
            }
            Self::Length(left) => {
                if input.is_empty() {
                    return Ok(Decoded::More);
                }
                let data = take(left, input);
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Decoded::Data(data))
            }
            Self::Chunked(chunk) => {
                let decoded = chunk.decode(input)?;
                if matches!(decoded, Decoded::Trailers(_) | Decoded::End) {
                    *self = Self::Ended;
                }
                Ok(decoded)
            }
        }
    }

    /// The connection has ended.
    pub(crate) fn close(&mut self) -> Result<(), BadBody> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(BadBody::Short),
        }
    }
}

fn take(left: &mut u64, input: &mut BytesMut) -> Bytes {
    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= bytes as u64;
    input.split_to(bytes).freeze()
}

impl Chunk {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, BadBody> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(input, SIZE_LINE_BYTES_MAX, BadBody::Chunk)? else {
                        return Ok(Decoded::More);
                    };
                    *self = match read_size(&line)? {
                        0 => Self::Trailers(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    if input.is_empty() {
                        return Ok(Decoded::More);
                    }
                    let data = take(left, input);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::DataEnd => {
                    if input.len() < 2 {
                        return Ok(Decoded::More);
                    }
                    if !input.starts_with(b"\r\n") {
                        return Err(BadBody::Chunk);
                    }
                    input.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers(seen) => {
                    let within = &input[..input.len().min(TRAILERS_BYTES_MAX)];
                    let Some(end) = find_strict_end(within, *seen).map_err(|LoneNewline| BadBody::Trailers)? else {
                        *seen = within.len();
                        return if *seen == TRAILERS_BYTES_MAX { Err(BadBody::Trailers) } else { Ok(Decoded::More) };
                    };
                    let trailers = read_trailers(&input.split_to(end).freeze())?;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(Box::new(trailers)) });
                }
            }
        }
    }
}

/// The fields of trailers that may be passed on.
fn read_trailers(text: &Bytes) -> Result<HeaderMap, BadBody> {
    let mut trailers = HeaderMap::new();
    for line in Lines(text) {
        let (name, value) = split_header(line).ok_or(BadBody::Trailers)?;
        let name = HeaderName::from_bytes(name).map_err(|_| BadBody::Trailers)?;
        let value = HeaderValue::from_maybe_shared(text.slice_ref(value)).map_err(|_| BadBody::Trailers)?;
        if may_trail(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// A line without its CRLF. `None`: it is not whole yet. A bare LF is an error.
fn take_line(input: &mut BytesMut, max: usize, error: BadBody) -> Result<Option<BytesMut>, BadBody> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(max)]) else {
        return if input.len() >= max { Err(error) } else { Ok(None) };
    };
    let mut line = input.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(error);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

fn read_size(line: &[u8]) -> Result<u64, BadBody> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let clean = match extension {
        [] => true,
        // White space before an extension is bad and wide-spread (RFC 9112 §7.1.1).
        [b' ' | b'\t' | b';', ..] => !extension.iter().any(|b| matches!(b, b'\r' | b'\0')),
        _ => false,
    };
    let spaces_only = || extension.iter().all(|b| matches!(b, b' ' | b'\t'));
    let has_extension = || extension.iter().find(|b| !matches!(b, b' ' | b'\t')) == Some(&b';');
    if !(1..=16).contains(&digits) || !clean || !(spaces_only() || has_extension()) {
        return Err(BadBody::Chunk);
    }
    let size = str::from_utf8(size).map_err(|_| BadBody::Chunk)?;
    u64::from_str_radix(size, 16).map_err(|_| BadBody::Chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `text` in pieces; what came out (trailers in brackets), and what was left over.
    fn run(framing: Framing, text: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, bool), BadBody> {
        let mut decoder = Decoder::new(framing);
        let (mut input, mut out) = (BytesMut::new(), Vec::new());
        let mut at: Vec<_> = cuts.iter().map(|c| (*c).min(text.len())).chain([0, text.len()]).collect();
        at.sort_unstable();
        for piece in at.windows(2) {
            input.extend_from_slice(&text[piece[0]..piece[1]]);
            loop {
                match decoder.decode(&mut input)? {
                    Decoded::Data(data) => out.extend_from_slice(&data),
                    Decoded::Trailers(trailers) => {
                        for (name, value) in &*trailers {
                            out.extend_from_slice(
                                &[b"[", name.as_str().as_bytes(), b": ", value.as_bytes(), b"]"].concat(),
                            );
                        }
                    }
                    Decoded::More | Decoded::End => break,
                }
            }
        }
        Ok((out, input.to_vec(), decoder.is_ended()))
    }

    #[test]
    fn chunked_bodies() {
        for (text, expected) in [
            ("5\r\nhello\r\n0\r\n\r\n", Ok(("hello", "", true))),
            ("5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\n\r\nHTTP", Ok(("hello world", "HTTP", true))),
            ("a\r\n0123456789\r\n000\r\nX: y\r\nZ:w\r\n\r\n", Ok(("0123456789[x: y][z: w]", "", true))),
            ("0\r\nX: y\r\nContent-Length: 9\r\nHost: h\r\nTE: x\r\n\r\nNEXT", Ok(("[x: y]", "NEXT", true))),
            ("0\r\nContent-Length: 9\r\n\r\nNEXT", Ok(("", "NEXT", true))),
            ("0\r\nX: y\r\n", Ok(("", "X: y\r\n", false))),
            ("0\r\nX\r\n\r\n", Err(BadBody::Trailers)),
            ("0\r\nX : y\r\n\r\n", Err(BadBody::Trailers)),
            ("0\r\nX: y\r\n z\r\n\r\n", Err(BadBody::Trailers)),
            ("5 \r\nhello\r\n0\r\n\r\n", Ok(("hello", "", true))),
            ("5\r\nhel", Ok(("hel", "", false))),
            ("5\r\nhello\r\n0\r\n", Ok(("hello", "", false))),
            ("5\nhello\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            ("5\r\nhelloX\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            ("5\r\nhello0\r\n\r\n", Err(BadBody::Chunk)),
            ("\r\nhello", Err(BadBody::Chunk)),
            ("-5\r\nhello", Err(BadBody::Chunk)),
            ("+5\r\nhello", Err(BadBody::Chunk)),
            ("0x5\r\nhello", Err(BadBody::Chunk)),
            ("5 5\r\nhello", Err(BadBody::Chunk)),
            ("5g\r\nhello", Err(BadBody::Chunk)),
            ("10000000000000000\r\nhello", Err(BadBody::Chunk)),
            ("0\r\nX: y\n\r\n", Err(BadBody::Trailers)),
        ] {
            let result = run(Framing::Chunked, text.as_bytes(), &[]);
            let result = result
                .map(|(out, left, ended)| (String::from_utf8(out).unwrap(), String::from_utf8(left).unwrap(), ended));
            assert_eq!(result, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c)), "{text:?}");
        }
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
        assert_eq!(run(Framing::Chunked, long.as_bytes(), &[]), Err(BadBody::Chunk));
        let trailers = format!("0\r\n{}\r\n", "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1000));
        assert_eq!(run(Framing::Chunked, trailers.as_bytes(), &[]), Err(BadBody::Trailers));
    }

    #[test]
    fn lines_and_trailers_end_within_their_bounds() {
        for (over, fits) in [(-1_isize, true), (0, true), (1, false)] {
            let bytes = |bound: usize, around: &str| bound.strict_add_signed(over) - around.len();
            let line = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(bytes(SIZE_LINE_BYTES_MAX, "5;\r\n")));
            let trailers = format!("0\r\nX: {}\r\n\r\n", "y".repeat(bytes(TRAILERS_BYTES_MAX, "X: \r\n\r\n")));
            for (text, error) in [(line, BadBody::Chunk), (trailers, BadBody::Trailers)] {
                let result = run(Framing::Chunked, text.as_bytes(), &[]).map(|(_, _, ended)| ended);
                assert_eq!(result, if fits { Ok(true) } else { Err(error) }, "{over} over the bound of {error}");
            }
        }
    }

    #[test]
    fn other_bodies() {
        assert_eq!(run(Framing::Length(3), b"abcde", &[]), Ok((b"abc".to_vec(), b"de".to_vec(), true)));
        assert_eq!(run(Framing::Length(9), b"abc", &[1]), Ok((b"abc".to_vec(), vec![], false)));
        assert_eq!(run(Framing::None, b"abc", &[]), Ok((vec![], b"abc".to_vec(), true)));
        assert_eq!(run(Framing::UntilClose, b"abc", &[2]), Ok((b"abc".to_vec(), vec![], false)));
        assert_eq!(Decoder::new(Framing::Length(1)).close(), Err(BadBody::Short));
        assert_eq!(Decoder::new(Framing::Chunked).close(), Err(BadBody::Short));
        assert_eq!(Decoder::new(Framing::UntilClose).close(), Ok(()));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_reads_end(chunks in prop::collection::vec("[a-z]{1,20}", 0..5), cuts in prop::collection::vec(0..200usize, 0..8)) {
            let mut text: String = chunks.iter().map(|c| format!("{:x}\r\n{c}\r\n", c.len())).collect();
            text.push_str("0\r\nA: b\r\n\r\nNEXT");
            let (out, left, ended) = run(Framing::Chunked, text.as_bytes(), &cuts).unwrap();
            prop_assert_eq!((out, left, ended), ((chunks.concat() + "[a: b]").into_bytes(), b"NEXT".to_vec(), true));
        }
    }

    #[test]
    fn fuzz_chunks_are_taken_apart_alike_wherever_reads_end() {
        let seeds: [&[u8]; 4] = [
            b"5\r\nhello\r\n0\r\n\r\nNEXT",
            b"a;name=value\r\n0123456789\r\n00\r\nTrailer: yes\r\n\r\n",
            b"ffffffffffffffff\r\nx",
            b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
        ];
        fuzz::hammer(1, &seeds, |bytes| {
            let at_once = run(Framing::Chunked, bytes, &[]);
            let in_pieces = run(Framing::Chunked, bytes, &[1, 2, bytes.len() / 2, bytes.len().saturating_sub(1)]);
            assert_eq!(at_once.is_err(), in_pieces.is_err());
            if let (Ok(at_once), Ok(in_pieces)) = (at_once, in_pieces) {
                assert_eq!(at_once, in_pieces);
            }
        });
    }
}
