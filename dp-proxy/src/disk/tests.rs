//! What a restart finds, whatever happened to the files.

use std::fs;
use std::path::PathBuf;

use daemon::seams::{SystemClock, SystemRandom};
use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::position::RestoreId;
use protocol::{ConfigState, Delta, Entry, Epoch, ResourceKey};

use super::*;

const CLUSTER: protocol::snapshot::ClusterId = protocol::snapshot::ClusterId([7; 16]);

/// A proxy's disk and the configuration that is kept there.
struct Node {
    dir: tempfile::TempDir,
    state: ConfigState,
    positions: Vec<(protocol::Position, protocol::Digest)>,
}

fn key(n: u64) -> ResourceKey {
    ResourceKey::new("routes", &format!("r{n}"))
}

fn entry(body: &str, revision: u64) -> Arc<Entry> {
    let stamp = Stamp { revision, time: 0 };
    Arc::new(Entry::new(body, "default", stamp))
}

impl Node {
    fn new() -> Self {
        let mut state = ConfigState::following();
        state.begin_epoch(Epoch { number: 1, restore: RestoreId([1; 16]) });
        Self { dir: tempfile::tempdir().unwrap(), state, positions: Vec::new() }
    }

    fn open(&self) -> Opened {
        open(self.dir.path(), &"default".into(), Arc::new(SystemClock), &SystemRandom).unwrap()
    }

    fn image(&self) -> Image {
        let last_good = [(key(1), entry("good", 1))].into_iter().collect();
        Image { state: self.state.clone(), last_good }
    }

    fn edit(&mut self, body: &str) -> bytes::Bytes {
        let position = self.state.position().next();
        let changes = vec![Change { key: key(position.revision % 3), entry: Some(entry(body, position.revision)) }];
        let (prev, digest) = (self.state.changed_at(), self.state.digest_after(&changes));
        let delta = Delta { prev, position, changes, digest, cause: None };
        self.state.evolve(&delta).unwrap();
        protocol::codec::seal(&delta).unwrap().into()
    }

    fn note(&mut self) {
        self.positions.push((self.state.position(), self.state.digest()));
    }

    /// A base, then `edits` edits, each kept by itself, and a mark at the end.
    fn filled(edits: usize) -> Self {
        let mut node = Self::new();
        let opened = node.open();
        let store = opened.store.as_ref().unwrap();
        store.pin(CLUSTER).blocking_recv().unwrap().unwrap();
        node.edit("first");
        node.note();
        store.rebase(node.image()).blocking_recv().unwrap().unwrap();
        for n in 0..edits {
            let frame = node.edit(&format!("edit {n}"));
            node.note();
            store.append(vec![frame], node.image()).blocking_recv().unwrap().unwrap();
        }
        node.state.bookmark(node.state.position().next()).unwrap();
        node.note();
        let mark = mark(node.state.position());
        store.append(vec![mark], node.image()).blocking_recv().unwrap().unwrap();
        node
    }

    fn files(&self, name: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path().join("config")).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
            .collect();
        files.sort();
        files
    }
}

#[test]
fn law_7_a_restart_finds_everything_that_was_kept() {
    let node = Node::filled(5);
    for _ in 0..3 {
        let opened = node.open();
        assert_eq!(opened.recovered.state(), Some(&node.state));
        assert_eq!(opened.recovered.cluster, Some(CLUSTER));
        assert_eq!(opened.recovered.findings, []);
        assert_eq!(opened.recovered.base.as_ref().unwrap().last_good, node.image().last_good);
    }
}

#[test]
fn one_directory_serves_one_process() {
    let node = Node::new();
    let _first = node.open();
    let second = open(node.dir.path(), &"default".into(), Arc::new(SystemClock), &SystemRandom).unwrap_err();
    assert!(second.to_string().contains("another process uses this directory"), "{second}");
}

