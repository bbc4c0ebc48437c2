//! What goes on while faults come and go: clients of the Admin API, readers of every feed, traffic through every proxy,
//! and somebody who looks where everybody stands. All of it ends in the history.

mod admin;
mod feed;
mod looks;
mod origin;
mod probe;
mod resources;
mod routed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::arena::Arena;
use crate::cluster::Api;
use crate::history::Recorder;
use crate::patience::until;

pub use looks::Board;
pub use probe::{PROBE_PATH, generation};

/// How long a proxy may take to have the route of the probe.
const ROUTED_MAX: Duration = Duration::from_secs(10);

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Clients that write, read, and retry.
    pub clients: usize,
    /// The pause of a client between two operations.
    pub pause: Duration,
    /// Requests a second through each proxy.
    pub rate: u64,
    /// The pause between two generations of the route that they use.
    pub generation: Duration,
    /// Of so many values that clients write, one is [poison](crate::history::POISON); 0: none.
    pub poison_in: u64,
}

impl Size {
    /// Of most scenarios.
    pub const FULL: Self = Self {
        clients: 6,
        pause: Duration::from_millis(8),
        rate: 250,
        generation: Duration::from_millis(150),
        poison_in: 0,
    };
    /// Where much else goes on: programs end and start all the time.
    pub const LIGHT: Self = Self {
        clients: 4,
        pause: Duration::from_millis(15),
        rate: 100,
        generation: Duration::from_millis(300),
        poison_in: 0,
    };
    /// Where each change goes to thousands of subscribers, on the machine that all of it is on.
    pub const FEW_CHANGES: Self = Self {
        clients: 3,
        pause: Duration::from_millis(500),
        rate: 250,
        generation: Duration::from_secs(2),
        poison_in: 0,
    };
    /// With resources among them that no proxy can serve.
    pub const WITH_POISON: Self = Self { poison_in: 5, ..Self::FULL };
}

/// Everything that goes on. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Workload {
    stop_clients: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    others: JoinSet<()>,
    admin: Vec<String>,
    recorder: Recorder,
    _origins: Vec<origin::Origin>,
}

/// What its parts tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// The next value: no two writes have the same.
    value: AtomicU64,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    fulls: AtomicU64,
}

/// How much has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes whose outcome was not learned.
    pub unknown: u64,
    /// Full states that feeds have sent to the harness.
    pub fulls: u64,
}

impl Workload {
    /// Puts what the probe needs, and starts everything.
    ///
    /// # Errors
    /// What did not start.
    pub async fn start(arena: &Arena, size: Size, seed: u64, recorder: &Recorder, board: &Board) -> Result<Self> {
        let cluster = &arena.cluster;
        let mut origins = Vec::new();
        for number in 1..=2 {
            origins.push(origin::Origin::start(&cluster.layout.upstream(number)).await?);
        }
        let addresses = [origins[0].address.clone(), origins[1].address.clone()];
        let (stop_clients, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = Arc::new(Shared::default());
        let admin: Vec<String> = cluster.cps.iter().map(|cp| cp.addresses.admin.clone()).collect();
        let mut first = Api::at(&admin[0]);
        let body = generation(0, &addresses).to_string();
        first.call("POST", "/v1/transactions", &[], body).await?.expect(&[200])?;
        for dp in &cluster.dps {
            dp.ready().await?;
            // Ready with what came before is not enough: the first request would already be a failed one.
            until(&format!("{} has the route of the probe", dp.name()), ROUTED_MAX, async || {
                dp.client().get(&format!("{PROBE_PATH}/{}/first", dp.name())).await?.expect(&[200])
            })
            .await?;
        }
        let (mut clients, mut others) = (JoinSet::new(), JoinSet::new());
        for number in 0..size.clients {
            let client = admin::Client::new(number, seed, &admin, size.poison_in, recorder, &shared);
            clients.spawn(client.run(stop_clients.clone(), size.pause));
        }
        let doubtful = probe::Doubtful::default();
        let turning =
            probe::turn_generations(admin.clone(), addresses, size.generation, doubtful.clone(), stop_clients.clone());
        clients.spawn(turning);
        for cp in &cluster.cps {
            let mut feed = feed::Reader::new(cp.number, &cp.addresses.feed, seed, recorder, &shared);
            if cp.number == 1 {
                feed.leave_when(arena.away.subscribe());
            }
            others.spawn(feed.run(stop.clone()));
        }
        for dp in &cluster.dps {
            let seen: Vec<_> = origins.iter().map(|origin| origin.seen.clone()).collect();
            let probe = probe::Probe::new(dp.name(), &dp.addresses.proxy, size.rate, seen, recorder, board, &doubtful);
            others.spawn(probe.run(stop.clone()));
        }
        looks::start(cluster, recorder, board, &stop, &mut others);
        routed::start(cluster, recorder, &stop, &mut others);
        Ok(Self { stop_clients, stop, shared, clients, others, admin, recorder: recorder.clone(), _origins: origins })
    }

    /// How much has happened so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            acknowledged: get(&self.shared.acknowledged),
            unknown: get(&self.shared.unknown),
            fulls: get(&self.shared.fulls),
        }
    }

    /// Waits for so many more acknowledged writes.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn more(&self, writes: u64, within: Duration) -> Result<()> {
        let goal = self.progress().acknowledged + writes;
        until("writes are acknowledged", within, async || {
            let now = self.progress().acknowledged;
            ensure!(now >= goal, "{now} of {goal}");
            Ok(())
        })
        .await
    }

    /// Ends the clients, and has every node read everything once more.
    ///
    /// # Errors
    /// When a healed node does not answer.
    pub async fn stop_clients(&mut self, within: Duration) -> Result<()> {
        self.stop_clients.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended?;
        }
        for node in 1..=self.admin.len() {
            until(&format!("cp-{node} reads everything"), within, async || {
                admin::read_all(node, &self.admin, &self.recorder).await
            })
            .await?;
        }
        Ok(())
    }

    /// Stops everybody where he stands, when the run was broken off: what clients had under way is noted as unknown.
    pub async fn break_off(&mut self) {
        self.clients.shutdown().await;
        self.others.shutdown().await;
    }

    /// Waits for everybody else to note his last.
    ///
    /// # Errors
    /// When one has ended by a panic.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.others.join_next().await {
            ended?;
        }
        Ok(())
    }
}
