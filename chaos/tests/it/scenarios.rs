//! Scenarios of the matrix, each once: real nodes and proxies under load, a fault, and every checker over what happened.

use chaos::layout::Layout;
use chaos::scenario::{self, Order, Verdict};

async fn holds(name: &str) {
    let reports = tempfile::tempdir().unwrap();
    let order = Order {
        scenario: scenario::find(name).unwrap(),
        seed: 1,
        schedule: None,
        reports: reports.path().to_owned(),
        layout: Layout::Test { cluster: 0 },
        planted: None,
    };
    let outcome = scenario::run(&order).await.unwrap();
    if outcome.verdict != Verdict::Valid {
        let kept = reports.keep();
        panic!("{:?}, {:?}; see {}", outcome.verdict, outcome.figures, kept.display());
    }
    println!("{:?}", outcome.figures);
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
    a_leader_that_is_cut_off_acknowledges_nothing_that_is_lost: "isolated-leader",
    with_nobody_left_proxies_restart_and_serve: "nobody-left",
}
