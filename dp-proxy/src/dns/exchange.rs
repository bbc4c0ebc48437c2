//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::seams::SystemRandom;
use protocol::seam::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::message::{Answer, Kind, Question, Record};
use super::{Answers, DnsError};
use crate::net;

/// How long a server may take over one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest datagram that is taken. Without EDNS, which is not spoken, servers send no more than 512 bytes.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// The records of this kind that a server knows for a name, behind whatever aliases. None where it says that there is none.
///
/// # Errors
/// The name is none, or the server does not answer in time, or not with an answer.
pub(super) async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Result<Answers<Record>, DnsError> {
    // Whoever is not on the way must guess it, and the port, to be believed.
    let random = SystemRandom.bytes16();
    let id = u16::from_be_bytes([random[0], random[1]]);
    let question = Question::about(name, kind, id).ok_or_else(|| DnsError::BadName(name.to_owned()))?;
    let asking = async {
        match over_udp(&question, server).await? {
            Answer::Truncated => over_tcp(&question, server).await,
            whole => Ok(whole),
        }
    };
    let answer = timeout(ANSWER_WITHIN, asking).await.map_err(|_| DnsError::Late(server))?;
    match answer.map_err(|e| DnsError::Broken(server, e))? {
        Answer::Records(answers) => Ok(answers),
        Answer::Refused(why) => Err(DnsError::Refused(server, why)),
        Answer::Truncated => Err(DnsError::Refused(server, "that its answer is too long for TCP too".to_owned())),
    }
}

async fn over_udp(question: &Question, server: SocketAddr) -> io::Result<Answer> {
    let socket = net::datagrams(server).await?;
    socket.send(question.bytes()).await?;
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let read = socket.recv(&mut datagram).await?;
        // What answers something else may be anybody's: the answer may still come.
        if let Some(answer) = question.read(&datagram[..read]) {
            return Ok(answer);
        }
    }
}

/// RFC 7766 §8: every message has its length in front.
async fn over_tcp(question: &Question, server: SocketAddr) -> io::Result<Answer> {
    let mut stream = net::connect(server).await?;
    let bytes = question.bytes();
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    question.read(&message).ok_or_else(|| io::Error::other("it answers another question"))
}
