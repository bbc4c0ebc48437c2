//! `chaos`: the demo, and scenarios by hand.

mod runs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos::layout::Layout;
use chaos::network::{self, Network, Wish};
use chaos::scenario;
use chaos::{check, demo, herd, history, leftovers, mutants, sweep, wide_fleet};
use clap::{Parser, Subcommand};
use daemon::signals::Termination;
use runs::Interrupted;

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
            runs::run_one(&scenario, seed, schedule, mutant.as_deref(), network).await
        }
        Command::Matrix { seed, only, .. } => runs::matrix(seed, &only, network).await,
        Command::Repeat { scenario, faults, seed, .. } => runs::repeat(&scenario, faults, seed, network).await,
        Command::Soup { minutes, hours, seed, .. } => {
            runs::soup(Duration::from_secs(60 * (60 * hours + minutes)), seed, network).await
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
