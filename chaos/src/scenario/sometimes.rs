//! What a run may see, and some must: a run in which nothing happened has proved nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::gaps;
use crate::check::traffic::Excused;
use crate::history::{BEGUN, Event, FrameKind, HUNG_UP, Micros, Outcome, Saw, faults, frames, ops, stands};

/// So many revisions behind the highest that anybody was seen at, a proxy lags.
const BEHIND_MIN: u64 = 20;
/// So long without an acknowledged write, a disk is seen to be slow.
const SLOW_MIN: Micros = 300_000;

/// What a run may see, and some must.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sometimes {
    /// Somebody else came to lead.
    Election,
    /// A client was left without an answer.
    Unknown,
    /// A stream of a feed that the harness had not hung up itself ended, and was resumed.
    Resume,
    /// A client was refused.
    Refused,
    /// A write on a condition lost.
    Lost,
    /// A proxy was seen behind the others.
    Behind,
    /// A node that was away was sent a snapshot.
    Snapshot,
    /// While a fault went on, a change waited a second for the record.
    RecordLag,
    /// A fault of the object store met a request.
    S3Hit,
    /// A node found out by itself that its disk was changed.
    FoundOut,
    /// Something was held, delayed or lost on a wire that was not whole.
    WireUsed,
    /// While a fault went on, no write was acknowledged for 300 ms.
    SlowWrites,
    /// A program ended by itself over what was done to its disk.
    Ended,
    /// A request failed at a proxy that the harness had down.
    Unserved,
    /// A proxy said that a restart would take it back.
    Volatile,
    /// A reader of a feed that had a state was sent another one in full.
    FullAtReader,
    /// A proxy that had a state was sent another one in full.
    FullAtProxy,
    /// A proxy served the last good value of what it could not serve as it is.
    LastGood,
    /// A proxy had a resource that it could not serve in any form.
    Sealed,
    /// A proxy found bytes on its disk that it did not believe, and went on.
    NotBelieved,
    /// A node that had lost its disk came to vote under another id, when it had been sent everything.
    NewId,
    /// A node came back behind the others, and came to them by what they had for it.
    CaughtUp,
    /// A proxy that reached no node came to serve what the archive has, and followed it.
    FromArchive,
    /// A write had the time of the clock of the node that took it, which was wrong.
    ClockOff,
}

/// What a history shows of it, each once and in order.
pub(super) fn seen(history: &[Event]) -> Vec<Sometimes> {
    let terms: BTreeSet<u64> = stands(history).map(|stand| stand.term).filter(|term| *term > 0).collect();
    let failed = |wanted: u16| ops(history).any(|op| op.outcome == Outcome::Fail { status: wanted });
    let is_unknown = |outcome: &Outcome| matches!(outcome, Outcome::Unknown { .. });
    let all = [
        (Sometimes::Election, terms.len() > 1),
        (Sometimes::Unknown, ops(history).any(|op| is_unknown(&op.outcome))),
        (Sometimes::Resume, resumed(history)),
        (Sometimes::Refused, failed(503)),
        (Sometimes::Lost, failed(412)),
        (Sometimes::Behind, lagged(history)),
        (Sometimes::SlowWrites, gaps::in_faults(history).iter().any(|gap| *gap >= SLOW_MIN)),
        (Sometimes::Unserved, unserved(history)),
        (Sometimes::FullAtReader, sent_in_full(history)),
        (Sometimes::LastGood, rejected(history, true)),
        (Sometimes::Sealed, rejected(history, false)),
    ];
    let mut found: BTreeSet<Sometimes> = all.into_iter().filter(|(_, was)| *was).map(|(what, _)| what).collect();
    found.extend(noted(history));
    found.into_iter().collect()
}

/// What whoever saw it has noted.
fn noted(history: &[Event]) -> impl Iterator<Item = Sometimes> {
    let in_fault = |at: Micros| {
        let before = faults(history).filter(|mark| mark.at <= at && !mark.what.ends_with(BEGUN));
        before.last().is_some_and(|mark| mark.begins)
    };
    history.iter().filter_map(move |event| match event {
        Event::Saw(Saw { at, what: Sometimes::RecordLag }) if !in_fault(*at) => None,
        Event::Saw(Saw { what, .. }) => Some(*what),
        _ => None,
    })
}

