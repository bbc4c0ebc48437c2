//! What happened in a run, as JSON lines: every operation with its two times, every frame of a feed, every look at a
//! proxy, every fault. Checkers are functions over it and nothing else, so a run can be judged again from its file.

mod recorder;

use serde::{Deserialize, Serialize};

use crate::scenario::Sometimes;

pub use recorder::{Invoked, Recorder, read};

/// Microseconds of monotonic time since the run began.
pub type Micros = u64;

/// What is written as one line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Event {
    /// An operation on the Admin API that is over, in whatever way.
    Op(Op),
    /// What a feed has sent.
    Frame(Frame),
    /// Where somebody says that he stands.
    Stand(Stand),
    /// Whether a proxy knows a client's route, and what it answers there.
    Routed(Routed),
    /// What of the clients' resources a proxy says that it cannot serve.
    Rejected(Rejections),
    /// A fault began or was healed.
    Fault(FaultMark),
    /// The harness itself has a proxy down, or lets it serve again.
    Down(Down),
    /// Something was seen that a scenario may have to see.
    Saw(Saw),
    /// A second of the probe.
    Rate(Rate),
    /// A proxied request that was not answered as it should be.
    Failure(Failure),
}

/// An operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Op {
    /// Who asked; a client asks one thing at a time.
    pub client: String,
    /// The number of the node that was asked.
    pub node: u16,
    /// When.
    pub invoked: Micros,
    /// When it was over for the client.
    pub returned: Micros,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
}

/// A value that one operation writes and no other ever does.
pub type Value = u64;

/// Values from here on are poison: they are written in a form that every node admits and no proxy can compile.
pub const POISON: Value = 1_000_000_000;

/// What is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Writes and deletes all of these, or none.
    Write {
        /// Key and value; nothing when it is deleted.
        writes: Vec<(String, Option<Value>)>,
        /// The revision that the only key must have been changed at last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_match: Option<u64>,
        /// Its `Idempotency-Key`. Several operations with the same one are attempts at the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
        /// Values are merged into what is there, and all else of it stays; nothing is done where one is not there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        patch: bool,
    },
    /// Reads all of these at one position.
    Read {
        /// Keys.
        keys: Vec<String>,
        /// Whether an old state will do.
        stale: bool,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Ok {
        /// The position: of a write its own, of a read what it saw.
        position: At,
        /// Of a read: key, and value with the revision that wrote it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        found: Vec<(String, Option<Found>)>,
    },
    /// It was not carried out, and never will be.
    Fail {
        /// The status, 0 when nobody took the connection.
        status: u16,
    },
    /// It may be carried out, now or later.
    Unknown {
        /// What was heard of it.
        why: String,
    },
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The value.
    pub value: Value,
    /// The revision of the write that it came from.
    pub modified: u64,
    /// Where that was a patch: the value that was put before it, of which the patch has left all else as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<Value>,
}

impl Found {
    /// The value that all but what was patched is of.
    #[must_use]
    pub fn whole(self) -> Value {
        self.put.unwrap_or(self.value)
    }
}

/// Epoch and revision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct At(pub u64, pub u64);

/// What a feed has sent to the harness.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// The number of the node.
    pub node: u16,
    /// When it came.
    pub at: Micros,
    /// What it was.
    pub kind: FrameKind,
}

/// A frame.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// A stream was opened; the harness stands here.
    Opened {
        /// The position of its hello.
        position: At,
        /// The last change before it.
        changed_at: At,
    },
    /// The whole configuration.
    Full {
        /// Where it brings to.
        position: At,
        /// The last change in it.
        changed_at: At,
        /// All of it.
        state: Vec<(String, Found)>,
        /// As it says.
        digest: String,
    },
    /// A step.
    Delta {
        /// From.
        prev: At,
        /// To.
        position: At,
        /// Key, and value with revision; nothing when it is gone.
        changes: Vec<(String, Option<Found>)>,
        /// As it says.
        digest: String,
        /// What the harness makes of it.
        reached: String,
    },
    /// Nothing else happened up to here.
    Heartbeat {
        /// Up to where.
        position: At,
        /// The last change.
        changed_at: At,
        /// As it says.
        digest: String,
    },
    /// The stream ended.
    Ended {
        /// Why.
        why: String,
    },
}

