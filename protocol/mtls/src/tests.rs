//! Links between real certificates, over pipes in memory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use crate::authority::{Authority, Issued};
use crate::verifier::{PROVIDER, Verifier};
use crate::{BadCredentials, Credentials, Files, Link, Party, Role};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority, with its certificate.
struct Ca {
    authority: Authority,
    certificate: String,
}

impl Ca {
    fn of(domain: &str) -> Self {
        let (authority, Issued { certificate, .. }) = Authority::found(domain, DAY).unwrap();
        Self { authority, certificate }
    }

    fn issue(&self, party: &str, lifetime: Duration) -> Issued {
        let party: Party = party.parse().unwrap();
        self.authority.issue(party.role, party.name.as_deref(), lifetime).unwrap()
    }
}

/// Writes credentials where they are read from.
fn place(dir: &Path, issued: &Issued, believed: &[&Ca]) -> Files {
    let file = |name: &str, text: &str| {
        fs::write(dir.join(name), text).unwrap();
        Some(dir.join(name))
    };
    let believed: String = believed.iter().map(|ca| ca.certificate.as_str()).collect();
    Files {
        cert_file: file("cert.pem", &issued.certificate),
        key_file: file("key.pem", &issued.key),
        ca_file: file("ca.pem", &believed),
    }
}

/// Credentials of a party, with whom it believes.
fn credentials(ca: &Ca, party: &str, lifetime: Duration, believed: &[&Ca]) -> Credentials {
    let dir = tempfile::tempdir().unwrap();
    let files = place(dir.path(), &ca.issue(party, lifetime), believed);
    let who: Party = party.parse().unwrap();
    Credentials::load(&files, who.role, who.name.as_deref().unwrap_or("x")).unwrap().unwrap()
}

type Pipe = Link<DuplexStream>;

/// What both ends make of a link that `caller` opens to `node`, on a listener for nodes or for proxies.
async fn meet(caller: &Credentials, node: &Credentials, from: Role) -> (io::Result<Pipe>, io::Result<Pipe>) {
    let (there, here) = duplex(1 << 16);
    let accept = async {
        let mut link = node.accept(here, from).await?;
        link.write_all(b"hello").await?;
        link.flush().await?;
        Ok(link)
    };
    let connect = async {
        let mut link = caller.connect(there, "127.0.0.1").await?;
        // In TLS 1.3 a caller learns that it is refused when it first reads.
        link.read_exact(&mut [0; 5]).await?;
        Ok(link)
    };
    tokio::join!(connect, accept)
}

/// A caller that takes nodes of `prod`, whoever it is itself.
fn caller_of(ca: &Ca) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(Arc::new(roots), "prod", Role::ControlPlane).unwrap())
}

fn reason(result: io::Result<Pipe>) -> String {
    result.map(|link| link.other().to_string()).expect_err("it should be refused").to_string()
}

#[tokio::test]
async fn those_of_one_domain_meet_and_know_each_other() {
    let ca = Ca::of("prod");
    let [one, two, proxy, fleet] = ["cp/one", "cp/two", "dp/edge", "dp"]
        .map(|path| credentials(&ca, &format!("spiffe://prod/{path}"), DAY, &[&ca]));
    for (caller, from) in [(&two, Role::ControlPlane), (&proxy, Role::Proxy), (&fleet, Role::Proxy)] {
        let (connected, accepted) = meet(caller, &one, from).await;
        assert_eq!(connected.unwrap().other().to_string(), "spiffe://prod/cp/one");
        assert_eq!(accepted.unwrap().other(), &caller.party());
    }
}

#[tokio::test]
async fn a_proxy_calls_no_node_among_nodes_and_serves_nobody() {
    let ca = Ca::of("prod");
    let [node, proxy] =
        ["cp/one", "dp/edge"].map(|path| credentials(&ca, &format!("spiffe://prod/{path}"), DAY, &[&ca]));
    let (connected, accepted) = meet(&proxy, &node, Role::ControlPlane).await;
    assert!(reason(accepted).contains("spiffe://prod/dp/edge is not a cp"));
    reason(connected);
    let (_, accepted) = meet(&node, &node, Role::Proxy).await;
    assert!(reason(accepted).contains("spiffe://prod/cp/one is not a dp"));
    let (connected, _) = meet(&node, &proxy, Role::ControlPlane).await;
    assert!(reason(connected).contains("spiffe://prod/dp/edge is not a cp"));
}

