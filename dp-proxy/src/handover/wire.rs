//! What is said at the socket: messages as JSON behind their length, and descriptors, some with each byte of their own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::HandoverError;

/// The version of what is said. Another one is refused, and nothing is lost by it.
pub(super) const FORMAT: u32 = 1;
/// The longest message.
const MESSAGE_BYTES_MAX: u32 = 64 << 10;
/// Descriptors that come with one byte; the kernel takes up to 253.
const DESCRIPTORS_AT_ONCE: usize = 64;
/// Descriptors in all: more than workers and addresses can be set.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// The successor's first word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) format: u32,
    /// Of the program, for the log.
    pub(super) version: String,
}

/// The predecessor's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offer {
    /// The lock comes next, then so many listening sockets.
    Given { version: String, listeners: usize },
    /// Nothing comes.
    Refused(String),
}

/// What is said after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The successor has a table.
    Ready,
    /// The predecessor will leave.
    Go,
    /// The successor accepts.
    Serving,
}

/// Sends a message.
pub(super) async fn say(stream: &mut UnixStream, message: &impl Serialize) -> Result<(), HandoverError> {
    let json = serde_json::to_vec(message).expect("these messages are JSON");
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    stream.write_u32(length.ok_or_else(|| io::Error::other("a message is too long"))?).await?;
    Ok(stream.write_all(&json).await?)
}

/// Takes the next message.
pub(super) async fn hear<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, HandoverError> {
    let ended = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => HandoverError::BrokenOff,
        _ => e.into(),
    };
    let length = stream.read_u32().await.map_err(ended)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(HandoverError::Unknown(format!("a message of {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await.map_err(ended)?;
    serde_json::from_slice(&json).map_err(|e| HandoverError::Unknown(e.to_string()))
}

/// Takes the next word, which must be this one.
pub(super) async fn expect(stream: &mut UnixStream, expected: Word) -> Result<(), HandoverError> {
    let word: Word = hear(stream).await?;
    if word == expected { Ok(()) } else { Err(HandoverError::Unknown(format!("{word:?} in place of {expected:?}"))) }
}

/// Sends descriptors. The receiver gets copies.
pub(super) async fn send_descriptors(stream: &UnixStream, all: &[OwnedFd]) -> io::Result<()> {
    for some in all.chunks(DESCRIPTORS_AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        let send = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&some)), "there is room for as many");
            sendmsg(stream, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL).map_err(io::Error::from)
        };
        stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

/// Takes so many descriptors.
pub(super) async fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count > DESCRIPTORS_MAX {
        return Err(io::Error::other(format!("{count} descriptors are more than there can be")));
    }
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            // One byte at a time: nothing that comes with the next is lost.
            let got = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let before = all.len();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(some) = message {
                    all.extend(some);
                }
            }
            if got.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if got.flags.contains(ReturnFlags::CTRUNC) || all.len() == before {
                return Err(io::Error::other("descriptors are missing: is the limit of open files too low?"));
            }
            Ok(())
        };
        stream.async_io(Interest::READABLE, receive).await?;
    }
    if all.len() == count { Ok(all) } else { Err(io::Error::other("there are more descriptors than were announced")) }
}

/// Refuses a process of another user: the socket's place keeps it out already.
pub(super) fn check_peer(stream: &UnixStream) -> Result<Option<u32>, HandoverError> {
    let (peer, ours) = (stream.peer_cred()?, rustix::process::geteuid().as_raw());
    if peer.uid() != ours {
        return Err(HandoverError::Stranger { theirs: peer.uid(), ours });
    }
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn descriptors_and_messages_keep_their_order() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // More than come with one byte.
        let files: Vec<OwnedFd> = (0..DESCRIPTORS_AT_ONCE + 3)
            .map(|n| {
                let path = dir.path().join(n.to_string());
                std::fs::write(&path, n.to_string()).unwrap();
                File::open(&path).unwrap().into()
            })
            .collect();
        say(&mut a, &Offer::Given { version: "x".into(), listeners: files.len() }).await.unwrap();
        send_descriptors(&a, &files).await.unwrap();
        say(&mut a, &Word::Go).await.unwrap();
        let Offer::Given { listeners, .. } = hear(&mut b).await.unwrap() else { panic!("refused") };
        let received = receive_descriptors(&b, listeners).await.unwrap();
        for (n, file) in received.into_iter().enumerate() {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).unwrap();
            assert_eq!(text, n.to_string());
        }
        expect(&mut b, Word::Go).await.unwrap();
        assert!(matches!(check_peer(&b), Ok(Some(pid)) if pid == std::process::id()));
    }

    #[tokio::test]
    async fn what_is_not_known_or_breaks_off_is_said() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        say(&mut a, &"other").await.unwrap();
        assert!(matches!(expect(&mut b, Word::Go).await, Err(HandoverError::Unknown(_))));
        a.write_u32(MESSAGE_BYTES_MAX + 1).await.unwrap();
        assert!(matches!(expect(&mut b, Word::Go).await, Err(HandoverError::Unknown(_))));
        drop(a);
        assert!(matches!(expect(&mut b, Word::Go).await, Err(HandoverError::BrokenOff)));
        assert_eq!(receive_descriptors(&b, 1).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn fuzz_a_message_is_understood_or_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let framed = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat();
        let ask = framed(br#"{"format":1,"version":"0.1.0"}"#);
        let given = framed(br#"{"given":{"version":"0.1.0","listeners":4}}"#);
        let refused = framed(br#"{"refused":"why"}"#);
        let word = framed(br#""ready""#);
        let endless = framed(b"")[..3].to_vec();
        let seeds = [&ask[..], &given, &refused, &word, &endless, b"\xff\xff\xff\xff", b"\0\x01\0\0{"];
        async fn heard<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            a.write_all(bytes).await.unwrap();
            drop(a);
            match hear::<T>(&mut b).await {
                Ok(message) => {
                    // What was understood is what is said, in whatever way it was written.
                    let (mut a, mut b) = UnixStream::pair().unwrap();
                    say(&mut a, &message).await.unwrap();
                    assert_eq!(hear::<T>(&mut b).await.unwrap(), message);
                }
                Err(HandoverError::BrokenOff | HandoverError::Unknown(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
        fuzz::hammer(20, &seeds, |bytes| {
            runtime.block_on(async {
                heard::<Ask>(bytes).await;
                heard::<Offer>(bytes).await;
                heard::<Word>(bytes).await;
            });
        });
    }
}
