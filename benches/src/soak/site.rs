//! A proxy with its configuration from a file, and clients of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::origin::Origin;
use crate::http::Client;
use crate::process::{Process, find};

pub(super) const PLAIN: &str = "127.40.2.1:9080";
pub(super) const TLS: &str = "127.40.2.1:9443";
const STATUS: &str = "127.40.2.1:7085";
/// The name of its certificate.
pub(super) const NAME: &str = "soak.test";
/// The longest that a program may take to be ready, and a single answer to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest head of an answer that is looked for.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Its settings, for a data directory in `dir` and this origin, with a certificate (in DER, which is returned).
pub(super) fn settings(dir: &Path, origin: &Origin, more: &[&str]) -> Result<(Vec<String>, Vec<u8>)> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let file = dir.join("apisix.yaml");
    let config = json!({
        "routes": [{
            "id": "all",
            "uri": "/*",
            "enable_websocket": true,
            "upstream": {"nodes": {origin.address.to_string(): 1}},
        }],
        "ssls": [{"id": "own", "snis": [NAME], "cert": made.cert.pem(), "key": made.signing_key.serialize_pem()}],
    });
    fs::write(&file, format!("{config}\n#END\n"))?;
    let all = [
        "node.name=soak".to_owned(),
        format!("data_dir={}", dir.join("dp").display()),
        format!("standalone.file={}", file.display()),
        format!("proxy.listen=[{PLAIN}]"),
        format!("proxy.tls.listen=[{TLS}]"),
        "proxy.workers=2".to_owned(),
        format!("status.listen={STATUS}"),
        "metrics.listen=127.40.2.1:9091".to_owned(),
        "control.listen=127.40.2.1:9090".to_owned(),
    ];
    let more = more.iter().map(|setting| (*setting).to_owned());
    let set = all.into_iter().chain(more).map(|setting| format!("--set={setting}"));
    Ok((std::iter::once("run".to_owned()).chain(set).collect(), made.cert.der().to_vec()))
}

/// Starts it and waits until it serves.
pub(super) async fn start(dir: &Path, args: &[String]) -> Result<Process> {
    let mut process = Process::spawn("dp", &find("dp-proxy")?, args, dir)?;
    ready(&mut process).await?;
    Ok(process)
}

pub(super) async fn ready(process: &mut Process) -> Result<()> {
    let began = Instant::now();
    loop {
        match Client::new(STATUS).get("/status/ready").await.and_then(|reply| reply.expect(&[200])) {
            Ok(_) => return Ok(()),
            Err(why) if began.elapsed() > PATIENCE => return Err(why.context("it does not come to serve")),
            Err(_) => process.runs()?,
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A connection to it.
pub(super) async fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect(PLAIN).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request without a body and reads the head of its answer, which must have this status. Gives it, and what came
/// behind it.
pub(super) async fn ask<S>(stream: &mut S, line: &str, status: u16) -> Result<(String, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).await?;
    head(stream, status).await
}

/// Reads the head of an answer.
pub(super) async fn head<S: AsyncRead + Unpin>(stream: &mut S, status: u16) -> Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let more = timeout(PATIENCE, stream.read_buf(&mut read)).await.context("no answer in time")??;
        ensure!(more > 0, "no answer, but the end of the connection");
        ensure!(read.len() < HEAD_BYTES_MAX, "an answer without an end of its head");
    };
    let rest = read.split_off(end);
    let text = String::from_utf8(read)?;
    if !text.starts_with(&format!("HTTP/1.1 {status} ")) {
        bail!("not {status}: {}", text.lines().next().unwrap_or_default());
    }
    Ok((text, rest))
}

/// Asks for `/` and reads the whole answer. Whether the connection goes on behind it.
pub(super) async fn get<S>(stream: &mut S) -> Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (head, mut rest) = ask(stream, "GET /", 200).await?;
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
    let length: usize = length.parse()?;
    while rest.len() < length {
        let more = timeout(PATIENCE, stream.read_buf(&mut rest)).await.context("no body in time")??;
        ensure!(more > 0, "a body that is cut off");
    }
    Ok(!head.contains("\r\nconnection: close"))
}
