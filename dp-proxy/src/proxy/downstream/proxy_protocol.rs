//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`, revision 2020/03): who connected to the load
//! balancer in front, told in a header before anything else. Where it is expected it must come.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What version 2 begins with.
pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its line break included.
const LINE_BYTES_MAX: usize = 107;
/// The longest rest of a header of version 2: addresses, and far more of what is skipped than anybody sends.
const REST_BYTES_MAX: usize = 4096;

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHeader {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error("its PROXY header does not come in time")]
    Late,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Both ends of the connection that a load balancer took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Reads the header, and not a byte more. `None`: the balancer speaks for itself, or does not know.
///
/// # Errors
/// [`BadHeader`].
pub(crate) async fn read(stream: &mut TcpStream) -> Result<Option<Ends>, BadHeader> {
    // Both versions are at least so long.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if length > REST_BYTES_MAX {
            return Err(BadHeader::Malformed("it is too long"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return version2(fixed[0], fixed[1], &rest);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(BadHeader::Missing);
    }
    version1(&read_line(stream, start.to_vec()).await?)
}

/// The rest of a line that has begun. What is looked at is taken only up to its end.
async fn read_line(stream: &mut TcpStream, mut line: Vec<u8>) -> Result<Vec<u8>, BadHeader> {
    while !line.ends_with(b"\n") {
        let mut ahead = [0; LINE_BYTES_MAX];
        let room = LINE_BYTES_MAX - line.len();
        if room == 0 {
            return Err(BadHeader::Malformed("its line does not end"));
        }
        let seen = stream.peek(&mut ahead[..room]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let taken = memchr::memchr(b'\n', &ahead[..seen]).map_or(seen, |at| at + 1);
        stream.read_exact(&mut ahead[..taken]).await?;
        line.extend_from_slice(&ahead[..taken]);
    }
    Ok(line)
}

pub(crate) fn version1(line: &[u8]) -> Result<Option<Ends>, BadHeader> {
    let bad = BadHeader::Malformed;
    let text = line.strip_suffix(b"\r\n").and_then(|line| str::from_utf8(line).ok());
    let mut words = text.ok_or(bad("its line is no text"))?.split(' ').skip(1);
    let is_v6 = match words.next() {
        Some("TCP4") => false,
        Some("TCP6") => true,
        Some("UNKNOWN") => return Ok(None),
        _ => return Err(bad("its protocol is not known")),
    };
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == is_v6);
    let (Some(client), Some(local)) = (address(), address()) else { return Err(bad("its addresses")) };
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit()) && (*text == "0" || !text.starts_with('0'));
    let mut port = || words.next().filter(digits)?.parse::<u16>().ok();
    let (Some(client_port), Some(local_port)) = (port(), port()) else { return Err(bad("its ports")) };
    if words.next().is_some() {
        return Err(bad("there is more in its line"));
    }
    Ok(Some(Ends { client: SocketAddr::new(client, client_port), local: SocketAddr::new(local, local_port) }))
}

pub(crate) fn version2(version_and_command: u8, family: u8, rest: &[u8]) -> Result<Option<Ends>, BadHeader> {
    match version_and_command {
        // LOCAL: a health check, for instance.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(BadHeader::Malformed("its version or command is not known")),
    }
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(rest.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(rest.get(at..at + 16)?).ok()?));
    let ends = match family {
        0x11 => (|| Some((v4(0)?, port(8)?, v4(4)?, port(10)?)))(),
        0x21 => (|| Some((v6(0)?, port(32)?, v6(16)?, port(34)?)))(),
        // Sockets of one machine, datagrams, and what is to come: nothing that a request could be from.
        _ => return Ok(None),
    };
    let (client, client_port, local, local_port) = ends.ok_or(BadHeader::Malformed("it is too short"))?;
    Ok(Some(Ends { client: SocketAddr::new(client, client_port), local: SocketAddr::new(local, local_port) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(result: Result<Option<Ends>, BadHeader>) -> String {
        match result {
            Ok(None) => "none".to_owned(),
            Ok(Some(ends)) => format!("{} {}", ends.client, ends.local),
            Err(e) => e.to_string().rsplit(": ").next().unwrap().to_owned(),
        }
    }

    #[test]
    fn lines_of_version_1() {
        for (line, expected) in [
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n", "1.2.3.4:1000 5.6.7.8:80"),
            ("PROXY TCP6 ::1 2001:db8::2 0 65535\r\n", "[::1]:0 [2001:db8::2]:65535"),
            ("PROXY UNKNOWN\r\n", "none"),
            ("PROXY UNKNOWN a b c d\r\n", "none"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\n", "its line is no text"),
            ("PROXY TCP5 1.2.3.4 5.6.7.8 1000 80\r\n", "its protocol is not known"),
            ("PROXY TCP4 ::1 ::2 1000 80\r\n", "its addresses"),
            ("PROXY TCP4 1.2.3 5.6.7.8 1000 80\r\n", "its addresses"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 65536\r\n", "its ports"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 01 80\r\n", "its ports"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 80\r\n", "its ports"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n", "its ports"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "there is more in its line"),
            ("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", "its addresses"),
        ] {
            assert_eq!(told(version1(line.as_bytes())), expected, "{line:?}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 3, 232, 0, 80];
        let with_more = [&v4[..], &[4, 0, 1, 0]].concat();
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 7, 8);
        for (command, family, rest, expected) in [
            (0x21, 0x11, &v4[..], "1.2.3.4:1000 5.6.7.8:80"),
            (0x21, 0x11, &with_more, "1.2.3.4:1000 5.6.7.8:80"),
            (0x21, 0x21, &v6, "[::1]:7 [::2]:8"),
            (0x20, 0x11, &v4, "none"),
            (0x20, 0, &[], "none"),
            (0x21, 0x31, &[0; 216], "none"),
            (0x21, 0, &[], "none"),
            (0x21, 0x11, &v4[..11], "it is too short"),
            (0x21, 0x21, &v6[..35], "it is too short"),
            (0x11, 0x11, &v4, "its version or command is not known"),
            (0x22, 0x11, &v4, "its version or command is not known"),
        ] {
            assert_eq!(told(version2(command, family, rest)), expected, "{command:x} {family:x} {rest:?}");
        }
    }

    #[test]
    fn fuzz_headers_are_addresses_or_are_refused() {
        let seeds: [&[u8]; 5] = [
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n",
            b"PROXY TCP6 ::1 2001:db8::2 0 65535\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\x21\x11\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb",
            b"\x21\x21aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb\x00\x50\x01\xbb",
        ];
        fuzz::hammer(1, &seeds, |bytes| {
            if let Ok(Some(ends)) = version1(bytes) {
                assert_eq!(ends.client.is_ipv4(), ends.local.is_ipv4());
                assert!(bytes.ends_with(b"\r\n"));
            }
            if let [command, family, rest @ ..] = bytes
                && let Ok(Some(ends)) = version2(*command, *family, rest)
            {
                assert_eq!((*command, ends.client.is_ipv4()), (0x21, *family == 0x11));
            }
        });
    }
}
