//! What must hold after every step: Raft's own invariants, and the laws of `docs/ARCHITECTURE.md` that concern the parts
//! that run here.

mod archive;
mod clients;
mod proxies;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use cp_node::node::Inside;
use futures_util::FutureExt;
use openraft::{EntryPayload, RaftLogReader, ServerState};
use raft_store::types::{Entry, LogId};
use sha2::{Digest as _, Sha256};

use crate::client::{Event, Told};
use crate::hosts::{Shared, World};
use crate::outside::Outside;
use crate::plan::Plan;
use crate::truth::Truth;

/// Everything that the checker remembers.
pub(crate) struct Checker {
    shared: Shared,
    pub(crate) truth: Option<Truth>,
    /// The node ids that led in a term, as they came: each higher than those before.
    leaders: BTreeMap<u64, Vec<u64>>,
    /// The highest term that each node has told, in all its lives.
    terms: BTreeMap<u64, u64>,
    /// What each node said last, in this life.
    nodes: BTreeMap<u64, Seen>,
    /// Entries by id: what they carry, and which entry they follow.
    entries: HashMap<(u64, u64, u64), Carried>,
    proxies: BTreeMap<u64, proxies::Seen>,
    pub(crate) outside: Outside,
    archive: archive::Seen,
    record: record::Seen,
    /// How far the record may be behind.
    backlog_max: u64,
    /// Requests that may be under way when that is reached, beside those that were given up: every client's, and one that it
    /// goes on to.
    under_way: u64,
    /// On which the product's own readers of what stands outside run.
    readers: tokio::runtime::Runtime,
    /// Writes that were surely not applied.
    never: Vec<String>,
    steps: u64,
    pub(crate) trace: Trace,
}

/// What an entry carries, as a hash, and which entry it follows.
type Carried = ([u8; 32], Option<LogId>);

#[derive(Default)]
struct Seen {
    applied: Option<u64>,
    revision: u64,
    snapshot: Option<u64>,
}