/// Whether a stream was opened from a position on, and the harness had not hung up the one before it.
fn resumed(history: &[Event]) -> bool {
    // Of each node, whether its stream has ended by itself since it was last opened. An attempt that never came to be opened
    // says nothing of the stream before it.
    let mut broken: BTreeMap<u16, bool> = BTreeMap::new();
    frames(history).any(|frame| {
        let is_broken = broken.entry(frame.node).or_default();
        match &frame.kind {
            FrameKind::Opened { position, .. } => std::mem::take(is_broken) && position.1 > 0,
            FrameKind::Ended { why } => {
                *is_broken |= why != HUNG_UP;
                false
            }
            _ => false,
        }
    })
}

fn lagged(history: &[Event]) -> bool {
    let mut head = 0;
    stands(history).any(|stand| {
        let lags = stand.who.starts_with("dp-") && stand.position.1 + BEHIND_MIN < head;
        head = head.max(stand.position.1);
        lags
    })
}

/// Whether a reader that had something was sent a full state.
fn sent_in_full(history: &[Event]) -> bool {
    let mut stood: BTreeMap<u16, u64> = BTreeMap::new();
    frames(history).any(|frame| match &frame.kind {
        FrameKind::Opened { position, .. } => {
            stood.insert(frame.node, position.1);
            false
        }
        FrameKind::Full { .. } => stood.get(&frame.node).is_some_and(|revision| *revision > 0),
        _ => false,
    })
}

/// Whether a proxy could not serve the newest of a resource, and had, or had not, a last good one in its place.
fn rejected(history: &[Event], with_last_good: bool) -> bool {
    history.iter().any(|event| match event {
        Event::Rejected(told) => told.keys.iter().any(|(_, last_good)| *last_good == with_last_good),
        _ => false,
    })
}

fn unserved(history: &[Event]) -> bool {
    let excused = Excused::of(history);
    history.iter().any(
        |event| matches!(event, Event::Failure(failure) if excused.meets(&failure.dp, failure.intended, failure.at)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{At, FaultMark, Frame};

    fn frame(node: u16, kind: FrameKind) -> Event {
        Event::Frame(Frame { node, at: 1, kind })
    }

    fn opened(node: u16, revision: u64) -> Event {
        frame(node, FrameKind::Opened { position: At(1, revision), changed_at: At(1, revision) })
    }

    fn ended(node: u16, why: &str) -> Event {
        frame(node, FrameKind::Ended { why: why.to_owned() })
    }

    #[test]
    fn a_feed_that_the_harness_hung_up_itself_is_not_resumed() {
        let first = || vec![opened(1, 0), opened(2, 0)];
        for (rest, wanted, what) in [
            (vec![ended(1, HUNG_UP), opened(1, 7)], false, "hung up"),
            (vec![ended(1, "it ended the stream"), opened(1, 7)], true, "ended by its node"),
            (vec![ended(1, "it ended the stream"), opened(2, 7)], false, "another node's was opened"),
            (vec![ended(1, "it ended the stream"), ended(1, HUNG_UP), opened(1, 7)], true, "an attempt was hung up"),
            (vec![ended(1, "it ended the stream"), opened(1, 0)], false, "from the beginning"),
            (vec![ended(1, "silence"), opened(1, 0), ended(1, HUNG_UP), opened(1, 7)], false, "hung up the next time"),
        ] {
            assert_eq!(seen(&[first(), rest].concat()).contains(&Sometimes::Resume), wanted, "{what}");
        }
    }

    #[test]
    fn a_record_that_lags_counts_only_while_a_fault_goes_on() {
        let mark = |at, what: &str, begins| Event::Fault(FaultMark { at, what: what.to_owned(), begins });
        let saw = |at, what| Event::Saw(Saw { at, what });
        let fault = || vec![mark(10, "kill", true), mark(12, "kill has begun", true), mark(20, "kill", false)];
        for (at, wanted) in
            [(5, vec![]), (11, vec![Sometimes::RecordLag]), (15, vec![Sometimes::RecordLag]), (25, vec![])]
        {
            let history = [fault(), vec![saw(at, Sometimes::RecordLag)]].concat();
            assert_eq!(seen(&history), wanted, "at {at}");
        }
        assert_eq!(seen(&[fault(), vec![saw(25, Sometimes::Snapshot)]].concat()), [Sometimes::Snapshot]);
    }
}
