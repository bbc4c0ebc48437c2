//! The feed: from any position, what changed up to now, then each new change.
//!
//! Apply publishes; readers are cursors. A reader is woken by the newest state and takes what it lacks from it: the
//! encoded steps of the last while where these connect, else one step over everything it missed, else the full state.
//! So a slow reader skips what a newer change has overtaken, holds nothing up, and costs no queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use daemon::planted;
use imbl::{OrdMap, Vector};
use protocol::codec::{self, CodecError};
use protocol::state::CatchUp;
use protocol::{ConfigState, Delta, Digest, Position, Text};
use tokio::sync::watch;

/// How many steps of a view are kept encoded for readers that are close behind.
const STEPS_MAX: usize = 1024;

/// How many bytes they may have together. One larger step alone is kept.
const STEPS_BYTES_MAX: usize = 8 << 20;

/// How many steps over a longer while are kept for readers that stand alike: after a restart of the whole control plane
/// a fleet comes back from few positions.
const SPANS_MAX: usize = 64;

/// Where readers begin. Clones share it.
#[derive(Clone, Debug)]
pub struct Feed {
    head: watch::Sender<Arc<Head>>,
}

/// The newest state and the last steps that led to it.
#[derive(Debug)]
struct Head {
    config: ConfigState,
    steps: OrdMap<Text, Steps>,
    /// Steps to this state from further back, made when they were first asked for.
    spans: Mutex<BTreeMap<(Text, u64, u64), Arc<Step>>>,
}

/// The last steps of one view, oldest first. Each starts where the one before it ends.
#[derive(Clone, Debug, Default)]
struct Steps {
    recent: Vector<Arc<Step>>,
    bytes: usize,
}

/// One step of a view, encoded once for all readers.
#[derive(Debug)]
pub struct Step {
    /// Where it starts: the view's change before it.
    pub prev: Position,
    /// Where it leads.
    pub position: Position,
    /// The view's digest afterwards.
    pub digest: Digest,
    /// The record `delt`.
    pub frame: Arc<[u8]>,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub enum Item {
    /// A step from its last change.
    Step(Arc<Step>),
    /// Nothing changed in its view up to this position.
    Bookmark {
        /// The position.
        position: Position,
        /// The view's digest.
        digest: Digest,
    },
    /// It must take this state in full.
    Full(Box<ConfigState>),
    /// It is ahead of this node.
    Behind {
        /// Where this node stands.
        position: Position,
    },
}

impl Feed {
    /// A feed that begins with this state.
    #[must_use]
    pub fn new(config: ConfigState) -> Self {
        Self { head: watch::Sender::new(Arc::new(Head::new(config, OrdMap::new()))) }
    }

    /// The newest state. Cheap; a reader keeps what it took.
    #[must_use]
    pub fn config(&self) -> ConfigState {
        self.head.borrow().config.clone()
    }

    /// Where the newest state is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.head.borrow().config.position()
    }

    /// Waits until the state is at `position` or later. Cancel-safe.
    pub async fn reached(&self, position: Position) {
        let reached =
            |head: &Arc<Head>| !matches!(position.compare(&head.config.position()), Ok(std::cmp::Ordering::Greater));
        // The sender is ours: the channel cannot be closed while we wait.
        let _ = self.head.subscribe().wait_for(reached).await;
    }

    /// A reader of a group's view that stands at `position`, its last change being `changed_at`.
    #[must_use]
    pub fn read(&self, group: Text, position: Position, changed_at: Position) -> Reader {
        let digest = Digest::default();
        let resumes = position.revision > 0;
        let position = if resumes && planted!("resume-off-by-one") { position.next() } else { position };
        Reader { head: self.head.subscribe(), group, position, changed_at, digest, started: false }
    }

    /// Publishes a state with the steps that led to it, which are encoded here.
    pub(crate) fn publish(&self, config: ConfigState, steps: Vec<(Text, Delta)>) {
        let mut recent = self.head.borrow().steps.clone();
        for (group, delta) in steps {
            match Step::encode(&delta) {
                Ok(step) => recent.entry(group).or_default().push(Arc::new(step)),
                // Readers then find no step that connects and are caught up in another way.
                Err(error) => tracing::error!(%error, %group, "a step is too large to be sent"),
            }
        }
        self.head.send_replace(Arc::new(Head::new(config, recent)));
    }

    /// Publishes a state to which no steps lead: one that came as a snapshot.
    pub(crate) fn replace(&self, config: ConfigState) {
        self.head.send_replace(Arc::new(Head::new(config, OrdMap::new())));
    }
}

impl Step {
    fn encode(delta: &Delta) -> Result<Self, CodecError> {
        let frame = codec::seal(delta)?.into();
        Ok(Self { prev: delta.prev, position: delta.position, digest: delta.digest, frame })
    }
}

