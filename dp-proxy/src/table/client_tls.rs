//! TLS to nodes: what a node is shown of this proxy, and whom this proxy believes.
//!
//! One [`ClientTls`] stands for one identity: nobody, or the certificate of an ssl of type `client`. The configurations
//! made of it keep the sessions that nodes gave, so that they are made once and shared by all upstreams and workers. A
//! connection belongs to the configuration that it was made with: after an edit of the ssl, none of before is used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use protocol::resource::Scheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tracing::warn;

use super::ssl::PROVIDER;

/// Whom an upstream with `tls.verify` may have its certificate from.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Whom this machine believes.
    #[default]
    System,
    /// These and nobody else.
    These(Arc<RootCertStore>),
}

/// A file that names nobody to be believed.
#[derive(Debug, thiserror::Error)]
pub enum BadTrust {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Unreadable(PathBuf, io::Error),
    /// It can, and holds something else.
    #[error("{0}: {1}")]
    Malformed(PathBuf, String),
}

/// What nodes are shown, and the configurations made of it.
#[derive(Debug, Default)]
pub struct ClientTls {
    shown: Option<Arc<CertifiedKey>>,
    trust: Trust,
    /// By [`ClientTls::place`]; made when an upstream first needs one.
    configs: [OnceLock<Arc<ClientConfig>>; 6],
}

/// What is offered to be spoken within TLS (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nothing: what is carried is not looked at.
    None,
}

impl Alpn {
    /// What is offered to nodes that speak this.
    pub(super) fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Grpc | Scheme::Grpcs => Self::Http2,
            Scheme::Tcp | Scheme::Tls | Scheme::Udp => Self::None,
            Scheme::Http | Scheme::Https | Scheme::Kafka => Self::Http1,
        }
    }
}

/// An identity by the id of its ssl.
#[derive(Clone, Debug)]
pub(super) enum ClientTlsSlot {
    /// One that works.
    Ready(Arc<ClientTls>),
    /// One that cannot be shown, with the reason.
    Sealed(Box<str>),
}

/// Whom this machine believes: looked up once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "a part of the machine's trusted certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        warn!("this machine trusts no certificate authority: no upstream with tls.verify can be reached");
    }
    Arc::new(roots)
});

impl Trust {
    /// Those whose certificates are in a PEM file, at least one.
    ///
    /// # Errors
    /// [`BadTrust`].
    pub fn load(file: &Path) -> Result<Self, BadTrust> {
        let malformed = |why: String| BadTrust::Malformed(file.to_owned(), why);
        let text = fs::read(file).map_err(|e| BadTrust::Unreadable(file.to_owned(), e))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            roots.add(certificate.map_err(|e| malformed(e.to_string()))?).map_err(|e| malformed(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(malformed("no PEM text of certificates".to_owned()));
        }
        Ok(Self::These(Arc::new(roots)))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        match self {
            Self::System => SYSTEM.clone(),
            Self::These(roots) => roots.clone(),
        }
    }
}

impl ClientTls {
    /// Nodes are shown nothing.
    #[must_use]
    pub fn anonymous(trust: Trust) -> Self {
        Self { trust, ..Self::default() }
    }

    /// Nodes that ask for a certificate are shown this one.
    pub(super) fn showing(key: Arc<CertifiedKey>, trust: Trust) -> Self {
        Self { shown: Some(key), ..Self::anonymous(trust) }
    }

    /// How a connection is made: with or without a look at the node's certificate, and for what is spoken within. It is
    /// always the same one.
    pub fn config(&self, verify: bool, alpn: Alpn) -> &Arc<ClientConfig> {
        self.configs[Self::place(verify, alpn)].get_or_init(|| Arc::new(self.make(verify, alpn)))
    }

    fn place(verify: bool, alpn: Alpn) -> usize {
        2 * alpn as usize + usize::from(verify)
    }

    fn make(&self, verify: bool, alpn: Alpn) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone());
        let builder = builder.with_safe_default_protocol_versions().expect("the provider speaks TLS 1.2 and 1.3");
        let builder = if verify {
            builder.with_root_certificates(self.trust.roots())
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody))
        };
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone()))),
        };
        config.alpn_protocols = match alpn {
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Http2 => vec![b"h2".to_vec()],
            Alpn::None => Vec::new(),
        };
        config
    }
}

/// Believes whatever certificate a node shows, as APISIX does unless `tls.verify` is set; that the node has its key is
/// verified all the same.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_made_once_for_each_way_to_connect() {
        let tls = ClientTls::default();
        let ways = [false, true].map(|verify| [Alpn::Http1, Alpn::Http2, Alpn::None].map(|alpn| (verify, alpn)));
        let ways = ways.as_flattened();
        let all: Vec<_> = ways.iter().map(|(verify, alpn)| tls.config(*verify, *alpn).clone()).collect();
        for (i, (verify, alpn)) in ways.iter().enumerate() {
            assert!(Arc::ptr_eq(&all[i], tls.config(*verify, *alpn)));
            assert!(all[..i].iter().all(|other| !Arc::ptr_eq(&all[i], other)), "each way has its own");
        }
    }

    #[test]
    fn a_file_of_nobody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(matches!(Trust::load(&file), Err(BadTrust::Unreadable(..))));
        for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&file, text).unwrap();
            let error = Trust::load(&file).unwrap_err();
            assert!(matches!(error, BadTrust::Malformed(..)) && error.to_string().contains("ca.pem"), "{error}");
        }
        let pair = rcgen::generate_simple_self_signed(vec!["a.com".into()]).unwrap();
        fs::write(&file, pair.cert.pem()).unwrap();
        assert!(matches!(Trust::load(&file), Ok(Trust::These(roots)) if roots.len() == 1));
    }
}
