//! Runs a scenario: well for a while, fault by fault, healed, well again, judged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::verdict::{self, WRITES_MIN};
use super::{OfTheHarness, Outcome, Scenario, Sometimes, Step, circumstances, logs, place, report};
use crate::arena::{Arena, Planted};
use crate::check::{self, Breach};
use crate::herd::{Back, Count, Herd};
use crate::history::{BEGUN, Event, FaultMark, Recorder};
use crate::layout::Layout;
use crate::luck::Luck;
use crate::network::Network;
use crate::patience::until;
use crate::power_cut::copy_tree;
use crate::rewinds;
use crate::workload::{Board, Workload};

/// How long everything is well before the first fault: an election in it makes the run invalid.
const WELL: Duration = Duration::from_secs(2);
/// How long a cluster may take to acknowledge writes again after a heal.
const BACK_MAX: Duration = Duration::from_secs(20);
/// How long after a heal every proxy must be where the writes are (law 8).
const CONVERGE_MAX: Duration = Duration::from_secs(5);
/// How long a herd may take to be back at the head after a heal.
const HERD_BACK_MAX: Duration = Duration::from_secs(15);
/// How long the last reads of each node may take.
const LAST_READS_MAX: Duration = Duration::from_secs(15);
/// What it is called that nodes are started when there is load already.
const LATE: &str = "a node comes late";
/// How long the record may take to come to the head.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Decides everything that it leaves open.
    pub seed: u64,
    /// Faults instead of those that the seed would give.
    pub schedule: Option<Vec<Step>>,
    /// Whether it is run once more: then the first report stays where it is.
    pub again: bool,
    /// Where its directory is made.
    pub reports: PathBuf,
    /// Which addresses it takes.
    pub layout: Layout,
    /// Programs with something planted in them.
    pub planted: Option<Planted>,
}

impl Order {
    /// A scenario as it is, under a seed.
    #[must_use]
    pub fn new(scenario: &'static Scenario, seed: u64, reports: PathBuf, layout: Layout) -> Self {
        Self { scenario, seed, schedule: None, again: false, reports, layout, planted: None }
    }
}

/// Runs it, and leaves a report.
///
/// # Errors
/// When not even a report could be left.
pub async fn run(order: &Order) -> Result<Outcome> {
    let began = Instant::now();
    let (schedule, mut luck) = place::chances(order);
    let directory = place::prepare(order, &schedule)?;
    let circumstances = circumstances::told(Network::of(order.layout), order.planted.as_ref());
    let recorder = Recorder::create(&directory.join("history.jsonl"))?;
    let lived = match Arena::start(order.layout, order.scenario.needs, order.planted.as_ref()).await {
        Ok(mut arena) => {
            arena.recorder = Some(recorder.clone());
            let lived = live(&mut arena, order, &schedule, &mut luck, &recorder).await;
            logs::keep(arena.cluster.dir(), &directory)?;
            if lived.is_err() {
                keep_disks(&mut arena, &directory);
            }
            lived
        }
        Err(why) => Err(why.context(OfTheHarness)),
    };
    let history = recorder.events()?;
    let mut breaches = check::all(&history);
    let (notes, trouble) = match lived {
        Ok(notes) => (notes, None),
        Err(why) if why.is::<OfTheHarness>() => (Notes::default(), Some(format!("{why:#}"))),
        // What did not come back in time, and what was not done: both say something is wrong.
        Err(why) => {
            breaches.push(Breach { law: "it-heals", what: format!("{why:#}") });
            (Notes::default(), None)
        }
    };
    breaches.extend(notes.breaches);
    breaches.extend(logs::panics(&directory, &schedule)?);
    breaches.extend(logs::taken_back(&directory, &schedule)?);
    let figures = verdict::count(&history, notes.remarks);
    let verdict = verdict::judge(order.scenario, &history, &figures, breaches, trouble);
    let outcome = Outcome { verdict, figures, directory, took: began.elapsed() };
    report::write(order, &schedule, &history, &circumstances, &outcome)?;
    Ok(outcome)
}

/// Everybody's files as they were left: nothing more is written to them.
fn keep_disks(arena: &mut Arena, directory: &Path) {
    let from = arena.cluster.dir().to_owned();
    arena.cluster.cps.clear();
    if let Err(why) = copy_tree(&from, &directory.join("disks")) {
        println!("the disks could not be kept: {why:#}");
    }
}

