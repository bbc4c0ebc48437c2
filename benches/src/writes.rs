//! Durable writes: Holdfast's Admin PUT of a route beside etcd's Put of the same bytes under the same key.
//!
//! Both clusters run the whole time, on the same disk; their turns alternate, so that whatever else the machine does hits
//! both. A client waits for each answer before it writes again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::disk;
use crate::etcd::{Etcd, Kv};
use crate::figures::{Results, Times, as_millis, median, millis};
use crate::holdfast::{Api, Holdfast, api};
use crate::process::{directory, own_processor};

/// What is not counted at the beginning of a turn.
const WARM_UP: Duration = Duration::from_millis(500);

/// Keys that one client writes over and over.
const KEYS_OF_A_CLIENT: usize = 100;

/// How long the disk alone is measured.
const DISK: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Clients at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    clients: Vec<usize>,
    /// Turns of each, at each number of clients.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that count of each turn.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Which nodes are written to.
    #[arg(long, default_value = "leader")]
    to: To,
    /// Connections that etcd's clients share, at most; 0: each has its own, as Holdfast's have.
    #[arg(long, default_value_t = 0)]
    etcd_connections: usize,
    /// More settings of Holdfast's nodes, as `key=value`. Repeatable.
    #[arg(long = "set")]
    settings: Vec<String>,
    /// Leave etcd out.
    #[arg(long)]
    alone: bool,
}

/// Which nodes are written to.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// The leader: the best case of both.
    Leader,
    /// All three, each client to one: two thirds of the writes are passed on.
    All,
}

/// What came of a turn.
struct Turn {
    per_second: f64,
    times: Times,
    /// Processor time for each write, in the servers and in the clients.
    servers: Duration,
    clients: Duration,
    /// At Holdfast's leader.
    grouping: Option<Grouping>,
}

/// How a leader shared its work out.
#[derive(Clone, Copy)]
struct Grouping {
    writes_per_entry: f64,
    syncs_per_second: f64,
    sync_millis: f64,
}

/// Counters of Holdfast's leader.
#[derive(Clone, Copy)]
struct Counters([f64; 4]);

impl Counters {
    async fn read(holdfast: &Holdfast, leader: usize) -> Result<Self> {
        let names = ["proposed_commands_total", "proposed_entries_total", "log_syncs_total", "log_sync_seconds_total"];
        let mut counters = [0.0; 4];
        for (counter, name) in counters.iter_mut().zip(names) {
            *counter = holdfast.metric(leader, &format!("holdfast_cp_{name}")).await?;
        }
        Ok(Self(counters))
    }

    fn since(self, before: Self, seconds: f64) -> Grouping {
        let [commands, entries, syncs, busy] = std::array::from_fn(|i| self.0[i] - before.0[i]);
        Grouping {
            writes_per_entry: commands / entries.max(1.0),
            syncs_per_second: syncs / seconds,
            sync_millis: 1000.0 * busy / syncs.max(1.0),
        }
    }
}

/// Whoever takes writes.
enum System {
    Holdfast(Box<Holdfast>),
    Etcd(Etcd),
}

/// One client.
enum Writer {
    Holdfast(Api),
    Etcd(Kv),
}

pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let dir = directory()?;
    let mut systems = vec![System::Holdfast(Box::new(Holdfast::start(dir.path(), &arguments.settings).await?))];
    if !arguments.alone {
        systems.push(System::Etcd(Etcd::start(dir.path()).await?));
    }
    let mut results = Results::new(
        "writes",
        &[
            "clients",
            "system",
            "writes/s",
            "p50 ms",
            "p99 ms",
            "server CPU us/write",
            "client CPU us/write",
            "writes/s against etcd",
        ],
    );
    let before = disk::syncs(dir.path(), DISK)?;
    for clients in &arguments.clients {
        let mut turns: Vec<Vec<Turn>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..arguments.rounds {
            for (system, turns) in systems.iter_mut().zip(&mut turns) {
                turns.push(turn(system, *clients, &arguments).await.with_context(|| system.name())?);
            }
        }
        let rates: Vec<f64> = turns.iter().map(|turns| middle(turns, |turn| turn.per_second)).collect();
        for ((system, turns), rate) in systems.iter().zip(&turns).zip(&rates) {
            let ratio = match (system, rates.get(1)) {
                (System::Holdfast(_), Some(peer)) => format!("{:.2}", rate / peer),
                _ => "1".to_owned(),
            };
            results.row(vec![
                clients.to_string(),
                system.name().to_owned(),
                format!("{rate:.0}"),
                millis(middle(turns, |turn| as_millis(turn.times.quantile(0.5)))),
                millis(middle(turns, |turn| as_millis(turn.times.quantile(0.99)))),
                format!("{:.0}", middle(turns, |turn| turn.servers.as_secs_f64() * 1e6)),
                format!("{:.0}", middle(turns, |turn| turn.clients.as_secs_f64() * 1e6)),
                ratio,
            ]);
            let range: Vec<String> = turns.iter().map(|turn| format!("{:.0}", turn.per_second)).collect();
            results.note(format!("{clients} clients, {}, writes/s by round: {}", system.name(), range.join(", ")));
            if turns.iter().all(|turn| turn.grouping.is_some()) {
                let of = |of: fn(Grouping) -> f64| middle(turns, |turn| turn.grouping.map_or(0.0, of));
                results.note(format!(
                    "{clients} clients, {}, its leader: {:.1} writes an entry, {:.0} syncs of the log a second, {} ms each",
                    system.name(),
                    of(|grouping| grouping.writes_per_entry),
                    of(|grouping| grouping.syncs_per_second),
                    millis(of(|grouping| grouping.sync_millis)),
                ));
            }
        }
    }
    let after = disk::syncs(dir.path(), DISK)?;
    for (when, syncs) in [("before", before), ("after", after)] {
        results.note(format!(
            "the disk alone, {when}: {:.0} appends of 4 KiB a second with fdatasync, p50 {} ms, p99 {} ms",
            syncs.count() as f64 / DISK.as_secs_f64(),
            millis(as_millis(syncs.quantile(0.5))),
            millis(as_millis(syncs.quantile(0.99))),
        ));
    }
    results.note("a row is the median of its rounds; the turns of both systems alternate".to_owned());
    note_disk(dir.path(), &mut results);
    Ok(results)
}

