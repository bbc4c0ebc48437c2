//! What the heads of requests and responses have in common: how their lines are taken apart, and how they are written.

use http::HeaderMap;

// === reading ===

/// The number of bytes up to the end of a head, which is an empty line, of which `seen` were looked at before. A lone LF
/// ends a line too (RFC 9112 §2.2).
pub(crate) fn find_end(input: &[u8], seen: usize) -> Option<usize> {
    // The end may have begun with the last two bytes that were seen.
    let from = seen.saturating_sub(2);
    memchr::memchr_iter(b'\n', &input[from..]).find_map(|at| match &input[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// A line that ends in a lone LF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LoneNewline;

/// The same, where every line must end in CRLF.
///
/// # Errors
/// One does not.
pub(crate) fn find_strict_end(input: &[u8], seen: usize) -> Result<Option<usize>, LoneNewline> {
    for newline in memchr::memchr_iter(b'\n', &input[seen..]).map(|at| seen + at) {
        match &input[..newline] {
            [b'\r'] | [.., b'\n', b'\r'] => return Ok(Some(newline + 1)),
            [.., b'\r'] => {}
            _ => return Err(LoneNewline),
        }
    }
    Ok(None)
}

/// The lines of a head, without their ends, up to the empty one.
pub(crate) struct Lines<'h>(pub(crate) &'h [u8]);

impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        let newline = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = (&self.0[..newline], &self.0[newline + 1..]);
        self.0 = rest;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    }
}

/// Where a line ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineEnd {
    /// Behind its text.
    pub(crate) text: usize,
    /// Where the next one begins.
    pub(crate) next: usize,
}

impl LineEnd {
    /// Whether it ends in a lone LF: others may see no end there.
    pub(crate) fn is_lone_newline(self) -> bool {
        self.next - self.text == 1
    }
}

/// The end of the line that begins at `start`; `None` where it is not there.
pub(crate) fn line_end(head: &[u8], start: usize) -> Option<LineEnd> {
    let newline = start + memchr::memchr(b'\n', &head[start..])?;
    let text = if newline > start && head[newline - 1] == b'\r' { newline - 1 } else { newline };
    Some(LineEnd { text, next: newline + 1 })
}

/// A header's name and value (RFC 9112 §5): no blank before the colon, no line that goes on from the one before. What is
/// not allowed in either is refused where they are made.
pub(crate) fn split_header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // Names are short.
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, mut value) = (&line[..colon], &line[colon + 1..]);
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    Some((name, value))
}

/// A number of digits and nothing else, as a `Content-Length` is (RFC 9110 §8.6).
pub(crate) fn read_digits(text: &[u8]) -> Option<u64> {
    let add = |number: u64, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, add) }
}

// === writing ===

/// Appends a header.
pub(crate) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a header whose value is a number.
pub(crate) fn number_line(out: &mut Vec<u8>, name: &[u8], value: u64) {
    line(out, name, decimal(value, &mut [0; DIGITS_MAX]));
}

/// Appends the end of a chunked body, with what comes behind it (RFC 9112 §7.1.2).
pub(crate) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The digits of the largest 64-bit number.
pub(crate) const DIGITS_MAX: usize = 20;

/// A number's digits.
pub(crate) fn decimal(value: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &digits[at..]
}
