//! An ssl: certificates with their keys, for the names under which clients come or for a proxy that is a client itself.
//!
//! A private key stands here in the clear only between a client's request and the sealing of the command; everywhere
//! else it is a token ([`crate::seal`]).

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

use super::SecretReference;
use super::certificate::{Certificate, is_private_key};
use super::common::{DESC_CHARS_MAX, HostPattern, read_labels};
use super::scope::{Fields, Scope};
use crate::entry::UnixMillis;
use crate::report::Problem;
use crate::seal::{self, SealedToken};

/// Certificates with their keys.
#[derive(Clone, PartialEq, Debug)]
pub struct Ssl {
    /// For whom they are.
    pub role: SslRole,
    /// The names that it answers for; none when the proxy is the client.
    pub snis: Vec<HostPattern>,
    /// The certificates, at least one. Which is shown depends on what the client can verify.
    ///
    /// Those of which a part is kept elsewhere are missing: proxies read the body with the secrets in their places.
    pub pairs: Vec<KeyPair>,
    /// Whether some are missing.
    pub elsewhere: bool,
    /// Asks clients for certificates.
    pub client: Option<ClientAuth>,
    /// Whether it is in use.
    pub enabled: bool,
    /// The versions that are spoken; empty: 1.2 and 1.3.
    pub protocols: Vec<TlsVersion>,
}

/// Whose certificates they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslRole {
    /// What clients are shown.
    #[default]
    Server,
    /// What upstreams are shown.
    Client,
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// 1.1, which no proxy of this version speaks.
    Tls11,
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

/// A chain of certificates, and the key of the first.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyPair {
    /// The certificate itself, then whoever issued it, and so on. At least one.
    pub chain: Vec<Certificate>,
    /// Its private key.
    pub key: PrivateKey,
}

/// A private key.
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// In PEM.
    Clear(Box<str>),
    /// Sealed.
    Sealed(SealedToken),
}

/// What is asked of clients.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Who may have issued their certificates.
    pub authorities: Vec<Certificate>,
    /// How many certificates may stand between theirs and an authority's.
    pub depth: usize,
    /// Requests for these paths need no certificate.
    pub skip_uris: Vec<Regex>,
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities
            && self.depth == other.depth
            && self.skip_uris.iter().map(Regex::as_str).eq(other.skip_uris.iter().map(Regex::as_str))
    }
}

/// Keys are not printed.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear(_) => "PrivateKey(***)",
            Self::Sealed(_) => "PrivateKey(sealed)",
        })
    }
}

pub(super) const PEM_CHARS_MIN: usize = 128;
pub(super) const KEY_CHARS_MIN: usize = 64;
/// The longest certificate chain, key or list of authorities, in characters of PEM.
pub const PEM_CHARS_MAX: usize = 65_536;
pub(super) const PROTOCOLS_MAX: usize = 3;
/// The compiled size of one expression, in bytes: a bound on what a mistyped one may cost.
const REGEX_BYTES_MAX: usize = 256 << 10;

pub(super) const VERSIONS: [(&str, TlsVersion); 3] =
    [("TLSv1.1", TlsVersion::Tls11), ("TLSv1.2", TlsVersion::Tls12), ("TLSv1.3", TlsVersion::Tls13)];

/// A certificate with fewer days left is worth a word.
const EXPIRY_WARNING_DAYS: u64 = 30;

