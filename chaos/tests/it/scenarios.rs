//! Scenarios of the matrix, each once: real nodes and proxies under load, a fault, and every checker over what happened.

use chaos::layout::Layout;
use chaos::mutants;
use chaos::scenario::{self, Order, SaysNothing, Verdict};
use chaos::sweep;

/// Runs of a machine that starves a node before anything was done to it, before a scenario is given up.
const RUNS_MAX: usize = 3;

async fn holds(name: &str) {
    let mut disturbed = Vec::new();
    while disturbed.len() < RUNS_MAX {
        let reports = tempfile::tempdir().unwrap();
        let layout = Layout::Test { cluster: 0 };
        let order = Order::new(scenario::find(name).unwrap(), 1, reports.path().to_owned(), layout);
        let outcome = scenario::run(&order).await.unwrap();
        println!("{:?}", outcome.figures);
        match outcome.verdict {
            Verdict::Valid => return,
            Verdict::Invalid(SaysNothing::Disturbed(why)) => disturbed.push(why),
            Verdict::Invalid(why) => panic!("{name} says nothing: {why}"),
            Verdict::Failed(breaches) => panic!("{breaches:?}; see {}", reports.keep().display()),
        }
    }
    panic!("{name} was disturbed each time: {disturbed:?}");
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            holds($name).await;
        })*
    };
}

scenarios! {
    a_leader_that_is_killed_loses_nothing: "leader-kill",
    with_nobody_left_proxies_restart_and_serve: "nobody-left",
    what_an_earlier_build_has_left_goes_on_under_load: "golden",
}

/// A harness that finds no planted bug would find no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_bug_that_is_planted_is_found_by_the_law_that_it_breaks() {
    let reports = tempfile::tempdir().unwrap();
    let mutant = mutants::ALL.iter().find(|mutant| mutant.name == "request-id-forgotten").unwrap();
    let (layout, seeds) = (Layout::Test { cluster: 0 }, RUNS_MAX as u64);
    let hunt = mutants::hunt(mutant, layout, seeds, reports.path().to_owned()).await.unwrap();
    assert!(hunt.found, "{hunt:?}");
}

/// A point of each that has durable steps of its own; `chaos sweep` goes through all.
#[tokio::test(flavor = "multi_thread")]
async fn programs_that_end_at_a_failpoint_come_back_and_nothing_is_lost() {
    let reports = tempfile::tempdir().unwrap();
    let only = ["record::after_step", "archive::before_pointer", "dp::follow::before_publish"].map(str::to_owned);
    let plan = sweep::Plan::new(&only, 1, reports.path().to_owned(), Layout::Test { cluster: 0 }).unwrap();
    let mut told = 0;
    let all = sweep::run(&plan, |_| told += 1).await.unwrap();
    assert_eq!((all.len(), told), (only.len(), only.len()));
    if all.iter().any(|swept| swept.broken.is_some()) {
        panic!("{all:#?}; see {}", reports.keep().display());
    }
}
