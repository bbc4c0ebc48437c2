//! `sim --seed N` runs one seed in this process; `sim --seeds A..B` runs a child for each, so that nothing of one run is
//! left for the next.

use std::process::{Command, ExitCode};

use clap::Parser;
use sim::plan::Plan;
use sim::{Mutant, Tally};

#[derive(Parser)]
#[command(about = "Runs Holdfast in simulated time: one seed decides everything")]
struct Arguments {
    /// The seed of one run.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// A range of seeds, `A..B`.
    #[arg(long)]
    seeds: Option<String>,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Runs at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Plants a bug.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Prints everything that was observed.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.seed, &arguments.seeds) {
        (Some(seed), _) if !arguments.twice => one(seed, &arguments),
        (Some(seed), _) => many(seed..seed + 1, &arguments),
        (None, Some(range)) => match range.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?)) {
            Some(range) => many(range, &arguments),
            None => {
                eprintln!("--seeds takes a range: 0..100");
                ExitCode::from(2)
            }
        },
        (None, None) => {
            eprintln!("--seed or --seeds is needed");
            ExitCode::from(2)
        }
    }
}

/// On a thread of its own: what the main thread has drawn before the seed was set is of no account there.
fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let (mutant, trace) = (arguments.mutant, arguments.trace);
    let run = move || {
        if std::env::var_os("RUST_LOG").is_some() {
            let settings = daemon::logging::LogSettings::default();
            let _ = daemon::logging::start(&settings);
        }
        let home = sim::home().expect("there is room for a temporary directory");
        sim::seed_everything(seed);
        let _clocks = mad_turmoil::time::SimClocksGuard::init();
        sim::run(&Plan::of(seed, mutant), home.path(), trace)
    };
    let ran = std::thread::Builder::new().name("sim".into()).stack_size(64 << 20).spawn(run).expect("a thread");
    match ran.join() {
        Ok(Ok(ran)) => {
            ran.trace.iter().for_each(|line| println!("{line}"));
            println!("seed {seed} ok trace:{} {}", ran.trace_hash, ran.tally);
            ExitCode::SUCCESS
        }
        Ok(Err(breach)) => {
            breach.trace.iter().for_each(|line| println!("{line}"));
            println!("seed {seed} BREACH at {} ms: {}", breach.at_millis, breach.what);
            let planted = mutant.map(|mutant| format!(" --mutant {}", name(mutant))).unwrap_or_default();
            println!("again: cargo run -p sim -- --seed {seed} --trace{planted}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("seed {seed} BREACH: the simulation itself has panicked");
            ExitCode::FAILURE
        }
    }
}

/// As the command line takes it.
fn name(mutant: Mutant) -> String {
    clap::ValueEnum::to_possible_value(&mutant).expect("it is listed").get_name().to_owned()
}

fn many(range: std::ops::Range<u64>, arguments: &Arguments) -> ExitCode {
    let next = std::sync::Mutex::new(range);
    let total = std::sync::Mutex::new((0u64, 0u64, Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().expect("nobody panics").next() else { return };
                    let (good, line) = sim_of(seed, arguments);
                    let mut total = total.lock().expect("nobody panics");
                    total.0 += 1;
                    total.1 += u64::from(!good);
                    for (what, count) in Tally::read(&line).0 {
                        total.2.add(&what, count);
                    }
                    if !good {
                        println!("{line}");
                    }
                }
            });
        }
    });
    let (runs, bad, tally) = total.into_inner().expect("nobody panics");
    println!("{runs} seeds, {bad} bad: {tally}");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A run in a child; with `--twice` two of them, which must agree.
fn sim_of(seed: u64, arguments: &Arguments) -> (bool, String) {
    let child = || {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--seed", &seed.to_string()]);
        if let Some(mutant) = arguments.mutant {
            command.arg("--mutant").arg(name(mutant));
        }
        let output = command.output().expect("this program can be run");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };
    let first = child();
    if arguments.twice {
        let second = child();
        if first != second {
            return (false, format!("seed {seed} is not repeatable:\n  {}\n  {}", first.1, second.1));
        }
    }
    first
}
