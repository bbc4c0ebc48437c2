//! Certificates by the names under which clients come.
//!
//! A name is looked up as it is, then under wildcards from the longest, each of which stands for one label (RFC 6125
//! §6.4.3), then under `*`. Where several ssls have one pattern, the one with the lowest id is in force: what it asks of
//! clients must not depend on which of them is picked. One that cannot be served fails the handshake: its name never
//! falls through to an ssl that asks for less.

use std::fmt;
use std::sync::{Arc, LazyLock};

use imbl::HashMap;
use protocol::crypto::Keyring;
use protocol::report::Path;
use protocol::resource::{self, Certificate, ClientAuth, KeyPair, PrivateKey, SslRole, TlsVersion};
use protocol::{ResourceKey, Text};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, SignatureAlgorithm, SupportedProtocolVersion};
use serde_json::Value;

use super::client_auth::Depth;
use super::client_tls::{ClientTls, Trust};

/// What compiling ssls takes beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct TlsTerms {
    /// Opens private keys.
    pub keyring: Option<Keyring>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Whom nodes may have their certificates from.
    pub trust: Trust,
    /// TLS to nodes that are shown nothing.
    pub anonymous: Arc<ClientTls>,
}

/// What is said of a private key that stands in a body as it is.
pub(super) const NOT_SEALED: &str = "a private key that is not sealed is not served";

/// What certified keys are made with.
#[derive(Clone, Copy)]
pub(super) struct Keys<'t> {
    pub(super) terms: &'t TlsTerms,
    /// Whether a key in the clear is one that was read from elsewhere, in place of its reference.
    pub(super) may_be_clear: bool,
}

/// An ssl, compiled.
#[derive(Debug)]
pub struct Ssl {
    /// Its id.
    pub id: Text,
    /// What handshakes are made with; see [`order_for`] for which cipher suite is taken.
    pub config: Arc<ServerConfig>,
    /// The same for stream listeners: what is spoken within is not looked at, and not chosen.
    pub stream_config: Arc<ServerConfig>,
    /// What it asks of clients.
    pub client: Option<Arc<ClientAuth>>,
}

/// What stands under a name.
#[derive(Clone, Debug)]
pub enum SslSlot {
    /// One that works.
    Ready(Arc<Ssl>),
    /// One that cannot be served, with its id.
    Sealed(Text),
}

/// All ssls by their patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Ssls {
    /// Under each pattern, as the user wrote it, in the order of ids.
    by_pattern: HashMap<Text, Vec<SslSlot>>,
    /// How many of them ask clients for certificates, or cannot be known not to.
    asking: usize,
}

/// The one provider of cryptography. AES with 128 bits comes before AES with 256: its strength is beyond reach too, and a
/// handshake whose hash is SHA-256 costs some 7 of 100 less.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    // What is alike keeps its order.
    provider.cipher_suites.sort_by_key(|known| (known.tls13().is_none(), !is_aes_128(known.suite())));
    Arc::new(provider)
});

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// Tickets that a client gets with TLS 1.3. One is enough for a client that resumes one connection at a time.
const TICKETS: usize = 1;

impl SslSlot {
    fn id(&self) -> &Text {
        match self {
            Self::Ready(ssl) => &ssl.id,
            Self::Sealed(id) => id,
        }
    }

    fn asks(&self) -> bool {
        match self {
            Self::Ready(ssl) => ssl.client.is_some(),
            Self::Sealed(_) => true,
        }
    }
}

impl Ssls {
    /// What stands under a name, which is in lower case.
    pub(super) fn find(&self, name: &str) -> Option<&SslSlot> {
        if let Some(slots) = self.by_pattern.get(name) {
            return slots.first();
        }
        let label = name.find('.').unwrap_or(name.len());
        let mut pattern = String::with_capacity(name.len() + 1);
        for (at, _) in name.char_indices().take_while(|(at, _)| *at <= label) {
            pattern.clear();
            pattern.push('*');
            pattern.push_str(&name[at..]);
            if let Some(slots) = self.by_pattern.get(pattern.as_str()) {
                return slots.first();
            }
        }
        self.by_pattern.get("*").and_then(|slots| slots.first())
    }

    /// Whether any ssl asks clients for certificates.
    pub(super) fn any_asks(&self) -> bool {
        self.asking > 0
    }

