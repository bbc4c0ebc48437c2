//! TLS to the Admin API: whom `https://` servers are believed by, and what they are shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::crypto::aws_lc_rs;
use serde::{Deserialize, Serialize};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::contexts;
use crate::failure::Failure;

/// Where certificates and keys lie, as PEM.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsFiles {
    /// Authorities that `https://` servers are believed by. [default: those that this machine trusts]
    #[arg(long = "cacert", global = true, env = "HFCTL_CACERT", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A certificate for servers that ask for one.
    #[arg(long = "cert", global = true, env = "HFCTL_CERT", value_name = "FILE", requires = "cert_key_file")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long = "cert-key", global = true, env = "HFCTL_CERT_KEY", value_name = "FILE", requires = "cert_file")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// These where they are named, those of a context elsewhere.
    pub(crate) fn or(&self, context: &Self) -> Self {
        let of_context = |path: &Option<PathBuf>| path.as_deref().map(contexts::expand);
        let mut files = self.clone();
        files.ca_file = files.ca_file.or_else(|| of_context(&context.ca_file));
        if files.cert_file.is_none() {
            files.cert_file = of_context(&context.cert_file);
            files.cert_key_file = of_context(&context.cert_key_file);
        }
        files
    }

    /// What connections are made by.
    pub(crate) fn config(&self) -> Result<TlsConfig, Failure> {
        let roots = match &self.ca_file {
            Some(path) => certificates(path)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
            }
        };
        let shown = match (&self.cert_file, &self.cert_key_file) {
            (Some(cert), Some(key)) => {
                let private = PrivateKey::from_pem(&read(key)?).map_err(|_| no_pem(key, "private key"))?;
                Some(ClientCert::new_with_certs(&certificates(cert)?, private))
            }
            (None, None) => None,
            _ => return Err(Failure::Usage("cert_file and cert_key_file are set together".to_owned())),
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::from(roots))
            .client_cert(shown)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .build())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::file(path, &e))
}

fn no_pem(path: &Path, what: &str) -> Failure {
    Failure::Usage(format!("{}: no PEM text of a {what}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let pem = read(path)?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err(no_pem(path, "certificate")) } else { Ok(found) }
}
