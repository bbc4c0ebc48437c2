//! A network of sockets: each wire leads through one of ours. Works without root, on every machine.
//!
//! ```text
//!   cp-1 --dials--> advertised address of cp-2 = a socket of ours --> peer.listen of cp-2
//!   dp-1 --dials--> its endpoint for cp-2      = a socket of ours --> feed.listen of cp-2
//!   cp-1 --dials--> its record, its archive    = a socket of ours --> PostgreSQL, the object store
//! ```
//!
//! A connection's two ends tell which wire it is. Whom it leads to is the socket that took it; who dialled is found as `ss -p`
//! finds it, by the socket's inode. A cut wire holds what is sent and delivers it after the heal, as TCP does whose packets are
//! lost meanwhile; a lossy one delays a part by a retransmission, likewise.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{End, Wire};
use crate::luck::Luck;
use crate::patience;

/// What is read at once.
const PART_BYTES: usize = 16 << 10;
/// Parts that are on a wire at once; a sender is held back by more.
const ON_WIRE_MAX: usize = 256;
/// What a lost packet costs: Linux retransmits after 200 ms at the earliest.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The sockets of a cluster's wires. They are gone when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    net: Arc<Net>,
    accepting: Vec<JoinHandle<()>>,
}

/// What connections know of their wires.
#[derive(Debug, Default)]
struct Net {
    /// From whom to whom, and how it is there.
    states: Mutex<HashMap<(End, End), watch::Sender<Wire>>>,
    /// What was held, delayed or lost: parts, and connections that were not made.
    met: AtomicU64,
}

impl Sockets {
    /// Leads whoever dials `listen` to `end` at `target`.
    pub(super) async fn add(&mut self, end: End, listen: &str, target: &str) -> Result<()> {
        let listener = patience::listen(listen).await.with_context(|| format!("wires at {listen}"))?;
        self.accepting.push(tokio::spawn(accept(listener, end, target.to_owned(), self.net.clone())));
        Ok(())
    }

    /// How much has met a wire that was not whole: parts of what was sent, and connections that were not made at once.
    pub(super) fn met(&self) -> u64 {
        self.net.met.load(Ordering::Relaxed)
    }

    /// Makes a wire so, in one direction.
    pub(super) fn set(&self, from: End, to: End, wire: Wire) {
        let mut states = self.net.states.lock().expect("nobody panics at the wires");
        states.entry((from, to)).or_insert_with(|| watch::channel(wire).0).send_replace(wire);
    }

