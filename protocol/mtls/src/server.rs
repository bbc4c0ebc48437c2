//! TLS for people and tools: a certificate for the names that they dial, and theirs where it is asked for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::{BadCredentials, chain, private_key, read, roots, watch, within};
use crate::verifier::PROVIDER;

const CERT: &str = "admin.tls.cert_file";
const KEY: &str = "admin.tls.key_file";
const CLIENT_CA: &str = "admin.tls.client_ca_file";
const TOGETHER: &str = "cert_file and key_file";

/// What is read of the request of a client without a certificate, in bytes: it is not looked at.
const STRANGERS_HEAD_BYTES_MAX: usize = 16 << 10;
/// What it is answered.
const NO_CERTIFICATE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 57\r\n\
    Connection: close\r\n\r\n{\"error_msg\":\"no required client certificate was shown\"}\n";

/// Settings `admin.tls.*`, as PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerFiles {
    /// The certificate, and after it those between it and its authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Authorities of clients: only who shows a certificate of theirs is let in. A key is needed all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// The server's side of TLS. Clones share it.
#[derive(Clone)]
pub struct ServerTls {
    paths: Arc<Paths>,
    now: Arc<ArcSwap<(Pem, Arc<ServerConfig>)>>,
}

struct Paths {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The bytes of the files.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.paths.cert).finish()
    }
}

impl Paths {
    fn read(&self) -> Result<Pem, BadCredentials> {
        let client_ca = self.client_ca.as_deref().map(|path| read(CLIENT_CA, path)).transpose()?;
        Ok(Pem { cert: read(CERT, &self.cert)?, key: read(KEY, &self.key)?, client_ca })
    }

    fn open(&self, pem: &Pem) -> Result<Arc<ServerConfig>, BadCredentials> {
        let builder = ServerConfig::builder_with_provider(PROVIDER.clone());
        let builder = builder.with_safe_default_protocol_versions().expect("the provider speaks TLS 1.2 and 1.3");
        let builder = match (&self.client_ca, &pem.client_ca) {
            (Some(path), Some(bytes)) => {
                let roots = Arc::new(roots(CLIENT_CA, path, bytes)?);
                // Whoever shows none is told so by [`ServerTls::accept`], and gets no further.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, PROVIDER.clone());
                let verifier = verifier.allow_unauthenticated().build();
                let bad = |e: &dyn fmt::Display| BadCredentials::Malformed(CLIENT_CA, path.clone(), e.to_string());
                builder.with_client_cert_verifier(verifier.map_err(|e| bad(&e))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let (chain, key) = (chain(CERT, &self.cert, &pem.cert)?, private_key(KEY, &self.key, &pem.key)?);
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| BadCredentials::Malformed(KEY, self.key.clone(), e.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ServerTls {
    /// Reads the files; `None` where there are no settings.
    ///
    /// # Errors
    /// [`BadCredentials`].
    pub fn load(files: &ServerFiles) -> Result<Option<Self>, BadCredentials> {
        let (cert, key) = match (&files.cert_file, &files.key_file) {
            (None, None) if files.client_ca_file.is_none() => return Ok(None),
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, _) => return Err(BadCredentials::Incomplete(CERT, TOGETHER)),
            (_, None) => return Err(BadCredentials::Incomplete(KEY, TOGETHER)),
        };
        let paths = Paths { cert, key, client_ca: files.client_ca_file.clone() };
        let pem = paths.read()?;
        let config = paths.open(&pem)?;
        Ok(Some(Self { paths: Arc::new(paths), now: Arc::new(ArcSwap::from_pointee((pem, config))) }))
    }

    /// Takes a connection. A client that must show a certificate and has none is told so in HTTP, as nginx does: what a
    /// failed handshake says reaches hardly anybody.
    ///
    /// # Errors
    /// Those of the connection, a handshake that came to nothing, and a client that is not let in.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = self.now.load().1.clone();
        within(async {
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            if self.paths.client_ca.is_some() && stream.get_ref().1.peer_certificates().is_none() {
                turn_away(stream).await?;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client shows no certificate"));
            }
            Ok(stream)
        })
        .await
    }

    /// Reads the files again whenever they change, for good, as [`Credentials::keep_fresh`](crate::Credentials::keep_fresh).
    pub async fn keep_fresh(self) {
        watch(|| self.look(), || tracing::info!("the certificate of the Admin API was renewed")).await;
    }

    /// Takes the files as they are now; whether they have changed.
    pub(crate) fn look(&self) -> Result<bool, BadCredentials> {
        let pem = self.paths.read()?;
        if self.now.load().0 == pem {
            return Ok(false);
        }
        let config = self.paths.open(&pem)?;
        self.now.store(Arc::new((pem, config)));
        Ok(true)
    }
}

/// Answers a request of whoever is not let in.
async fn turn_away(mut stream: TlsStream<impl AsyncRead + AsyncWrite + Unpin>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < STRANGERS_HEAD_BYTES_MAX {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(NO_CERTIFICATE).await?;
    stream.shutdown().await?;
    // What is closed with something of a request unread is reset, and the answer with it.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    Ok(())
}
