//! Work that comes round: snapshots, purges of the log, and resources whose time is up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::ResourceKey;
use protocol::command::{Action, Command};
use protocol::seam::WallClock;
use raft_store::Applied;
use raft_store::feed::Feed;
use raft_store::log::LogStore;
use raft_store::types::{NodeId, Raft};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::propose::Proposer;
use crate::raft::Transfers;
use crate::settings::RaftSettings;

/// How often snapshots and purges are looked after.
const UPKEEP: Duration = Duration::from_millis(500);

/// How often expiries are looked after: a resource goes away up to so much later than its time.
const EXPIRY: Duration = Duration::from_millis(500);

/// How long proposing an expiry may take.
const EXPIRY_MAX: Duration = Duration::from_secs(5);

/// Expiries proposed in one round; the rest comes in the next.
const EXPIRIES_MAX: usize = 256;

/// Snapshots when enough has been applied, and purges behind them.
///
/// Both are driven from here, by time, because a trigger inside consensus is lost while a snapshot is being built; and
/// because a purge must not take away what a follower is still being sent.
pub(crate) async fn compact(
    raft: Raft,
    log: LogStore,
    applied: watch::Receiver<Applied>,
    transfers: Transfers,
    settings: RaftSettings,
) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = applied.borrow().clone();
        let Some(last) = now.log_id else { continue };
        let since_snapshot = last.index.saturating_sub(now.snapshot.map_or(0, |id| id.index));
        // The log in memory is bounded by bytes too: a few large entries are as good a reason as many small ones. While a
        // snapshot is being sent nothing behind it can go, and another one would be of no use.
        let is_large = log.size().bytes > settings.keep_bytes.0 && transfers.oldest().is_none();
        let due = since_snapshot >= settings.snapshot_entries || (is_large && since_snapshot > 0);
        if due && raft.trigger().snapshot().await.is_err() {
            return; // Consensus has stopped.
        }
        if let Some(upto) = purge_point(&raft, &log, &now, &transfers, &settings)
            && raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}

/// Up to where the log may be purged now: what the settings let go, of what is in a snapshot, of what no follower is
/// still being sent.
fn purge_point(
    raft: &Raft,
    log: &LogStore,
    applied: &Applied,
    transfers: &Transfers,
    settings: &RaftSettings,
) -> Option<u64> {
    let snapshot = applied.snapshot?.index;
    let allowed = log.purge_point(settings.keep_entries, settings.keep_bytes.0)?.index;
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let followers = metrics.replication.iter().flatten();
    // A follower far behind is sent the snapshot; one that is close gets its entries, unless it has vanished for long, or they
    // are more than the log may hold.
    let over_bytes = log.purge_point(u64::MAX, settings.keep_bytes.0).map_or(0, |id| id.index);
    let needed = followers
        .filter_map(|(_, matched)| matched.map(|matched| matched.index))
        .filter(|matched| *matched + settings.keep_entries >= snapshot)
        .min()
        .map(|needed| needed.max(over_bytes));
    let sending = transfers.oldest().unwrap_or(u64::MAX);
    let upto = allowed.min(snapshot).min(needed.unwrap_or(u64::MAX)).min(sending);
    (upto > metrics.purged.map_or(0, |purged| purged.index)).then_some(upto)
}

/// On the leader: proposes the end of resources whose time is up.
///
/// Time runs on the leader's monotonic clock and begins anew with a new leader, so that a resource may live longer than
/// it was given and never shorter, whatever the wall clocks do.
pub(crate) async fn expire(node: NodeId, raft: Raft, feed: Feed, proposer: Proposer, clock: Arc<dyn WallClock>) {
    let mut ticks = tokio::time::interval(EXPIRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // For each resource the change that it counts from, and when this leader first saw it.
    let mut seen: HashMap<ResourceKey, (u64, Instant)> = HashMap::new();
    let mut term = 0;
    loop {
        ticks.tick().await;
        let (leader, now_term) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        if leader != Some(node) || now_term != term {
            seen.clear();
            term = now_term;
            if leader != Some(node) {
                continue;
            }
        }
        let config = feed.config();
        let now = Instant::now();
        let mut due = Vec::new();
        let mut still = HashMap::new();
        for key in config.expiring() {
            let Some(entry) = config.get(key) else { continue };
            let modified = entry.modified.revision;
            let since = match seen.get(key) {
                Some((revision, since)) if *revision == modified => *since,
                _ => now,
            };
            still.insert(key.clone(), (modified, since));
            let is_due = entry.ttl_seconds.is_some_and(|ttl| now.duration_since(since) >= Duration::from_secs(ttl));
            // What others refer to stays until they are gone: it is not to be asked for again and again meanwhile.
            if is_due && config.referrers(key).next().is_none() {
                due.push((key.clone(), modified));
            }
        }
        seen = still;
        let mut under_way = tokio::task::JoinSet::new();
        for (key, modified) in due.into_iter().take(EXPIRIES_MAX) {
            let command = Command {
                origin: None,
                idempotency: None,
                request: format!("expiry of {key} at {modified}").into(),
                author: "system".into(),
                time: clock.now(),
                based_on: Vec::new(),
                action: Action::Expire { key, modified },
            };
            let proposer = proposer.clone();
            under_way.spawn(async move { proposer.propose(command, Instant::now() + EXPIRY_MAX).await });
        }
        // A refusal (it was changed, something refers to it) and a failure alike: the next round looks again.
        under_way.join_all().await;
    }
}
