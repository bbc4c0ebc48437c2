//! Every failpoint there is in the source ends a process at least once; and none is in a program that is built without
//! asking for it.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use chaos::layout::Layout;
use chaos::{binaries, failpoints};

use super::failing::{End, Fate, Program};

/// A point that a program comes by is hit within so many operations.
const OPERATIONS: u64 = 1500;

/// How long a node may take to come by a point.
const NODE_MAX: Duration = Duration::from_secs(10);

/// What is reached only when a node is sent a snapshot by another: `behind` has that scenario, without failpoints.
const NEEDS_ANOTHER_NODE: [&str; 2] = ["replica::before_install", "replica::after_install"];

/// What a disk alone comes by, or a node alone. The others are swept in a cluster (`chaos::sweep`).
const OF_ONE_DISK: [&str; 8] =
    ["log::", "durable::", "replica::", "snapshot::", "dp::base::", "dp::cluster::", "dp::journal::", "dp::key::"];

/// Whether a program ends at this point.
fn ends_at(name: &'static str, point: &str) -> bool {
    let place = tempfile::tempdir().unwrap();
    let program = Program::new(name, place.path());
    let failpoints = format!("{point}=return(abort)");
    let life = program.live(&Fate { seed: 5, operations: OPERATIONS, failpoints, kill: None }, None);
    assert_ne!(life.end, End::Failed, "{point}: {}", life.errors);
    life.end == End::Aborted
}

/// Whether a node that founds a cluster, and runs alone, ends at this point.
fn a_node_ends_at(point: &str) -> bool {
    let place = tempfile::tempdir().unwrap();
    let addresses = Layout::Test { cluster: 0 }.cp(1);
    let run = |subcommand: &str, failpoints: &str| {
        let mut command = Command::new(binaries::failing("failing-cp-node").unwrap());
        command.arg(subcommand).env("FAILPOINTS", failpoints).stdout(Stdio::null()).stderr(Stdio::null());
        for setting in [
            "node.name=alone".to_owned(),
            format!("data_dir={}", place.path().display()),
            format!("peer.listen={}", addresses.peer),
            format!("feed.listen={}", addresses.feed),
            format!("admin.listen={}", addresses.admin),
            format!("status.listen={}", addresses.status),
            "admin.keys=[{name: admin, key: chaos-admin-key-0001, role: admin}]".to_owned(),
            // Its very first entries make a snapshot.
            "raft.snapshot_entries=1".to_owned(),
        ] {
            command.arg(format!("--set={setting}"));
        }
        command.spawn().unwrap()
    };
    assert!(run("init", "").wait().unwrap().success());
    let mut node = run("run", &format!("{point}=return(abort)"));
    let deadline = Instant::now() + NODE_MAX;
    loop {
        if let Some(status) = node.try_wait().unwrap() {
            return status.signal() == Some(6);
        }
        if Instant::now() >= deadline {
            node.kill().unwrap();
            node.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_failpoint_is_reached_and_ends_a_process() {
    let points = failpoints::of(&OF_ONE_DISK).unwrap();
    let reached = |point: &&String| {
        ends_at("failing-store", point) || ends_at("failing-proxy-disk", point) || a_node_ends_at(point)
    };
    let (reached, unreached): (Vec<&String>, Vec<&String>) = points.iter().partition(reached);
    println!("{} points: {reached:?}", reached.len());
    let unreached: Vec<&str> =
        unreached.into_iter().map(String::as_str).filter(|point| !NEEDS_ANOTHER_NODE.contains(point)).collect();
    assert_eq!(unreached, [""; 0], "nothing ends at these");
}

/// A program's bytes as text: what is no text in them is of no matter, and text is searched fast.
/// Which of the words stand in a program.
fn words_in(program: &Path, words: &[String]) -> BTreeSet<String> {
    let program = std::fs::read(program).unwrap();
    // One pass over the program, which has a hundred MiB, for all words.
    let search = AhoCorasick::new(words).unwrap();
    search.find_overlapping_iter(&program).map(|found| words[found.pattern().as_usize()].clone()).collect()
}

#[test]
fn no_program_has_failpoints_unless_it_is_built_for_them() {
    let mut words = failpoints::all().unwrap();
    // What stands in front of every planted bug.
    words.push("plant::".to_owned());
    for program in ["cp-node", "dp-proxy", "hfctl"] {
        let found = words_in(&binaries::find(program).unwrap(), &words);
        assert!(found.is_empty(), "{program} has {found:?}");
    }
    // Those that are built for them show that they would be found.
    let found = words_in(&binaries::failing("failing-cp-node").unwrap(), &words);
    let missing: Vec<_> = words.iter().filter(|word| !word.starts_with("dp::") && !found.contains(*word)).collect();
    assert!(missing.is_empty(), "failing-cp-node lacks {missing:?}");
}