impl Ssl {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.optional("desc", |s| s.string(0, DESC_CHARS_MAX));
        read_labels(&fields);
        let certificate = fields.optional("cert", certificate_text);
        let key = fields.optional("key", key_text);
        let certificates = fields.optional("certs", |s| s.all(s.items(0)?, certificate_text));
        let keys = fields.optional("keys", |s| s.all(s.items(0)?, key_text));
        let sni = fields.optional("sni", HostPattern::read);
        let snis = fields.optional("snis", |s| s.all(s.items(1)?, HostPattern::read));
        let role = fields.optional("type", |s| s.one_of(&[("server", SslRole::Server), ("client", SslRole::Client)]));
        let role = role.unwrap_or_default();
        let status = fields.optional("status", status);
        let protocols = fields.optional("ssl_protocols", protocols).unwrap_or_default();
        let client = fields.optional("client", client);
        let named = u8::from(fields.has("sni")) + u8::from(fields.has("snis"));
        let paired = fields.has("cert") && fields.has("key");
        match role {
            SslRole::Server if !paired || named != 1 => fields.wrong("then clause did not match"),
            SslRole::Client if !paired => fields.wrong("else clause did not match"),
            _ => {}
        }
        let (certificate, key) = (certificate?, key?);
        let first = read_pair(&fields, ("cert", "key"), "", certificate, key);
        let (certificates, keys) = (certificates.unwrap_or_default(), keys.unwrap_or_default());
        if certificates.len() != keys.len() {
            fields.rule("certs", "mismatched number of certs and keys");
            return None;
        }
        let mut pairs = vec![first];
        for (i, (certificate, key)) in certificates.into_iter().zip(keys).enumerate() {
            let prefix = format!("failed to handle cert-key pair[{}]: ", i + 1);
            pairs.push(read_pair(&fields, ("certs", "keys"), &prefix, certificate, key));
        }
        fields.finish();
        let pairs = pairs.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Self {
            role,
            snis: snis.unwrap_or_default().into_iter().chain(sni).collect(),
            elsewhere: pairs.contains(&None),
            pairs: pairs.into_iter().flatten().collect(),
            client,
            enabled: status != Some(false),
            protocols,
        })
    }

    /// What is accepted, and will surprise somebody.
    pub(super) fn warnings(&self) -> Vec<String> {
        let uncovered: Vec<String> = self
            .snis
            .iter()
            .filter(|sni| !self.pairs.iter().any(|pair| pair.chain[0].covers(sni)))
            .map(ToString::to_string)
            .collect();
        if uncovered.is_empty() || self.elsewhere {
            return Vec::new();
        }
        vec![format!("no certificate is for {}: clients will not believe it", uncovered.join(", "))]
    }

    /// What is accepted, and does not hold at this time.
    #[must_use]
    pub fn validity_warnings(&self, now: UnixMillis) -> Vec<String> {
        let now = now / 1000;
        let leaves = self.pairs.iter().enumerate().map(|(i, pair)| (i, &pair.chain[0]));
        leaves
            .filter_map(|(i, leaf)| {
                let what = if i == 0 { "the certificate".to_owned() } else { format!("certificate {i} of certs") };
                if leaf.not_after < now {
                    Some(format!("{what} has expired"))
                } else if leaf.not_before > now {
                    Some(format!("{what} is not valid yet"))
                } else {
                    let days = (leaf.not_after - now) / 86_400;
                    (days < EXPIRY_WARNING_DAYS).then(|| format!("{what} expires in {days} days"))
                }
            })
            .collect()
    }
}

fn pem<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    scope.string(PEM_CHARS_MIN, PEM_CHARS_MAX)
}

fn certificate_text<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    text_or_reference(scope, PEM_CHARS_MIN)
}

fn key_text<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    text_or_reference(scope, KEY_CHARS_MIN)
}

/// A text of at least `chars_min` characters, or where it is kept.
fn text_or_reference<'v>(scope: Scope<'v, '_>, chars_min: usize) -> Option<&'v str> {
    match scope.value.as_str().map(SecretReference::parse) {
        Some(Ok(Some(_))) => scope.string(1, PEM_CHARS_MAX),
        Some(Err(e)) => {
            scope.problem(Problem::rule(scope.path.clone(), e.to_string()));
            None
        }
        _ => scope.string(chars_min, PEM_CHARS_MAX),
    }
}

fn status(scope: Scope<'_, '_>) -> Option<bool> {
    match scope.value.as_i64() {
        Some(1) => Some(true),
        Some(0) => Some(false),
        _ => {
            scope.wrong("matches none of the enum values");
            None
        }
    }
}

fn protocols(scope: Scope<'_, '_>) -> Option<Vec<TlsVersion>> {
    let items = scope.unique_items(0)?;
    if items.len() > PROTOCOLS_MAX {
        scope.wrong(format!("expect array to have at most {PROTOCOLS_MAX} items"));
        return None;
    }
    scope.all(items, |item| item.one_of(&VERSIONS))
}