impl Steps {
    fn push(&mut self, step: Arc<Step>) {
        self.bytes += step.frame.len();
        self.recent.push_back(step);
        while self.recent.len() > STEPS_MAX || (self.bytes > STEPS_BYTES_MAX && self.recent.len() > 1) {
            if let Some(oldest) = self.recent.pop_front() {
                self.bytes -= oldest.frame.len();
            }
        }
    }

    /// The step that starts at a reader's last change.
    fn after(&self, changed_at: Position) -> Option<&Arc<Step>> {
        let at = self.recent.binary_search_by(|step| step.prev.revision.cmp(&changed_at.revision)).ok()?;
        self.recent.get(at).filter(|step| step.prev == changed_at)
    }
}

/// A reader of one view.
#[derive(Debug)]
pub struct Reader {
    head: watch::Receiver<Arc<Head>>,
    group: Text,
    position: Position,
    changed_at: Position,
    digest: Digest,
    started: bool,
}

impl Reader {
    /// The next item: at once when the reader is behind, else with the next publication. The first item also comes at
    /// once when the reader is up to date, as a bookmark. `None` when the node has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            // Taken out of the channel first: while it is borrowed, nobody can publish.
            let head = self.head.borrow_and_update().clone();
            let item = head.item(&self.group, self.position, self.changed_at);
            let news = !self.started || !matches!(item, Item::Bookmark { position, .. } if position == self.position);
            let resumes = !std::mem::replace(&mut self.started, true) && self.position.revision > 0;
            if news {
                if matches!(item, Item::Step(_)) && planted!("feed-repeats-a-step") {
                    return Some(item);
                }
                self.follow(&item);
                if resumes && matches!(item, Item::Step(_)) && planted!("gap-after-reconnect") {
                    continue;
                }
                if matches!(item, Item::Step(_)) && planted!("feed-skips-a-step") {
                    continue;
                }
                return Some(item);
            }
            self.head.changed().await.ok()?;
        }
    }

    /// Where the reader stands after everything it was given.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position of its view's last change that it was given.
    #[must_use]
    pub fn changed_at(&self) -> Position {
        self.changed_at
    }

    /// Its view's digest there. Meaningless before the first item.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The state that the reader is to be brought to when what it has turned out to be wrong.
    #[must_use]
    pub fn config(&self) -> ConfigState {
        self.head.borrow().config.clone()
    }

    /// The reader was given this state in another way (a repair).
    pub fn stands_at(&mut self, position: Position, changed_at: Position, digest: Digest) {
        (self.position, self.changed_at, self.digest) = (position, changed_at, digest);
    }

    fn follow(&mut self, item: &Item) {
        match item {
            Item::Step(step) => {
                (self.position, self.changed_at, self.digest) = (step.position, step.position, step.digest);
            }
            Item::Bookmark { position, digest } => (self.position, self.digest) = (*position, *digest),
            Item::Full(config) => {
                let view = config.view(&self.group);
                self.stands_at(config.position(), view.changed_at(), view.digest().total());
            }
            Item::Behind { .. } => {}
        }
    }
}

impl Head {
    fn new(config: ConfigState, steps: OrdMap<Text, Steps>) -> Self {
        Self { config, steps, spans: Mutex::default() }
    }

    fn item(&self, group: &Text, position: Position, changed_at: Position) -> Item {
        let leads_on = |step: &&Arc<Step>| matches!(step.position.compare(&position), Ok(std::cmp::Ordering::Greater));
        if let Some(step) = self.steps.get(group).and_then(|steps| steps.after(changed_at)).filter(leads_on) {
            return Item::Step(step.clone());
        }
        let key = (group.clone(), position.revision, changed_at.revision);
        let mut spans = self.spans.lock().expect("no code panics while it holds the spans");
        if let Some(step) = spans.get(&key).filter(|step| step.prev == changed_at) {
            return Item::Step(step.clone());
        }
        match self.config.catch_up(group, position, changed_at) {
            CatchUp::Current => {
                Item::Bookmark { position: self.config.position(), digest: self.config.view(group).digest().total() }
            }
            CatchUp::Delta(delta) => match Step::encode(&delta) {
                Ok(step) => {
                    let step = Arc::new(step);
                    if spans.len() == SPANS_MAX {
                        spans.pop_first();
                    }
                    spans.insert(key, step.clone());
                    Item::Step(step)
                }
                Err(_) => Item::Full(Box::new(self.config.clone())),
            },
            CatchUp::Full => Item::Full(Box::new(self.config.clone())),
            CatchUp::Behind => Item::Behind { position: self.config.position() },
        }
    }
}

#[cfg(test)]
mod tests;
