//! Runs a scenario: well for a while, fault by fault, healed, well again, judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Figures, Outcome, SaysNothing, Scenario, Sometimes, Step, Verdict, gaps, healthy, report};
use crate::arena::{Arena, Planted};
use crate::check::{self, Breach, Truth};
use crate::herd::{Back, Herd};
use crate::history::{BEGUN, Call, Event, FaultMark, FrameKind, Outcome as Answer, Recorder, ops, stands};
use crate::layout::Layout;
use crate::luck::Luck;
use crate::patience::until;
use crate::power_cut::copy_tree;
use crate::rewinds;
use crate::workload::{Board, Size, Workload};

/// How long everything is well before the first fault: an election in it makes the run invalid.
const WELL: Duration = Duration::from_secs(2);
/// Acknowledged writes without which nothing was tried.
const WRITES_MIN: u64 = 20;
/// How long a cluster may take to acknowledge writes again after a heal.
const BACK_MAX: Duration = Duration::from_secs(20);
/// How long after a heal every proxy must be where the writes are (law 8).
const CONVERGE_MAX: Duration = Duration::from_secs(5);
/// How long a herd may take to be back at the head after a heal.
const HERD_BACK_MAX: Duration = Duration::from_secs(15);
/// How long the last reads of each node may take.
const LAST_READS_MAX: Duration = Duration::from_secs(15);
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
    /// Where its directory is made.
    pub reports: PathBuf,
    /// Which addresses it takes.
    pub layout: Layout,
    /// Programs with something planted in them.
    pub planted: Option<Planted>,
}

/// Runs it, and leaves a report.
///
/// # Errors
/// When the harness itself could not do it; that is no verdict.
pub async fn run(order: &Order) -> Result<Outcome> {
    let began = Instant::now();
    let directory = order.reports.join(format!("{}-{}", order.scenario.name, order.seed));
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let mut luck = Luck::of(&[order.seed]);
    let schedule = order.schedule.clone().unwrap_or_else(|| (order.scenario.plan)(&mut luck));
    fs::write(directory.join("schedule.json"), serde_json::to_string_pretty(&schedule)?)?;
    let again = format!("chaos run {} --seed {} --schedule schedule.json\n", order.scenario.name, order.seed);
    fs::write(directory.join("repro"), again)?;
    let recorder = Recorder::create(&directory.join("history.jsonl"))?;
    let mut arena = Arena::start(order.layout, order.scenario.needs, order.planted.as_ref()).await?;
    arena.recorder = Some(recorder.clone());
    let lived = live(&mut arena, order.scenario.needs.size, &schedule, &mut luck, order.seed, &recorder).await;
    keep_logs(arena.cluster.dir(), &directory)?;
    let cluster_dir = arena.cluster.dir().to_owned();
    if lived.is_err() {
        // As they are: nothing more is written to them.
        arena.cluster.cps.clear();
        if let Err(why) = copy_tree(&cluster_dir, &directory.join("disks")) {
            println!("the disks could not be kept: {why:#}");
        }
    }
    drop(arena);
    let history = recorder.events()?;
    let (notes, broken) = match lived {
        Ok(notes) => (notes, None),
        // What did not come back in time, and what could not be done: both say something is wrong.
        Err(why) => (Notes::default(), Some(Breach { law: "it-heals", what: format!("{why:#}") })),
    };
    let mut breaches = check::all(&history);
    breaches.extend(broken);
    breaches.extend(notes.breaches.iter().cloned());
    let figures = count(&history, notes);
    let verdict = judge(order.scenario, &history, &figures, breaches);
    let outcome = Outcome { verdict, figures, directory, took: began.elapsed() };
    report::write(order, &schedule, &history, &outcome)?;
    Ok(outcome)
}

/// What is seen while it runs, and not by anybody who writes the history.
#[derive(Debug, Default)]
struct Notes {
    converged_ms: Vec<u64>,
    breaches: Vec<Breach>,
    remarks: Vec<String>,
}