    pub(super) fn place(&mut self, patterns: &[Text], slot: &SslSlot) {
        for pattern in patterns {
            let slots = self.by_pattern.entry(pattern.clone()).or_default();
            let at = slots.partition_point(|other| other.id() < slot.id());
            slots.insert(at, slot.clone());
            self.asking += usize::from(slot.asks());
        }
    }

    pub(super) fn remove(&mut self, patterns: &[Text], id: &Text) {
        for pattern in patterns {
            let Some(slots) = self.by_pattern.get_mut(pattern) else { continue };
            if let Some(at) = slots.iter().position(|slot| slot.id() == id) {
                self.asking -= usize::from(slots.remove(at).asks());
            }
            if slots.is_empty() {
                self.by_pattern.remove(pattern);
            }
        }
    }

    /// One fact a line, as [`super::Table::dump`].
    pub(super) fn dump(&self) -> impl Iterator<Item = String> {
        self.by_pattern.iter().map(|(pattern, slots)| {
            let slots: Vec<String> = slots
                .iter()
                .map(|slot| match slot {
                    SslSlot::Ready(ssl) => format!("{} {:?} {:?}", ssl.id, ssl.client, ssl.config.cert_resolver),
                    SslSlot::Sealed(id) => format!("{id} sealed"),
                })
                .collect();
            format!("ssl {pattern}: {}", slots.join(", "))
        })
    }
}

/// The patterns under which an ssl stands: none for one that is switched off, or is what upstreams are shown.
pub(super) fn patterns(ssl: &resource::Ssl) -> Vec<Text> {
    if !ssl.enabled || ssl.role == SslRole::Client {
        return Vec::new();
    }
    let mut patterns: Vec<Text> = ssl.snis.iter().map(|sni| sni.to_string().into()).collect();
    patterns.sort();
    patterns.dedup();
    patterns
}

/// The same, as far as it can be read of an ssl that cannot be served.
pub(super) fn outline(body: &str) -> Vec<Text> {
    let Ok(body) = serde_json::from_str::<Value>(body) else { return Vec::new() };
    if body["status"] == 0 || body["type"] == "client" {
        return Vec::new();
    }
    let many = body["snis"].as_array().into_iter().flatten();
    let mut patterns: Vec<Text> =
        many.chain(body.get("sni")).filter_map(Value::as_str).map(|sni| sni.to_ascii_lowercase().into()).collect();
    patterns.sort();
    patterns.dedup();
    patterns
}

/// Compiles an ssl of type `client`.
///
/// # Errors
/// Why nodes cannot be shown it.
pub(super) fn compile_client(id: &Text, ssl: &resource::Ssl, keys: Keys<'_>) -> Result<ClientTls, String> {
    if !ssl.enabled {
        return Err("it is switched off".to_owned());
    }
    let key = certified_keys(id, ssl, keys)?.swap_remove(0);
    Ok(ClientTls::showing(key, keys.terms.trust.clone()))
}

/// Compiles an ssl.
///
/// # Errors
/// Why it cannot be served.
pub(super) fn compile(id: &Text, ssl: &resource::Ssl, keys: Keys<'_>) -> Result<Ssl, String> {
    let terms = keys.terms;
    let mut keys = certified_keys(id, ssl, keys)?;
    // Whoever can verify it gets the one that costs this proxy least to sign with.
    keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
    let builder = ServerConfig::builder_with_provider(PROVIDER.clone());
    let builder = builder.with_protocol_versions(&versions(&ssl.protocols)).map_err(|e| e.to_string())?;
    let builder = match &ssl.client {
        None => builder.with_no_client_auth(),
        Some(client) => builder.with_client_cert_verifier(Arc::new(Depth::new(client)?)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(keys)));
    // Sessions are in the tickets, under keys of this ssl's own: a ticket of another one, or of what this one was before
    // an edit, opens nothing here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| e.to_string())?;
    config.send_tls13_tickets = TICKETS;
    config.ignore_client_order = true;
    let stream_config = Arc::new(config.clone());
    config.alpn_protocols =
        if terms.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Ssl { id: id.clone(), config: Arc::new(config), stream_config, client: ssl.client.clone().map(Arc::new) })
}

