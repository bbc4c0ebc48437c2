//! The embedded record beside a model that keeps every state there ever was.

use std::collections::BTreeMap;

use protocol::command::{Action, Command, Draft, Transaction, Write};
use protocol::position::RestoreId;
use protocol::{Delta, Epoch};

use super::*;
use crate::machine::{Op, OutboxItem, State};

const ROOM: EmbeddedSettings = EmbeddedSettings { rows_max: 10_000, bytes_max: 64 << 20 };

/// A node that applies, with every state it ever had.
struct World {
    state: State,
    tail: watch::Sender<Arc<Tail>>,
    then: BTreeMap<u64, ConfigState>,
    random: u64,
}

impl World {
    fn new() -> Self {
        let state = State::new(Epoch { number: 1, restore: RestoreId([1; 16]) });
        let tail = watch::Sender::new(Arc::new(Tail::new(&state.config)));
        let then = [(0, state.config.clone())].into();
        Self { state, tail, then, random: 7 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Applies a transaction; what came of it, if anything.
    fn apply(&mut self, writes: Vec<Write>) -> Option<Arc<OutboxItem>> {
        let command = Command {
            origin: None,
            idempotency: None,
            request: "r".into(),
            author: if self.state.config.position().revision.is_multiple_of(2) { "ann" } else { "bob" }.into(),
            time: 1000 + self.state.config.position().revision,
            based_on: vec![],
            action: Action::Transaction(Transaction { writes, if_revision: None }),
        };
        let change = self.state.apply(&command).unwrap().change?;
        self.then.insert(self.state.config.position().revision, self.state.config.clone());
        Some(Arc::new(OutboxItem::new(change.full, change.before, change.chain)))
    }

    /// Writes something.
    fn change(&mut self) -> Arc<OutboxItem> {
        loop {
            let count = 1 + self.below(3);
            let writes = (0..count).map(|_| self.any_write()).collect();
            if let Some(item) = self.apply(writes) {
                return item;
            }
        }
    }

    fn any_write(&mut self) -> Write {
        let key = ResourceKey::new("routes", &format!("r{}", self.below(6)));
        if self.below(4) == 0 {
            return Write::Delete { key, if_match: None, force: false };
        }
        // Some are longer than a chunk.
        let length = usize::try_from(self.below(3) * 5000 + self.below(9)).unwrap();
        put(key, &format!("{{\"n\":\"{}\"}}", "x".repeat(length)))
    }

    fn publish(&self, items: Vec<Arc<OutboxItem>>) {
        let newest = self.tail.borrow().then(items);
        self.tail.send_replace(Arc::new(newest));
    }

    fn changes(&mut self, count: usize) {
        for _ in 0..count {
            let item = self.change();
            self.publish(vec![item]);
        }
    }

    /// Changes that come in a snapshot.
    fn leap(&mut self, count: usize) {
        for _ in 0..count {
            self.change();
        }
        self.tail.send_replace(Arc::new(Tail::new(&self.state.config)));
    }

    fn follow(&self, embedded: &Embedded) -> tokio::task::JoinHandle<()> {
        tokio::spawn(embedded.clone().follow(TailReader::new(self.tail.subscribe())))
    }

    fn position(&self) -> Position {
        self.state.config.position()
    }

    async fn caught_up(&self, embedded: &Embedded) {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(embedded.reached(self.position(), deadline).await, "{:?}", embedded.reach());
    }

    /// Holds every answer against the model: what is answered is true; says what is unknown.
    async fn check(&self, embedded: &Embedded) -> BTreeMap<u64, u64> {
        let mut unknown = BTreeMap::new();
        for (revision, config) in &self.then {
            for id in 0..6 {
                let key = ResourceKey::new("routes", &format!("r{id}"));
                let told = embedded.entry_at(&key, *revision, self.state.config.clone()).await.unwrap();
                match told {
                    Then::There(entry) => assert_eq!(Some(&entry), config.get(&key), "{key} at {revision}"),
                    Then::Absent => assert_eq!(None, config.get(&key), "{key} at {revision}"),
                    Then::Unknown => *unknown.entry(*revision).or_default() += 1,
                    Then::Later => panic!("{revision} is not in the future"),
                }
            }
        }
        unknown
    }
}

fn put(key: ResourceKey, body: &str) -> Write {
    let draft = Draft {
        body: body.into(),
        references: vec![],
        claims: vec![],
        groups: vec!["default".into(), "edge".into()],
        ttl_seconds: Some(60),
    };
    Write::Put { key, draft, if_match: None, only_new: false }
}

async fn all(embedded: &Embedded) -> Vec<(RowId, Row)> {
    embedded.rows(RowFilter { limit: usize::MAX, ..RowFilter::default() }).await.unwrap()
}

fn revisions(rows: &[(RowId, Row)]) -> Vec<u64> {
    let mut revisions: Vec<u64> = rows.iter().map(|(id, _)| id.revision).collect();
    revisions.dedup();
    revisions
}

#[tokio::test]
async fn everything_is_told_as_it_was_applied() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let embedded = Embedded::new(dir.path(), ROOM);
    let task = world.follow(&embedded);
    world.changes(150);
    // More than one step at once.
    let items: Vec<_> = (0..STEP_CHANGES_MAX + 100).map(|_| world.change()).collect();
    world.publish(items);
    world.caught_up(&embedded).await;
    assert_eq!(world.check(&embedded).await, BTreeMap::new(), "nothing is unknown");
    let rows = all(&embedded).await;
    let head = world.position().revision;
    assert_eq!(revisions(&rows), (1..=head).rev().collect::<Vec<_>>(), "every revision, newest first");
    for (id, row) in &rows {
        let (before, after) = (&world.then[&(id.revision - 1)], &world.then[&id.revision]);
        assert_eq!((row.before.as_ref(), row.entry.as_ref()), (before.get(&row.key), after.get(&row.key)));
        assert_eq!((row.chain, row.time), (after.chain(), 1000 + id.revision - 1));
        assert_eq!(row.author.as_str(), if id.revision % 2 == 1 { "ann" } else { "bob" });
    }
    assert_eq!(embedded.reach().rows, rows.len() as u64);
    // Filters, each against all rows.
    let asked = async |filter: RowFilter| embedded.rows(RowFilter { limit: 10_000, ..filter }).await.unwrap();
    let expect = |fits: &dyn Fn(&RowId, &Row) -> bool| -> Vec<_> {
        rows.iter().filter(|(id, row)| fits(id, row)).cloned().collect()
    };
    let r3 = RowFilter { kind: Some("routes".into()), id: Some("r3".into()), ..RowFilter::default() };
    assert_eq!(asked(r3).await, expect(&|_, row| row.key.id.as_str() == "r3"));
    let by_ann = RowFilter { author: Some("ann".into()), ..RowFilter::default() };
    assert_eq!(asked(by_ann).await, expect(&|id, _| id.revision % 2 == 1));
    let one = RowFilter { revision: Some(77), ..RowFilter::default() };
    assert_eq!(asked(one).await, expect(&|id, _| id.revision == 77));
    let some = RowFilter { above: Some(20), upto: Some(60), ..RowFilter::default() };
    assert_eq!(asked(some).await, expect(&|id, _| (21..=60).contains(&id.revision)));
    let while_ = RowFilter { since: Some(1010), until: Some(1020), ..RowFilter::default() };
    assert_eq!(asked(while_).await, expect(&|_, row| (1010..1020).contains(&row.time)));
    let page = embedded.rows(RowFilter { limit: 7, before: Some(rows[4].0), ..RowFilter::default() }).await.unwrap();
    assert_eq!(page, rows[5..12]);
    assert!(rows.iter().any(|(_, row)| row.op() == Op::Delete) && rows.iter().any(|(_, row)| row.op() == Op::Update));
    drop(world);
    task.await.unwrap();
    let closed = embedded.rows(RowFilter { limit: 1, ..RowFilter::default() }).await;
    assert!(matches!(closed, Err(EmbeddedError::Closed(_))));
}

#[tokio::test]
async fn after_a_crash_it_goes_on_from_its_own_disk_and_takes_nothing_in_twice() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let embedded = Embedded::new(&dir.path().join("a"), ROOM);
    let _task = world.follow(&embedded);
    world.changes(60);
    world.caught_up(&embedded).await;
    embedded.sync().await;
    world.changes(40);
    world.caught_up(&embedded).await;
    // What the process has not handed over is gone with it; the files are what a crash leaves.
    let left = dir.path().join("b");
    copy(&dir.path().join("a"), &left);
    let again = Embedded::new(&left, ROOM);
    let on_disk = Store::open(&left).unwrap().head().unwrap().position.revision;
    assert!((60..=100).contains(&on_disk), "{on_disk}");
    // The node reads its log again from an old snapshot; then changes come.
    let items: Vec<_> = {
        let mut replayed = World::new();
        (0..100).map(|_| replayed.change()).collect()
    };
    world.tail.send_replace(Arc::new(Tail::new(&world.then[&20])));
    let _again_task = world.follow(&again);
    for item in &items[20..] {
        world.publish(vec![item.clone()]);
        tokio::task::yield_now().await;
    }
    world.changes(10);
    world.caught_up(&again).await;
    assert_eq!(again.reach().gaps, []);
    assert_eq!(world.check(&again).await, BTreeMap::new());
    assert_eq!(revisions(&all(&again).await), (1..=110).rev().collect::<Vec<_>>());
    assert_eq!(again.reach().rows, all(&again).await.len() as u64);
}

