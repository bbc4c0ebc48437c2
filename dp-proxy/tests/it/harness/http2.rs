//! HTTP/2 frame by frame (RFC 9113 §4.1): what no library of a client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::SOON;

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Errors (RFC 9113 §7).
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// How a client begins.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection without TLS, by prior knowledge, on which frames are sent and read one by one.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether it does more than regulate.
    fn tells(&self) -> bool {
        matches!(self.kind, DATA | HEADERS | RST_STREAM | GOAWAY)
    }

    /// What a RST_STREAM or GOAWAY says.
    pub(crate) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Frames {
    /// Connects, with these settings (RFC 9113 §6.5.1) of the client, and waits until the proxy has told its own.
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    pub(crate) async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut frames = Self { stream };
        frames.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        let first = frames.any().await.unwrap();
        assert_eq!((first.kind, first.flags), (SETTINGS, 0));
        frames.send(frame(SETTINGS, ACK, 0, &[])).await;
        // Whatever a connection begins with has come before the answer to this.
        frames.ping().await;
        frames
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next frame but those that only regulate; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any().await?;
            if frame.tells() {
                return Some(frame);
            }
        }
    }

    /// Waits until what was sent before has been read, and what comes of it at once is here. Gives the frames that came
    /// meanwhile and do not only regulate; `None`: the connection has ended.
    pub(crate) async fn ping(&mut self) -> Option<Vec<Frame>> {
        let mut came = Vec::new();
        // The answer to a PING goes before what comes of other frames; behind the first there is nothing but the second.
        for _ in 0..2 {
            self.stream.write_all(&frame(PING, 0, 0, b"are you?")).await.ok()?;
            loop {
                match self.any().await? {
                    Frame { kind: PING, flags: ACK, .. } => break,
                    frame => came.extend(frame.tells().then_some(frame)),
                }
            }
        }
        Some(came)
    }

    async fn any(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(SOON, read).await.expect("a frame, or the end, in time")
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field that no table is needed for (RFC 7541 §6.2.2), up to 126 bytes each.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The fields of `GET https://a.com/` (RFC 7541): three that are indexed, one literal.
pub(crate) const GET: &[u8] = &[0x82, 0x87, 0x84, 0x01, 5, b'a', b'.', b'c', b'o', b'm'];

/// The fields of `GET https://a.com<path>`.
pub(crate) fn get(path: &str) -> Vec<u8> {
    asking(0x82, path)
}

/// The fields of `POST https://a.com<path>`.
pub(crate) fn post(path: &str) -> Vec<u8> {
    asking(0x83, path)
}

fn asking(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[method, 0x87, 0x04, length], path.as_bytes(), &[0x01, 5], b"a.com"].concat()
}