#[test]
fn law_10_what_is_foreign_is_refused_and_said_why() {
    let node = Node::filled(1);
    let other = Node::filled(1);
    let reason = |opened: &Opened| opened.recovered.findings.last().unwrap().reason.clone();
    let foreign = open(node.dir.path(), &"edge".into(), Arc::new(SystemClock), &SystemRandom).unwrap();
    assert!(foreign.recovered.state().is_none() && reason(&foreign).contains("\"edge\""), "{}", reason(&foreign));
    drop(foreign);
    for (from, to) in other.files("base").iter().zip(node.files("base")) {
        fs::copy(from, to).unwrap();
    }
    let forged = node.open();
    assert!(forged.recovered.state().is_none() && reason(&forged).contains("seal"), "{}", reason(&forged));
    drop(forged);
    identity::pin_cluster(&other.dir.path().join("cluster"), protocol::snapshot::ClusterId([5; 16])).unwrap();
    let elsewhere = other.open();
    assert!(reason(&elsewhere).contains("it is of cluster 0707"), "{}", reason(&elsewhere));
}

/// Does something to every byte of a file in turn, and looks what a start finds then.
fn at_every_byte(
    node: &Node,
    path: &PathBuf,
    damage: impl Fn(&[u8], usize) -> Vec<u8>,
    check: impl Fn(usize, &Opened),
) {
    let good = fs::read(path).unwrap();
    for at in 0..good.len() {
        fs::write(path, damage(&good, at)).unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_all(node.dir.path(), copy.path());
        let opened = open(copy.path(), &"default".into(), Arc::new(SystemClock), &SystemRandom).unwrap();
        check(at, &opened);
    }
    fs::write(path, good).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.path().is_dir() { copy_all(&file.path(), &to) } else { fs::copy(file.path(), to).map(|_| ()).unwrap() }
    }
}

fn flipped(good: &[u8], at: usize) -> Vec<u8> {
    let mut bad = good.to_vec();
    bad[at] ^= 1 << (at % 8);
    bad
}

fn cut(good: &[u8], at: usize) -> Vec<u8> {
    good[..at].to_vec()
}

#[test]
fn law_10_a_journal_is_believed_up_to_its_first_bad_byte() {
    let node = Node::filled(3);
    let path = node.files("journal").pop().unwrap();
    for damage in [flipped, cut] {
        at_every_byte(&node, &path, damage, |at, opened| {
            let state = opened.recovered.state().expect("the base is good");
            let found = (state.position(), state.digest());
            assert!(node.positions.contains(&found), "byte {at}: {}", opened.recovered);
            // Whatever was found is one of the states that were kept; unless the damage says nothing at all (a cut right
            // behind a record), it is reported with the file and a place that is not behind it.
            if found != *node.positions.last().unwrap() && opened.recovered.findings.is_empty() {
                let kept = opened.recovered.steps.len();
                assert_eq!(node.positions[kept], found, "byte {at}: a cut between records");
            }
            for finding in &opened.recovered.findings {
                assert_eq!(finding.file.file_name(), path.file_name());
                assert!(finding.offset <= at as u64, "byte {at}: {finding}");
            }
        });
    }
}

#[test]
fn law_10_a_damaged_base_costs_nothing_while_its_predecessor_stands() {
    let mut node = Node::filled(2);
    let opened = node.open();
    let store = opened.store.as_ref().unwrap();
    let frame = node.edit("one more");
    store.append(vec![frame], node.image()).blocking_recv().unwrap().unwrap();
    store.rebase(node.image()).blocking_recv().unwrap().unwrap();
    let frame = node.edit("and one more");
    store.append(vec![frame], node.image()).blocking_recv().unwrap().unwrap();
    drop(opened);
    let bases = node.files("base");
    assert_eq!(bases.len(), 2, "the one before the newest is kept");
    for damage in [flipped, cut] {
        at_every_byte(&node, &bases[1], damage, |at, opened| {
            assert_eq!(opened.recovered.state(), Some(&node.state), "byte {at}");
            assert_eq!(opened.recovered.findings[0].file.file_name(), bases[1].file_name(), "byte {at}");
        });
    }
}

