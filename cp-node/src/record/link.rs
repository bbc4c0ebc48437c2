//! Connections to PostgreSQL: one host of the DSN at a time, every step with a deadline.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use daemon::secret_file;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Trouble;
use crate::net::{Net, Stream};
use crate::settings::RecordSettings;

/// PostgreSQL's port.
const PORT: u16 = 5432;

/// How soon a server asks an idle connection of ours whether we are still there, in seconds, and how often before it ends it: as
/// soon as we ask. By Linux's default it is two hours, in which a node that was cut off keeps a place among `max_connections`.
const SERVERS_KEEPALIVES: &str =
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2";

/// A DSN that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadDsn {
    key: &'static str,
    problem: String,
}

/// How PostgreSQL is reached.
#[derive(Clone)]
pub(crate) struct Link {
    config: Config,
    hosts: Vec<(Host, u16)>,
    tls: Option<MakeRustlsConnect>,
    net: Arc<dyn Net>,
    connect_max: Duration,
    statement_max: Duration,
}

/// A connection. It is closed when this is dropped, whatever the other end does.
pub(crate) struct Session {
    pub(super) client: Client,
    connection: JoinHandle<()>,
    pub(super) statement_max: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    /// Whatever is asked, an answer or a trouble comes in time. After a trouble the session must not be used again.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(self.statement_max, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Trouble::Silent(self.statement_max)),
        }
    }
}

impl Link {
    /// The link that the settings ask for; `None` where they name no DSN.
    pub(crate) fn new(settings: &RecordSettings, net: Arc<dyn Net>) -> Result<Option<Self>, BadDsn> {
        let (key, dsn) = match &settings.dsn_file {
            Some(path) => {
                let text = secret_file::read(path)
                    .map_err(|e| BadDsn { key: "record.dsn_file", problem: format!("{}: {e}", path.display()) })?;
                ("record.dsn_file", text.trim().to_owned())
            }
            None if settings.dsn.0.is_empty() => return Ok(None),
            None => ("record.dsn", settings.dsn.0.clone()),
        };
        let bad = |problem: String| BadDsn { key, problem };
        // The library's error may quote the DSN, and with it a password.
        let mut config = Config::from_str(&dsn).map_err(|_| bad("it is no PostgreSQL connection string".to_owned()))?;
        config.application_name("holdfast");
        let ports = config.get_ports().to_vec();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        let hosts: Vec<_> = config.get_hosts().iter().cloned().enumerate().map(|(at, host)| (host, port(at))).collect();
        if hosts.is_empty() {
            return Err(bad("it names no host".to_owned()));
        }
        let tls = match &settings.ca_file {
            Some(path) => {
                config.ssl_mode(SslMode::Require);
                Some(MakeRustlsConnect::new(trusting(path)?))
            }
            None if config.get_ssl_mode() == SslMode::Require => {
                return Err(bad("sslmode=require needs record.ca_file, the certificates to trust".to_owned()));
            }
            None => {
                config.ssl_mode(SslMode::Disable);
                None
            }
        };
        let (connect_max, statement_max) = (settings.connect_timeout.0, settings.statement_timeout.0);
        Ok(Some(Self { config, hosts, tls, net, connect_max, statement_max }))
    }

    /// The hosts of the DSN, in its order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.hosts.len()
    }

    pub(super) fn name(&self, host: usize) -> String {
        match &self.hosts[host] {
            (Host::Tcp(name), port) => format!("{name}:{port}"),
            (Host::Unix(path), port) => format!("{}:{port}", path.display()),
        }
    }

    /// Opens a session to one host.
    pub(super) async fn connect(&self, host: usize) -> Result<Session, Trouble> {
        match tokio::time::timeout(self.connect_max, self.connecting(host)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Silent(self.connect_max)),
        }
    }

    async fn connecting(&self, host: usize) -> Result<Session, Trouble> {
        let unreachable = |e: std::io::Error| Trouble::Unreachable(e.to_string());
        let (host, port) = &self.hosts[host];
        let (stream, name) = match host {
            Host::Tcp(name) => {
                let stream = self.net.connect(format!("{name}:{port}")).await.map_err(unreachable)?;
                (stream, name.clone())
            }
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                let stream = tokio::net::UnixStream::connect(&path).await.map_err(unreachable)?;
                (Stream::new(stream, &path.display().to_string()), String::new())
            }
        };
        let statement_max = self.statement_max;
        // The connection works beside the client, and ends with the session.
        let session = match &self.tls {
            Some(tls) => {
                let mut tls = tls.clone();
                let tls = <MakeRustlsConnect as MakeTlsConnect<Stream>>::make_tls_connect(&mut tls, &name)
                    .map_err(|e| Trouble::Unreachable(e.to_string()))?;
                let (client, connection) = self.config.connect_raw(stream, tls).await?;
                Session { client, connection: tokio::spawn(async move { drop(connection.await) }), statement_max }
            }
            None => {
                let (client, connection) = self.config.connect_raw(stream, NoTls).await?;
                Session { client, connection: tokio::spawn(async move { drop(connection.await) }), statement_max }
            }
        };
        // A server whose default is looser must not make what it confirms less durable.
        let deadline = statement_max.as_millis();
        session
            .client
            .batch_execute(&format!(
                "SET synchronous_commit = on; SET statement_timeout = {deadline}; SET lock_timeout = {deadline};
                 SET idle_in_transaction_session_timeout = {deadline}; SET client_encoding = 'UTF8';
                 {SERVERS_KEEPALIVES}"
            ))
            .await?;
        Ok(session)
    }
}

/// A TLS client that trusts the certificates of a PEM file and checks the server's name.
fn trusting(path: &std::path::Path) -> Result<rustls::ClientConfig, BadDsn> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let bad = |problem: String| BadDsn { key: "record.ca_file", problem: format!("{}: {problem}", path.display()) };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))? {
        roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