#[tokio::test]
async fn strangers_are_refused_by_both_ends() {
    let (ca, theirs, test) = (Ca::of("prod"), Ca::of("prod"), Ca::of("test"));
    let node = credentials(&ca, "spiffe://prod/cp/one", DAY, &[&ca, &test]);
    // Of an authority that is not believed; of one that is, and of another domain.
    let forged = credentials(&theirs, "spiffe://prod/cp/two", DAY, &[&ca, &theirs]);
    let foreign = credentials(&test, "spiffe://test/cp/two", DAY, &[&ca, &test]);
    let (_, accepted) = meet(&forged, &node, Role::ControlPlane).await;
    assert!(reason(accepted).contains("invalid peer certificate"));
    let (connected, _) = meet(&node, &forged, Role::ControlPlane).await;
    assert!(reason(connected).contains("invalid peer certificate"));
    let (connected, _) = meet(&foreign, &node, Role::ControlPlane).await;
    assert!(reason(connected).contains("spiffe://prod/cp/one is of another domain than test"));
    let (connected, _) = meet(&node, &foreign, Role::ControlPlane).await;
    assert!(reason(connected).contains("spiffe://test/cp/two is of another domain than prod"));
}

#[tokio::test]
async fn a_caller_of_another_domain_is_refused_though_it_takes_the_node() {
    let (ca, test) = (Ca::of("prod"), Ca::of("test"));
    let node = credentials(&ca, "spiffe://prod/cp/one", DAY, &[&ca, &test]);
    let issued = test.issue("spiffe://test/cp/two", DAY);
    let config = caller_of(&ca)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let (there, here) = duplex(1 << 16);
    let connect = TlsConnector::from(Arc::new(config)).connect("one".try_into().unwrap(), there);
    let (_, accepted) = tokio::join!(connect, node.accept(here, Role::ControlPlane));
    assert!(reason(accepted).contains("spiffe://test/cp/two is of another domain than prod"));
}

