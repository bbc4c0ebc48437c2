//! Some hundred seeds, those that ever failed first; and some of them twice, which must give the same trace.
//!
//! A run is a process of its own (see `sim`): it draws from a source that stands for the whole process.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use sim::Tally;

/// Seeds of one batch. Together with the repeated ones some three minutes on two cores.
const SEEDS: std::ops::Range<u64> = 0..200;

/// Seeds that are run twice.
const TWICE: std::ops::Range<u64> = 1_000..1_020;

/// Runs at once.
const JOBS: usize = 2;

/// What must have happened in a batch, or it has proved nothing.
const SOMETIMES: [(&str, u64); 18] = [
    ("acknowledged", 5_000),
    ("boots", 1_000),
    ("compare_and_set", 50),
    ("crashes", 50),
    ("held_links", 50),
    ("isolations", 50),
    ("leaders", 500),
    ("one_way_partitions", 50),
    ("orderly_stops", 20),
    ("partitions", 50),
    ("power_cuts", 200),
    ("power_cuts_of_all", 20),
    ("proxy_kills", 50),
    ("proxy_moves", 5_000),
    ("reads", 1_000),
    ("refused", 50),
    ("snapshots", 500),
    ("unknown", 10),
];

fn sim(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn known() -> Vec<u64> {
    let text = include_str!("../../seeds.txt");
    let seed = |line: &str| line.split_whitespace().next()?.parse().ok();
    text.lines().filter(|line| !line.starts_with('#')).filter_map(seed).collect()
}

/// Runs `each` for all seeds, some at once, in their order.
fn all(seeds: impl Iterator<Item = u64> + Send, each: impl Fn(u64) + Sync) {
    let seeds = Mutex::new(seeds);
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().unwrap().next() else { return };
                    each(seed);
                }
            });
        }
    });
}

#[test]
fn no_seed_breaks_a_law() {
    let total = Mutex::new(Tally::default());
    let breaches = Mutex::new(Vec::new());
    all(known().into_iter().chain(SEEDS), |seed| {
        let (good, output) = sim(&["--seed", &seed.to_string()]);
        if !good {
            breaches.lock().unwrap().push(output);
            return;
        }
        let mut total = total.lock().unwrap();
        for (what, count) in Tally::read(&output).0 {
            total.add(&what, count);
        }
    });
    let breaches = breaches.into_inner().unwrap();
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    let total = total.into_inner().unwrap();
    println!("{total}");
    for (what, least) in SOMETIMES {
        assert!(total.get(what) >= least, "{what} happened {} times, that is hardly ever: {total}", total.get(what));
    }
    let simulated = Duration::from_millis(total.get("simulated_millis"));
    assert!(simulated > Duration::from_secs(20 * 60), "only {simulated:?} were simulated");
}

#[test]
fn a_seed_decides_everything() {
    all(TWICE, |seed| {
        let (first, second) = (sim(&["--seed", &seed.to_string()]), sim(&["--seed", &seed.to_string()]));
        assert_eq!(first, second, "the same seed went two ways");
    });
}

/// A simulation that finds no planted bug would find no other.
#[test]
fn planted_bugs_are_found() {
    for (mutant, seeds) in [
        ("unsynced-log", 10),
        ("unsynced-vote", 0),
        ("stale-reads", 10),
        ("new-key-on-retry", 40),
        ("forgetful-proxy", 10),
    ] {
        let found = (0..seeds).find(|seed| !sim(&["--seed", &seed.to_string(), "--mutant", mutant]).0);
        assert!(found.is_some() || seeds == 0, "{mutant} was planted, and {seeds} seeds found nothing");
    }
}