/// Where a node or a proxy stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stand {
    /// Its name.
    pub who: String,
    /// When it was asked.
    pub asked: Micros,
    /// When it had answered.
    pub at: Micros,
    /// Its position.
    pub position: At,
    /// Its digest.
    pub digest: String,
    /// A node's term; 0 of a proxy.
    pub term: u64,
    /// The leader that it knows, or the node that it follows.
    pub follows: u64,
}

/// A request for a client's route that a proxy has answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Routed {
    /// The proxy.
    pub dp: String,
    /// The key of the route.
    pub key: String,
    /// Where the proxy said that it stood, before it was asked.
    pub position: At,
    /// When it had answered.
    pub at: Micros,
    /// What it answered: 404 is to have no such route.
    pub status: u16,
    /// The value that the answer came from; nothing where it was none of the route itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// What a proxy says of itself at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rejections {
    /// The proxy.
    pub dp: String,
    /// Where it stands.
    pub position: At,
    /// When it had said so.
    pub at: Micros,
    /// The keys of clients whose newest entry it cannot serve, and whether the last good one is served in its place.
    pub keys: Vec<(String, bool)>,
}

/// The beginning or the end of a fault.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FaultMark {
    /// When.
    pub at: Micros,
    /// What.
    pub what: String,
    /// Whether it begins.
    pub begins: bool,
}

/// What the mark of a fault ends with whose beginning is over, and which goes on.
pub const BEGUN: &str = " has begun";

/// What the end of a stream is called that the harness itself has hung up.
pub const HUNG_UP: &str = "it was hung up";

/// The harness takes a proxy down, by its name and by no other's; or it serves again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Down {
    /// When.
    pub at: Micros,
    /// Which.
    pub dp: String,
    /// Whether it goes down.
    pub begins: bool,
    /// Whether its disk is thrown away: what it is told next may be older than what it has served.
    #[serde(default)]
    pub emptied: bool,
}

/// A sight that is worth noting: without it a scenario has proved nothing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Saw {
    /// When.
    pub at: Micros,
    /// What.
    pub what: Sometimes,
}

/// A second of traffic through one proxy.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Rate {
    /// The proxy.
    pub dp: String,
    /// The second's beginning.
    pub at: Micros,
    /// Requests whose intended time lies in it.
    pub sent: u64,
    /// Those that failed.
    pub failed: u64,
    /// The longest from the intended time to the answer.
    pub slowest: Micros,
    /// The most that the harness itself was late to send one of them: what it starved for is nobody else's fault.
    #[serde(default)]
    pub late: Micros,
    /// From the intended time to the answer, of each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took: Vec<Micros>,
}

/// A proxied request that failed, explained.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Failure {
    /// The proxy.
    pub dp: String,
    /// When it should have been sent.
    pub intended: Micros,
    /// When it had failed.
    pub at: Micros,
    /// What came, or did not.
    pub why: String,
    /// Whether nothing came for so long that it was not waited for any more.
    #[serde(default)]
    pub silent: bool,
    /// Whether an origin saw it.
    pub reached_origin: bool,
    /// Where the proxy was last seen to stand.
    pub position: At,
    /// Whether the answer shows a generation that never was.
    pub mixed: bool,
    /// Whether the answer shows an older generation than one that was seen before it was asked for.
    #[serde(default)]
    pub back: bool,
}

impl At {
    /// From `<epoch>-<revision>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, revision) = text.split_once('-')?;
        Some(Self(epoch.parse().ok()?, revision.parse().ok()?))
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// The operations of a history.
pub fn ops(history: &[Event]) -> impl Iterator<Item = &Op> {
    history.iter().filter_map(|event| if let Event::Op(op) = event { Some(op) } else { None })
}

/// The frames of a history.
pub fn frames(history: &[Event]) -> impl Iterator<Item = &Frame> {
    history.iter().filter_map(|event| if let Event::Frame(frame) = event { Some(frame) } else { None })
}

/// Beginnings and ends of faults.
pub fn faults(history: &[Event]) -> impl Iterator<Item = &FaultMark> {
    history.iter().filter_map(|event| if let Event::Fault(mark) = event { Some(mark) } else { None })
}

/// The seconds of the probe.
pub fn rates(history: &[Event]) -> impl Iterator<Item = &Rate> {
    history.iter().filter_map(|event| if let Event::Rate(rate) = event { Some(rate) } else { None })
}

/// The looks at nodes and proxies.
pub fn stands(history: &[Event]) -> impl Iterator<Item = &Stand> {
    history.iter().filter_map(|event| if let Event::Stand(stand) = event { Some(stand) } else { None })
}
