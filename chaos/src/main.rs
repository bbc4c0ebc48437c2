//! `chaos`: the demo, and scenarios by hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos::layout::Layout;
use chaos::luck::Luck;
use chaos::mutants;
use chaos::scenario::{self, Order, Outcome, Scenario, Verdict};
use chaos::{check, demo, history, wide_fleet};
use clap::{Parser, Subcommand};
use daemon::signals::Termination;

/// Where reports go unless it is said otherwise.
const REPORTS: &str = "target/chaos";

/// Shows on real processes that Holdfast holds fast.
#[derive(Debug, Parser)]
#[command(name = "chaos", version = daemon::build::LONG)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three control-plane nodes, two proxies, and what becomes of traffic when the control plane dies.
    Demo {
        /// End after the last step; the exit code is 0 only when all of it held.
        #[arg(long)]
        once: bool,
        /// Use addresses of this process alone instead of 127.0.0.x with the usual ports.
        #[arg(long)]
        own_addresses: bool,
    },
    /// Every scenario, with what it does.
    List,
    /// Runs one scenario.
    Run {
        /// Its name; see `chaos list`.
        scenario: String,
        /// Decides everything that it leaves open.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Faults from a file instead of those of the seed.
        #[arg(long)]
        schedule: Option<PathBuf>,
    },
    /// Runs every scenario once.
    Matrix {
        /// As for `run`.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Runs one scenario with seed after seed until so many of its faults have been, and tells the cost of a fault.
    Repeat {
        /// Its name; see `chaos list`.
        scenario: String,
        /// How many faults.
        #[arg(long, default_value_t = 200)]
        faults: usize,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Runs scenarios by chance until the time is up.
    Soup {
        /// How long; added to the hours.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// How long. Reports of runs that held are not kept.
        #[arg(long, default_value_t = 0)]
        hours: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Turns planted bugs on, one after the other, and tells who noticed. Needs `make failing`.
    Mutants {
        /// Only this one. Repeatable.
        #[arg(long)]
        only: Vec<String>,
        /// Under how many seeds each is hunted before it counts as missed.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
    },
    /// Waits for a wide fleet with each of many changes while nodes die: after a 200 every proxy in scope serves it.
    Fleet {
        /// How many proxies, in three regions.
        #[arg(long, default_value_t = 50)]
        proxies: usize,
        /// How many changes must be answered with a 200.
        #[arg(long, default_value_t = 10_000)]
        changes: usize,
        /// A node is killed with each so many changes.
        #[arg(long, default_value_t = 200)]
        kill_every: usize,
        /// Decides what is left open.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Holds a history that a run has left against every law again. What is no part of it (how long proxies took to follow,
    /// the record, the archive) is not judged.
    Judge {
        /// A `history.jsonl`. Repeatable.
        #[arg(required = true)]
        histories: Vec<PathBuf>,
    },
    /// Removes what runs have left behind: reports, and directories of clusters that were not taken down.
    Gc,
}

#[tokio::main]
async fn main() -> ExitCode {
    let held = match Cli::parse().command {
        Command::Demo { once, own_addresses } => {
            let layout = if own_addresses { Layout::Test { cluster: 0 } } else { Layout::Demo };
            show(once, layout).await.map(|()| true)
        }
        Command::List => {
            scenario::ALL.iter().for_each(|scenario| println!("{:18} {}", scenario.name, scenario.about));
            Ok(true)
        }
        Command::Run { scenario, seed, schedule } => run_one(&scenario, seed, schedule).await,
        Command::Matrix { seed } => matrix(seed).await,
        Command::Repeat { scenario, faults, seed } => repeat(&scenario, faults, seed).await,
        Command::Soup { minutes, hours, seed } => soup(Duration::from_secs(60 * (60 * hours + minutes)), seed).await,
        Command::Mutants { only, seeds } => hunt_mutants(&only, seeds).await,
        Command::Fleet { proxies, changes, kill_every, seed } => {
            wide_fleet::run(wide_fleet::Plan { proxies, changes, kill_every, seed }).await.map(|told| {
                println!("{told}");
                true
            })
        }
        Command::Judge { histories } => judge(&histories),
        Command::Gc => gc().map(|()| true),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("\nIt did not hold: {why:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(once: bool, layout: Layout) -> Result<()> {
    let mut termination = Termination::listen()?;
    // Whatever ends it, what was started is dropped, and with it every process and file.
    let mut demo = tokio::select! {
        shown = demo::run(layout) => shown?,
        signal = termination.next() => {
            println!("\n{signal}: everything is taken down.");
            return Ok(());
        }
    };
    if once {
        println!("\nAll of it held.");
        return Ok(());
    }
    demo.explain()?;
    let signal = termination.next().await;
    println!("\n{signal}: everything is taken down.");
    Ok(())
}

/// Hunts planted bugs; whether all were found.
async fn hunt_mutants(only: &[String], seeds: u64) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| !mutants::ALL.iter().any(|mutant| mutant.name == **name)) {
        anyhow::bail!(
            "no bug {unknown} is planted: there are {:?}",
            mutants::ALL.iter().map(|m| m.name).collect::<Vec<_>>()
        );
    }
    let chosen: Vec<_> =
        mutants::ALL.iter().filter(|mutant| only.is_empty() || only.iter().any(|name| name == mutant.name)).collect();
    let mut termination = Termination::listen()?;
    let mut found = 0;
    for mutant in &chosen {
        let reports = PathBuf::from(REPORTS).join("mutants");
        let hunt = tokio::select! {
            hunt = mutants::hunt(mutant, Layout::Test { cluster: 0 }, seeds, reports) => hunt?,
            signal = termination.next() => anyhow::bail!("{signal}"),
        };
        found += usize::from(!hunt.broken.is_empty());
        let verdict = if hunt.broken.is_empty() { "MISSED".to_owned() } else { hunt.broken.join(", ") };
        let (name, scenario, runs, seconds) = (mutant.name, mutant.scenario, hunt.runs, hunt.took.as_secs());
        println!("{name:36} {scenario:16} {runs} runs {seconds:4} s  {verdict}");
        hunt.invalid.iter().for_each(|why| println!("    no verdict: {why}"));
    }
    println!("{found} of {} found", chosen.len());
    Ok(found == chosen.len())
}

fn order(scenario: &'static Scenario, seed: u64) -> Order {
    let layout = Layout::Test { cluster: 0 };
    Order { scenario, seed, schedule: None, reports: REPORTS.into(), layout, planted: None }
}

async fn run_one(name: &str, seed: u64, schedule: Option<PathBuf>) -> Result<bool> {
    let scenario = scenario::find(name).with_context(|| format!("no scenario {name}: see `chaos list`"))?;
    let mut order = order(scenario, seed);
    if let Some(file) = schedule {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        order.schedule = Some(serde_json::from_str(&text).with_context(|| file.display().to_string())?);
    }
    let outcome = run(&order).await?;
    Ok(outcome.verdict == Verdict::Valid)
}

/// Runs one, interruptible, and tells of it in a line, or more when it did not hold.
async fn run(order: &Order) -> Result<Outcome> {
    let mut termination = Termination::listen()?;
    let outcome = tokio::select! {
        outcome = scenario::run(order) => outcome?,
        signal = termination.next() => return Err(Interrupted(signal).into()),
    };
    let figures = &outcome.figures;
    println!(
        "{:18} seed {:4} {:7} {:3.0} s  {} acknowledged, {} unknown, {} terms, {} of {} requests failed, gaps {:?} ms, \
         converged {:?} ms",
        order.scenario.name,
        order.seed,
        outcome.verdict.word(),
        outcome.took.as_secs_f64(),
        figures.acknowledged,
        figures.unknown,
        figures.terms,
        figures.failed_requests,
        figures.requests,
        figures.gaps_ms,
        figures.converged_ms
    );
    figures.remarks.iter().for_each(|remark| println!("    {remark}"));
    match &outcome.verdict {
        Verdict::Valid => {}
        Verdict::Invalid(why) => println!("    {why}"),
        Verdict::Failed(breaches) => {
            breaches.iter().take(5).for_each(|breach| println!("    {}: {:.600}", breach.law, breach.what));
            println!("    {} breaches; all of it is in {}", breaches.len(), outcome.directory.display());
        }
    }
    Ok(outcome)
}

async fn matrix(seed: u64) -> Result<bool> {
    let mut total = Total::default();
    for scenario in scenario::ALL {
        total.add(run(&order(scenario, seed)).await, scenario.name)?;
    }
    Ok(total.tell())
}

/// Faults of one run, at least: a run takes a while to be well before the first one, and to be judged.
const FAULTS_A_RUN: usize = 20;

async fn repeat(name: &str, faults: usize, first: u64) -> Result<bool> {
    let scenario = scenario::find(name).with_context(|| format!("no scenario {name}: see `chaos list`"))?;
    let (mut total, mut gaps, mut converged) = (Total::default(), Vec::new(), Vec::new());
    for seed in first.. {
        if converged.len() >= faults {
            break;
        }
        let mut luck = Luck::of(&[seed]);
        let mut schedule = (scenario.plan)(&mut luck);
        anyhow::ensure!(!schedule.is_empty(), "nothing goes wrong in {name}");
        while schedule.len() < FAULTS_A_RUN.min(faults - converged.len()) {
            schedule.extend((scenario.plan)(&mut luck));
        }
        let outcome = run(&Order { schedule: Some(schedule), ..order(scenario, seed) }).await?;
        gaps.extend(&outcome.figures.gaps_ms);
        converged.extend(&outcome.figures.converged_ms);
        total.take(outcome);
    }
    println!("{} faults", converged.len());
    println!("longest time without an acknowledged write, ms: {}", spread(gaps));
    println!("from a heal until every proxy has a later write, ms: {}", spread(converged));
    Ok(total.tell())
}

/// Median, 99th of a hundred, and the largest.
fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |of_100: usize| values.get((values.len() * of_100).div_ceil(100).saturating_sub(1)).copied();
    match (at(50), at(99), values.last()) {
        (Some(median), Some(p99), Some(most)) => format!("p50 {median}, p99 {p99}, most {most}, of {}", values.len()),
        _ => "none".to_owned(),
    }
}

async fn soup(lasts: Duration, first: u64) -> Result<bool> {
    let (began, mut total) = (Instant::now(), Total::default());
    for seed in first.. {
        if began.elapsed() >= lasts {
            break;
        }
        let at = usize::try_from(Luck::of(&[seed, 0]).below(scenario::ALL.len() as u64))?;
        let outcome = run(&order(&scenario::ALL[at], seed)).await;
        // A night's histories would fill the disk.
        if let Ok(held) = &outcome
            && held.verdict == Verdict::Valid
        {
            std::fs::remove_dir_all(&held.directory)?;
        }
        total.add(outcome, scenario::ALL[at].name)?;
    }
    Ok(total.tell())
}

/// A signal has ended it.
#[derive(Debug)]
struct Interrupted(&'static str);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Interrupted {}

#[derive(Default)]
struct Total {
    runs: u64,
    valid: u64,
    invalid: u64,
    acknowledged: u64,
    requests: u64,
    failed_requests: u64,
}

impl Total {
    /// A run that could not be made does not keep the others from being made; being interrupted does.
    fn add(&mut self, outcome: Result<Outcome>, name: &str) -> Result<()> {
        match outcome {
            Err(why) if why.is::<Interrupted>() => return Err(why),
            Err(why) => {
                self.runs += 1;
                self.invalid += 1;
                println!("{name:18} could not be run: {why:#}");
            }
            Ok(outcome) => self.take(outcome),
        }
        Ok(())
    }

    fn take(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.valid += u64::from(outcome.verdict == Verdict::Valid);
        self.invalid += u64::from(matches!(outcome.verdict, Verdict::Invalid(_)));
        self.acknowledged += outcome.figures.acknowledged;
        self.requests += outcome.figures.requests;
        self.failed_requests += outcome.figures.failed_requests;
    }

    /// Whether all of them held. One that says nothing has not.
    fn tell(&self) -> bool {
        println!(
            "{} of {} runs held, {} say nothing; {} writes acknowledged, {} of {} proxied requests failed",
            self.valid, self.runs, self.invalid, self.acknowledged, self.failed_requests, self.requests
        );
        self.valid == self.runs
    }
}

/// Judges histories again; whether all of them hold.
fn judge(histories: &[PathBuf]) -> Result<bool> {
    let mut held = true;
    for path in histories {
        let breaches = check::all(&history::read(path)?);
        println!("{}: {} breaches", path.display(), breaches.len());
        breaches.iter().for_each(|breach| println!("    {}: {:.600}", breach.law, breach.what));
        held &= breaches.is_empty();
    }
    Ok(held)
}

/// A cluster's directory is removed by whoever made it; one whose maker was killed is still here.
fn gc() -> Result<()> {
    let _ = std::fs::remove_dir_all(REPORTS);
    let mut commands = String::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        commands.push_str(&String::from_utf8_lossy(&std::fs::read(process.path().join("cmdline")).unwrap_or_default()));
    }
    for item in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = item.file_name().to_string_lossy().into_owned();
        if name.starts_with("holdfast-") && !commands.contains(&name) {
            println!("removing {}", item.path().display());
            std::fs::remove_dir_all(item.path())?;
        }
    }
    Ok(())
}
