//! The power goes: what no sync covered is lost, wholly or in part, and what was acknowledged is there.
//!
//! First the harness itself is held against plain programs whose outcome is known. Then each disk of ours is cut many
//! times; and each with a disk that forgets what it was told, on which the same test must find a loss.

use std::process::Command;
use std::time::Instant;

use chaos::failpoints;
use chaos::power_cut::{Cut, Disk, Forgets, Journal, Node, Tree, watched};

use super::failing::{Life, Luck, Program};
use super::{proxy_disk, store};

// === the harness ===

/// What each script leaves in an empty directory when the power goes at its end, all that is not synced being lost.
#[rustfmt::skip]
const SCRIPTS: &[(&str, &[(&str, &str)])] = &[
    ("printf abc > a; sync -d a; sync .",                           &[("a", "abc")]),
    ("printf abc > a; sync a; sync .",                              &[("a", "abc")]),
    ("printf abc > a; sync .",                                      &[("a", "")]),
    ("printf abc > a; sync -d a",                                   &[]),
    ("printf abc > a",                                              &[]),
    ("printf abc > a; sync a .; printf def >> a",                   &[("a", "abc")]),
    ("printf abc > a; sync a .; printf def >> a; sync -d a",        &[("a", "abcdef")]),
    ("printf abc > a; sync a .; printf x > a",                      &[("a", "abc")]),
    ("printf abc > a; sync a .; truncate -s 1 a",                   &[("a", "abc")]),
    ("printf abc > a; sync a .; truncate -s 1 a; sync a",           &[("a", "a")]),
    ("printf old > a; sync a .; printf new > b; sync b; mv b a",    &[("a", "old")]),
    ("printf old > a; sync a .; printf new > b; sync b; mv b a; sync .", &[("a", "new")]),
    ("printf old > a; sync a .; printf new > b; mv b a; sync .",    &[("a", "")]),
    ("printf abc > a; sync a .; rm a",                              &[("a", "abc")]),
    ("printf abc > a; sync a .; rm a; sync .",                      &[]),
    ("printf abc > a; ln a b; sync a .",                            &[("a", "abc"), ("b", "abc")]),
    ("mkdir d; printf x > d/f; sync d/f .",                         &[("d", "/")]),
    ("mkdir d; printf x > d/f; sync d/f d",                         &[]),
    ("mkdir d; printf x > d/f; sync d/f d .",                       &[("d", "/"), ("d/f", "x")]),
    ("mkdir d; sync .; rmdir d",                                    &[("d", "/")]),
];

/// A directory with its disk and its journal.
struct Machine {
    place: tempfile::TempDir,
    disk: Disk,
    journal: Journal,
}

impl Machine {
    fn new(forgets: Forgets) -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("disk");
        std::fs::create_dir(&directory).unwrap();
        let disk = Disk::of(&directory, forgets).unwrap();
        let journal = Journal::at(&place.path().join("journal"));
        Self { place, disk, journal }
    }

    fn runs(&mut self, script: &str) -> usize {
        let directory = self.place.path().join("disk");
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&directory);
        watched(&mut command, &directory, self.journal.path()).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        self.disk.take(&mut self.journal, &directory).unwrap()
    }
}

fn flat(tree: &Tree, below: &str, found: &mut Vec<(String, String)>) {
    for (name, node) in tree {
        let path = format!("{below}{name}");
        match node {
            Node::File { bytes, .. } => found.push((path, String::from_utf8_lossy(bytes).into_owned())),
            Node::Directory { entries, .. } => {
                found.push((path.clone(), "/".to_owned()));
                flat(entries, &format!("{path}/"), found);
            }
        }
    }
}

fn left(disk: &Disk, cut: Cut) -> Vec<(String, String)> {
    let mut found = Vec::new();
    flat(&disk.cut(cut), "", &mut found);
    found
}

#[test]
fn of_plain_programs_a_cut_leaves_what_they_have_synced() {
    for (script, expected) in SCRIPTS {
        let mut machine = Machine::new(Forgets::default());
        assert_eq!(machine.runs(script), 0, "{script}: something was not noticed");
        let expected: Vec<_> = expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(left(&machine.disk, Cut::AllLost), expected, "{script}");
    }
}

#[test]
fn what_the_library_misses_is_noticed() {
    let mut machine = Machine::new(Forgets::default());
    // `cat` is handed a descriptor that it has not opened itself.
    assert_eq!(machine.runs("echo abc | cat > a"), 1);
    assert_eq!(left(&machine.disk, Cut::AllLost), []);
}

#[test]
fn what_the_library_cannot_follow_ends_the_process() {
    let mut machine = Machine::new(Forgets::default());
    machine.runs("printf abc > a");
    let directory = machine.place.path().join("disk");
    let mut command = Command::new("ln");
    command.args(["-s", "a", "b"]).current_dir(&directory);
    watched(&mut command, &directory, machine.journal.path()).unwrap();
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("power-cut: a symbolic link is made"), "{output:?}");
}

