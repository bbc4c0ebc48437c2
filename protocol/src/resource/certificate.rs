//! X.509 certificates as far as admission looks into them: whose they are, who issued them, and until when they hold.
//!
//! Signatures are not checked: whoever is shown a certificate does that, against roots of his own.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::HostPattern;

/// id-at-commonName (RFC 5280, appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// One certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Its bytes.
    pub der: Box<[u8]>,
    /// The names that it holds for, in lower case: its DNS names, or where it has none its common name.
    pub names: Vec<String>,
    /// The URIs among its alternative names, as they stand there.
    pub uris: Vec<String>,
    /// From when on it holds, in seconds since 1970.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
    /// The bits of its public key.
    pub public_key: Box<[u8]>,
    subject: Box<[u8]>,
    issuer: Box<[u8]>,
}

/// A text that holds no certificate, or one that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no PEM text of X.509 certificates")]
pub struct BadCertificate;

impl Certificate {
    /// Reads every certificate of a PEM text, at least one.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn read_all(pem: &str) -> Result<Vec<Self>, BadCertificate> {
        let all: Result<Vec<Self>, BadCertificate> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(|der| Self::from_der(&der.map_err(|_| BadCertificate)?))
            .collect();
        all.and_then(|all| if all.is_empty() { Err(BadCertificate) } else { Ok(all) })
    }

    /// Reads one as DER.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn from_der(der: &[u8]) -> Result<Self, BadCertificate> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| BadCertificate)?;
        let fields = parsed.tbs_certificate;
        let bytes = |name: &x509_cert::name::Name| name.to_der().map(Vec::into_boxed_slice).map_err(|_| BadCertificate);
        let (mut names, mut uris) = (Vec::new(), Vec::new());
        for extension in fields.extensions.iter().flatten() {
            if extension.extn_id == <SubjectAltName as x509_cert::der::oid::AssociatedOid>::OID {
                let alternatives =
                    SubjectAltName::from_der(extension.extn_value.as_bytes()).map_err(|_| BadCertificate)?;
                for name in &alternatives.0 {
                    match name {
                        GeneralName::DnsName(name) => names.push(name.as_str().to_ascii_lowercase()),
                        GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().to_owned()),
                        _ => {}
                    }
                }
            }
        }
        if names.is_empty() {
            let parts = fields.subject.0.iter().flat_map(|part| part.0.iter());
            names.extend(parts.filter(|part| part.oid == COMMON_NAME).filter_map(|part| {
                let value = &part.value;
                let text = Utf8StringRef::try_from(value).map(|text| text.as_str().to_owned());
                let text = text.or_else(|_| PrintableStringRef::try_from(value).map(|text| text.as_str().to_owned()));
                text.or_else(|_| Ia5StringRef::try_from(value).map(|text| text.as_str().to_owned())).ok()
            }));
            names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        }
        Ok(Self {
            der: der.into(),
            names,
            uris,
            not_before: fields.validity.not_before.to_unix_duration().as_secs(),
            not_after: fields.validity.not_after.to_unix_duration().as_secs(),
            public_key: fields.subject_public_key_info.subject_public_key.raw_bytes().into(),
            subject: bytes(&fields.subject)?,
            issuer: bytes(&fields.issuer)?,
        })
    }

    /// Whether the other one, by its name, is who issued this one.
    #[must_use]
    pub fn is_issued_by(&self, other: &Self) -> bool {
        self.issuer == other.subject
    }

    /// Whether it holds for every host of a pattern.
    #[must_use]
    pub fn covers(&self, pattern: &HostPattern) -> bool {
        self.names.iter().any(|name| match pattern {
            HostPattern::Exact(host) => name == host.as_str() || is_under_wildcard(name, host),
            HostPattern::Suffix(suffix) => name.strip_prefix('*') == Some(suffix.as_str()),
        })
    }
}

/// Whether a name such as `*.a.com` holds for a host: it stands for one label (RFC 6125 §6.4.3).
fn is_under_wildcard(name: &str, host: &str) -> bool {
    name.strip_prefix("*.").is_some_and(|rest| host.split_once('.').is_some_and(|(_, parent)| parent == rest))
}

/// Whether a text holds a private key in PEM.
pub(super) fn is_private_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_wildcards() {
        let pair = rcgen::generate_simple_self_signed(vec!["A.com".into(), "*.b.com".into()]).unwrap();
        let certificate = Certificate::read_all(&pair.cert.pem()).unwrap().remove(0);
        for (pattern, expected) in [
            (HostPattern::Exact("a.com".into()), true),
            (HostPattern::Exact("x.b.com".into()), true),
            (HostPattern::Exact("x.y.b.com".into()), false),
            (HostPattern::Exact("b.com".into()), false),
            (HostPattern::Suffix(".b.com".into()), true),
            (HostPattern::Suffix("".into()), false),
        ] {
            assert_eq!(certificate.covers(&pattern), expected, "{pattern}");
        }
        assert!(certificate.is_issued_by(&certificate) && certificate.not_before < certificate.not_after);
    }

    #[test]
    fn what_is_no_certificate() {
        for text in
            ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"]
        {
            assert_eq!(Certificate::read_all(text), Err(BadCertificate), "{text}");
        }
    }
}
