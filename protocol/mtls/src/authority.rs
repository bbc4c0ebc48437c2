//! An authority of one's own: a key that signs certificates for the programs of one deployment.

use std::time::Duration;

use protocol::resource::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, UnixTime};

use crate::party::{BadParty, Party, Role};

/// Clocks may differ by so much: certificates hold from a little before they were made.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Why nothing is issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate is none.
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(String),
    /// The authority's key is none.
    #[error("the authority's key cannot be used: {0}")]
    Key(String),
    /// Nobody can be called so.
    #[error(transparent)]
    Party(#[from] BadParty),
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate, or a key, as PEM.
pub type Pem = String;

/// Signs certificates of one domain.
#[derive(Debug)]
pub struct Authority {
    domain: Box<str>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: Pem,
    /// The key.
    pub key: Pem,
}

impl Authority {
    /// A new authority, with its certificate and its key. `lifetime` is that of the certificate.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn found(domain: &str, lifetime: Duration) -> Result<(Self, Issued), AuthorityError> {
        // A domain that no certificate can carry is found here.
        format!("spiffe://{domain}/dp").parse::<Party>()?;
        let key = KeyPair::generate()?;
        let mut params = authority_params(domain)?;
        holds_for(&mut params, lifetime);
        let certificate = params.self_signed(&key)?.pem();
        let issued = Issued { certificate, key: key.serialize_pem() };
        Ok((Self { domain: domain.into(), issuer: Issuer::new(params, key) }, issued))
    }

    /// One that was founded before, by its certificate and its key.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`], [`AuthorityError::Key`].
    pub fn open(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let bad_key = |why: &dyn std::fmt::Display| AuthorityError::Key(why.to_string());
        let certificates =
            Certificate::read_all(certificate).map_err(|e| AuthorityError::Certificate(e.to_string()))?;
        let own = &certificates[0];
        let domain = match &own.uris[..] {
            [uri] => uri.strip_prefix("spiffe://").filter(|domain| !domain.contains('/')),
            _ => None,
        };
        let domain = domain.ok_or_else(|| AuthorityError::Certificate("it names no domain".to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad_key(&e))?;
        let key = KeyPair::try_from(&key).map_err(|e| bad_key(&e))?;
        if key.public_key_raw() != &*own.public_key {
            return Err(bad_key(&"it belongs to another certificate"));
        }
        Ok(Self { domain: domain.into(), issuer: Issuer::new(authority_params(domain)?, key) })
    }

    /// Its domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// A certificate for somebody of this domain, with a new key.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(&self, role: Role, name: Option<&str>, lifetime: Duration) -> Result<Issued, AuthorityError> {
        let party = Party { domain: self.domain.clone(), role, name: name.map(Into::into) };
        // A name that no certificate can carry is found here.
        let party: Party = party.to_string().parse()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        holds_for(&mut params, lifetime);
        params.distinguished_name = DistinguishedName::new();
        let name = party.name.as_deref().unwrap_or("any");
        params.distinguished_name.push(DnType::CommonName, format!("{}/{name}", party.role));
        params.subject_alt_names = vec![SanType::URI(party.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

/// The same each time, so that what an authority issues names it whenever it is opened.
fn authority_params(domain: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Holdfast authority of {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn holds_for(params: &mut CertificateParams, lifetime: Duration) {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(UnixTime::now().as_secs());
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
}
