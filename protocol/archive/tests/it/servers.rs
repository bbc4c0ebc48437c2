//! S3 servers to test against: one that checks signatures, one that is exact about conditions.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use archive::settings::{ArchiveSettings, S3Settings};
use daemon::settings::units::Span;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::process::{Child, Command};

const ACCESS: &str = "AKIATEST";
const SECRET: &str = "a secret of the tests";
pub(crate) const BUCKET: &str = "bucket";

/// A server in this process over a directory (s3s-fs): it checks signatures.
pub(crate) struct Checking {
    pub(crate) settings: ArchiveSettings,
    _root: tempfile::TempDir,
}

pub(crate) fn settings(endpoint: String) -> ArchiveSettings {
    ArchiveSettings {
        s3: S3Settings {
            bucket: BUCKET.to_owned(),
            endpoint,
            region: "us-east-1".to_owned(),
            path_style: true,
            access_key_id: ACCESS.to_owned(),
            secret_access_key: SECRET.to_owned(),
            timeout: Span(Duration::from_secs(10)),
            ..S3Settings::default()
        },
        ..ArchiveSettings::default()
    }
}

impl Checking {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let listener = tokio::net::TcpListener::from_std({
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
        .unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // A client that goes away is no concern of the tests.
                    let _ = Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { settings: settings(endpoint), _root: root }
    }
}

/// `moto_server` in a process of its own: exact about conditional puts, and takes any signature.
pub(crate) struct Moto {
    pub(crate) settings: ArchiveSettings,
    pub(crate) address: SocketAddr,
    _process: Child,
}

impl Moto {
    pub(crate) async fn start() -> Self {
        let program = std::env::var_os("MOTO_SERVER").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/moto/bin/moto_server"),
            PathBuf::from,
        );
        assert!(program.exists(), "{} is missing: `make moto` installs it", program.display());
        // At an address of this process alone: at 127.0.0.1 somebody else might take the port before the server does.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = TcpListener::bind((Ipv4Addr::new(127, 64 | a, b, c), 0)).unwrap().local_addr().unwrap();
        let process = Command::new(program)
            .args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let settings = settings(format!("http://{address}"));
        let mut ready = false;
        for _ in 0..600 {
            ready = tokio::net::TcpSocket::new_v4().unwrap().connect(address).await.is_ok();
            if ready {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(ready, "moto_server does not listen");
        create_bucket(address).await;
        Self { settings, address, _process: process }
    }
}

/// Moto asks for no signature; what a bucket is made with is no part of the client under test.
async fn create_bucket(address: SocketAddr) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!(
        "PUT /{BUCKET} HTTP/1.1\r\nhost: {address}\r\nauthorization: AWS4-HMAC-SHA256 Credential={ACCESS}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
