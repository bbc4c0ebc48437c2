//! One run: the world is built, the storm passes, everything must come together again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use turmoil::Sim;

use crate::check::Checker;
use crate::client::{Clients, Phase};
use crate::hosts::{Machine, ProxyMachine, SIGNING_KEY_FILE, Shared};
use crate::nemesis::Nemesis;
use crate::outside::bucket::{self, Bucket};
use crate::outside::postgres::Postgres;
use crate::outside::{Outside, Server};
use crate::plan::Plan;
use crate::tally::Tally;

/// How long the cluster may take to form, with nothing in its way.
const FORM_MAX: Duration = Duration::from_secs(30);

/// How long everything may take to come together after the last fault: a connection whose segments were lost is noticed by
/// its keepalive after 15 s, and then comes an election.
const HEAL_MAX: Duration = Duration::from_secs(60);

/// One step of the world.
const STEP: Duration = Duration::from_millis(1);

/// A law was broken.
#[derive(Debug)]
pub struct Breach {
    /// Which, and how.
    pub what: String,
    /// When, in simulated milliseconds.
    pub at_millis: u128,
    /// The trace up to it, where it was kept.
    pub trace: Vec<String>,
}

/// What a good run has to show.
#[derive(Debug)]
pub struct Ran {
    /// What happened.
    pub tally: Tally,
    /// The hash over everything that was observed, in order.
    pub trace_hash: String,
    /// The trace, where it was kept.
    pub trace: Vec<String>,
}

/// Panics of any task are breaches; the product's runtime would only end the task.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// A directory for what is kept in real files, identities and proxies' disks: a file system in memory keeps syncs cheap.
///
/// To be made before the seed is set: a name that is taken already costs another draw, and every draw after it would be
/// another one.
///
/// # Errors
/// Those of the file system.
pub fn home() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

/// Runs a plan.
///
/// # Errors
/// [`Breach`], with the moment.
pub fn run(plan: &Plan, home: &std::path::Path, keep_trace: bool) -> Result<Ran, Box<Breach>> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert_with(|| info.to_string());
        hook(info);
    }));
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(3_600))
        .tick_duration(STEP)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(plan.latency_max)
        .tcp_capacity(4_096)
        .rng_seed(plan.seed)
        .enable_random_order()
        .build();
    let shared = Shared::default();
    let outside = Outside {
        bucket: plan.archive.map(|_| Server::new(Bucket::new(plan.mutant), plan.seed, 90_001)),
        postgres: plan.record.map(|_| Server::new(Postgres::new(plan.mutant), plan.seed, 90_002)),
    };
    let seed = bucket::SIGNING_SEED.map(|byte| format!("{byte:02x}")).concat();
    std::fs::write(home.join(SIGNING_KEY_FILE), seed).expect("the directory of the run takes a file");
    let mut machines = Vec::new();
    for number in 1..=plan.nodes {
        let machine = Machine {
            number,
            plan: plan.clone(),
            dir: home.join(format!("cp{number}")),
            platters: Rc::default(),
            outside: outside.clone(),
            boots: Rc::new(RefCell::new(0)),
        };
        machines.push(machine.clone());
        let shared = shared.clone();
        sim.host(format!("cp{number}"), move || machine.clone().run(shared.clone()));
    }
    for number in 1..=plan.proxies {
        let machine = ProxyMachine {
            number,
            plan: plan.clone(),
            dir: home.join(format!("dp{number}")),
            outside: outside.clone(),
            boots: Rc::new(RefCell::new(0)),
        };
        let shared = shared.clone();
        sim.host(format!("dp{number}"), move || machine.clone().run(shared.clone()));
    }
    let phase = Rc::new(Cell::new(Phase::Wait));
    let clients =
        Clients { plan: plan.clone(), shared: shared.clone(), phase: phase.clone(), floor: Rc::new(Cell::new(0)) };
    sim.client("clients", clients.run());
    let mut nemesis = Nemesis::new(plan, shared.clone(), machines, outside.clone(), home.to_owned());
    let mut checker = Checker::new(plan, shared.clone(), outside.clone(), keep_trace);
    let outcome = play(plan, &mut sim, &phase, &shared, &mut nemesis, &mut checker);
    outside.tell(&mut shared.borrow_mut().tally);
    let at_millis = sim.elapsed().as_millis();
    let trace = checker.trace.lines.take().unwrap_or_default();
    // What the runtimes still hold must go before the directory does.
    drop(checker);
    outcome
        .map(|trace_hash| {
            let mut tally = std::mem::take(&mut shared.borrow_mut().tally);
            tally.add("simulated_millis", u64::try_from(at_millis).unwrap_or(u64::MAX));
            Ran { tally, trace_hash, trace: trace.clone() }
        })
        .map_err(|what| Box::new(Breach { what, at_millis, trace }))
}

fn play(
    plan: &Plan,
    sim: &mut Sim<'_>,
    phase: &Cell<Phase>,
    shared: &Shared,
    nemesis: &mut Nemesis,
    checker: &mut Checker,
) -> Result<String, String> {
    let voters = |shared: &Shared| {
        let world = shared.borrow();
        let count = |inside: &cp_node::node::Inside| {
            inside.raft.metrics().borrow().membership_config.membership().voter_ids().count() as u64
        };
        world.nodes.len() as u64 == plan.nodes && world.nodes.values().all(|inside| count(inside) == plan.nodes)
    };
    while !voters(shared) {
        step(sim, checker)?;
        if sim.elapsed() > FORM_MAX {
            return Err("the cluster does not form".to_owned());
        }
    }
    phase.set(Phase::Storm);
    let end = sim.elapsed() + plan.storm;
    while sim.elapsed() < end {
        nemesis.step(sim, checker);
        step(sim, checker)?;
    }
    nemesis.heal(sim, checker);
    phase.set(Phase::Last);
    let deadline = sim.elapsed() + HEAL_MAX;
    loop {
        step(sim, checker)?;
        let together = if phase.get() == Phase::Done {
            checker.converged(plan.nodes, plan.proxies)
        } else {
            Err("the last write is not acknowledged".to_owned())
        };
        match together {
            Ok(()) => break,
            Err(reason) if sim.elapsed() > deadline => {
                return Err(format!("{HEAL_MAX:?} after the last fault: {reason}"));
            }
            Err(_) => {}
        }
    }
    checker.finish()?;
    Ok(checker.trace.digest())
}

fn step(sim: &mut Sim<'_>, checker: &mut Checker) -> Result<(), String> {
    sim.step().map_err(|e| e.to_string())?;
    checker.outside.advance(millis(sim.elapsed()));
    let panic = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(panic) = panic {
        return Err(format!("panic: {panic}"));
    }
    checker.step(millis(sim.elapsed()))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