#[test]
fn a_damaged_key_or_cluster_file_is_no_danger() {
    let node = Node::filled(1);
    for name in ["key", "cluster"] {
        for damage in [flipped, cut] {
            at_every_byte(&node, &node.dir.path().join(name), damage, |at, opened| {
                assert!(!opened.recovered.findings.is_empty(), "{name} byte {at}");
                assert!(opened.store.is_some(), "{name} byte {at}");
                // Without the key nothing can be believed; whose the configuration is, it says itself.
                let found = opened.recovered.state().is_some();
                assert_eq!(found, name == "cluster", "{name} byte {at}");
            });
        }
    }
}

#[test]
fn after_damage_the_first_thing_kept_is_a_new_base() {
    let mut node = Node::filled(3);
    let journal = node.files("journal").pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 5]).unwrap();
    let opened = node.open();
    assert_eq!(opened.recovered.findings.len(), 1);
    node.state = opened.recovered.state().unwrap().clone();
    let frame = node.edit("after the damage");
    opened.store.as_ref().unwrap().append(vec![frame], node.image()).blocking_recv().unwrap().unwrap();
    drop(opened);
    let opened = node.open();
    assert_eq!((opened.recovered.state(), opened.recovered.findings.len()), (Some(&node.state), 0));
}

#[test]
fn law_13_journals_make_room_for_a_base_before_they_outgrow_it() {
    let mut node = Node::filled(0);
    let opened = node.open();
    let store = opened.store.as_ref().unwrap();
    let body = "x".repeat(64 << 10);
    for _ in 0..100 {
        let frame = node.edit(&body);
        store.append(vec![frame], node.image()).blocking_recv().unwrap().unwrap();
    }
    let bases = opened.stats.bases.load(std::sync::atomic::Ordering::Relaxed);
    drop(opened);
    assert!((3..=7).contains(&bases), "{bases} bases for 6.4 MiB of edits");
    let kept: u64 = node.files("").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(kept < 5 << 20, "{kept} bytes are kept");
    let opened = node.open();
    assert_eq!((opened.recovered.state(), opened.recovered.findings.len()), (Some(&node.state), 0));
}

#[test]
fn a_directory_that_cannot_be_written_is_still_read() {
    let node = Node::filled(2);
    // Root may write everything, so the directory's place is taken by something that nobody can write into.
    fs::remove_file(node.dir.path().join("lock")).unwrap();
    fs::create_dir(node.dir.path().join("lock")).unwrap();
    let opened = node.open();
    assert_eq!(opened.recovered.state(), Some(&node.state));
    assert!(opened.store.is_none());
}

#[test]
fn a_disk_that_fails_gets_a_new_base_when_it_works_again() {
    let mut node = Node::filled(1);
    let opened = node.open();
    let store = opened.store.as_ref().unwrap();
    let config = node.dir.path().join("config");
    let aside = node.dir.path().join("aside");
    fs::rename(&config, &aside).unwrap();
    fs::write(&config, "in the way").unwrap();
    node.edit("lost");
    let failed = store.rebase(node.image()).blocking_recv().unwrap().unwrap_err();
    assert!(failed.to_string().contains("config/base-"), "{failed}");
    let put_off = store.rebase(node.image()).blocking_recv().unwrap().unwrap_err();
    assert!(put_off.to_string().contains("the next attempt waits"), "{put_off}");
    fs::remove_file(&config).unwrap();
    fs::rename(&aside, &config).unwrap();
    let kept = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        store.rebase(node.image()).blocking_recv().unwrap()
    });
    assert!(kept.take(60).any(|result| result.is_ok()), "within three seconds");
    drop(opened);
    assert_eq!(node.open().recovered.state(), Some(&node.state));
}