#[tokio::test]
async fn what_it_could_not_see_is_stated_and_never_made_up() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let embedded = Embedded::new(dir.path(), ROOM);
    let _task = world.follow(&embedded);
    world.changes(30);
    world.caught_up(&embedded).await;
    world.leap(25);
    world.caught_up(&embedded).await;
    world.changes(30);
    world.caught_up(&embedded).await;
    let at = |revision| Position { revision, ..world.position() };
    let reach = embedded.reach();
    assert_eq!((reach.since, reach.gaps), (at(0), vec![Gap { after: at(30), upto: at(55) }]));
    let unknown = world.check(&embedded).await;
    assert!(unknown.keys().all(|revision| *revision < 55), "{unknown:?}");
    assert!(unknown.contains_key(&40), "inside the gap somebody's past is unknown: {unknown:?}");
    let told = revisions(&all(&embedded).await);
    assert_eq!(told, (56..=85).rev().chain((1..=30).rev()).collect::<Vec<_>>());
    // A reader that is too slow for the tail.
    let mut tail = Tail::new(&world.state.config);
    let before = world.position();
    for _ in 0..TAIL_CHANGES_MAX + 5 {
        let item = OutboxItem::new(
            Delta {
                prev: before,
                position: world.position(),
                changes: vec![],
                digest: world.state.config.digest(),
                cause: None,
            },
            vec![],
            world.state.config.chain(),
        );
        tail = tail.then([Arc::new(item)]);
    }
    assert!(tail.base().position == world.position(), "the oldest are gone, and the base has moved");
}

