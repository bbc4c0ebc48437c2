//! TLS handshakes with clients: the certificate is chosen by the name that the client asks for.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::table::{Generation, Ssl, SslSlot, order_for};

/// What a handshake settled, for as long as the connection lasts.
#[derive(Debug)]
pub(crate) struct Session {
    /// The ssl that was in force.
    pub(crate) ssl: Arc<Ssl>,
    /// Whether the client showed a certificate that the ssl's authorities vouch for.
    pub(crate) verified: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("no certificate for {0:?}")]
    NoCertificate(String),
    #[error("the client names no host")]
    NoName,
    #[error("ssls/{0} cannot be served")]
    Sealed(String),
    #[error("not within its time")]
    Late,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl HandshakeError {
    /// Names under which failures are counted, in the order of their numbers.
    pub(crate) const NAMES: [&'static str; 5] = ["no_certificate", "no_name", "sealed", "timeout", "failed"];

    pub(crate) fn number(&self) -> usize {
        match self {
            Self::NoCertificate(_) => 0,
            Self::NoName => 1,
            Self::Sealed(_) => 2,
            Self::Late => 3,
            Self::Failed(_) => 4,
        }
    }
}

/// A connection, and what its handshake settled.
#[derive(Debug)]
pub(crate) struct Shaken {
    pub(crate) stream: TlsStream<TcpStream>,
    /// The name that the client asks for, in lower case; the fallback when it asks for none.
    pub(crate) name: String,
    pub(crate) session: Session,
    pub(crate) resumed: bool,
    pub(crate) http2: bool,
}

/// A fatal alert in a record of its own (RFC 8446 §5.1, §6): `unrecognized_name`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// The same: `internal_error`.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Makes a handshake. `fallback` is the name of a client that asks for none. With `unread`, whatever the client wants to
/// speak is fine.
pub(crate) async fn shake(
    stream: TcpStream,
    table: Generation,
    fallback: &str,
    unread: bool,
) -> Result<Shaken, HandshakeError> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map_or_else(|| fallback.to_owned(), str::to_ascii_lowercase);
    let (refusal, alert) = match table.ssl(&name) {
        Some(SslSlot::Ready(ssl)) => {
            let ssl = ssl.clone();
            // The table is let go: a client may take its time.
            drop(table);
            let config = if unread { &ssl.stream_config } else { &ssl.config };
            let config = order_for(&start.client_hello(), config);
            return finish(start.into_stream(config).await?, name, ssl);
        }
        Some(SslSlot::Sealed(id)) => (HandshakeError::Sealed(id.to_string()), INTERNAL_ERROR),
        None if name.is_empty() => (HandshakeError::NoName, UNRECOGNIZED_NAME),
        None => (HandshakeError::NoCertificate(name), UNRECOGNIZED_NAME),
    };
    start.io.write_all(&alert).await?;
    start.io.shutdown().await?;
    Err(refusal)
}

fn finish(stream: TlsStream<TcpStream>, name: String, ssl: Arc<Ssl>) -> Result<Shaken, HandshakeError> {
    let connection = stream.get_ref().1;
    debug_assert!(matches!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_2 | ProtocolVersion::TLSv1_3)));
    let verified = connection.peer_certificates().is_some();
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let http2 = connection.alpn_protocol() == Some(b"h2");
    Ok(Shaken { stream, name, session: Session { ssl, verified }, resumed, http2 })
}
