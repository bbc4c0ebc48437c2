//! Looks for a body that is framed in two ways, in the bytes of a request's head as they come.
//!
//! The parser settles `Transfer-Encoding` beside `Content-Length` by dropping the latter, and closes the connection
//! after the answer (RFC 9112 §6.3 allows that). What goes on to the upstream is framed anew, so nothing can be smuggled
//! through; but whoever sends both is at fault or attacks somebody in front of us, and is told so with a 400.
//!
//! A head that came in one read with the request before it is not seen here: it is treated as the parser treats it.

/// What was seen of the head that is being read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HeadScan {
    /// The start of the current line, as far as it can matter.
    line: Vec<u8>,
    over: bool,
    length: bool,
    encoding: bool,
}

const LENGTH: &[u8] = b"content-length:";
const ENCODING: &[u8] = b"transfer-encoding:";

impl HeadScan {
    /// A new head begins.
    pub(crate) fn begin(&mut self) {
        self.line.clear();
        (self.over, self.length, self.encoding) = (false, false, false);
    }

    /// Whether the head that was read last frames its body in two ways.
    pub(crate) fn is_framed_twice(&self) -> bool {
        self.length && self.encoding
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !self.over && !bytes.is_empty() {
            let (line, rest) = match memchr::memchr(b'\n', bytes) {
                Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
                None => (bytes, None),
            };
            if self.line.is_empty() && rest.is_some() {
                // The usual case: the whole line is here.
                self.see(line);
            } else {
                let room = ENCODING.len() - self.line.len();
                self.line.extend_from_slice(&line[..line.len().min(room)]);
                if rest.is_some() {
                    let line = std::mem::take(&mut self.line);
                    self.see(&line);
                    self.line = line;
                    self.line.clear();
                }
            }
            bytes = rest.unwrap_or_default();
        }
    }

    fn see(&mut self, line: &[u8]) {
        let starts = |name: &[u8]| line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name);
        match line.first() {
            None | Some(b'\r') => self.over = true,
            Some(b'c' | b'C') => self.length |= starts(LENGTH),
            Some(b't' | b'T') => self.encoding |= starts(ENCODING),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(pieces: &[&[u8]]) -> bool {
        let mut scan = HeadScan::default();
        scan.begin();
        pieces.iter().for_each(|piece| scan.take(piece));
        scan.is_framed_twice()
    }

    #[test]
    fn what_is_framed_twice() {
        let get = "GET / HTTP/1.1\r\n";
        for (rest, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("transfer-ENCODING:chunked\r\nX: y\r\nCONTENT-length:0\r\n\r\n", true),
            ("Content-Length: 5\nTransfer-Encoding: chunked\n\n", true),
            ("Content-Length: 5\r\n\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\nContent-Length: 5\r\n", false),
            ("X-Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("Content-Lengthy: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ] {
            assert_eq!(scan(&[format!("{get}{rest}").as_bytes()]), expected, "{rest}");
        }
    }

    #[test]
    fn fuzz_it_does_not_matter_where_reads_end() {
        let seeds: [&[u8]; 3] = [
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\nHost: x\ncontent-length:1\n\nTransfer-Encoding: chunked",
            b"C\r\nTransfer-Encodin: x\r\ntransfer-encoding:chunked\r\nContent-Length :1\r\n\r\n",
        ];
        crate::fuzz::hammer(1, &seeds, |bytes| {
            let pieces: Vec<_> = bytes.chunks(7).collect();
            let bytewise: Vec<_> = bytes.chunks(1).collect();
            assert_eq!([scan(&pieces), scan(&bytewise)], [scan(&[bytes]); 2]);
        });
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_reads_end(lines in prop::collection::vec(prop::sample::select(vec!["Content-Length: 1", "transfer-encoding: chunked", "Host: x", "C", "", "Transfer-Encodin: x"]), 0..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let text = format!("{}\r\n\r\n", lines.join("\r\n"));
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).chain([0, text.len()]).collect();
            at.sort_unstable();
            let pieces: Vec<_> = at.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(scan(&pieces), scan(&[text.as_bytes()]));
        }
    }
}
