//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Answers, DnsError};
use crate::net;

/// How long a server may take over one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest answer over UDP that is taken (RFC 6891 recommends to ask for no more; without EDNS servers send 512 bytes).
const UDP_BYTES_MAX: usize = 4096;
/// How long the news holds that there is no record, where the server says nothing of it.
const NONE_FOR: Duration = Duration::from_secs(5);

/// The records of a name that a server knows. None where it says that there is none.
///
/// # Errors
/// The server does not answer in time, or not the question.
pub(super) async fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Answers<Record>, DnsError> {
    let asking = async {
        let question = Question::new(name, kind)?;
        let answer = question.over_udp(server).await?;
        if answer.metadata.truncation { question.over_tcp(server).await } else { Ok(answer) }
    };
    let answer = timeout(ANSWER_WITHIN, asking).await.map_err(|_| DnsError::Late(server))?;
    let answer = answer.map_err(|e: io::Error| DnsError::Broken(server, e))?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(DnsError::Refused(server, other.to_string())),
    }
    // Aliases stand beside what they lead to, and bound how long it holds.
    let ttl = answer.answers.iter().map(|record| record.ttl).min();
    let ttl = ttl.map_or(NONE_FOR, |seconds| Duration::from_secs(seconds.into()));
    let records = answer.answers.into_iter().filter(|record| record.record_type() == kind).collect();
    Ok(Answers { records, ttl })
}