#[tokio::test]
async fn without_tls_or_a_certificate_there_is_no_link() {
    let ca = Ca::of("prod");
    let node = credentials(&ca, "spiffe://prod/cp/one", DAY, &[&ca]);
    let (mut there, here) = duplex(1 << 16);
    let (_, accepted) =
        tokio::join!(there.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), node.accept(here, Role::ControlPlane));
    assert!(reason(accepted).contains("corrupt message"));
    // One who takes the node, and shows nothing.
    let config = caller_of(&ca).with_no_client_auth();
    let (there, here) = duplex(1 << 16);
    let connect = TlsConnector::from(Arc::new(config)).connect("one".try_into().unwrap(), there);
    let (_, accepted) = tokio::join!(connect, node.accept(here, Role::ControlPlane));
    assert!(reason(accepted).contains("peer sent no certificates"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_a_link_ends_with_one() {
    let ca = Ca::of("prod");
    let node = credentials(&ca, "spiffe://prod/cp/one", DAY, &[&ca]);
    let expired = credentials(&ca, "spiffe://prod/cp/two", Duration::ZERO, &[&ca]);
    let short = credentials(&ca, "spiffe://prod/dp/edge", Duration::from_secs(2), &[&ca]);
    let (connected, accepted) = meet(&short, &node, Role::Proxy).await;
    let (_connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    let error = accepted.read_u8().await.unwrap_err().to_string();
    assert_eq!(error, "the certificate of spiffe://prod/dp/edge expired");
    let (_, accepted) = meet(&expired, &node, Role::ControlPlane).await;
    assert!(reason(accepted).contains("expired"));
}

#[tokio::test]
async fn files_are_read_again_and_bad_ones_change_nothing() {
    let (ca, next) = (Ca::of("prod"), Ca::of("prod"));
    let dir = tempfile::tempdir().unwrap();
    let files = place(dir.path(), &ca.issue("spiffe://prod/cp/one", DAY), &[&ca]);
    let node = Credentials::load(&files, Role::ControlPlane, "one").unwrap().unwrap();
    assert!(!node.look().unwrap(), "nothing has changed");
    // Both authorities are believed, then one issues what the other did.
    place(dir.path(), &ca.issue("spiffe://prod/cp/one", DAY), &[&ca, &next]);
    assert!(node.look().unwrap());
    let of_next = credentials(&next, "spiffe://prod/cp/two", DAY, &[&ca, &next]);
    let (connected, accepted) = meet(&of_next, &node, Role::ControlPlane).await;
    assert!(connected.is_ok() && accepted.is_ok());
    // A key that belongs to another certificate, and somebody else's certificate.
    let good = fs::read(dir.path().join("key.pem")).unwrap();
    fs::write(dir.path().join("key.pem"), ca.issue("spiffe://prod/cp/one", DAY).key).unwrap();
    let error = node.look().unwrap_err();
    assert!(matches!(&error, BadCredentials::Malformed("mtls.key_file", ..)), "{error}");
    fs::write(dir.path().join("key.pem"), good).unwrap();
    assert!(!node.look().unwrap());
    place(dir.path(), &ca.issue("spiffe://prod/cp/two", DAY), &[&ca]);
    assert!(matches!(node.look().unwrap_err(), BadCredentials::Foreign(..)));
    let (connected, accepted) = meet(&of_next, &node, Role::ControlPlane).await;
    assert!(connected.is_ok() && accepted.is_ok(), "the last good one is in use");
}

#[test]
fn what_cannot_be_used_names_its_setting() {
    let ca = Ca::of("prod");
    let dir = tempfile::tempdir().unwrap();
    let good = place(dir.path(), &ca.issue("spiffe://prod/cp/one", DAY), &[&ca]);
    let said = |files: &Files, role, name| Credentials::load(files, role, name).err().map(|e| e.to_string());
    assert_eq!(said(&good, Role::ControlPlane, "one"), None);
    assert!(Credentials::load(&Files::default(), Role::Proxy, "x").unwrap().is_none());
    let foreign = said(&good, Role::Proxy, "one").unwrap();
    assert!(foreign.ends_with("it is for spiffe://prod/cp/one, and this program is dp/one"), "{foreign}");
    assert!(said(&good, Role::ControlPlane, "two").unwrap().starts_with("mtls.cert_file: "));
    let without = Files { ca_file: None, ..good.clone() };
    assert!(said(&without, Role::ControlPlane, "one").unwrap().starts_with("mtls.ca_file is missing"));
    let absent = Files { key_file: Some(dir.path().join("absent")), ..good.clone() };
    assert!(said(&absent, Role::ControlPlane, "one").unwrap().starts_with("mtls.key_file: "));
    let empty = Files { ca_file: good.key_file.clone(), ..good.clone() };
    assert!(said(&empty, Role::ControlPlane, "one").unwrap().ends_with("no PEM text of certificates"));
    let plain = rcgen::generate_simple_self_signed(vec!["one.example".to_owned()]).unwrap();
    let issued = Issued { certificate: plain.cert.pem(), key: plain.signing_key.serialize_pem() };
    let nobody = place(dir.path(), &issued, &[&ca]);
    assert!(said(&nobody, Role::ControlPlane, "one").unwrap().contains("has 0 URIs"));
}

#[tokio::test]
async fn an_authority_is_opened_again_by_its_key() {
    let (_, kept) = Authority::found("prod", DAY).unwrap();
    let authority = Authority::open(&kept.certificate, &kept.key).unwrap();
    let ca = Ca { authority, certificate: kept.certificate };
    let [one, two] = ["one", "two"].map(|name| credentials(&ca, &format!("spiffe://prod/cp/{name}"), DAY, &[&ca]));
    let (connected, accepted) = meet(&two, &one, Role::ControlPlane).await;
    assert!(connected.is_ok() && accepted.is_ok());
    let other = Ca::of("prod");
    let said = |certificate: &str, key: &str| Authority::open(certificate, key).unwrap_err().to_string();
    assert!(said(&other.certificate, &kept.key).ends_with("it belongs to another certificate"));
    assert!(said("x", &kept.key).starts_with("the authority's certificate cannot be used"));
    assert!(said(&ca.certificate, "x").starts_with("the authority's key cannot be used"));
    let issued = ca.issue("spiffe://prod/cp/one", DAY);
    assert!(said(&issued.certificate, &issued.key).ends_with("it names no domain"));
    assert!(Authority::found("Prod", DAY).is_err());
    assert!(ca.authority.issue(Role::ControlPlane, None, DAY).is_err(), "a node needs a name");
}
