//! A program's own certificate, and whom it believes: read from files, and read again when they change.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use protocol::resource::Certificate;
use rustls::client::Resumption;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::files::{BadCredentials, chain, private_key, read, roots, watch, within};
use crate::link::Link;
use crate::party::{BadParty, Party, Role};
use crate::verifier::{PROVIDER, Verifier};

const CERT: &str = "mtls.cert_file";
const KEY: &str = "mtls.key_file";
const CA: &str = "mtls.ca_file";
const TOGETHER: &str = "cert_file, key_file and ca_file";

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The protocol that all links speak (RFC 9113 §3.3).
const ALPN: &[u8] = b"h2";

/// Settings `mtls.*`: where certificate, key and authorities lie, as PEM. All of them or none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// This program's certificate, and after it those between it and the authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The authorities whose certificates are believed. To change them, put the new one beside the old one everywhere
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Who a program is, for all links that it opens and takes. Clones share it.
#[derive(Clone)]
pub struct Credentials {
    paths: Arc<Paths>,
    now: Arc<ArcSwap<Loaded>>,
}

struct Paths {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

/// The bytes of the three files.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

struct Loaded {
    pem: Pem,
    party: Party,
    not_after: u64,
    client: Arc<ClientConfig>,
    /// For links that nodes of the control plane open.
    among_nodes: Arc<ServerConfig>,
    /// For those that proxies open.
    for_proxies: Arc<ServerConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.party().to_string()).finish()
    }
}

impl Files {
    fn paths(&self) -> Result<Option<Paths>, BadCredentials> {
        match (&self.cert_file, &self.key_file, &self.ca_file) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(ca)) => {
                Ok(Some(Paths { cert: cert.clone(), key: key.clone(), ca: ca.clone() }))
            }
            (None, _, _) => Err(BadCredentials::Incomplete(CERT, TOGETHER)),
            (_, None, _) => Err(BadCredentials::Incomplete(KEY, TOGETHER)),
            (_, _, None) => Err(BadCredentials::Incomplete(CA, TOGETHER)),
        }
    }
}

impl Paths {
    fn read(&self) -> Result<Pem, BadCredentials> {
        Ok(Pem { cert: read(CERT, &self.cert)?, key: read(KEY, &self.key)?, ca: read(CA, &self.ca)? })
    }

    /// Everything that can be wrong is found here, not in somebody's handshake.
    fn open(&self, pem: Pem) -> Result<Loaded, BadCredentials> {
        let in_key = |why: String| BadCredentials::Malformed(KEY, self.key.clone(), why);
        let in_ca = |why: String| BadCredentials::Malformed(CA, self.ca.clone(), why);
        let chain = chain(CERT, &self.cert, &pem.cert)?;
        let own = &chain[0];
        let not_after = Certificate::from_der(own)
            .map_err(|_| BadCredentials::Nobody(self.cert.clone(), BadParty::Unreadable))?
            .not_after;
        let party = Party::of_certificate(own).map_err(|e| BadCredentials::Nobody(self.cert.clone(), e))?;
        let key = private_key(KEY, &self.key, &pem.key)?;
        let roots = Arc::new(roots(CA, &self.ca, &pem.ca)?);
        let among_nodes = Verifier::new(roots.clone(), &party.domain, Role::ControlPlane).map_err(in_ca)?;
        let for_proxies = Verifier::new(roots, &party.domain, Role::Proxy).map_err(in_ca)?;
        let client = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(among_nodes.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key());
        let mut client = client.map_err(|e| in_key(e.to_string()))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        let server = |verifier: Arc<Verifier>| {
            let config = ServerConfig::builder_with_provider(PROVIDER.clone())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider speaks TLS 1.3")
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), key.clone_key());
            let mut config = config.map_err(|e| in_key(e.to_string()))?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok::<_, BadCredentials>(Arc::new(config))
        };
        Ok(Loaded {
            pem,
            party,
            not_after,
            client: Arc::new(client),
            among_nodes: server(among_nodes)?,
            for_proxies: server(for_proxies)?,
        })
    }
}

impl Credentials {
    /// Reads the files of a program of this role that goes by `name`; `None` where there are no settings.
    ///
    /// # Errors
    /// [`BadCredentials`], among them a certificate of another role or name.
    pub fn load(files: &Files, role: Role, name: &str) -> Result<Option<Self>, BadCredentials> {
        let Some(paths) = files.paths()? else { return Ok(None) };
        let loaded = paths.open(paths.read()?)?;
        if loaded.party.role != role || !loaded.party.is_called(name) {
            return Err(BadCredentials::Foreign(paths.cert, loaded.party, format!("{role}/{name}")));
        }
        Ok(Some(Self { paths: Arc::new(paths), now: Arc::new(ArcSwap::from_pointee(loaded)) }))
    }

    /// Who this program is.
    #[must_use]
    pub fn party(&self) -> Party {
        self.now.load().party.clone()
    }

    /// Until when its certificate holds, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.now.load().not_after
    }

    /// Opens a link to a node of the control plane; `host` is what it was dialled by, and proves nothing.
    ///
    /// # Errors
    /// Those of the connection, and a handshake that came to nothing.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, host: &str) -> io::Result<Link<S>> {
        let server = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let server = server.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no host")))?;
        let connector = TlsConnector::from(self.now.load().client.clone());
        let stream = within(connector.connect(server, stream)).await?;
        link(stream.into())
    }

    /// Takes a link that somebody of this role has opened.
    ///
    /// # Errors
    /// As [`Credentials::connect`].
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, from: Role) -> io::Result<Link<S>> {
        let config = {
            let now = self.now.load();
            match from {
                Role::ControlPlane => now.among_nodes.clone(),
                Role::Proxy => now.for_proxies.clone(),
            }
        };
        link(within(TlsAcceptor::from(config).accept(stream)).await?.into())
    }

    /// Reads the files again whenever they change, for good. Links that are open stay as they are. What cannot be used is
    /// said once, and the last good ones stay in use.
    pub async fn keep_fresh(self) {
        self.say("links are encrypted and ask for certificates");
        watch(|| self.look(), || self.say("the certificate was renewed")).await;
    }

    fn say(&self, what: &'static str) {
        let (party, not_after) = (self.party(), self.not_after());
        let left = not_after.saturating_sub(UnixTime::now().as_secs());
        if left == 0 {
            tracing::warn!(%party, not_after, "this program's certificate has expired: nobody takes it any more");
        } else {
            tracing::info!(%party, not_after, days_left = left / DAY_SECONDS, "{what}");
        }
    }

    /// Takes the files as they are now; whether they have changed.
    pub(crate) fn look(&self) -> Result<bool, BadCredentials> {
        let pem = self.paths.read()?;
        let now = self.now.load();
        if now.pem == pem {
            return Ok(false);
        }
        let loaded = self.paths.open(pem)?;
        if loaded.party != now.party {
            let own = now.party.to_string();
            return Err(BadCredentials::Foreign(self.paths.cert.clone(), loaded.party, own));
        }
        self.now.store(Arc::new(loaded));
        Ok(true)
    }
}

fn link<S>(stream: tokio_rustls::TlsStream<S>) -> io::Result<Link<S>> {
    let nobody = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let chain = stream.get_ref().1.peer_certificates();
    let certificate = chain.and_then(<[_]>::first).ok_or_else(|| nobody("no certificate was shown".to_owned()))?;
    let other = Party::of_certificate(certificate).map_err(|e| nobody(e.to_string()))?;
    let not_after = Certificate::from_der(certificate).map_err(|e| nobody(e.to_string()))?.not_after;
    Ok(Link::new(stream, other, not_after))
}
