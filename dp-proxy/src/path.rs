//! The one form of a path: what is matched is what is forwarded.
//!
//! Two texts that mean one path (RFC 3986 §6.2.2) become one text, so that no spelling of a path slips past the route
//! that was written for it:
//!
//! - escapes of unreserved characters are decoded (`%61` is `a`), the others get upper-case digits (`%2f` is `%2F`);
//!   in particular an escaped slash stays escaped: it is data, not structure;
//! - bytes that may not stand in a path by themselves are escaped (`é` is `%C3%A9`, `{` is `%7B`);
//! - dot segments are resolved, runs of slashes become one, as nginx does;
//! - `%00` (and the byte itself), an escape without two digits, and `..` above the root are refused.
//!
//! Patterns of routes are brought into the same spelling when they are compiled ([`canonical_pattern`]).

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPath {
    /// It does not start with a slash.
    #[error("the path does not start with a slash")]
    Relative,
    /// A `%` without two hexadecimal digits behind it.
    #[error("the path has an invalid escape")]
    Escape,
    /// `%00`, or the byte itself: what it means differs between servers, and it is never meant well.
    #[error("the path has a NUL")]
    Nul,
    /// More `..` than there are segments to leave.
    #[error("the path leaves the root")]
    AboveRoot,
}

/// The one form of a request's path. Borrowed when it has that form already, as nearly all do.
///
/// # Errors
/// [`BadPath`] when it has none.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::Relative);
    }
    if is_canonical(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let mut out = String::with_capacity(path.len() + 16);
    let mut segment = String::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(raw) = segments.next() {
        segment.clear();
        spell(raw, &mut segment, true)?;
        let is_last = segments.peek().is_none();
        match segment.as_str() {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(BadPath::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                out.push('/');
                out.push_str(&segment);
                continue;
            }
        }
        if is_last {
            out.push('/');
        }
    }
    Ok(Cow::Owned(out))
}

/// A piece of a route's pattern in the spelling of [`canonical`] paths. Its segments stay as they are: one that no
/// canonical path has matches nothing, as in APISIX. A stray `%` stands for itself. Borrowed as by [`canonical`].
#[must_use]
pub fn canonical_pattern(text: &str) -> Cow<'_, str> {
    if text.bytes().all(stands_for_itself) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    spell(text, &mut out, false).expect("a stray percent sign is escaped, not refused");
    Cow::Owned(out)
}

/// Appends `text` with every byte in its one spelling.
fn spell(text: &str, out: &mut String, strict: bool) -> Result<(), BadPath> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        if byte == b'%' {
            match (hex(bytes.get(at)), hex(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    at += 2;
                    match high << 4 | low {
                        0 if strict => return Err(BadPath::Nul),
                        plain if is_unreserved(plain) => out.push(char::from(plain)),
                        other => escape(other, out),
                    }
                }
                _ if strict => return Err(BadPath::Escape),
                _ => escape(b'%', out),
            }
        } else if stands_for_itself(byte) {
            out.push(char::from(byte));
        } else if byte == 0 && strict {
            return Err(BadPath::Nul);
        } else {
            escape(byte, out);
        }
    }
    Ok(())
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    match digit? {
        d @ b'0'..=b'9' => Some(d - b'0'),
        d @ b'a'..=b'f' => Some(d - b'a' + 10),
        d @ b'A'..=b'F' => Some(d - b'A' + 10),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986's `pchar` and the slash.
fn stands_for_itself(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 255")]
        let b = byte as u8;
        plain[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            )
            || matches!(b, b':' | b'@' | b'/');
        byte += 1;
    }
    plain
};

/// Whether a path needs no change. It may say no to some that need none either: those with escapes, and with segments
/// that start with a dot.
fn is_canonical(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        if !PLAIN[usize::from(byte)] || (before == b'/' && (byte == b'/' || byte == b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_path_has_one_spelling() {
        for (given, expected) in [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a/", Ok("/a/")),
            ("/%61%7e", Ok("/a~")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/a%3ab:", Ok("/a%3Ab:")),
            ("/é{}|\\", Ok("/%C3%A9%7B%7D%7C%5C")),
            ("/%c3%a9", Ok("/%C3%A9")),
            ("//a///b//", Ok("/a/b/")),
            ("/a/./b/.", Ok("/a/b/")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/..", Ok("/")),
            ("/.", Ok("/")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a//../b", Ok("/b")),
            ("/.a/..b/c.", Ok("/.a/..b/c.")),
            ("/a%20b", Ok("/a%20b")),
            ("/a%25zz", Ok("/a%25zz")),
            ("/..", Err(BadPath::AboveRoot)),
            ("/a/../../b", Err(BadPath::AboveRoot)),
            ("/%2e%2e/x", Err(BadPath::AboveRoot)),
            ("/a%00b", Err(BadPath::Nul)),
            ("/a\0b", Err(BadPath::Nul)),
            ("/a%", Err(BadPath::Escape)),
            ("/a%4", Err(BadPath::Escape)),
            ("/a%zz", Err(BadPath::Escape)),
            ("*", Err(BadPath::Relative)),
            ("", Err(BadPath::Relative)),
        ] {
            assert_eq!(canonical(given).as_deref(), expected.as_ref().copied(), "{given}");
        }
    }

    #[test]
    fn patterns_are_spelt_as_paths_are() {
        for (given, expected) in [
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/%61*", "/a*"),
            ("/100%", "/100%25"),
            ("/a/../b", "/a/../b"),
        ] {
            assert_eq!(canonical_pattern(given), expected);
        }
    }

    #[test]
    fn fuzz_whatever_has_a_form_has_one() {
        let seeds: [&[u8]; 5] =
            [b"/a/b%2Fc/../%2e%2e/d", "/caf\u{e9}/%C3%A9".as_bytes(), b"//.//..a/", b"/%00", b"/a%zz?b#c"];
        fuzz::hammer(1, &seeds, |bytes| {
            let Ok(path) = str::from_utf8(bytes) else { return };
            let Ok(once) = canonical(path) else { return };
            assert_eq!(canonical(&once).as_deref(), Ok(&*once));
            assert!(once.starts_with('/') && once.bytes().all(|b| b == b'%' || stands_for_itself(b)), "{once}");
            assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{once}");
            assert_eq!(canonical_pattern(&once), &*once);
        });
    }

    proptest! {
        #[test]
        fn the_form_is_its_own_form(path in "/[a./%2eEfF{é]{0,24}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(Cow::Borrowed(&*once)));
                prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains("/../") && !once.contains("/./"));
                prop_assert_eq!(canonical_pattern(&once), &*once);
            }
        }

        #[test]
        fn every_escaped_spelling_is_the_same_path(path in "/[a-z.~/]{0,12}", which in any::<u16>()) {
            let escaped: String = path.bytes().enumerate().map(|(i, b)| {
                if b != b'/' && which & (1 << (i % 16)) != 0 { format!("%{b:02x}") } else { char::from(b).to_string() }
            }).collect();
            prop_assert_eq!(canonical(&escaped).map(Cow::into_owned), canonical(&path).map(Cow::into_owned));
        }
    }
}
