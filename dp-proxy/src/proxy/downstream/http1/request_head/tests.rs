use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 1024, headers: 10, target: 1024 };

fn parse(text: &str) -> Result<Head, BadHead> {
    let mut input = BytesMut::from(text);
    match read(&mut input, 0, LIMITS)? {
        Read::Head(head) => Ok(*head),
        Read::More => panic!("{text:?} is no whole head"),
    }
}

#[test]
fn request_lines() {
    for (line, expected) in [
        ("GET / HTTP/1.1", Ok("GET / HTTP/1.1")),
        ("GET /a?b=c HTTP/1.0", Ok("GET /a?b=c HTTP/1.0")),
        ("\r\n\r\nGET / HTTP/1.1", Ok("GET / HTTP/1.1")),
        ("OPTIONS * HTTP/1.1", Ok("OPTIONS * HTTP/1.1")),
        ("GET http://a.com/b HTTP/1.1", Ok("GET http://a.com/b HTTP/1.1")),
        ("CONNECT a.com:443 HTTP/1.1", Ok("CONNECT a.com:443 HTTP/1.1")),
        ("BREW-2 /pot HTTP/1.1", Ok("BREW-2 /pot HTTP/1.1")),
        ("GET /", Err(BadHead::Line)),
        ("GET", Err(BadHead::Line)),
        ("", Err(BadHead::Line)),
        (" GET / HTTP/1.1", Err(BadHead::Line)),
        ("GET  / HTTP/1.1", Err(BadHead::Target)),
        ("GET /  HTTP/1.1", Err(BadHead::Target)),
        ("GET / HTTP/1.1 ", Err(BadHead::Version)),
        ("GET /\tHTTP/1.1", Err(BadHead::Line)),
        ("GET /a b HTTP/1.1", Err(BadHead::Target)),
        ("GET /a#b HTTP/1.1", Err(BadHead::Target)),
        ("GET /# HTTP/1.1 HTTP/1.1", Err(BadHead::Target)),
        ("GET /\x01 HTTP/1.1", Err(BadHead::Target)),
        ("G(T / HTTP/1.1", Err(BadHead::Line)),
        ("GET / HTTP/1.2", Err(BadHead::Version)),
        ("GET / HTTP/2.0", Err(BadHead::Version)),
        ("GET / http/1.1", Err(BadHead::Version)),
    ] {
        // An empty first line would be skipped: something must stand in it.
        let text = if line.is_empty() { "\r\n:\r\n\r\n".to_owned() } else { format!("{line}\r\n\r\n") };
        let read =
            parse(&text).map(|head| format!("{} {} {:?}", head.parts.method, head.parts.uri, head.parts.version));
        assert_eq!(read.as_deref().map_err(|e| *e), expected, "{line:?}");
    }
}

#[test]
fn bodies_are_framed_as_the_head_says_or_not_at_all() {
    use Framing::{Chunked, Length, None};
    for (version, headers, expected) in [
        ("1.1", "", Ok(None)),
        ("1.1", "Content-Length: 5\r\n", Ok(Length(5))),
        ("1.1", "content-length:\t0 \r\n", Ok(Length(0))),
        ("1.1", "Transfer-Encoding: Chunked\r\n", Ok(Chunked)),
        ("1.0", "Content-Length: 5\r\n", Ok(Length(5))),
        ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(BadFraming::Twice)),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", Err(BadFraming::Twice)),
        ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", Err(BadFraming::Lengths)),
        ("1.1", "Content-Length: 5, 5\r\n", Err(BadFraming::Length)),
        ("1.1", "Content-Length: +5\r\n", Err(BadFraming::Length)),
        ("1.1", "Content-Length: \r\n", Err(BadFraming::Length)),
        ("1.1", "Content-Length: 5 5\r\n", Err(BadFraming::Length)),
        ("1.1", "Content-Length: 0x5\r\n", Err(BadFraming::Length)),
        ("1.1", "Content-Length: 18446744073709551616\r\n", Err(BadFraming::Length)),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", Err(BadFraming::Coding)),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(BadFraming::Coding)),
        ("1.1", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", Err(BadFraming::Coding)),
        ("1.0", "Transfer-Encoding: chunked\r\n", Err(BadFraming::Version)),
    ] {
        let text = format!("POST / HTTP/{version}\r\nHost: x\r\n{headers}\r\n");
        assert_eq!(parse(&text).unwrap().framing, expected, "{headers:?}");
    }
}

#[test]
fn the_connection_goes_on_as_the_client_says() {
    for (version, headers, keep_alive, expects) in [
        ("1.1", "", true, false),
        ("1.1", "Connection: keep-alive, Close\r\n", false, false),
        ("1.0", "", false, false),
        ("1.0", "Connection: Keep-Alive\r\n", true, false),
        ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false, false),
        ("1.1", "Expect: 100-Continue\r\n", true, true),
        ("1.0", "Expect: 100-continue\r\n", false, false),
    ] {
        let head = parse(&format!("GET / HTTP/{version}\r\n{headers}\r\n")).unwrap();
        assert_eq!((head.keep_alive, head.expects_continue), (keep_alive, expects), "{version} {headers:?}");
    }
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let start = "GET / HTTP/1.1\r\n";
    for (text, expected) in [
        (format!("{start}X: a\r\n b\r\n\r\n"), BadHead::Name),
        (format!("{start}X: a\r\n\tb: c\r\n\r\n"), BadHead::Name),
        (format!("{start}X : a\r\n\r\n"), BadHead::Name),
        (format!("{start}: a\r\n\r\n"), BadHead::Name),
        (format!("{start}X\r\n\r\n"), BadHead::Name),
        (format!("{start}X: a\0\r\n\r\n"), BadHead::Value),
        (format!("{start}X: a\rb\r\n\r\n"), BadHead::Value),
        (format!("{start}X: a\r\r\n\r\n"), BadHead::Value),
        (format!("{start}X: a\x7f\r\n\r\n"), BadHead::Value),
        (format!("{start}X: a\nY: b\r\n\r\n"), BadHead::LineEnd),
        (format!("{start}X: a\r\n\n"), BadHead::LineEnd),
        ("GET / HTTP/1.1\nX: a\r\n\r\n".to_owned(), BadHead::LineEnd),
        ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), BadHead::LineEnd),
    ] {
        assert_eq!(parse(&text).unwrap_err(), expected, "{text:?}");
    }
}