#[tokio::test]
async fn many_gaps_are_told_as_fewer_and_larger_ones() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let embedded = Embedded::new(dir.path(), ROOM);
    let _task = world.follow(&embedded);
    for _ in 0..store::GAPS_MAX + 10 {
        world.changes(1);
        world.caught_up(&embedded).await;
        world.leap(2);
        world.caught_up(&embedded).await;
    }
    let reach = embedded.reach();
    assert_eq!(reach.gaps.len(), store::GAPS_MAX);
    assert_eq!((reach.gaps[0].after.revision, reach.gaps[0].upto.revision), (1, 33));
    world.check(&embedded).await;
}

#[tokio::test]
async fn the_oldest_changes_go_and_the_bound_of_either_kind_holds() {
    let rows = EmbeddedSettings { rows_max: 100, ..ROOM };
    let bytes = EmbeddedSettings { bytes_max: 200 << 10, ..ROOM };
    for settings in [rows, bytes] {
        let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
        let embedded = Embedded::new(dir.path(), settings);
        let _task = world.follow(&embedded);
        world.changes(20);
        world.caught_up(&embedded).await;
        world.leap(5);
        for _ in 0..40 {
            world.changes(10);
            world.caught_up(&embedded).await;
            let reach = embedded.reach();
            assert!(reach.rows <= settings.rows_max && reach.bytes <= settings.bytes_max, "{reach:?}");
        }
        let (reach, told) = (embedded.reach(), all(&embedded).await);
        assert_eq!(reach.gaps, [], "what lacks at the beginning is no gap");
        assert_eq!(revisions(&told), (reach.since.revision + 1..=425).rev().collect::<Vec<_>>(), "changes go whole");
        assert_eq!(reach.rows, told.len() as u64);
        let unknown = world.check(&embedded).await;
        assert!(unknown.keys().all(|revision| *revision < reach.since.revision), "{unknown:?}, {reach:?}");
        // One that is over the bound by itself is kept.
        let writes = (0..120).map(|n| put(ResourceKey::new("routes", &format!("big{n}")), &"9".repeat(3000))).collect();
        let item = world.apply(writes).unwrap();
        world.publish(vec![item]);
        world.caught_up(&embedded).await;
        assert_eq!(revisions(&all(&embedded).await), [426]);
        assert_eq!(embedded.reach().since.revision, 425);
    }
}

