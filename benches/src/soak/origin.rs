//! An origin for long runs, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What is sent or read at once.
pub(super) const PIECE: usize = 256 << 10;
/// What is said between two pauses of a download that does not end.
pub(super) const TRICKLE: &[u8] = b"4\r\nlong\r\n";
const PAUSE: Duration = Duration::from_millis(20);

/// A running origin: `/down/<bytes>` is answered with so many, `/up` with how many came, `/ws` with a tunnel that echoes,
/// `/long` without an end, and everything else at once. It ends when this is dropped.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Origin {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.40.2.9:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A proxy that goes away ends it.
                tokio::spawn(serve(stream));
            }
        });
        Ok(Self { address, accepting })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut piece = vec![0; PIECE];
    loop {
        let (mut target, mut length) = (String::new(), 0_u64);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if target.is_empty() {
                target = line.split(' ').nth(1).context("a request line")?.to_owned();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let read = stream.read(&mut piece[..most]).await?;
            if read == 0 {
                return Ok(());
            }
            left -= read as u64;
        }
        let out = stream.get_mut();
        if let Some(bytes) = target.strip_prefix("/down/") {
            let mut left: u64 = bytes.parse()?;
            out.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes()).await?;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
                out.write_all(&piece[..most]).await?;
                left -= most as u64;
            }
        } else if target == "/ws" {
            out.write_all(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await?;
            loop {
                let read = stream.read(&mut piece).await?;
                if read == 0 {
                    return Ok(());
                }
                stream.write_all(&piece[..read]).await?;
            }
        } else if target == "/long" {
            out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                out.write_all(TRICKLE).await?;
                sleep(PAUSE).await;
            }
        } else {
            let body = length.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            out.write_all(head.as_bytes()).await?;
        }
    }
}
