//! `chaos`: the demo, and scenarios by hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos::layout::Layout;
use chaos::luck::Luck;
use chaos::network::{self, Network, Wish};
use chaos::scenario::{self, Order, Outcome, Scenario, Verdict};
use chaos::summary::Summary;
use chaos::{check, demo, herd, history, leftovers, mutants, sweep, wide_fleet};
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
        /// Faults from a file instead of those of the seed. The report is left in a directory that ends with `-again`.
        #[arg(long)]
        schedule: Option<PathBuf>,
        /// A bug that is planted in every program; see `chaos mutants`. Needs `make failing`.
        #[arg(long)]
        mutant: Option<String>,
        /// What wires are made of. Where that cannot make what goes wrong, it is the other one.
        #[arg(long, value_enum, default_value = "sockets")]
        network: Wish,
    },
    /// Runs every scenario once.
    Matrix {
        /// As for `run`.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this one. Repeatable.
        #[arg(long)]
        only: Vec<String>,
        /// As for `run`.
        #[arg(long, value_enum, default_value = "sockets")]
        network: Wish,
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
        /// As for `run`.
        #[arg(long, value_enum, default_value = "sockets")]
        network: Wish,
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
        /// As for `run`.
        #[arg(long, value_enum, default_value = "sockets")]
        network: Wish,
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
    /// Has programs end at every failpoint there is, under load, and holds all laws. Needs `make failing`.
    Sweep {
        /// Only failpoints whose names contain this. Repeatable.
        #[arg(long)]
        only: Vec<String>,
        /// Decides how often a point is passed before a program ends there, and on whom it is.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A bug that is planted in every program; see `chaos mutants`.
        #[arg(long)]
        mutant: Option<String>,
        /// Tells which there are, and sweeps none.
        #[arg(long)]
        list: bool,
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
    /// Light subscribers of nodes, in a process of their own: runs of `herd` start it.
    #[command(name = herd::SUBCOMMAND, hide = true)]
    HerdOf {
        /// How many.
        count: usize,
        /// Addresses of feeds.
        #[arg(required = true)]
        endpoints: Vec<String>,
    },
    /// Holds a history that a run has left against every law again. What is no part of it (how long proxies took to follow,
    /// the record, the archive) is not judged.
    Judge {
        /// A `history.jsonl`. Repeatable.
        #[arg(required = true)]
        histories: Vec<PathBuf>,
    },
    /// Ends and removes what runs have left behind that were killed themselves.
    Gc {
        /// Also every report under `target/chaos`.
        #[arg(long)]
        reports: bool,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let held = network::enter(command.wish()).and_then(|network| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(carry_out(command, network))
    });
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("\nIt did not hold: {why:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    /// Over which network it wants to be carried out.
    fn wish(&self) -> Wish {
        match self {
            Self::Run { network, .. }
            | Self::Matrix { network, .. }
            | Self::Repeat { network, .. }
            | Self::Soup { network, .. } => *network,
            _ => Wish::Sockets,
        }
    }
}

async fn carry_out(command: Command, network: Network) -> Result<bool> {
    match command {
        Command::Demo { once, own_addresses } => {
            let layout = if own_addresses { Layout::Test { cluster: 0 } } else { Layout::Demo };
            show(once, layout).await.map(|()| true)
        }
        Command::List => {
            scenario::ALL.iter().for_each(|scenario| println!("{:18} {}", scenario.name, scenario.about));
            Ok(true)
        }
        Command::Run { scenario, seed, schedule, mutant, .. } => {
            run_one(&scenario, seed, schedule, mutant.as_deref(), network).await
        }
        Command::Matrix { seed, only, .. } => matrix(seed, &only, network).await,
        Command::Repeat { scenario, faults, seed, .. } => repeat(&scenario, faults, seed, network).await,
        Command::Soup { minutes, hours, seed, .. } => {
            soup(Duration::from_secs(60 * (60 * hours + minutes)), seed, network).await
        }
        Command::Mutants { only, seeds } => hunt_mutants(&only, seeds).await,
        Command::Sweep { list: true, .. } => {
            sweep::ALL.iter().for_each(|point| println!("{:32} {:?}", point.name, point.met));
            Ok(true)
        }
        Command::Sweep { only, seed, mutant, list: false } => sweep_points(&only, seed, mutant.as_deref()).await,
        Command::Fleet { proxies, changes, kill_every, seed } => {
            wide_fleet::run(wide_fleet::Plan { proxies, changes, kill_every, seed }).await.map(|told| {
                println!("{told}");
                true
            })
        }
        Command::HerdOf { count, endpoints } => herd::run(count, &endpoints).await.map(|()| true),
        Command::Judge { histories } => judge(&histories),
        Command::Gc { reports } => gc(reports).map(|()| true),
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
    let (layout, reports) = (Layout::Test { cluster: 0 }, Path::new(REPORTS).join("mutants"));
    let scenarios: BTreeSet<&str> = chosen.iter().map(|mutant| mutant.scenario).collect();
    for scenario in scenarios {
        let told = tokio::select! {
            told = mutants::control(scenario, layout, reports.clone()) => told?,
            signal = termination.next() => return Err(Interrupted(signal).into()),
        };
        // What breaks a law without any bug would be found whatever is planted.
        println!("{:36} {scenario:16} {told}", mutants::NOTHING);
    }
    let mut found = 0;
    for mutant in &chosen {
        let hunt = tokio::select! {
            hunt = mutants::hunt(mutant, layout, seeds, reports.clone()) => hunt?,
            signal = termination.next() => return Err(Interrupted(signal).into()),
        };
        found += usize::from(hunt.found);
        let verdict = if hunt.found { hunt.broken.join(", ") } else { format!("MISSED {}", hunt.broken.join(", ")) };
        let (name, scenario, runs, seconds) = (mutant.name, mutant.scenario, hunt.runs, hunt.took.as_secs());
        println!("{name:36} {scenario:16} {runs} runs {seconds:4} s  {verdict}");
        hunt.invalid.iter().for_each(|why| println!("    no verdict: {why}"));
    }
    println!("{found} of {} found", chosen.len());
    Ok(found == chosen.len())
}

/// Sweeps failpoints, and leaves what came of each as a page; whether all held.
async fn sweep_points(only: &[String], seed: u64, mutant: Option<&str>) -> Result<bool> {
    let (layout, reports) = (Layout::Test { cluster: 0 }, Path::new(REPORTS).join("sweep"));
    let mut plan = sweep::Plan::new(only, seed, reports.clone(), layout)?;
    if let Some(mutant) = mutant {
        plan.programs = mutants::programs(mutant)?;
    }
    let mut termination = Termination::listen()?;
    let began = Instant::now();
    let sweeping = sweep::run(&plan, |swept| {
        println!("{:32} {}", swept.point.name, swept.broken.as_deref().unwrap_or("held"));
    });
    let all = tokio::select! {
        all = sweeping => all?,
        signal = termination.next() => return Err(Interrupted(signal).into()),
    };
    let page = reports.join("sweep.md");
    std::fs::create_dir_all(&reports)?;
    std::fs::write(&page, sweep::page(&all)).with_context(|| page.display().to_string())?;
    let held = all.iter().filter(|swept| swept.broken.is_none()).count();
    println!("{held} of {} held, in {} s; see {}", all.len(), began.elapsed().as_secs(), page.display());
    Ok(held == all.len())
}

fn order(scenario: &'static Scenario, seed: u64) -> Order {
    Order::new(scenario, seed, REPORTS.into(), Network::Sockets.layout())
}

/// The same run over the network that is wanted, or the one that can make what goes wrong in it.
fn over(wanted: Network, order: Order) -> Result<Order> {
    let network = wanted.for_faults(scenario::faults(&order))?;
    if network != wanted {
        println!("{:18} goes over {}, which can make what goes wrong in it", order.scenario.name, network.word());
    }
    Ok(Order { layout: network.layout(), ..order })
}

async fn run_one(
    name: &str,
    seed: u64,
    schedule: Option<PathBuf>,
    mutant: Option<&str>,
    network: Network,
) -> Result<bool> {
    let mut order = order(find(name)?, seed);
    if let Some(file) = schedule {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        order.schedule = Some(serde_json::from_str(&text).with_context(|| file.display().to_string())?);
        order.again = true;
    }
    order.planted = mutant.map(mutants::programs).transpose()?;
    let outcome = run(&over(network, order)?).await?;
    Ok(outcome.verdict == Verdict::Valid)
}

fn find(name: &str) -> Result<&'static Scenario> {
    scenario::find(name).with_context(|| format!("no scenario {name}: see `chaos list`"))
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

async fn matrix(seed: u64, only: &[String], network: Network) -> Result<bool> {
    let chosen = match only {
        [] => scenario::ALL.iter().collect(),
        names => names.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?,
    };
    let (mut summary, mut runs) = (Summary::default(), 0);
    for scenario in chosen {
        match over(network, order(scenario, seed)) {
            Ok(order) => {
                take(&mut summary, scenario, &run(&order).await)?;
                runs += 1;
            }
            Err(why) => println!("{:18} is left out: {why:#}", scenario.name),
        }
    }
    anyhow::ensure!(runs > 0, "nothing was run");
    tell(&summary, network)
}

/// A run that could not be made does not keep the others from being made; being interrupted does.
fn take(summary: &mut Summary, scenario: &Scenario, outcome: &Result<Outcome>) -> Result<()> {
    match outcome {
        Ok(outcome) => summary.take(scenario.name, outcome),
        Err(why) if why.is::<Interrupted>() => anyhow::bail!("{why}"),
        Err(why) => {
            println!("{:18} could not be run: {why:#}", scenario.name);
            summary.take_failure(scenario.name);
        }
    }
    Ok(())
}

/// Tells what came of all, and leaves it as a page; whether they held.
fn tell(summary: &Summary, network: Network) -> Result<bool> {
    println!("{}", summary.told());
    let page = Path::new(REPORTS).join(match network {
        Network::Sockets => "summary.md",
        Network::Namespaces => "summary-namespaces.md",
    });
    std::fs::write(&page, summary.page()).with_context(|| page.display().to_string())?;
    Ok(summary.all_held())
}

/// Faults of one run, at least: a run takes a while to be well before the first one, and to be judged.
const FAULTS_A_RUN: usize = 20;

async fn repeat(name: &str, faults: usize, first: u64, network: Network) -> Result<bool> {
    let scenario = find(name)?;
    let (mut summary, mut done) = (Summary::default(), 0);
    for seed in first.. {
        if done >= faults {
            break;
        }
        let mut luck = scenario::plan_luck(seed);
        let mut schedule = (scenario.plan)(&mut luck);
        anyhow::ensure!(!schedule.is_empty(), "nothing goes wrong in {name}");
        while schedule.len() < FAULTS_A_RUN.min(faults - done) {
            schedule.extend((scenario.plan)(&mut luck));
        }
        let order = over(network, Order { schedule: Some(schedule), ..order(scenario, seed) })?;
        let outcome = run(&order).await?;
        done += outcome.figures.converged_ms.len();
        summary.take(name, &outcome);
    }
    println!("{done} faults");
    println!("{}", summary.told());
    Ok(summary.all_held())
}

async fn soup(lasts: Duration, first: u64, network: Network) -> Result<bool> {
    let (began, mut summary) = (Instant::now(), Summary::default());
    for seed in first.. {
        if began.elapsed() >= lasts {
            break;
        }
        let mut luck = Luck::of(&[seed, 0]);
        // Every second run is one that no list has: what goes wrong at the same time is the seed's to say.
        let scenario = match luck.below(2) {
            0 => scenario::COMPOSED,
            _ => &scenario::ALL[usize::try_from(luck.below(scenario::ALL.len() as u64))?],
        };
        // One that takes another network is not had by chance.
        let Ok(order) = over(network, order(scenario, seed)) else { continue };
        let outcome = run(&order).await;
        // A night's histories would fill the disk.
        if let Ok(held) = &outcome
            && held.verdict == Verdict::Valid
        {
            std::fs::remove_dir_all(&held.directory)?;
        }
        take(&mut summary, scenario, &outcome)?;
    }
    tell(&summary, network)
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

/// Ends and removes what killed runs have left behind; and reports, where that is asked for.
fn gc(reports: bool) -> Result<()> {
    if reports && Path::new(REPORTS).exists() {
        println!("removing {REPORTS}");
        std::fs::remove_dir_all(REPORTS).context(REPORTS)?;
    }
    leftovers::collect(&std::env::temp_dir(), |what| println!("{what}"))
}
