//! The proxies that are connected to this node or were until a moment ago, and what they last said.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::Position;
use protocol::grpc::{Ack, FleetProxy, FleetReply, Hello, RejectedResource};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::capability;

/// Proxies that a warning names; the rest is counted.
const LACKING_NAMED_MAX: usize = 5;

/// Lost proxies that are remembered; of more than that the longest lost are forgotten.
const LOST_MAX: usize = 20_000;

/// After a change of the fleet, so long is waited for others to follow before everything is looked at again: a fleet
/// acknowledges a change within moments.
const GATHER: Duration = Duration::from_millis(5);

/// The registry. Clones share it.
#[derive(Clone)]
pub(crate) struct Fleet {
    inner: Arc<Mutex<Inner>>,
    /// Counts changes.
    changes: Arc<watch::Sender<u64>>,
    /// For so long a proxy that has gone still counts.
    lost_after: Duration,
    started: Instant,
    /// Whether this node had a life before, in which it may have known of proxies.
    had_a_life: bool,
}

#[derive(Default)]
struct Inner {
    next: u64,
    links: BTreeMap<u64, Connected>,
    /// By name.
    lost: BTreeMap<String, (Instant, Connected)>,
    connected_ever: u64,
    asked_ever: u64,
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
    /// The node that it follows, or followed.
    pub(crate) node_id: u64,
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
    /// How long ago its connection began, in seconds.
    pub(crate) connected_seconds: u64,
    /// How long ago it went, in seconds; `None`: it is connected.
    pub(crate) lost_seconds: Option<u64>,
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
    /// Nobody yet. A proxy that has gone counts for `lost_after`; `had_a_life` says that the node ran before.
    pub(crate) fn new(lost_after: Duration, had_a_life: bool) -> Self {
        Self {
            inner: Arc::default(),
            // 0 is what one has seen who has seen nothing.
            changes: Arc::new(watch::Sender::new(1)),
            lost_after,
            started: Instant::now(),
            had_a_life,
        }
    }

    /// Everybody, once all who are connected serve `serving` and something is new since the version `seen`; at the latest
    /// after `wait`.
    pub(crate) async fn look(&self, node: u64, serving: Position, seen: u64, wait: Duration) -> FleetReply {
        self.inner().asked_ever += 1;
        let mut changes = self.changes.subscribe();
        let until = Instant::now() + wait;
        loop {
            let reply = self.report(node, *changes.borrow_and_update());
            let serves = |proxy: &FleetProxy| proxy.lost_ms.is_some() || serves(proxy.ack.as_ref(), serving);
            if Instant::now() >= until || (reply.version != seen && reply.proxies.iter().all(serves)) {
                return reply;
            }
            // Over time, or something has changed: both lead to another look.
            if let Ok(Ok(())) = tokio::time::timeout_at(until, changes.changed()).await {
                tokio::time::sleep_until(until.min(Instant::now() + GATHER)).await;
            }
        }
    }

