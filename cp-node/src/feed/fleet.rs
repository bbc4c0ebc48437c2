//! The proxies that are connected to this node, and what they last said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::Position;
use protocol::grpc::{Ack, Hello};
use serde::Serialize;
use tokio::time::Instant;

/// The registry. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fleet {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    links: BTreeMap<u64, Connected>,
    connected_ever: u64,
}

struct Connected {
    hello: Hello,
    address: String,
    since: Instant,
    last_ack: Option<(Instant, Ack)>,
}

/// A connected proxy; it is gone from the registry when this is dropped.
pub(crate) struct Link {
    fleet: Fleet,
    number: u64,
}

/// One proxy as the Admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DpStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its region.
    pub(crate) region: String,
    /// Its gateway group.
    pub(crate) group: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Where its stream comes from.
    pub(crate) address: String,
    /// For how long it has been connected, in seconds.
    pub(crate) connected_seconds: u64,
    /// The position that it last said it serves.
    pub(crate) position: Option<String>,
    /// The revision of that position.
    pub(crate) revision: Option<u64>,
    /// The digest that it named with it.
    pub(crate) digest: Option<String>,
    /// How long ago it said so, in seconds. The truth may be older than it looks: see this.
    pub(crate) last_seen_seconds: Option<u64>,
    /// Whether its position is not on its disk.
    pub(crate) volatile: bool,
    /// Resources whose newest entry it does not serve.
    pub(crate) rejected: Vec<RejectedStatus>,
}

/// A resource that a proxy does not serve as it is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RejectedStatus {
    /// Which kind.
    pub(crate) kind: String,
    /// Which id.
    pub(crate) id: String,
    /// Why.
    pub(crate) reason: String,
    /// Whether its last good entry is served in its place.
    pub(crate) last_good: bool,
}

impl Fleet {
    /// Takes a proxy in; `None` when there are `max` already.
    pub(super) fn connect(&self, hello: &Hello, address: &str, max: usize) -> Option<Link> {
        let mut inner = self.inner();
        if inner.links.len() >= max {
            return None;
        }
        let number = inner.next;
        inner.next += 1;
        inner.connected_ever += 1;
        let connected =
            Connected { hello: hello.clone(), address: address.to_owned(), since: Instant::now(), last_ack: None };
        inner.links.insert(number, connected);
        drop(inner);
        Some(Link { fleet: self.clone(), number })
    }

    /// How many are connected.
    pub(crate) fn connected(&self) -> usize {
        self.inner().links.len()
    }

    /// How many connections there have been.
    pub(crate) fn connected_ever(&self) -> u64 {
        self.inner().connected_ever
    }

    /// The lowest revision that a connected proxy serves.
    pub(crate) fn lowest_revision(&self) -> Option<u64> {
        let inner = self.inner();
        let revision = |link: &Connected| Some(link.last_ack.as_ref()?.1.position.as_ref()?.revision);
        inner.links.values().filter_map(revision).min()
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<DpStatus> {
        let inner = self.inner();
        let mut list: Vec<DpStatus> = inner.links.values().map(Connected::status).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the fleet")
    }
}

impl Connected {
    fn status(&self) -> DpStatus {
        let ack = self.last_ack.as_ref();
        let position = ack.and_then(|(_, ack)| ack.position.clone()).and_then(|p| Position::try_from(p).ok());
        let digest = ack.and_then(|(_, ack)| protocol::grpc::digest(&ack.digest, "digest").ok());
        let rejected = ack.map(|(_, ack)| ack.rejected.as_slice()).unwrap_or_default().iter();
        DpStatus {
            name: self.hello.name.clone(),
            version: self.hello.version.clone(),
            region: self.hello.region.clone(),
            group: self.hello.group.clone(),
            labels: self.hello.labels.clone().into_iter().collect(),
            address: self.address.clone(),
            connected_seconds: seconds(self.since.elapsed()),
            position: position.map(|p| p.to_string()),
            revision: position.map(|p| p.revision),
            digest: digest.map(|d| d.to_string()),
            last_seen_seconds: ack.map(|(at, _)| seconds(at.elapsed())),
            volatile: ack.is_some_and(|(_, ack)| ack.volatile),
            rejected: rejected
                .map(|r| RejectedStatus {
                    kind: r.kind.clone(),
                    id: r.id.clone(),
                    reason: r.reason.clone(),
                    last_good: r.last_good,
                })
                .collect(),
        }
    }
}

fn seconds(span: Duration) -> u64 {
    span.as_secs()
}

impl Link {
    /// It has said where it stands.
    pub(super) fn acked(&self, ack: Ack) {
        if let Some(connected) = self.fleet.inner().links.get_mut(&self.number) {
            connected.last_ack = Some((Instant::now(), ack));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.fleet.inner().links.remove(&self.number);
    }
}
