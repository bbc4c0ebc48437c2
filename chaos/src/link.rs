//! A link of our own between two processes: a TCP proxy with a bandwidth, which can be cut.
//!
//! All connections through a link share its bandwidth in each direction, as they share a wire.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes that go over the wire at once: what other connections wait for.
const FRAME_BYTES: usize = 8 << 10;

/// A link that works until it is dropped.
#[derive(Debug)]
pub struct Link {
    accepting: JoinHandle<()>,
    carried: Arc<[Wire; 2]>,
}

/// One direction: when it is free again, and what it has carried.
#[derive(Debug)]
struct Wire {
    bytes_per_second: u64,
    state: Mutex<WireState>,
}

#[derive(Debug)]
struct WireState {
    free_at: Instant,
    bytes: u64,
}

impl Link {
    /// Carries connections from `listen` to `target`, `bits_per_second` in each direction.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: &str, target: &str, bits_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("a link at {listen}"))?;
        let wire = || Wire {
            bytes_per_second: bits_per_second / 8,
            state: Mutex::new(WireState { free_at: Instant::now(), bytes: 0 }),
        };
        let carried = Arc::new([wire(), wire()]);
        let accepting = tokio::spawn(accept(listener, target.to_owned(), carried.clone()));
        Ok(Self { accepting, carried })
    }

    /// Bytes carried so far, towards the target and back.
    #[must_use]
    pub fn carried(&self) -> (u64, u64) {
        let bytes = |wire: &Wire| wire.state.lock().expect("no code panics while it holds a wire").bytes;
        (bytes(&self.carried[0]), bytes(&self.carried[1]))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: String, wires: Arc<[Wire; 2]>) {
    // Connections go with the link.
    let mut connections = JoinSet::new();
    while let Ok((from, _)) = listener.accept().await {
        let (target, wires) = (target.clone(), wires.clone());
        connections.spawn(async move {
            // A target that does not answer is a connection that is closed.
            let Ok(to) = TcpStream::connect(&target).await else { return };
            drop((from.set_nodelay(true), to.set_nodelay(true)));
            let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
            let there = carry(from_read, to_write, &wires[0]);
            let back = carry(to_read, from_write, &wires[1]);
            tokio::join!(there, back);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, wire: &Wire) {
    let mut frame = vec![0; FRAME_BYTES];
    while let Ok(read) = from.read(&mut frame).await
        && read > 0
    {
        tokio::time::sleep_until(wire.reserve(read)).await;
        if to.write_all(&frame[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

impl Wire {
    /// Takes the wire for so many bytes; gives the time at which they have arrived.
    fn reserve(&self, bytes: usize) -> Instant {
        let mut state = self.state.lock().expect("no code panics while it holds a wire");
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        state.free_at = state.free_at.max(Instant::now()) + takes;
        state.bytes += bytes as u64;
        state.free_at
    }
}