async fn live(
    arena: &mut Arena,
    size: Size,
    schedule: &[Step],
    luck: &mut Luck,
    seed: u64,
    recorder: &Recorder,
) -> Result<Notes> {
    let board = Board::default();
    // A herd that comes is no part of what is well before the first fault.
    let first = come_back(arena.herd.clone()).await.context("the herd at first")?;
    let mut workload = Workload::start(&arena.cluster, size, seed, recorder, &board).await?;
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
    let mark = |what: String, begins: bool| recorder.note(Event::Fault(FaultMark { at: recorder.now(), what, begins }));
    let mut notes = Notes::default();
    tokio::time::sleep(WELL).await;
    workload.more(WRITES_MIN, BACK_MAX).await.context("writes before any fault")?;
    for step in schedule {
        tokio::time::sleep(Duration::from_millis(step.after_ms)).await;
        let what = step.fault.describe();
        mark(what.clone(), true);
        let mut running = step.fault.start(arena, luck).await.with_context(|| format!("{what} begins"))?;
        mark(format!("{what}{BEGUN}"), true);
        tokio::time::sleep(Duration::from_millis(step.lasts_ms)).await;
        let herd = arena.herd.clone();
        let (went, herd) = tokio::join!(running.heal(arena), come_back(herd));
        went.with_context(|| format!("{what} is healed"))?;
        mark(what.clone(), false);
        let healed = Instant::now();
        if let Some(back) = herd.with_context(|| format!("the herd after {what}"))? {
            notes.remarks.push(format!("from the heal of {what} on, {}", followed(back)));
            notes.remarks.extend(gather(arena, &format!("after {what}")).await?);
        }
        workload.more(WRITES_MIN, BACK_MAX).await.with_context(|| format!("writes after {what}"))?;
        converge(arena, board).await.with_context(|| format!("proxies after {what}"))?;
        notes.converged_ms.push(u64::try_from(healed.elapsed().as_millis())?);
    }
    workload.more(WRITES_MIN, BACK_MAX).await?;
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

/// Waits until every light subscriber, where there are any, follows a node.
async fn come_back(herd: Option<Arc<Herd>>) -> Result<Option<Back>> {
    match herd {
        Some(herd) => herd.reach(0, HERD_BACK_MAX).await.map(Some),
        None => Ok(None),
    }
}

fn followed(Back { half, most, all }: Back) -> String {
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
    let (streams, fulls) = (herd.streams(), herd.fulls());
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

fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    for item in fs::read_dir(from)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::copy(&path, to.join(path.file_name().context("a file has a name")?))?;
        }
    }
    Ok(())
}

fn count(history: &[Event], notes: Notes) -> Figures {
    let mut figures = Figures { converged_ms: notes.converged_ms, remarks: notes.remarks, ..Figures::default() };
    for op in ops(history) {
        figures.operations += 1;
        if matches!(op.call, Call::Write { .. }) {
            match op.outcome {
                Answer::Ok { .. } => figures.acknowledged += 1,
                Answer::Unknown { .. } => figures.unknown += 1,
                Answer::Fail { .. } => {}
            }
        }
    }
    for event in history {
        match event {
            Event::Frame(_) => figures.frames += 1,
            Event::Rate(rate) => figures.requests += rate.sent,
            Event::Failure(_) => figures.failed_requests += 1,
            _ => {}
        }
    }
    figures.gaps_ms = gaps::in_faults(history).iter().map(|gap| gap / 1000).collect();
    let terms: Vec<u64> = stands(history).map(|stand| stand.term).filter(|term| *term > 0).collect();
    figures.terms = terms.iter().max().zip(terms.iter().min()).map_or(0, |(most, least)| most - least);
    figures.seen = seen(history, &figures);
    figures
}

fn seen(history: &[Event], figures: &Figures) -> Vec<Sometimes> {
    let failed = |wanted: u16| ops(history).any(|op| op.outcome == Answer::Fail { status: wanted });
    let opened = |node: u16| {
        let of_node = crate::history::frames(history).filter(|frame| frame.node == node);
        of_node.filter(|frame| matches!(frame.kind, FrameKind::Opened { position, .. } if position.1 > 0)).count()
    };
    let heads = stands(history).fold((0, false), |(head, behind), stand| {
        let lags = stand.who.starts_with("dp-") && stand.position.1 + 20 < head;
        (head.max(stand.position.1), behind || lags)
    });
    let all = [
        (Sometimes::Election, figures.terms > 0),
        (Sometimes::Unknown, figures.unknown > 0),
        (Sometimes::Resume, (1..=9).any(|node| opened(node) > 0)),
        (Sometimes::Refused, failed(503)),
        (Sometimes::Lost, failed(412)),
        (Sometimes::Behind, heads.1),
    ];
    all.into_iter().filter(|(_, was)| *was).map(|(what, _)| what).collect()
}

fn judge(scenario: &Scenario, history: &[Event], figures: &Figures, breaches: Vec<Breach>) -> Verdict {
    if !breaches.is_empty() {
        return Verdict::Failed(breaches);
    }
    if let Some(why) = healthy::disturbance(history) {
        return Verdict::Invalid(SaysNothing::Disturbed(why));
    }
    let idle = |why| Verdict::Invalid(SaysNothing::Idle(why));
    if figures.acknowledged < WRITES_MIN
        || figures.requests == 0
        || figures.frames == 0
        || !stands(history).any(|s| s.term > 0)
    {
        return idle(format!("too little happened: {figures:?}"));
    }
    let missing: Vec<&Sometimes> = scenario.wants.iter().filter(|wanted| !figures.seen.contains(wanted)).collect();
    if !missing.is_empty() {
        return idle(format!("it never saw {missing:?}"));
    }
    // A truth that knows of no write proves nothing of writes.
    if Truth::of(history).by_key.len() < 3 {
        return idle("hardly any key was written".to_owned());
    }
    Verdict::Valid
}