    /// Makes all wires whole again.
    pub(super) fn heal(&self) {
        let states = self.net.states.lock().expect("nobody panics at the wires");
        for state in states.values() {
            state.send_replace(Wire::default());
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl Net {
    fn wire(&self, way: (End, End)) -> watch::Receiver<Wire> {
        let mut states = self.states.lock().expect("nobody panics at the wires");
        states.entry(way).or_insert_with(|| watch::channel(Wire::default()).0).subscribe()
    }

    /// Notes that something has met a wire that is so.
    fn meets(&self, wire: Wire) {
        if wire != Wire::default() {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn accept(listener: TcpListener, to: End, target: String, net: Arc<Net>) {
    // Connections go with the wires.
    let mut connections = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        let (target, net) = (target.clone(), net.clone());
        connections.spawn(async move {
            let Ok(listener) = stream.local_addr() else { return };
            // Whoever cannot be told from a node is no wire that could be cut: it dials again.
            let Ok(Some(from)) = tokio::task::spawn_blocking(move || dialler(peer, listener)).await else { return };
            let (there, back) = (net.wire((from, to)), net.wire((to, from)));
            // A connection is made when its first packets get through, both ways.
            for mut way in [there.clone(), back.clone()] {
                net.meets(Wire { cut: way.borrow().cut, ..Wire::default() });
                let gone = way.wait_for(|wire| !wire.cut).await.is_err();
                if gone {
                    return;
                }
            }
            let Ok(onward) = TcpStream::connect(&target).await else { return };
            drop((stream.set_nodelay(true), onward.set_nodelay(true)));
            let ((from_read, from_write), (to_read, to_write)) = (stream.into_split(), onward.into_split());
            // When one direction has ended, the other may go on for what is under way.
            tokio::join!(carry(from_read, to_write, there, &net), carry(to_read, from_write, back, &net));
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>, net: &Net) {
    let (put, mut taken) = mpsc::channel::<(Instant, Vec<u8>)>(ON_WIRE_MAX);
    let look = wire.clone();
    let send = async move {
        let mut luck = Luck::of(&[u64::from(from.peer_addr().map_or(0, |peer| peer.port()))]);
        let mut part = vec![0; PART_BYTES];
        while let Ok(read) = from.read(&mut part).await
            && read > 0
        {
            let wire = *look.borrow();
            let lost = if luck.below(100) < wire.lost_of_100 { RETRANSMISSION } else { Duration::ZERO };
            if wire.delay + lost > Duration::ZERO {
                net.meets(wire);
            }
            if put.send((Instant::now() + wire.delay + lost, part[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let receive = async move {
        while let Some((due, part)) = taken.recv().await {
            sleep_until(due).await;
            net.meets(Wire { cut: wire.borrow().cut, ..Wire::default() });
            let gone = wire.wait_for(|wire| !wire.cut).await.is_err();
            if gone || to.write_all(&part).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(send, receive);
}

/// Whose process dialled `to` from `from`; `None` when the connection is gone already.
fn dialler(from: SocketAddr, to: SocketAddr) -> Option<End> {
    let inode = inode(&fs::read_to_string("/proc/net/tcp").ok()?, from, to)?;
    let socket = format!("socket:[{inode}]");
    let node = fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        let end = named(&command)?;
        let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*socket)).then_some(end)
    });
    Some(node.unwrap_or(End::Other))
}

/// Whom a command line is of, whose words end with a zero.
fn named(command: &str) -> Option<End> {
    let name = command.split("node.name=").nth(1)?.split('\0').next()?;
    let (kind, number) = name.split_once('-')?;
    let number = number.parse().ok()?;
    match kind {
        "cp" => Some(End::Node(number)),
        "dp" => Some(End::Proxy(number)),
        _ => None,
    }
}

/// The inode of the dialling end of a connection in the kernel's table (proc_net_tcp(5)). Both ends are compared: where many
/// connections are, a local port is that of several, which lead to different places.
fn inode(table: &str, from: SocketAddr, to: SocketAddr) -> Option<String> {
    let written = |end: SocketAddr| match end {
        SocketAddr::V4(end) => Some(format!("{:08X}:{:04X}", u32::from_le_bytes(end.ip().octets()), end.port())),
        SocketAddr::V6(_) => None,
    };
    let (from, to) = (written(from)?, written(to)?);
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&&*from) && fields.get(2) == Some(&&*to);
        // A connection that is closed has no socket any more: its inode is 0.
        fields.get(9).filter(|inode| is_it && **inode != "0").map(|inode| (*inode).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dials_is_known_by_his_name() {
        let of = |name: &str| named(&format!("/bin/program\0run\0--set=node.name={name}\0--set=data_dir=/tmp/cp-7\0"));
        assert_eq!([of("cp-2"), of("dp-11"), of("alone")], [Some(End::Node(2)), Some(End::Proxy(11)), None]);
        assert_eq!(named("/bin/sh\0-c\0ls cp-2\0"), None);
    }

    #[test]
    fn a_connection_is_told_from_others_of_the_same_local_port() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C35A 0100007F:4E2A 06 00000000:00000000 03:00001769 00000000     0        0 0 3 0000000000000000
   1: 0100007F:C35A 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 71 1 0000000000000000
   2: 0100007F:C35A 0100007F:4E2A 01 00000000:00000000 00:00000000 00000000     0        0 72 1 0000000000000000
";
        let end = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(inode(table, end(0xC35A), end(0x4E2A)).as_deref(), Some("72"));
        assert_eq!(inode(table, end(0xC35A), end(0x4E2B)), None);
    }

    #[tokio::test]
    async fn a_wire_that_is_cut_one_way_holds_what_is_sent_that_way_until_it_is_healed() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut wires = Sockets::default();
        wires.add(End::Node(2), &free, &target.local_addr().unwrap().to_string()).await.unwrap();
        let mut near = TcpStream::connect(&free).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        let mut byte = [0; 1];
        wires.set(End::Other, End::Node(2), Wire { cut: true, ..Wire::default() });
        near.write_all(b"x").await.unwrap();
        far.write_all(b"y").await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y", "the other way is open");
        let held = tokio::time::timeout(Duration::from_millis(100), far.read_exact(&mut byte)).await;
        assert!(held.is_err(), "a cut wire lets something through");
        assert_eq!(wires.met(), 1, "the other way is whole");
        wires.heal();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }

    #[tokio::test]
    async fn the_sockets_of_wires_that_are_gone_are_free_for_the_next_ones() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        for _ in 0..3 {
            // As when a cluster does not start: what was made of it is dropped, and another one begins at once.
            Sockets::default().add(End::Node(1), &free, "127.0.0.1:1").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_slow_wire_takes_its_time() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut wires = Sockets::default();
        wires.add(End::Node(2), &free, &target.local_addr().unwrap().to_string()).await.unwrap();
        wires.set(End::Other, End::Node(2), Wire { delay: Duration::from_millis(80), ..Wire::default() });
        let mut near = TcpStream::connect(&free).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        assert_eq!(wires.met(), 0, "nothing was sent");
        let began = Instant::now();
        near.write_all(b"x").await.unwrap();
        far.read_exact(&mut [0; 1]).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
        assert_eq!(wires.met(), 1);
    }
}
