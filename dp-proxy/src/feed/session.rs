//! One stream from a control-plane node, as a machine: messages in, steps out. No IO, no clock of its own.
//!
//! ```text
//!   Hello ->   <- Welcome            whose configuration; another cluster's is refused
//!              <- Payload            full | delta: from our last change, with the digest that we must then have
//!              <- Heartbeat          everything up to a position was sent; our digest must be theirs
//!   Mend  ->   <- Payload buckets    the differing parts, when a digest did not match
//! ```
//!
//! What is held only moves forward (law 4), step by whole step (law 5), and each step is proved by its digest (law 3).
//! Whatever does not fit ends in a [`Leave`] that says what to do next; what is held is then as before.

use std::cmp::Ordering;
use std::time::Duration;

use bytes::Bytes;
use daemon::planted;
use protocol::codec;
use protocol::delta::Change;
use protocol::grpc::feed_down::Kind as Down;
use protocol::grpc::feed_up::Kind as Up;
use protocol::grpc::payload::Kind as PayloadKind;
use protocol::grpc::{self, FeedDown, FeedUp, Heartbeat, Malformed, Mend, Payload, Welcome};
use protocol::position::EpochConflict;
use protocol::snapshot::{self, ClusterId, Expected, Unsealed};
use protocol::state::{BucketContents, EvolveError};
use protocol::{ConfigState, Delta, Position, Text};
use tokio::time::Instant;

use super::payload::{Assembly, BadPayload, Whole};

/// What a proxy holds, whoever it got it from.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Whose configuration; `None` before the first contact.
    pub cluster: Option<ClusterId>,
    /// The configuration.
    pub state: ConfigState,
}

/// Bounds on one stream.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest payload.
    pub payload_bytes_max: u64,
    /// The longest silence, whatever the node asks for.
    pub silence_max: Duration,
}

/// The shortest silence that a node may be left for: below, every pause for breath would be one.
const SILENCE_MIN: Duration = Duration::from_millis(500);

/// One stream.
#[derive(Debug)]
pub struct Session {
    group: Text,
    bounds: Bounds,
    welcomed: bool,
    assembly: Option<Assembly>,
    /// Since when a repair is awaited.
    mending: Option<Instant>,
    heard: Instant,
    silence: Duration,
    leader_age: Option<Duration>,
}

/// What a message brought.
#[derive(Debug)]
pub enum Event {
    /// The node serves us.
    Welcomed(Node),
    /// What is held has moved.
    Moved(Box<Moved>),
    /// What is held is what the node has, as of now.
    Current,
    /// This must be sent: what is held differs, and the differing parts are asked for.
    Mend(Box<FeedUp>),
}

/// The node that serves us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id in the cluster.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Its version.
    pub version: String,
    /// Set with the first contact ever: from now on this is our cluster.
    pub first_contact: Option<ClusterId>,
}

/// A step of what is held.
#[derive(Debug)]
pub struct Moved {
    /// The state before it.
    pub before: ConfigState,
    /// What changed; nothing where only the position moved.
    pub changes: Vec<Change>,
    /// How it is kept.
    pub keep: Keep,
    /// Where it led.
    pub position: Position,
}

/// How a step is kept on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Keep {
    /// As this frame, behind the others.
    Frame(Bytes),
    /// As a mark: only the position moved.
    Mark,
    /// As a new base: it does not follow from what is on the disk.
    Base,
}

