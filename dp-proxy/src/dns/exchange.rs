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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::UdpSocket;

    use super::*;

    /// The question, as an answer with one address behind it.
    fn answer_to(question: &[u8]) -> Vec<u8> {
        let mut answer = question.to_vec();
        // An answer, with one record: the name of the question, A, IN, 60 s, four bytes.
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 7]);
        answer
    }

    #[tokio::test]
    async fn what_answers_something_else_is_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut datagram = [0; 512];
            let (read, from) = server.recv_from(&mut datagram).await.unwrap();
            let mut forged = answer_to(&datagram[..read]);
            *forged.last_mut().unwrap() = 66;
            stranger.send_to(&forged, from).await.unwrap();
            forged[1] ^= 1;
            for said in [&forged[..], b"", b"no message", &datagram[..read], &answer_to(&datagram[..read])] {
                server.send_to(said, from).await.unwrap();
            }
        });
        let found = ask(address, "a.example", Kind::A).await.unwrap();
        answering.await.unwrap();
        assert_eq!(found.records, [Record::Address(Ipv4Addr::new(10, 0, 0, 7).into())]);
        assert_eq!(found.ttl, Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_no_question() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(matches!(ask(nobody, "a..b", Kind::A).await, Err(DnsError::BadName(_))));
    }
}
