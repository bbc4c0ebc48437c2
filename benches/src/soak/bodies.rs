//! Bodies of gigabytes in both directions, in constant memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use super::mebibytes;
use super::origin::{Origin, PIECE};
use super::site::{self, NAME, TLS};
use crate::process::Process;

/// What the proxy may hold more while a body goes through it.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What a client of HTTP/2 lets a server send before it has taken it.
const WINDOW: u32 = 1 << 20;

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

pub(super) async fn run(dir: &Path, bytes: u64) -> Result<String> {
    let origin = Origin::start().await?;
    let (args, certificate) = site::settings(dir, &origin, &[])?;
    let process = site::start(dir, &args).await?;
    let mut figures = Vec::new();
    let (mut before, mut most) = (u64::MAX, 0);
    for (name, alpn) in [("HTTP/1", None), ("HTTP/1 by TLS", Some("http/1.1")), ("HTTP/2 by TLS", Some("h2"))] {
        for (way, word) in [(Way::Down, "down"), (Way::Up, "up")] {
            let began = Instant::now();
            let transfer = transfer(alpn, &certificate, way, bytes);
            let (least, peak) = watch(&process, transfer).await.with_context(|| format!("{name} {word}"))?;
            let rate = bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64();
            figures.push(format!("{name} {word} {rate:.0} MiB/s"));
            (before, most) = (before.min(least), most.max(peak));
            let grown = peak - least;
            ensure!(grown <= GROWTH_BYTES_MAX, "{name} {word}: {} more in memory", mebibytes(grown));
        }
    }
    let memory = format!("memory {} before, {} at most", mebibytes(before), mebibytes(most));
    Ok(format!("{} in each direction; {memory}; {}", mebibytes(bytes), figures.join(", ")))
}

/// What a process holds before and at most while something lasts.
async fn watch(process: &Process, work: impl Future<Output = Result<()>>) -> Result<(u64, u64)> {
    let before = process.resident()?;
    let mut most = before;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done.map(|()| (before, most)),
            () = sleep(LOOK) => most = most.max(process.resident()?),
        }
    }
}

async fn transfer(alpn: Option<&str>, certificate: &[u8], way: Way, bytes: u64) -> Result<()> {
    let Some(alpn) = alpn else { return by_http1(site::connect().await?, way, bytes).await };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec()))?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let tcp = tokio::net::TcpStream::connect(TLS).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, tcp).await?;
    if alpn == "h2" { by_http2(stream, way, bytes).await } else { by_http1(stream, way, bytes).await }
}

async fn by_http1<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, way: Way, bytes: u64) -> Result<()> {
    match way {
        Way::Down => {
            let (_, rest) = site::ask(&mut stream, &format!("GET /down/{bytes}"), 200).await?;
            let mut left = bytes - rest.len() as u64;
            let mut piece = vec![0; PIECE];
            while left > 0 {
                let read = stream.read(&mut piece).await?;
                ensure!(read > 0, "cut off {left} bytes before its end");
                left = left.checked_sub(read as u64).context("more than there is")?;
            }
        }
        Way::Up => {
            let head = format!("POST /up HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let piece = vec![0; PIECE];
            let mut left = bytes;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
                stream.write_all(&piece[..most]).await?;
                left -= most as u64;
            }
            stream.flush().await?;
            let (_, mut body) = site::head(&mut stream, 200).await?;
            while body.len() < bytes.to_string().len() && stream.read_buf(&mut body).await? > 0 {}
            ensure!(body == bytes.to_string().as_bytes(), "the origin counted {:?}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}

async fn by_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, way: Way, bytes: u64) -> Result<()> {
    let mut builder = client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let running = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    match way {
        Way::Down => {
            let request = hyper::Request::get(format!("https://{NAME}/down/{bytes}")).body(())?;
            let (answer, _) = sender.send_request(request, true)?;
            let answer = answer.await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            ensure!(taken(answer.into_body(), |_| ()).await? == bytes, "cut off");
        }
        Way::Up => {
            let request = hyper::Request::post(format!("https://{NAME}/up")).header("content-length", bytes).body(())?;
            let (answer, mut body) = sender.send_request(request, false)?;
            let piece = Bytes::from(vec![0; PIECE]);
            let mut left = bytes;
            while left > 0 {
                body.reserve_capacity(PIECE);
                let room =
                    std::future::poll_fn(|cx| body.poll_capacity(cx)).await.context("the stream is closed")??;
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(room).min(PIECE);
                left -= most as u64;
                body.send_data(piece.slice(..most), left == 0)?;
            }
            let answer = answer.await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            let mut counted = Vec::new();
            taken(answer.into_body(), |data| counted.extend_from_slice(data)).await?;
            ensure!(counted == bytes.to_string().as_bytes(), "counted {:?}", String::from_utf8_lossy(&counted));
        }
    }
    running.abort();
    Ok(())
}

/// Takes a body to its end; gives its length.
async fn taken(mut body: h2::RecvStream, mut look: impl FnMut(&[u8])) -> Result<u64> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        look(&data);
        length += data.len() as u64;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(length)
}
