//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Answers, DnsError};
use crate::net;

/// How long a server may take over one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest datagram that is taken. Without EDNS, which is not spoken, servers send no more than 512 bytes.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// How long the news holds that there is no record.
const NONE_FOR: Duration = Duration::from_secs(5);

/// The records of this kind that a server knows for a name, behind whatever aliases. None where it says that there is none.
///
/// # Errors
/// The server does not answer in time, or not with an answer.
pub(super) async fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Answers<Record>, DnsError> {
    let question = Question::about(name, kind);
    let asking = async {
        let answer = question.over_udp(server).await?;
        if answer.metadata.truncation { question.over_tcp(server).await } else { Ok(answer) }
    };
    let answer = timeout(ANSWER_WITHIN, asking).await.map_err(|_| DnsError::Late(server))?;
    let answer = answer.map_err(|e| DnsError::Broken(server, e))?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(DnsError::Refused(server, other.to_string())),
    }
    // Aliases stand beside what they lead to, and bound how long that holds.
    let ttl = answer.answers.iter().map(|record| record.ttl).min();
    let ttl = ttl.map_or(NONE_FOR, |seconds| Duration::from_secs(seconds.into()));
    let records = answer.answers.into_iter().filter(|record| record.record_type() == kind).collect();
    Ok(Answers { records, ttl })
}

struct Question(Message);

impl Question {
    fn about(name: &Name, kind: RecordType) -> Self {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        Self(message)
    }

    async fn over_udp(&self, server: SocketAddr) -> io::Result<Message> {
        let socket = net::datagrams(server).await?;
        socket.send(&self.bytes()?).await?;
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let read = socket.recv(&mut datagram).await?;
            // What answers something else may be anybody's: the answer may still come.
            if let Some(answer) = Message::from_vec(&datagram[..read]).ok().filter(|answer| self.is_answered_by(answer))
            {
                return Ok(answer);
            }
        }
    }

    /// RFC 7766 §8: every message has its length in front.
    async fn over_tcp(&self, server: SocketAddr) -> io::Result<Message> {
        let mut stream = net::connect(server).await?;
        let bytes = self.bytes()?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat()).await?;
        let mut message = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut message).await?;
        let answer = Message::from_vec(&message).map_err(io::Error::other)?;
        if self.is_answered_by(&answer) { Ok(answer) } else { Err(io::Error::other("it answers another question")) }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        self.0.to_vec().map_err(io::Error::other)
    }

    fn is_answered_by(&self, answer: &Message) -> bool {
        let (asked, answered) = (&self.0, &answer.metadata);
        answered.message_type == MessageType::Response
            && answered.id == asked.metadata.id
            && answer.queries == asked.queries
    }
}
