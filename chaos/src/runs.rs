//! Runs of scenarios: one, each once, one again and again, and some by chance.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos::luck::Luck;
use chaos::mutants;
use chaos::network::Network;
use chaos::scenario::{self, Order, Outcome, Scenario, Verdict};
use chaos::summary::Summary;
use daemon::signals::Termination;

use crate::REPORTS;

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

pub(crate) async fn run_one(
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

pub(crate) async fn matrix(seed: u64, only: &[String], network: Network) -> Result<bool> {
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
    // What some scenarios did does not take the place of what all did.
    tell(&summary, network, if only.is_empty() { "summary" } else { "summary-of-some" })
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
fn tell(summary: &Summary, network: Network, name: &str) -> Result<bool> {
    println!("{}", summary.told());
    let page = Path::new(REPORTS).join(match network {
        Network::Sockets => format!("{name}.md"),
        Network::Namespaces => format!("{name}-namespaces.md"),
    });
    std::fs::write(&page, summary.page()).with_context(|| page.display().to_string())?;
    Ok(summary.all_held())
}

/// Faults of one run, at least: a run takes a while to be well before the first one, and to be judged.
const FAULTS_A_RUN: usize = 20;

pub(crate) async fn repeat(name: &str, faults: usize, first: u64, network: Network) -> Result<bool> {
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

pub(crate) async fn soup(lasts: Duration, first: u64, network: Network) -> Result<bool> {
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
    tell(&summary, network, "summary")
}

/// A signal has ended it.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) &'static str);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Interrupted {}
