//! A process dies at any moment: what its disk has acknowledged is there.

use chaos::failpoints;

use super::failing::{Luck, Program};
use super::store::{Counts, Promises};

/// So many lives have one directory.
const LIVES: u64 = 40;

/// So many directories.
const DIRECTORIES: u64 = 9;

#[test]
fn a_killed_node_finds_every_entry_and_vote_that_was_acknowledged() {
    let began = std::time::Instant::now();
    let points = failpoints::of(&["log::", "durable::"]).unwrap();
    let mut luck = Luck(20_261_125);
    let mut total = Counts::default();
    for _ in 0..DIRECTORIES {
        let place = tempfile::tempdir().unwrap();
        let program = Program::new("failing-store", place.path());
        let mut promises = Promises::default();
        for life in 0..LIVES {
            let fate = luck.fate(&points, 500);
            let lived = program.live(&fate, None);
            promises.take(&lived).unwrap_or_else(|broken| panic!("life {life}, {fate:?}: {broken}"));
        }
        total = total.and(promises.counts);
    }
    println!("{total:?} in {:?}", began.elapsed());
    assert!(total.killed + total.aborted > LIVES * DIRECTORIES * 3 / 4, "most lives ended by force: {total:?}");
    assert!(total.killed > 100 && total.aborted > 50, "{total:?}");
    assert!(total.entries > 5000 && total.votes > 300 && total.snapshots > 100, "{total:?}");
    assert!(total.truncations > 100 && total.purges > 100, "{total:?}");
}
