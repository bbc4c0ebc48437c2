//! Certificates and keys in files, and what can be wrong with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, RootCertStore};

use crate::party::{BadParty, Party};

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a program cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum BadCredentials {
    /// Some of the three settings are missing.
    #[error("{0} is missing: {1} are set together")]
    Incomplete(&'static str, &'static str),
    /// A file cannot be read.
    #[error("{0}: {path}: {2}", path = .1.display())]
    Unreadable(&'static str, PathBuf, io::Error),
    /// A file holds something else.
    #[error("{0}: {path}: {2}", path = .1.display())]
    Malformed(&'static str, PathBuf, String),
    /// The certificate names nobody.
    #[error("mtls.cert_file: {path}: {1}", path = .0.display())]
    Nobody(PathBuf, BadParty),
    /// It is somebody else's.
    #[error("mtls.cert_file: {path}: it is for {1}, and this program is {2}", path = .0.display())]
    Foreign(PathBuf, Party, String),
}

pub(crate) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, BadCredentials> {
    fs::read(path).map_err(|e| BadCredentials::Unreadable(key, path.to_owned(), e))
}

/// The certificates of a PEM text, at least one.
pub(crate) fn chain(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
    let malformed = |why: String| BadCredentials::Malformed(key, path.to_owned(), why);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|e| malformed(e.to_string()))?;
    if chain.is_empty() {
        return Err(malformed("no PEM text of certificates".to_owned()));
    }
    Ok(chain)
}

/// The same, as authorities that are believed.
pub(crate) fn roots(key: &'static str, path: &Path, pem: &[u8]) -> Result<RootCertStore, BadCredentials> {
    let mut roots = RootCertStore::empty();
    for root in chain(key, path, pem)? {
        roots.add(root).map_err(|e| BadCredentials::Malformed(key, path.to_owned(), e.to_string()))?;
    }
    Ok(roots)
}

pub(crate) fn private_key(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, BadCredentials> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| BadCredentials::Malformed(key, path.to_owned(), e.to_string()))
}

/// A handshake, in time.
pub(crate) async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
        Ok(result) => result.map_err(|e| io::Error::new(e.kind(), format!("no TLS handshake: {}", reason(&e)))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no TLS handshake within {HANDSHAKE_MAX:?}"))),
    }
}

/// Our own verdict on a certificate stands deep within, and is all that somebody wants to read.
fn reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(verdict))) => verdict.0.to_string(),
        _ => error.to_string(),
    }
}

/// Looks at files again and again, for good. `look` takes them as they are now and says whether they have changed, then
/// `renewed` is called. What cannot be used is said once; what was good before stays in use.
pub(crate) async fn watch(look: impl Fn() -> Result<bool, BadCredentials>, renewed: impl Fn()) {
    let mut refused: Option<String> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let error = match look() {
            Ok(false) => None,
            Ok(true) => {
                renewed();
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error.as_deref().filter(|error| refused.as_deref() != Some(error)) {
            tracing::warn!(error, "the changed certificate cannot be used; the last good one is still in use");
        }
        refused = error;
    }
}