fn note_disk(dir: &Path, results: &mut Results) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let holds = |line: &&str| line.split(' ').nth(1).is_some_and(|at| dir.starts_with(at));
    let longest = mounts.lines().filter(holds).max_by_key(|line| line.split(' ').nth(1).map_or(0, str::len));
    if let Some(mount) = longest {
        results.note(format!("the disk: {}", mount.split(' ').take(3).collect::<Vec<_>>().join(" ")));
    }
}

fn middle(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> f64 {
    median(&turns.iter().map(of).collect::<Vec<_>>())
}

async fn turn(system: &mut System, clients: usize, arguments: &Arguments) -> Result<Turn> {
    let leader = system.leader().await?;
    let node = |client: usize| if arguments.to == To::All { client % 3 + 1 } else { leader };
    let writers = system.writers(clients, node, arguments.etcd_connections).await?;
    let from = Instant::now() + WARM_UP;
    let to = from + Duration::from_secs(arguments.seconds);
    let mut writing = tokio::task::JoinSet::new();
    for (client, writer) in writers.into_iter().enumerate() {
        writing.spawn(write(writer, client, from, to));
    }
    tokio::time::sleep_until(from.into()).await;
    let (servers, own, counters) = (system.processor(), own_processor(), system.counters(leader).await?);
    tokio::time::sleep_until(to.into()).await;
    let (servers, own) = (system.processor() - servers, own_processor() - own);
    let seconds = from.elapsed().as_secs_f64();
    let grouping = match (system.counters(leader).await?, counters) {
        (Some(after), Some(before)) => Some(after.since(before, seconds)),
        _ => None,
    };
    let mut times = Vec::new();
    while let Some(written) = writing.join_next().await {
        times.extend(written??);
    }
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    if count == 0 {
        bail!("nothing was written");
    }
    Ok(Turn {
        per_second: f64::from(count) / arguments.seconds as f64,
        times: Times::new(times),
        servers: servers / count,
        clients: own / count,
        grouping,
    })
}

/// Writes until the time is up; gives the times of the writes that ended within the time that counts.
async fn write(mut writer: Writer, client: usize, from: Instant, to: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0.. {
        let began = Instant::now();
        if began >= to {
            break;
        }
        writer.put(&format!("bench-{client}-{}", number % KEYS_OF_A_CLIENT), number).await?;
        let ended = Instant::now();
        if (from..to).contains(&ended) {
            times.push(ended - began);
        }
    }
    Ok(times)
}

/// A route that differs from the one that it replaces.
fn body(number: usize) -> String {
    format!(
        r#"{{"name":"orders-{number}","uri":"/api/v1/orders-{number}/*","host":"shop.example.com","methods":["GET","POST"],"upstream":{{"type":"roundrobin","nodes":{{"10.0.0.1:8080":1,"10.0.0.2:8080":1}}}}}}"#
    )
}

impl Writer {
    async fn put(&mut self, id: &str, number: usize) -> Result<()> {
        match self {
            Self::Holdfast(api) => api.put("routes", id, &body(number)).await,
            Self::Etcd(kv) => kv.put(format!("/apisix/routes/{id}"), body(number).into()).await,
        }
    }
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            Self::Holdfast(_) => "holdfast",
            Self::Etcd(_) => "etcd",
        }
    }

    async fn leader(&mut self) -> Result<usize> {
        match self {
            Self::Holdfast(holdfast) => holdfast.leader().await,
            Self::Etcd(etcd) => etcd.leader().await,
        }
    }

    async fn counters(&self, leader: usize) -> Result<Option<Counters>> {
        match self {
            Self::Holdfast(holdfast) => Counters::read(holdfast, leader).await.map(Some),
            Self::Etcd(_) => Ok(None),
        }
    }

    fn processor(&self) -> Duration {
        match self {
            Self::Holdfast(holdfast) => holdfast.processor(),
            Self::Etcd(etcd) => etcd.processor(),
        }
    }

    async fn writers(&self, clients: usize, node: impl Fn(usize) -> usize, shared: usize) -> Result<Vec<Writer>> {
        let mut writers = Vec::new();
        let mut connections: Vec<Kv> = Vec::new();
        for client in 0..clients {
            writers.push(match self {
                Self::Holdfast(_) => Writer::Holdfast(api(node(client))),
                Self::Etcd(_) if shared > 0 && client >= shared => Writer::Etcd(connections[client % shared].clone()),
                Self::Etcd(_) => {
                    let connection = Kv::connect(node(client)).await?;
                    connections.push(connection.clone());
                    Writer::Etcd(connection)
                }
            });
        }
        Ok(writers)
    }
}