/// What is seen while it runs, and not by anybody who writes the history.
#[derive(Debug, Default)]
struct Notes {
    breaches: Vec<Breach>,
    remarks: Vec<String>,
}

async fn live(
    arena: &mut Arena,
    order: &Order,
    schedule: &[Step],
    luck: &mut Luck,
    recorder: &Recorder,
) -> Result<Notes> {
    let (board, size) = (Board::default(), order.scenario.needs.size);
    if !arena.late.is_empty() {
        mark(recorder, LATE.to_owned(), true);
    }
    // A herd that comes is no part of what is well before the first fault.
    let first = come_back(arena.herd.clone()).await.context("the herd at first").context(OfTheHarness)?;
    let mut workload = Workload::start(arena, size, order.seed, recorder, &board).await.context(OfTheHarness)?;
    let went = go_through(arena, schedule, luck, recorder, &board, &mut workload).await;
    // Whatever ended it: who still asks something does not know what comes of it.
    workload.break_off().await;
    let mut notes = went?;
    notes.remarks.splice(0..0, first.map(|back| format!("at first, {}", followed(back))));
    Ok(notes)
}

async fn go_through(
    arena: &mut Arena,
    schedule: &[Step],
    luck: &mut Luck,
    recorder: &Recorder,
    board: &Board,
    workload: &mut Workload,
) -> Result<Notes> {
    let mark = |what: String, begins: bool| mark(recorder, what, begins);
    let mut notes = Notes::default();
    tokio::time::sleep(WELL).await;
    workload.more(WRITES_MIN, BACK_MAX).await.context("writes before any fault").context(OfTheHarness)?;
    let snapshots = logs::installed(arena.cluster.dir())?;
    if !arena.late.is_empty() {
        let late = std::mem::take(&mut arena.late);
        arena.run_again(&late).await.context(LATE)?;
        mark(LATE.to_owned(), false);
        workload.more(WRITES_MIN, BACK_MAX).await.context(LATE)?;
        converge(arena, board).await.context(LATE)?;
    }
    let mut running = Vec::new();
    for (place, step) in schedule.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(step.after_ms)).await;
        let what = step.fault.describe();
        mark(what.clone(), true);
        let begun = step.fault.start(arena, luck).await.with_context(|| format!("{what} begins"))?;
        mark(format!("{what}{BEGUN}"), true);
        running.push((what.clone(), begun));
        tokio::time::sleep(Duration::from_millis(step.lasts_ms)).await;
        if schedule.get(place + 1).is_some_and(|next| next.beside) {
            continue;
        }
        let herd = arena.herd.clone();
        let heals = async {
            while !running.is_empty() {
                let any = usize::try_from(luck.below(running.len() as u64)).expect("a place in a list");
                let (what, mut fault) = running.swap_remove(any);
                fault.heal(arena).await.with_context(|| format!("{what} is healed"))?;
                mark(what, false);
            }
            anyhow::Ok(())
        };
        let (went, herd) = tokio::join!(heals, come_back(herd));
        went?;
        if let Some(back) = herd.with_context(|| format!("the herd after {what}"))? {
            notes.remarks.push(format!("from the heal of {what} on, {}", followed(back)));
            notes.remarks.extend(gather(arena, &format!("after {what}")).await?);
        }
        workload.more(WRITES_MIN, BACK_MAX).await.with_context(|| format!("writes after {what}"))?;
        converge(arena, board).await.with_context(|| format!("proxies after {what}"))?;
    }
    workload.more(WRITES_MIN, BACK_MAX).await?;
    if logs::installed(arena.cluster.dir())? > snapshots {
        recorder.saw(Sometimes::Snapshot);
    }
    workload.stop_clients(LAST_READS_MAX).await?;
    if arena.herd.is_some() {
        notes.remarks.extend(gather(arena, "at last").await?);
        notes.remarks.extend(costs(arena)?);
    }
    arena.cluster.agree(CONVERGE_MAX).await?;
    workload.stop().await?;
    if let Some(postgres) = &arena.postgres {
        notes.breaches.extend(rewinds::breaches(postgres).await?);
        notes.breaches.extend(audit(arena).await?.map(|what| Breach { law: "record-is-a-gapless-prefix", what }));
    }
    if let Some(archive) = &arena.archive {
        let held = archive.audit(&mut arena.cluster).await;
        notes.breaches.extend(held.err().map(|why| Breach { law: "archive-is-the-cluster", what: format!("{why:#}") }));
        notes.breaches.extend(archive.s3.breaches());
    }
    Ok(notes)
}