/// Why a stream is of no use any more.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Leave {
    /// Nothing was heard for too long.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// The node will not serve us.
    #[error("the node refuses: {0}")]
    Refused(String),
    /// The node stands behind us.
    #[error("the node is at {theirs}, behind this proxy at {ours}")]
    Behind {
        /// Where it stands.
        theirs: Position,
        /// Where we stand.
        ours: Position,
    },
    /// The node belongs to another cluster.
    #[error(
        "the node belongs to cluster {theirs}, this proxy holds the configuration of cluster {ours}: point it at its own cluster, or give it an empty data directory"
    )]
    OtherCluster {
        /// Its cluster.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// A step is missing: the same node can serve us from where we stand.
    #[error("a step is missing: it starts from {prev}, the last change here is {changed_at}")]
    Gap {
        /// Where the step starts.
        prev: Position,
        /// Our last change.
        changed_at: Position,
    },
    /// What is held cannot be mended: it must come in full.
    #[error("what is held differs and could not be mended: {0}")]
    NeedFull(String),
    /// Two clusters were restored apart from each other.
    #[error(transparent)]
    Conflict(#[from] EpochConflict),
    /// The node says what makes no sense.
    #[error("the node sends what makes no sense: {0}")]
    Nonsense(String),
}

impl From<Malformed> for Leave {
    fn from(e: Malformed) -> Self {
        Self::Nonsense(e.to_string())
    }
}

impl From<BadPayload> for Leave {
    fn from(e: BadPayload) -> Self {
        Self::Nonsense(e.to_string())
    }
}

impl Session {
    /// A stream on which Hello was sent.
    #[must_use]
    pub fn new(group: Text, bounds: Bounds, now: Instant) -> Self {
        Self {
            group,
            bounds,
            welcomed: false,
            assembly: None,
            mending: None,
            heard: now,
            silence: bounds.silence_max,
            leader_age: None,
        }
    }

    /// How long ago the node last heard from its leader, as it said last.
    #[must_use]
    pub fn leader_age(&self) -> Option<Duration> {
        self.leader_age
    }

    /// Takes a message. `None`: it brought nothing yet.
    ///
    /// # Errors
    /// [`Leave`] when the stream is of no use any more; what is held is then as before.
    pub fn take(&mut self, holding: &mut Holding, message: FeedDown, now: Instant) -> Result<Option<Event>, Leave> {
        self.heard = now;
        // A message that a newer node knows and we do not.
        let Some(kind) = message.kind else { return Ok(None) };
        match kind {
            Down::Behind(behind) => {
                let theirs = grpc::position(behind.position, "behind.position")?;
                Err(Leave::Behind { theirs, ours: holding.state.position() })
            }
            Down::Refused(refused) => Err(Leave::Refused(refused.reason)),
            Down::Welcome(welcome) => self.take_welcome(holding, welcome).map(Some),
            Down::Payload(_) | Down::Heartbeat(_) if !self.welcomed => {
                Err(Leave::Nonsense("something came before the welcome".to_owned()))
            }
            Down::KeepAlive(_) => Ok(None),
            Down::Payload(part) => self.take_part(holding, part, now),
            Down::Heartbeat(heartbeat) => self.take_heartbeat(holding, heartbeat, now),
        }
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// [`Leave`] when something that must come by now has not.
    pub fn tick(&self, now: Instant) -> Result<(), Leave> {
        let silent = now.saturating_duration_since(self.heard);
        if silent > self.silence {
            return Err(Leave::Silent(silent));
        }
        // Heartbeats may go on while an answer never comes.
        match self.mending {
            Some(since) if now.saturating_duration_since(since) > self.bounds.silence_max => {
                Err(Leave::NeedFull("the node did not answer".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn take_welcome(&mut self, holding: &mut Holding, welcome: Welcome) -> Result<Event, Leave> {
        if self.welcomed {
            return Err(Leave::Nonsense("a second welcome".to_owned()));
        }
        let theirs: ClusterId =
            welcome.cluster.parse().map_err(|e| Leave::Nonsense(format!("welcome.cluster: {e}")))?;
        let first_contact = match holding.cluster {
            Some(ours) if ours != theirs => return Err(Leave::OtherCluster { theirs, ours }),
            Some(_) => None,
            None => Some(theirs),
        };
        holding.cluster = Some(theirs);
        self.welcomed = true;
        let longest = self.bounds.silence_max.max(SILENCE_MIN);
        self.silence = Duration::from_millis(welcome.silence_ms_max).clamp(SILENCE_MIN, longest);
        Ok(Event::Welcomed(Node {
            id: welcome.node_id,
            name: welcome.node_name,
            region: welcome.region,
            version: welcome.version,
            first_contact,
        }))
    }

    fn take_part(&mut self, holding: &mut Holding, part: Payload, now: Instant) -> Result<Option<Event>, Leave> {
        let Some(whole) = Assembly::take(&mut self.assembly, part, self.bounds.payload_bytes_max)? else {
            return Ok(None);
        };
        match whole.kind {
            PayloadKind::Delta => self.take_delta(holding, whole, now),
            PayloadKind::Full => self.take_full(holding, &whole).map(Some),
            PayloadKind::Buckets => self.take_buckets(holding, &whole),
            PayloadKind::Unspecified => Err(BadPayload::Kind(0).into()),
        }
    }

    fn take_delta(&mut self, holding: &mut Holding, whole: Whole, now: Instant) -> Result<Option<Event>, Leave> {
        let delta: Delta = codec::open(&whole.bytes).map_err(|e| Leave::Nonsense(format!("a delta: {e}")))?;
        // While a repair is on its way, it brings this step too; a step that a repair brought already is old.
        if self.mending.is_some() || delta.position.compare(&holding.state.position())? != Ordering::Greater {
            return Ok(None);
        }
        let before = holding.state.clone();
        match holding.state.evolve(&delta) {
            Ok(_) => Ok(Some(moved(before, delta.changes, Keep::Frame(whole.bytes), delta.position))),
            Err(EvolveError::Gap { prev, changed_at }) => Err(Leave::Gap { prev, changed_at }),
            Err(EvolveError::Digest { .. }) => Ok(Some(self.mend(holding, now))),
            Err(EvolveError::Epoch(conflict)) => Err(conflict.into()),
            Err(e @ EvolveError::NotNewer { .. }) => Err(Leave::Nonsense(e.to_string())),
        }
    }

    fn take_full(&mut self, holding: &mut Holding, whole: &Whole) -> Result<Event, Leave> {
        let expected = Expected { cluster: holding.cluster, view: Some(self.group.clone()) };
        // The connection vouches for it; the digest proves that it is whole.
        let loaded = snapshot::read(&mut &whole.bytes[..], ConfigState::following(), &expected, &Unsealed)
            .map_err(|e| Leave::Nonsense(format!("a full configuration: {e}")))?;
        refuse_older(holding, loaded.state.position())?;
        self.mending = None;
        let before = std::mem::replace(&mut holding.state, loaded.state);
        let changes = holding.state.changes_since(&before);
        Ok(moved(before, changes, Keep::Base, holding.state.position()))
    }

    fn take_buckets(&mut self, holding: &mut Holding, whole: &Whole) -> Result<Option<Event>, Leave> {
        if self.mending.take().is_none() {
            return Ok(None);
        }
        let repair: BucketContents =
            codec::open(&whole.bytes).map_err(|e| Leave::Nonsense(format!("a repair: {e}")))?;
        refuse_older(holding, repair.position)?;
        let before = holding.state.clone();
        let changes = holding.state.repair(&repair).map_err(|e| Leave::NeedFull(e.to_string()))?;
        Ok(Some(moved(before, changes, Keep::Base, holding.state.position())))
    }

    fn take_heartbeat(
        &mut self,
        holding: &mut Holding,
        heartbeat: Heartbeat,
        now: Instant,
    ) -> Result<Option<Event>, Leave> {
        self.leader_age = Some(Duration::from_millis(heartbeat.leader_contact_age_ms));
        let position = grpc::position(heartbeat.position, "heartbeat.position")?;
        let changed_at = grpc::position(heartbeat.changed_at, "heartbeat.changed_at")?;
        let digest = grpc::digest(&heartbeat.digest, "heartbeat.digest")?;
        if self.mending.is_some() {
            return Ok(None);
        }
        refuse_older(holding, position)?;
        let ours = holding.state.changed_at();
        if changed_at.compare(&ours)? == Ordering::Greater {
            // Everything up to this heartbeat was sent, and it did not arrive.
            return Err(Leave::Gap { prev: changed_at, changed_at: ours });
        }
        if changed_at != ours || digest != holding.state.digest() {
            return Ok(Some(self.mend(holding, now)));
        }
        if position == holding.state.position() {
            return Ok(Some(Event::Current));
        }
        let before = holding.state.clone();
        holding.state.bookmark(position).map_err(|e| Leave::Nonsense(e.to_string()))?;
        Ok(Some(moved(before, Vec::new(), Keep::Mark, position)))
    }

    fn mend(&mut self, holding: &Holding, now: Instant) -> Event {
        self.mending = Some(now);
        let buckets = grpc::buckets_to_bytes(holding.state.root().digest().buckets());
        Event::Mend(Box::new(FeedUp { kind: Some(Up::Mend(Mend { buckets: buckets.into() })) }))
    }
}

/// Law 4: what is held never goes back.
fn refuse_older(holding: &Holding, theirs: Position) -> Result<(), Leave> {
    let ours = holding.state.position();
    match theirs.compare(&ours)? {
        Ordering::Less if planted!("proxy-goes-back") => Ok(()),
        Ordering::Less => Err(Leave::Behind { theirs, ours }),
        Ordering::Equal | Ordering::Greater => Ok(()),
    }
}

fn moved(before: ConfigState, changes: Vec<Change>, keep: Keep, position: Position) -> Event {
    Event::Moved(Box::new(Moved { before, changes, keep, position }))
}

#[cfg(test)]
mod tests;