/// The run as text, hashed; kept in full when somebody wants to read it.
#[derive(Default)]
pub(crate) struct Trace {
    hash: Sha256,
    pub(crate) lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn note(&mut self, line: String) {
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    pub(crate) fn digest(&self) -> String {
        let mut text = String::new();
        for byte in &self.hash.clone().finalize()[..8] {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// How often whole logs are compared, in steps.
const LOGS_EVERY: u64 = 10;

impl Checker {
    pub(crate) fn new(plan: &Plan, shared: Shared, outside: Outside, keep_trace: bool) -> Self {
        // Paused as the machines' own: the process' clock asks the runtime that it is asked on.
        let readers = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let readers = readers.expect("it needs nothing of the machine");
        Self {
            shared,
            truth: None,
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            nodes: BTreeMap::new(),
            entries: HashMap::new(),
            proxies: BTreeMap::new(),
            outside,
            archive: archive::Seen::default(),
            record: record::Seen::default(),
            backlog_max: plan.record.unwrap_or(u64::MAX / 2),
            under_way: 2 * plan.clients,
            readers,
            never: Vec::new(),
            steps: 0,
            trace: Trace { lines: keep_trace.then(Vec::new), ..Trace::default() },
        }
    }

    /// A node was killed: what it says next is of a new life.
    pub(crate) fn node_died(&mut self, number: u64) {
        self.nodes.remove(&number);
    }

    /// Looks at everything.
    pub(crate) fn step(&mut self, now_millis: u64) -> Result<(), String> {
        self.steps += 1;
        let shared = self.shared.clone();
        let world = &mut *shared.borrow_mut();
        if let Some(problem) = world.problems.pop() {
            return Err(problem);
        }
        if self.truth.is_none() {
            self.truth = world.nodes.values().next().map(|inside| Truth::new(inside.feed.position().epoch));
        }
        if self.truth.is_none() {
            return Ok(());
        }
        for number in std::mem::take(&mut world.replaced) {
            self.trace.note(format!("{now_millis} cp{number} is a new node"));
            self.nodes.remove(&number);
            self.terms.remove(&number);
        }
        self.advance(world, now_millis)?;
        self.check_nodes(world)?;
        if self.steps.is_multiple_of(LOGS_EVERY) {
            self.check_logs(world)?;
        }
        self.check_proxies(world, now_millis)?;
        self.check_archive(world, now_millis)?;
        self.check_record(world, now_millis)?;
        for event in std::mem::take(&mut world.events) {
            self.trace.note(format!("{now_millis} {event:?}"));
            if matches!(event, Event::Write { told: Told::Unknown, .. }) {
                self.given_up(now_millis);
            }
            self.check_event(world, event)?;
        }
        Ok(())
    }

    fn truth(&self) -> &Truth {
        self.truth.as_ref().expect("it is there once a node is")
    }

    /// Takes what nodes have newly applied into the one history.
    fn advance(&mut self, world: &mut World, now_millis: u64) -> Result<(), String> {
        let truth = self.truth.as_mut().expect("it is there once a node is");
        let furthest = world.nodes.values().filter_map(applied).max();
        while furthest.is_some_and(|furthest| truth.next_index() <= furthest) {
            let next = truth.next_index();
            let holder = world.nodes.iter().find_map(|(number, inside)| {
                if applied(inside).is_none_or(|applied| applied < next) {
                    return None;
                }
                entries(inside, next..next + 1).into_iter().next().map(|entry| (*number, entry))
            });
            let Some((number, entry)) = holder else {
                return Err(format!("entry {next} was applied and is in no log any more: the checker fell behind"));
            };
            self.trace.note(format!("{now_millis} committed {} first seen at cp{number}", entry.log_id));
            truth.take(&entry)?;
            if matches!(entry.payload, EntryPayload::Membership(_)) {
                world.tally.count("membership_entries");
            }
            world.tally.count("entries");
        }
        Ok(())
    }

    /// Consensus orders leaders by term and node id (openraft 0.9 without `single-term-leader`): a voter may go over to a
    /// higher one in the same term, and then the lower one finds no quorum any more. What must not be is a lower one that
    /// begins to lead after a higher one has.
    fn check_leaders(&mut self, world: &mut World) -> Result<(), String> {
        let lead = |inside: &Inside| {
            let metrics = inside.raft.metrics();
            let metrics = metrics.borrow();
            // A deposed leader's role may be told one moment later than the vote that deposed it.
            let vote = metrics.vote;
            let leads = metrics.state == ServerState::Leader && vote.committed;
            (leads && vote.leader_id.node_id == inside.node).then_some((vote.leader_id.term, inside.node))
        };
        let leading: BTreeSet<(u64, u64)> = world.nodes.values().filter_map(lead).collect();
        for (term, node) in leading {
            let known = self.leaders.entry(term).or_default();
            match known.last() {
                _ if known.contains(&node) => {}
                Some(last) if *last > node => {
                    return Err(format!("node {node} begins to lead in term {term}, in which node {last} has led"));
                }
                _ => {
                    world.tally.count(if known.is_empty() { "leaders" } else { "leaders_overtaken" });
                    known.push(node);
                }
            }
        }
        Ok(())
    }

    fn check_nodes(&mut self, world: &mut World) -> Result<(), String> {
        self.check_leaders(world)?;
        let Self { truth, nodes, terms, .. } = self;
        let truth = truth.as_ref().expect("it is there once a node is");
        for (number, inside) in &world.nodes {
            let (term, snapshot) = {
                let metrics = inside.raft.metrics();
                let metrics = metrics.borrow();
                (metrics.current_term, metrics.snapshot.map(|id| id.index))
            };
            let seen = nodes.entry(*number).or_default();
            let now = applied(inside);
            let highest = terms.entry(*number).or_default();
            if term < *highest {
                return Err(format!("cp{number} told term {highest} and now {term}: it has forgotten its vote"));
            }
            *highest = term;
            if now < seen.applied {
                return Err(format!("cp{number} went back from applied {:?} to {now:?}", seen.applied));
            }
            if snapshot > seen.snapshot {
                world.tally.count("snapshots");
            }
            // What it has applied since without having had it in its log came as a snapshot.
            if let Some(before) = seen.applied.filter(|before| now > Some(before + 1))
                && entries(inside, before + 1..before + 2).is_empty()
            {
                world.tally.count("installed");
            }
            let config = inside.feed.config();
            let position = config.position();
            if position.epoch != truth.epoch() {
                return Err(format!("cp{number} is in another life of the cluster: {position}"));
            }
            if position.revision < seen.revision {
                return Err(format!("cp{number} went back from revision {} to {}", seen.revision, position.revision));
            }
            let Some(revision) = truth.revisions.get(usize::try_from(position.revision).expect("it fits")) else {
                return Err(format!("cp{number} is at {position}, which was never committed"));
            };
            if position.revision != seen.revision
                && (config.digest(), config.chain(), config.view("default").digest().total())
                    != (revision.digest, revision.chain, revision.view)
            {
                return Err(format!("cp{number} differs from the committed history at {position}"));
            }
            if let Some(id) = inside.applied.borrow().log_id
                && truth.committed(id.index) != Some(id)
            {
                return Err(format!("cp{number} has applied {id}, committed is {:?}", truth.committed(id.index)));
            }
            *seen = Seen { applied: now, revision: position.revision, snapshot };
        }
        Ok(())
    }

    /// Log matching, and that committed entries never change.
    fn check_logs(&mut self, world: &World) -> Result<(), String> {
        let Self { truth, entries: known, .. } = self;
        let truth = truth.as_ref().expect("it is there once a node is");
        for (number, inside) in &world.nodes {
            let applied = applied(inside);
            let mut previous: Option<LogId> = None;
            for entry in entries(inside, 0..u64::MAX) {
                let id = entry.log_id;
                if Some(id.index) <= applied && truth.committed(id.index) != Some(id) {
                    let committed = truth.committed(id.index);
                    return Err(format!("cp{number} has {id} in its log where {committed:?} was committed"));
                }
                let key = (id.leader_id.term, id.leader_id.node_id, id.index);
                match known.get(&key) {
                    None => {
                        known.insert(key, (content(&entry), previous));
                    }
                    Some((known_content, known_previous)) => {
                        if previous.is_some() && known_previous.is_some() && previous != *known_previous {
                            return Err(format!("cp{number}: {id} follows {previous:?}, elsewhere {known_previous:?}"));
                        }
                        if content(&entry) != *known_content {
                            return Err(format!("cp{number}: {id} carries something else than in another log"));
                        }
                    }
                }
                previous = Some(id);
            }
        }
        Ok(())
    }

    /// What can be said only when nothing moves any more.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        let world = self.shared.clone();
        self.check_logs(&world.borrow())?;
        for name in &self.never {
            let made = self.truth().made_by(name);
            if !made.is_empty() {
                return Err(format!("{name} was said to be not applied, and made {made:?}"));
            }
        }
        Ok(())
    }

    /// Whether everything has come together: one leader, everybody at the head.
    pub(crate) fn converged(&self, nodes: u64, proxies: u64) -> Result<(), String> {
        let world = self.shared.borrow();
        let truth = self.truth();
        let all = u64::try_from(world.nodes.len()).expect("they are few");
        if all != nodes {
            return Err(format!("{all} of {nodes} nodes run"));
        }
        let leads = |inside: &Inside| inside.raft.metrics().borrow().state == ServerState::Leader;
        let leaders: Vec<u64> = world.nodes.iter().filter(|(_, inside)| leads(inside)).map(|(n, _)| *n).collect();
        if leaders.len() != 1 {
            return Err(format!("{leaders:?} lead"));
        }
        for (number, inside) in &world.nodes {
            let voters = inside.raft.metrics().borrow().membership_config.membership().voter_ids().count() as u64;
            if voters != nodes {
                return Err(format!("for cp{number} {voters} vote, {nodes} should"));
            }
            let at = inside.feed.position().revision;
            if at != truth.head() {
                return Err(format!("cp{number} is at {at}, the head is {}", truth.head()));
            }
        }
        for number in 1..=proxies {
            let at = world.proxies.get(&number).map(|proxy| proxy.board.read().position.revision);
            if at != Some(truth.head()) {
                return Err(format!("dp{number} is at {at:?}, the head is {}", truth.head()));
            }
        }
        self.archive.is_at(truth.head())?;
        self.record_is_at(truth.head())
    }
}

fn applied(inside: &Inside) -> Option<u64> {
    inside.applied.borrow().log_id.map(|id| id.index)
}

fn entries(inside: &Inside, range: std::ops::Range<u64>) -> Vec<Entry> {
    let mut log = inside.log.clone();
    let read = log.try_get_log_entries(range).now_or_never().expect("the live log is in memory");
    read.expect("the live log is in memory")
}

fn content(entry: &Entry) -> [u8; 32] {
    match &entry.payload {
        EntryPayload::Blank => [0; 32],
        EntryPayload::Normal(payload) => Sha256::digest(&payload.0).into(),
        EntryPayload::Membership(membership) => Sha256::digest(format!("{membership:?}").as_bytes()).into(),
    }
}