fn client(scope: Scope<'_, '_>) -> Option<ClientAuth> {
    let fields = scope.object()?;
    fields.allow_unknown();
    let authorities = fields.required("ca", |s| {
        let text = pem(s.clone())?;
        let read = Certificate::read_all(text);
        if read.is_err() {
            let sentence = "failed to validate client_cert: failed to parse cert: PEM_read_bio_X509_AUX() failed";
            s.problem(Problem::rule(s.path.clone(), sentence));
        }
        read.ok()
    });
    let depth = fields.optional("depth", |s| s.integer(0, i64::MAX));
    let skip_uris = fields.optional("skip_mtls_uri_regex", |s| s.all(s.unique_items(1)?, uri_pattern));
    fields.finish();
    let depth = usize::try_from(depth.unwrap_or(1)).unwrap_or(usize::MAX);
    Some(ClientAuth { authorities: authorities?, depth, skip_uris: skip_uris.unwrap_or_default() })
}

fn uri_pattern(scope: Scope<'_, '_>) -> Option<Regex> {
    let text = scope.string(0, usize::MAX)?;
    match RegexBuilder::new(text).unicode(false).size_limit(REGEX_BYTES_MAX).build() {
        Ok(regex) => Some(regex),
        Err(e) => {
            let sentence = format!("failed to compile regex {text:?}: {e}").replace('\n', " ");
            scope.problem(Problem::rule(scope.path.clone(), sentence));
            None
        }
    }
}