/// The same configuration for a client: the order of cipher suites is ours, but for a client that would rather have
/// ChaCha20, which such clients ask for that have no instructions for AES.
pub(crate) fn order_for(hello: &ClientHello<'_>, config: &Arc<ServerConfig>) -> Arc<ServerConfig> {
    let knows = |suite: &&CipherSuite| PROVIDER.cipher_suites.iter().any(|known| known.suite() == **suite);
    match hello.cipher_suites().iter().find(knows) {
        Some(
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ) => {
            let mut config = (**config).clone();
            config.ignore_client_order = false;
            Arc::new(config)
        }
        _ => config.clone(),
    }
}

/// Its certificates with their opened keys, in their order; at least one.
fn certified_keys(id: &Text, ssl: &resource::Ssl, keys: Keys<'_>) -> Result<Vec<Arc<CertifiedKey>>, String> {
    let resource = ResourceKey::new("ssls", id);
    let open = |(i, pair)| {
        let path = match i {
            0 => Path::default().property("key"),
            i => Path::default().property("keys").item(i - 1),
        };
        certified(&resource, &path, pair, keys).map(Arc::new).map_err(|e| format!("{path}: {e}"))
    };
    ssl.pairs.iter().enumerate().map(open).collect()
}

fn versions(protocols: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
    let speaks = |version| protocols.is_empty() || protocols.contains(&version);
    [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)]
        .into_iter()
        .filter_map(|(version, known)| speaks(version).then_some(known))
        .collect()
}

fn certified(resource: &ResourceKey, path: &Path, pair: &KeyPair, keys: Keys<'_>) -> Result<CertifiedKey, String> {
    let pem = match &pair.key {
        PrivateKey::Clear(pem) if keys.may_be_clear => pem.as_bytes().to_vec(),
        PrivateKey::Clear(_) => return Err(NOT_SEALED.to_owned()),
        PrivateKey::Sealed(token) => {
            let keyring = keys.terms.keyring.as_ref();
            let keyring = keyring.ok_or("there is no keyring to open it: set secrets.keyring_file")?;
            keyring.open(resource, path, token).map_err(|e| e.to_string())?
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| e.to_string())?;
    CertifiedKey::from_der(der(&pair.chain), key, &PROVIDER).map_err(|e| e.to_string())
}

pub(super) fn der(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|certificate| CertificateDer::from(certificate.der.to_vec())).collect()
}

/// The certificates of an ssl. A client gets the first whose key it can verify.
struct Shown(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some()).cloned()
    }
}

/// What they are, by the sums of their bytes.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = self.0.iter().map(|key| crc32(&key.cert));
        f.debug_list().entries(sums).finish()
    }
}

fn crc32(chain: &[CertificateDer<'_>]) -> usize {
    chain
        .iter()
        .map(|der| der.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssls(slots: &[(&str, &[&str])]) -> Ssls {
        let mut ssls = Ssls::default();
        for (id, patterns) in slots {
            let patterns: Vec<Text> = patterns.iter().map(|pattern| (*pattern).into()).collect();
            ssls.place(&patterns, &SslSlot::Sealed((*id).into()));
        }
        ssls
    }

    #[test]
    fn names_are_found_exactly_then_by_wildcard_then_by_star() {
        let mut all = ssls(&[
            ("exact", &["a.com"]),
            ("wild", &["*.a.com"]),
            ("deep", &["*.b.a.com"]),
            ("odd", &["*x.c.com"]),
            ("second", &["a.com"]),
        ]);
        let found = |ssls: &Ssls, name: &str| ssls.find(name).map(|slot| slot.id().to_string());
        for (name, expected) in [
            ("a.com", Some("exact")),
            ("x.a.com", Some("wild")),
            ("x.y.a.com", None),
            ("x.b.a.com", Some("deep")),
            ("b.a.com", Some("wild")),
            ("yx.c.com", Some("odd")),
            ("y.c.com", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(found(&all, name).as_deref(), expected, "{name}");
        }
        all.remove(&["a.com".into()], &"exact".into());
        assert_eq!(found(&all, "a.com").as_deref(), Some("second"), "the next id takes its place");
        all.place(&["*".into()], &SslSlot::Sealed("any".into()));
        assert_eq!(found(&all, "x.y.a.com").as_deref(), Some("any"));
        for (id, patterns) in
            [("second", "a.com"), ("wild", "*.a.com"), ("deep", "*.b.a.com"), ("odd", "*x.c.com"), ("any", "*")]
        {
            all.remove(&[patterns.into()], &id.into());
        }
        assert!(all.by_pattern.is_empty() && !all.any_asks());
    }
}