    fn report(&self, node: u64, version: u64) -> FleetReply {
        let inner = self.inner();
        let connected = inner.links.values().map(|link| link.report(None));
        let lost = inner.lost.values().filter(|(at, _)| at.elapsed() < self.lost_after);
        let lost = lost.map(|(at, link)| link.report(Some(at.elapsed())));
        FleetReply {
            node_id: node,
            forgetful: self.had_a_life && self.started.elapsed() < self.lost_after,
            version,
            proxies: connected.chain(lost).collect(),
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

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
        inner.lost.remove(&hello.name);
        drop(inner);
        self.changed();
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

    /// How often somebody looked: whoever waits for the fleet, or shows it.
    pub(crate) fn asked_ever(&self) -> u64 {
        self.inner().asked_ever
    }

    /// The lowest revision that a connected proxy serves.
    pub(crate) fn lowest_revision(&self) -> Option<u64> {
        let inner = self.inner();
        let revision = |link: &Connected| Some(link.last_ack.as_ref()?.1.position.as_ref()?.revision);
        inner.links.values().filter_map(revision).min()
    }

    /// What is worth a word about something that takes these capabilities: connected proxies that lack one.
    pub(crate) fn warnings(&self, needed: &BTreeSet<String>) -> Vec<String> {
        let inner = self.inner();
        let lacking = needed.iter().filter_map(|capability| {
            let who = inner.links.values().map(|link| &link.hello).filter(|hello| capability::lacks(hello, capability));
            let mut names: Vec<&str> = who.map(|hello| hello.name.as_str()).collect();
            names.sort_unstable();
            let rest = names.len().saturating_sub(LACKING_NAMED_MAX);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let shown = &names[..names.len() - rest];
            let of = inner.links.len();
            (!names.is_empty()).then(|| {
                format!(
                    "{} of {of} proxies at this node do not know {capability}: {}{more}",
                    names.len(),
                    shown.join(", ")
                )
            })
        });
        lacking.collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the fleet")
    }
}

/// Whether an ack says that a position is served, from a disk that keeps it.
pub(crate) fn serves(ack: Option<&Ack>, serving: Position) -> bool {
    let position = ack.and_then(|ack| ack.position.clone()).and_then(|position| Position::try_from(position).ok());
    let is_there = position.is_some_and(|at| matches!(serving.compare(&at), Ok(Ordering::Less | Ordering::Equal)));
    is_there && ack.is_some_and(|ack| !ack.volatile)
}

impl Connected {
    fn report(&self, lost: Option<Duration>) -> FleetProxy {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let hello = Hello { position: None, changed_at: None, digest: bytes::Bytes::new(), ..self.hello.clone() };
        FleetProxy {
            hello: Some(hello),
            ack: self.last_ack.as_ref().map(|(_, ack)| ack.clone()),
            connected_ms: millis(self.since.elapsed()),
            lost_ms: lost.map(millis),
            address: self.address.clone(),
            ack_ms: self.last_ack.as_ref().map(|(at, _)| millis(at.elapsed())),
        }
    }
}

impl DpStatus {
    /// What a node knows of a proxy.
    pub(crate) fn of(node_id: u64, proxy: FleetProxy) -> Self {
        let FleetProxy { hello, ack, connected_ms, lost_ms, address, ack_ms } = proxy;
        let hello = hello.unwrap_or_default();
        let ack = ack.unwrap_or_default();
        let position = ack.position.and_then(|position| Position::try_from(position).ok());
        let digest = protocol::grpc::digest(&ack.digest, "digest").ok();
        let seconds = |millis: u64| millis / 1000;
        Self {
            node_id,
            name: hello.name,
            version: hello.version,
            region: hello.region,
            group: hello.group,
            labels: hello.labels.into_iter().collect(),
            address,
            connected_seconds: seconds(connected_ms),
            lost_seconds: lost_ms.map(seconds),
            position: position.map(|position| position.to_string()),
            revision: position.map(|position| position.revision),
            digest: digest.map(|digest| digest.to_string()),
            last_seen_seconds: ack_ms.map(seconds),
            volatile: ack.volatile,
            rejected: ack.rejected.into_iter().map(RejectedStatus::from).collect(),
        }
    }
}

impl From<RejectedResource> for RejectedStatus {
    fn from(rejected: RejectedResource) -> Self {
        let RejectedResource { kind, id, reason, last_good } = rejected;
        Self { kind, id, reason, last_good }
    }
}

impl Link {
    /// It has said where it stands.
    pub(super) fn acked(&self, ack: Ack) {
        if let Some(connected) = self.fleet.inner().links.get_mut(&self.number) {
            connected.last_ack = Some((Instant::now(), ack));
        }
        self.fleet.changed();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut inner = self.fleet.inner();
        let Some(gone) = inner.links.remove(&self.number) else { return };
        let now = Instant::now();
        inner.lost.retain(|_, (at, _)| now.duration_since(*at) < self.fleet.lost_after);
        if inner.lost.len() >= LOST_MAX
            && let Some(oldest) = inner.lost.iter().min_by_key(|(_, (at, _))| *at).map(|(name, _)| name.clone())
        {
            inner.lost.remove(&oldest);
        }
        // It may be connected anew already.
        if !inner.links.values().any(|link| link.hello.name == gone.hello.name) {
            inner.lost.insert(gone.hello.name.clone(), (now, gone));
        }
        drop(inner);
        self.fleet.changed();
    }
}

#[cfg(test)]
mod tests {
    use protocol::Epoch;

    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(30);

    fn at(revision: u64) -> Position {
        Position { epoch: Epoch { number: 1, ..Epoch::default() }, revision }
    }

    fn connect(fleet: &Fleet, name: &str) -> Link {
        let hello = Hello { name: name.into(), group: "default".into(), ..Hello::default() };
        fleet.connect(&hello, "127.0.0.1:1", 10).unwrap()
    }

    fn ack(revision: u64) -> Ack {
        Ack { position: Some(at(revision).into()), ..Ack::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_when_everybody_serves_or_the_time_is_over() {
        let fleet = Fleet::new(LOST_AFTER, false);
        let began = Instant::now();
        let reply = fleet.look(1, at(5), 0, Duration::from_secs(9)).await;
        assert_eq!((reply.proxies.len(), began.elapsed()), (0, Duration::ZERO), "nobody is missing");
        let link = connect(&fleet, "a");
        link.acked(ack(4));
        let reply = fleet.look(1, at(5), 0, Duration::from_secs(9)).await;
        assert_eq!((reply.proxies.len(), began.elapsed()), (1, Duration::from_secs(9)));
        let looking = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.look(1, at(5), 0, Duration::from_secs(9)).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        link.acked(ack(5));
        let reply = looking.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
        // Whoever has seen this is not told again before something changes.
        let again = Instant::now();
        fleet.look(1, at(5), reply.version, Duration::from_secs(2)).await;
        assert_eq!(again.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn proxies_that_lack_what_is_needed_are_named() {
        let fleet = Fleet::new(LOST_AFTER, false);
        let join = |n: usize| {
            let capabilities = vec!["kind/routes".to_owned(), "plugin/cors".to_owned()];
            let hello = Hello { name: format!("p{n}"), capabilities, ..Hello::default() };
            fleet.connect(&hello, "127.0.0.1:1", 10).unwrap()
        };
        let links: Vec<Link> = (0..7).map(join).collect();
        let needed = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        assert!(fleet.warnings(&needed(&["kind/routes", "plugin/cors"])).is_empty());
        assert_eq!(
            fleet.warnings(&needed(&["kind/routes", "plugin/new"])),
            ["7 of 7 proxies at this node do not know plugin/new: p0, p1, p2, p3, p4 and 2 more"]
        );
        drop(links);
        assert!(fleet.warnings(&needed(&["plugin/new"])).is_empty(), "nobody is there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_proxy_counts_for_a_while() {
        let fleet = Fleet::new(LOST_AFTER, false);
        let link = connect(&fleet, "a");
        link.acked(ack(5));
        drop(link);
        let report = async || fleet.look(1, at(5), 0, Duration::ZERO).await.proxies;
        tokio::time::advance(LOST_AFTER - Duration::from_secs(1)).await;
        let lost = report().await;
        assert_eq!((lost.len(), lost[0].lost_ms, serves(lost[0].ack.as_ref(), at(5))), (1, Some(29_000), true));
        let again = connect(&fleet, "a");
        assert_eq!(report().await.iter().map(|proxy| proxy.lost_ms).collect::<Vec<_>>(), [None], "it is back");
        // A second connection of the same name outlives the first.
        let newer = connect(&fleet, "a");
        drop(again);
        assert_eq!(report().await.len(), 1);
        drop(newer);
        tokio::time::advance(LOST_AFTER).await;
        assert!(report().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_with_a_past_may_have_forgotten_somebody() {
        for (had_a_life, expected) in [(false, false), (true, true)] {
            let fleet = Fleet::new(LOST_AFTER, had_a_life);
            assert_eq!(fleet.look(1, at(1), 0, Duration::ZERO).await.forgetful, expected);
            tokio::time::advance(LOST_AFTER).await;
            assert!(!fleet.look(1, at(1), 0, Duration::ZERO).await.forgetful);
        }
    }
}