#[test]
fn bounds_hold_at_their_edge() {
    let headers = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert_eq!(parse(&headers(10)).unwrap().parts.headers.len(), 10);
    assert_eq!(parse(&headers(11)).unwrap_err(), BadHead::TooMany);
    let long = |bytes: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(bytes - frame))
    };
    assert_eq!(parse(&long(1024)).unwrap().parts.headers.len(), 1);
    assert_eq!(parse(&long(1025)).unwrap_err(), BadHead::TooLarge);
    // Without its end it is too large as soon as nothing within the bound can end it.
    let endless = "a".repeat(1024);
    assert!(matches!(read(&mut BytesMut::from(&*endless), 0, LIMITS), Ok(Read::More)));
    let endless = "a".repeat(1025);
    assert!(matches!(read(&mut BytesMut::from(&*endless), 0, LIMITS), Err(BadHead::TooLarge)));
    // The longest that a setting may allow, which is as long as the type takes that holds a target.
    let longest = 65_534;
    let wide = HeadLimits { bytes: 1 << 20, headers: 10, target: longest };
    let target = |bytes: usize| BytesMut::from(&*format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(bytes - 1)));
    assert!(matches!(read(&mut target(longest), 0, wide), Ok(Read::Head(_))));
    assert_eq!(read(&mut target(longest + 1), 0, wide).unwrap_err(), BadHead::TargetTooLong);
}

/// What becomes of bytes that come in pieces that end at `cuts`, and what is left of them.
fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (String, Vec<u8>) {
    let mut at: Vec<_> = cuts.iter().map(|cut| (*cut).min(bytes.len())).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    let (mut input, mut seen, mut end) = (BytesMut::new(), 0, None);
    for piece in at.windows(2) {
        input.extend_from_slice(&bytes[piece[0]..piece[1]]);
        if end.is_some() {
            continue;
        }
        match read(&mut input, seen, LIMITS) {
            Ok(Read::More) => seen = input.len(),
            Ok(Read::Head(head)) => end = Some(format!("{head:?}")),
            // What is behind it is of no interest any more.
            Err(e) => return (format!("{e:?}"), Vec::new()),
        }
    }
    (end.unwrap_or_else(|| "more".to_owned()), input.to_vec())
}

proptest! {
    #[test]
    fn the_same_bytes_cut_at_any_place_give_the_same_request(
        lines in prop::collection::vec("[a-zA-Z-]{1,9}:[ \t]{0,2}[!-~]{0,9}|Content-Length: 5|Transfer-Encoding: chunked|[ -~\r\n]{0,6}", 0..6),
        cuts in prop::collection::vec(0..200usize, 0..9),
    ) {
        let text = format!("POST /a?b HTTP/1.1\r\n{}\r\n\r\nNEXT", lines.join("\r\n"));
        prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), in_pieces(text.as_bytes(), &[]));
    }

    #[test]
    fn a_head_that_is_taken_means_the_same_to_another_parser(
        line in "[A-Z(]{1,5}[ ]{1,2}/[!-~]{0,8}[ ]{1,2}HTTP/1\\.[012]\r?\n",
        lines in prop::collection::vec("[a-zA-Z!:_ \t-]{0,9}:[ \t]{0,2}[ -~\t\r\u{0}\u{7f}\u{80}]{0,9}[ \t]{0,2}\r?\n", 0..5),
    ) {
        let text = format!("{line}{}\r\n", lines.concat());
        let mut input = BytesMut::from(&*text);
        if let Ok(Read::Head(head)) = read(&mut input, 0, LIMITS) {
            let text = &text.as_bytes()[..text.len() - input.len()];
            let mut slots = [httparse::EMPTY_HEADER; LIMITS.headers];
            let mut other = httparse::Request::new(&mut slots);
            prop_assert_eq!(other.parse(text), Ok(httparse::Status::Complete(text.len())));
            prop_assert_eq!(other.method, Some(head.parts.method.as_str()));
            let mut theirs: Vec<_> = other.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect();
            let mut ours: Vec<_> =
                head.parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
            theirs.sort();
            ours.sort();
            prop_assert_eq!(ours, theirs);
        }
    }
}

#[test]
fn fuzz_heads_of_requests_are_read_alike_wherever_reads_end() {
    let seeds: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\nGET",
        b"\r\nPOST http://a.com/b?c HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX: a\r\n b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    fuzz::hammer(1, &seeds, |bytes| {
        let cuts = [1, 2, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)];
        assert_eq!(in_pieces(bytes, &cuts), in_pieces(bytes, &[]));
        if bytes.len() < 200 {
            let every: Vec<_> = (0..bytes.len()).collect();
            assert_eq!(in_pieces(bytes, &every), in_pieces(bytes, &[]));
        }
    });
}