#[test]
fn a_cut_is_made_on_the_directory_and_can_be_followed_by_another() {
    let mut machine = Machine::new(Forgets::default());
    let directory = machine.place.path().join("disk");
    machine.runs("printf abc > a; sync a .; printf def >> a; printf x > b");
    machine.disk.cut_at(&directory, Cut::AllLost).unwrap();
    let names = || std::fs::read_dir(&directory).unwrap().map(|item| item.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!((names(), std::fs::read(directory.join("a")).unwrap()), (vec!["a".into()], b"abc".to_vec()));
    machine.runs("printf ghi >> a; printf y > c; sync a");
    machine.disk.cut_at(&directory, Cut::AllLost).unwrap();
    assert_eq!((names(), std::fs::read(directory.join("a")).unwrap()), (vec!["a".into()], b"abcghi".to_vec()));
}

// === our disks ===

/// So many cuts of each disk, a fifth of them in which all is lost that can be.
const CUTS: u64 = 120;

/// A new directory after so many, so that its making is cut as well.
const CUTS_OF_ONE: u64 = 30;

/// Controls must find a loss in so many cuts.
const CONTROL_CUTS: u64 = 30;

/// Lets a program live and cuts its power, again and again; gives to `take` each life, which says whether it found what
/// was promised. Stops at the first that did not.
fn cut_again_and_again(
    name: &'static str,
    forgets: Forgets,
    cuts: u64,
    luck: &mut Luck,
    points: &[String],
    always: &str,
    mut take: impl FnMut(&Life) -> Result<(), String>,
) -> Result<(), String> {
    let place = tempfile::tempdir().unwrap();
    let program = Program::new(name, place.path());
    let mut disk = Disk::of(&program.directory, forgets).unwrap();
    let mut journal = Journal::at(&place.path().join("journal"));
    for number in 0..=cuts {
        let mut fate = luck.fate(points, 500);
        fate.failpoints = [&fate.failpoints, always]
            .into_iter()
            .filter(|part| !part.is_empty())
            .fold(String::new(), |all, part| if all.is_empty() { part.to_owned() } else { format!("{all};{part}") });
        let life = program.live(&fate, Some(journal.path()));
        take(&life).map_err(|broken| format!("cut {number}, {fate:?}: {broken}"))?;
        disk.take(&mut journal, &program.directory).map_err(|e| format!("{e:#}"))?;
        let seed = luck.seed();
        let cut = if seed.is_multiple_of(5) { Cut::AllLost } else { Cut::SomeLost { seed } };
        disk.cut_at(&program.directory, cut).unwrap();
    }
    Ok(())
}

fn cut_store(forgets: Forgets, cuts: u64, luck: &mut Luck, always: &str) -> (store::Counts, Result<(), String>) {
    let points = failpoints::of(&["log::", "durable::"]).unwrap();
    let points: Vec<String> = points.into_iter().filter(|name| !always.starts_with(name)).collect();
    let mut promises = store::Promises::default();
    let result = cut_again_and_again("failing-store", forgets, cuts, luck, &points, always, |life| promises.take(life));
    (promises.counts, result)
}

#[test]
fn a_node_whose_power_is_cut_finds_every_entry_and_vote_that_was_acknowledged() {
    let began = Instant::now();
    let mut luck = Luck(1);
    let mut total = store::Counts::default();
    for _ in 0..CUTS / CUTS_OF_ONE {
        let (counts, result) = cut_store(Forgets::default(), CUTS_OF_ONE, &mut luck, "");
        result.unwrap();
        total = total.and(counts);
    }
    println!("{CUTS} cuts: {total:?} in {:?}", began.elapsed());
    assert!(total.entries > 2000 && total.votes > 100 && total.snapshots > 50, "{total:?}");
    assert!(total.truncations > 30 && total.purges > 30, "{total:?}");
}

/// Each of these must be found, or the test above proves nothing.
fn finds_a_loss(forgets: Forgets, always: &str) {
    let (counts, result) = cut_store(forgets, CONTROL_CUTS, &mut Luck(2), always);
    let broken = result.expect_err("nothing was lost");
    println!("after {} lives: {broken:.300}", counts.lives);
}

#[test]
fn without_the_logs_own_sync_a_cut_loses_what_was_acknowledged() {
    finds_a_loss(Forgets::default(), "plant::log-not-synced=return");
}

#[test]
fn on_a_disk_that_forgets_the_logs_data_a_cut_loses_what_was_acknowledged() {
    finds_a_loss(Forgets { data_of: Some("db"), names: false }, "");
}

#[test]
fn on_a_disk_that_forgets_names_a_cut_loses_what_was_acknowledged() {
    finds_a_loss(Forgets { data_of: None, names: true }, "");
}

fn cut_proxy(forgets: Forgets, cuts: u64, luck: &mut Luck) -> (proxy_disk::Counts, Result<(), String>) {
    let points = failpoints::of(&["dp::base::", "dp::cluster::", "dp::journal::", "dp::key::", "durable::"]).unwrap();
    let mut promises = proxy_disk::Promises::default();
    let result =
        cut_again_and_again("failing-proxy-disk", forgets, cuts, luck, &points, "", |life| promises.take(life));
    (promises.counts, result)
}

#[test]
fn a_proxy_whose_power_is_cut_starts_from_the_last_position_that_was_kept_or_a_later_one() {
    let began = Instant::now();
    let mut luck = Luck(3);
    let mut total = proxy_disk::Counts::default();
    for _ in 0..CUTS / CUTS_OF_ONE {
        let (counts, result) = cut_proxy(Forgets::default(), CUTS_OF_ONE, &mut luck);
        result.unwrap();
        total = total.and(counts);
    }
    println!("{CUTS} cuts: {total:?} in {:?}", began.elapsed());
    assert!(total.kept > 2000 && total.findings > 10, "{total:?}");
}

#[test]
fn on_a_disk_that_forgets_a_proxys_journals_or_names_a_cut_loses_what_was_kept() {
    for forgets in [Forgets { data_of: Some("journal-"), names: false }, Forgets { data_of: None, names: true }] {
        let (counts, result) = cut_proxy(forgets, CONTROL_CUTS, &mut Luck(4));
        let broken = result.expect_err("nothing was lost");
        println!("after {} lives: {broken:.300}", counts.lives);
    }
}
