//! Certificates that clients show.

use std::sync::Arc;

use protocol::resource::ClientAuth;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::ssl::{PROVIDER, der};

/// Verifies clients, with a bound on how many certificates may stand between theirs and an authority's.
#[derive(Debug)]
pub(super) struct Depth {
    verifier: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    depth: usize,
}

impl Depth {
    /// What an ssl asks of clients.
    ///
    /// # Errors
    /// Which of its authorities cannot be read.
    pub(super) fn new(client: &ClientAuth) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for authority in der(&client.authorities) {
            roots.add(authority).map_err(|e| format!("$.client.ca: {e}"))?;
        }
        let roots = Arc::new(roots);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), PROVIDER.clone());
        if !client.skip_uris.is_empty() {
            // Who comes without one is judged when it is known for what it asks.
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|e| format!("$.client.ca: {e}"))?;
        Ok(Self { verifier, roots, depth: client.depth })
    }
}

impl ClientCertVerifier for Depth {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verifier.verify_client_cert(certificate, intermediates, now)?;
        let too_deep = || rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| too_deep())?;
        let shallow = |path: &webpki::VerifiedPath<'_>| match path.intermediate_certificates().count() <= self.depth {
            true => Ok(()),
            false => Err(webpki::Error::UnknownIssuer),
        };
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        let usage = webpki::KeyUsage::client_auth();
        certificate
            .verify_for_usage(algorithms, &self.roots.roots, intermediates, now, usage, None, Some(&shallow))
            .map_err(|_| too_deep())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