fn mark(recorder: &Recorder, what: String, begins: bool) {
    recorder.note(Event::Fault(FaultMark { at: recorder.now(), what, begins }));
}

/// Waits until every light subscriber, where there are any, follows a node.
async fn come_back(herd: Option<Arc<Herd>>) -> Result<Option<Back>> {
    match herd {
        Some(herd) => herd.reach(0, HERD_BACK_MAX).await.map(Some),
        None => Ok(None),
    }
}

fn followed(Back { half, most, all, .. }: Back) -> String {
    format!(
        "half of the herd followed a node within {} ms, 99 of 100 within {}, all within {}",
        half.as_millis(),
        most.as_millis(),
        all.as_millis()
    )
}

/// Waits until every light subscriber is where some node is now; tells how long that took, where there are any.
async fn gather(arena: &Arena, when: &str) -> Result<Option<String>> {
    let Some(herd) = &arena.herd else { return Ok(None) };
    let back = herd.reach(head(arena).await?, HERD_BACK_MAX).await.with_context(|| format!("the herd {when}"))?;
    let Count { streams, fulls, .. } = back.count;
    let all = back.all.as_millis();
    Ok(Some(format!("{when}, all were at the head {all} ms later; {streams} streams and {fulls} full states so far")))
}

/// What every node has cost since it was last started.
fn costs(arena: &mut Arena) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for cp in &mut arena.cluster.cps {
        let (name, cost) = (cp.name(), cp.process()?.cost()?);
        let mib = |kib: u64| kib / 1024;
        told.push(format!(
            "{name} since its last start: {} MiB of memory, at most {}, and {:.1} s of processor time",
            mib(cost.resident_kib),
            mib(cost.most_resident_kib),
            cost.cpu.as_secs_f64()
        ));
    }
    Ok(told)
}

/// The highest revision that any node is at.
async fn head(arena: &Arena) -> Result<u64> {
    let mut head = 0;
    for cp in arena.cluster.cps.iter().filter(|cp| cp.is_running()) {
        head = head.max(cp.api().status().await?.revision);
    }
    Ok(head)
}

/// Waits until every proxy stands where some node stands now, or beyond.
async fn converge(arena: &Arena, board: &Board) -> Result<()> {
    let head = head(arena).await?;
    until("every proxy follows", CONVERGE_MAX, async || {
        for dp in arena.cluster.dps.iter().filter(|dp| dp.is_running()) {
            let seen = board.of(&dp.name()).map_or(0, |stand| stand.position.1);
            ensure!(seen >= head, "{} is at {seen} of {head}", dp.name());
        }
        Ok(())
    })
    .await
}

/// Holds the record against the cluster (law 9): what is wrong, if anything.
async fn audit(arena: &Arena) -> Result<Option<String>> {
    let postgres = arena.postgres.as_ref().context("no PostgreSQL")?;
    let mut api = arena.cluster.cps[0].api();
    let status = api.status().await?;
    let wanted = format!("{}|{}", status.revision, status.digest);
    let cursor = "SELECT revision, encode(digest, 'hex') FROM holdfast.cursor";
    let came = until("the record comes to the head", DRAIN_MAX, async || {
        let found = postgres.sql(cursor).await?;
        ensure!(found == wanted, "it is at {found}, the cluster at {wanted}");
        Ok(())
    });
    if let Err(why) = came.await {
        return Ok(Some(format!("{why:#}")));
    }
    let revisions = "SELECT count(DISTINCT revision), max(revision) FROM holdfast.history WHERE op <> 'base'";
    let (found, head) = (postgres.sql(revisions).await?, status.revision);
    if found != format!("{head}|{head}") {
        return Ok(Some(format!("of {head} revisions it has (count|highest) {found}")));
    }
    // Row by row: what is current is the state at the cursor.
    let held = api.call("GET", "/v1/record/verify", &[], String::new()).await?.expect(&[200])?.json()?;
    Ok((held["good"] != true).then(|| format!("what is current in it is not the state: {held}")))
}