#[tokio::test]
async fn damage_and_another_history_begin_it_anew() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let embedded = Embedded::new(dir.path(), ROOM);
    let task = world.follow(&embedded);
    world.changes(30);
    world.caught_up(&embedded).await;
    let (state, then) = (world.state.clone(), world.then.clone());
    drop(world);
    task.await.unwrap();
    let data = dir.path().join("rows.1/db");
    let mut bytes = std::fs::read(&data).unwrap();
    let length = bytes.len();
    for byte in bytes.iter_mut().take(length / 2) {
        *byte ^= 0x5a;
    }
    std::fs::write(&data, bytes).unwrap();
    let tail = watch::Sender::new(Arc::new(Tail::new(&state.config)));
    let mut world = World { state, tail, then, random: 99 };
    let embedded = Embedded::new(dir.path(), ROOM);
    let task = world.follow(&embedded);
    world.changes(5);
    world.caught_up(&embedded).await;
    assert_eq!(embedded.reach().since.revision, 30, "{:?}", embedded.reach());
    assert_eq!(revisions(&all(&embedded).await), [35, 34, 33, 32, 31]);
    drop(world);
    task.await.unwrap();
    // Another node's past, as long as this one.
    let mut other = World::new();
    other.random = 1;
    let items: Vec<_> = (0..35).map(|_| other.change()).collect();
    other.publish(items);
    let embedded = Embedded::new(dir.path(), ROOM);
    let _task = other.follow(&embedded);
    other.caught_up(&embedded).await;
    other.changes(3);
    other.caught_up(&embedded).await;
    other.check(&embedded).await;
    let rows = all(&embedded).await;
    assert_eq!(rows.iter().map(|(id, _)| id.revision).max(), Some(38));
    for (id, row) in rows {
        assert_eq!(row.chain, other.then[&id.revision].chain(), "no row of the other past is left");
    }
}

#[tokio::test]
async fn a_bloated_file_is_rewritten_and_holds_the_same() {
    let (mut world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let settings = EmbeddedSettings { rows_max: 3, ..ROOM };
    let embedded = Embedded::new(dir.path(), settings);
    let task = world.follow(&embedded);
    let body = format!("\"{}\"", "y".repeat(400 << 10));
    for n in 0..120 {
        let item = world.apply(vec![put(ResourceKey::new("routes", &format!("b{}", n % 9)), &body)]).unwrap();
        world.publish(vec![item]);
        world.caught_up(&embedded).await;
        if n % 20 == 0 {
            embedded.sync().await;
        }
    }
    embedded.sync().await;
    let rows = all(&embedded).await;
    let sizes: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(sizes.len() == 1 && sizes[0] != "rows.1", "{sizes:?}");
    drop(world);
    task.await.unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.rows_before(None, usize::MAX).unwrap(), rows);
}

/// The stored layout: `golden/embedded.v1.bin` holds a head and two rows, one after the other.
#[test]
fn the_golden_rows_read_as_they_were_written() {
    let mut world = World::new();
    let key = ResourceKey::new("routes", "r1");
    let mut items = vec![world.apply(vec![put(key.clone(), "{\"uri\":\"/a\"}")]).unwrap()];
    items.push(world.apply(vec![Write::Delete { key, if_match: None, force: false }]).unwrap());
    let at = |revision| Position { revision, ..world.position() };
    let head = store::Head {
        position: at(2),
        chain: items[1].chain,
        since: at(0),
        gaps: vec![Gap { after: at(0), upto: at(1) }],
        rows: 2,
        bytes: 300,
    };
    let mut bytes = protocol::codec::seal(&head).unwrap();
    for item in &items {
        for row in item.rows() {
            protocol::codec::seal_into(&Row::of(&row), &mut bytes).unwrap();
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embedded.v1.bin");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &bytes).unwrap();
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    let (read, used) = protocol::codec::open_prefix::<store::Head>(&bytes).unwrap();
    assert_eq!(read, head);
    let (row, _) = protocol::codec::open_prefix::<Row>(&bytes[used..]).unwrap();
    assert_eq!((row.op(), row.author.as_str()), (Op::Create, "ann"));
}

#[test]
fn what_is_complete_follows_from_beginning_gaps_and_lag() {
    let at = |number, revision| Position { epoch: Epoch { number, ..Epoch::default() }, revision };
    let reach = Reach {
        position: at(2, 100),
        since: at(2, 10),
        gaps: vec![Gap { after: at(2, 40), upto: at(2, 50) }],
        ..Reach::default()
    };
    for (revision, upto, complete) in [
        (10, 41, true),
        (9, 41, false),
        (10, 42, false),
        (49, 60, false),
        (50, 101, true),
        (50, 102, false),
        (40, 41, true),
    ] {
        assert_eq!(reach.is_complete(2, revision, upto), complete, "after {revision}, before {upto}");
    }
    assert!(!reach.is_complete(1, 20, 30), "an earlier life");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), &target).unwrap();
        }
    }
}