/// Reads a certificate and its key from the fields of these names; `prefix` is what APISIX says before what is wrong.
/// `Some(None)`: a part of it is kept elsewhere.
fn read_pair(
    fields: &Fields<'_, '_>,
    (certificate_field, key_field): (&str, &str),
    prefix: &str,
    certificate: &str,
    key: &str,
) -> Option<Option<KeyPair>> {
    if SecretReference::is_meant(certificate) {
        return Some(None);
    }
    let Ok(chain) = Certificate::read_all(certificate) else {
        fields.rule(certificate_field, format!("{prefix}failed to parse cert: PEM_read_bio_X509_AUX() failed"));
        return None;
    };
    if let Some(i) = chain.windows(2).position(|pair| !pair[0].is_issued_by(&pair[1])) {
        let (this, next) = (i + 1, i + 2);
        fields.rule(
            certificate_field,
            format!("{prefix}the chain is out of order: certificate {next} of it did not issue certificate {this}"),
        );
        return None;
    }
    if SecretReference::is_meant(key) {
        return Some(None);
    }
    if key.starts_with(seal::PREFIX) {
        return match key.parse() {
            Ok(token) => Some(Some(KeyPair { chain, key: PrivateKey::Sealed(token) })),
            Err(e) => {
                fields.rule(key_field, format!("{prefix}failed to parse key: {e}"));
                None
            }
        };
    }
    if !is_private_key(key) {
        fields.rule(key_field, format!("{prefix}failed to parse key: PEM_read_bio_PrivateKey() failed"));
        return None;
    }
    #[cfg(feature = "crypto")]
    if let Err(e) = crate::crypto::check_pair(&chain[0].public_key, key) {
        fields.rule(key_field, format!("{prefix}{e}"));
        return None;
    }
    Some(Some(KeyPair { chain, key: PrivateKey::Clear(key.into()) }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{KindInfo, NoPlugins, admit};
    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    fn ssl(body: Value) -> Result<Ssl, String> {
        match KindInfo::find("ssls").unwrap().read(&body) {
            Ok(super::super::Model::Ssl(ssl)) => Ok(*ssl),
            Ok(other) => panic!("{other:?}"),
            Err(report) => Err(report.summary().to_owned()),
        }
    }

    #[test]
    fn an_ssl_reads_all_its_fields() {
        let ((cert, key), (cert2, key2)) = (pair(&["a.com", "*.a.com"]), pair(&["a.com"]));
        let read = ssl(json!({
            "cert": cert, "key": key, "certs": [cert2], "keys": [key2], "snis": ["A.com", "*.a.com"],
            "client": {"ca": cert, "depth": 2, "skip_mtls_uri_regex": ["^/open/\\d+$"]}, "status": 0,
            "ssl_protocols": ["TLSv1.3"], "labels": {"a": "b"}, "desc": "d",
        }));
        let read = read.unwrap();
        assert_eq!(read.snis, [HostPattern::Exact("a.com".into()), HostPattern::Suffix(".a.com".into())]);
        assert_eq!((read.pairs.len(), read.enabled, &read.protocols[..]), (2, false, &[TlsVersion::Tls13][..]));
        let client = read.client.as_ref().unwrap();
        assert_eq!((client.depth, client.authorities.len()), (2, 1));
        assert!(client.skip_uris[0].is_match(b"/open/7") && !client.skip_uris[0].is_match(b"/open/x"));
        assert!(!format!("{read:?}").contains("PRIVATE"), "keys are not printed");
        let client = ssl(json!({"type": "client", "cert": cert, "key": key})).unwrap();
        assert_eq!((client.role, client.snis.len(), client.enabled), (SslRole::Client, 0, true));
    }

    #[test]
    fn what_is_wrong_is_told_as_apisix_tells_it() {
        let ((cert, key), (other, other_key)) = (pair(&["a.com"]), pair(&["a.com"]));
        let with = |more: Value| {
            let mut body = json!({"cert": cert, "key": key, "snis": ["a.com"]});
            crate::json::merge(&mut body, more);
            body
        };
        let garbage = "x".repeat(150);
        let not_parsed = "failed to parse cert: PEM_read_bio_X509_AUX() failed";
        let then = "invalid configuration: then clause did not match";
        for (body, summary) in [
            (json!({}), then.to_owned()),
            (with(json!({"key": null})), then.to_owned()),
            (with(json!({"snis": null})), then.to_owned()),
            (with(json!({"sni": "a.com"})), then.to_owned()),
            (json!({"type": "client"}), "invalid configuration: else clause did not match".to_owned()),
            (
                with(json!({"cert": "x"})),
                "invalid configuration: property \"cert\" validation failed: string too short, expected at least 128, got 1".to_owned(),
            ),
            (with(json!({"cert": garbage})), not_parsed.to_owned()),
            (with(json!({"key": garbage})), "failed to parse key: PEM_read_bio_PrivateKey() failed".to_owned()),
            (with(json!({"key": other_key})), "the key does not belong to the certificate".to_owned()),
            (
                with(json!({"snis": ["a b"]})),
                "invalid configuration: property \"snis\" validation failed: failed to validate item 1: failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a b\"".to_owned(),
            ),
            (with(json!({"certs": [other]})), "mismatched number of certs and keys".to_owned()),
            (
                with(json!({"certs": [other], "keys": [key]})),
                "failed to handle cert-key pair[1]: the key does not belong to the certificate".to_owned(),
            ),
            (
                with(json!({"client": {"ca": "x"}})),
                "invalid configuration: property \"client\" validation failed: property \"ca\" validation failed: string too short, expected at least 128, got 1".to_owned(),
            ),
            (with(json!({"client": {"ca": garbage}})), format!("failed to validate client_cert: {not_parsed}")),
            (
                with(json!({"cert": format!("{cert}{}", pair_of_ca().0)})),
                "the chain is out of order: certificate 2 of it did not issue certificate 1".to_owned(),
            ),
            (with(json!({"status": 2})), "invalid configuration: property \"status\" validation failed: matches none of the enum values".to_owned()),
            (with(json!({"key": format!("$sealed$1$k${}", "!".repeat(64))})), "failed to parse key: a damaged sealed token".to_owned()),
        ] {
            assert_eq!(ssl(body.clone()).unwrap_err(), summary, "{body}");
        }
    }

    fn pair_of_ca() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["ca.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "another authority");
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_will_surprise_somebody_is_said() {
        let (cert, key) = pair(&["a.com"]);
        let kind = KindInfo::find("ssls").unwrap();
        let body = json!({"cert": cert, "key": key, "snis": ["a.com", "b.com", "*.a.com"]});
        let warnings = admit(&NoPlugins, kind, Some("x"), body.clone()).unwrap().warnings;
        assert_eq!(warnings, ["no certificate is for b.com, *.a.com: clients will not believe it"]);
        let ssl = ssl(body).unwrap();
        assert!(ssl.validity_warnings(1_700_000_000_000).is_empty());
        assert_eq!(ssl.validity_warnings(9_999_999_999_000 * 10), ["the certificate has expired"]);
        assert_eq!(ssl.validity_warnings(0), ["the certificate is not valid yet"]);
        let mut old = json!({"cert": cert, "key": key, "sni": "a.com", "ssl_protocols": ["TLSv1.1", "TLSv1.2"]});
        let report = admit(&NoPlugins, kind, Some("x"), old.take()).unwrap_err();
        assert_eq!(report.summary(), "TLSv1.1 is not served by this version of holdfast");
    }
}
