//! What to make of a PostgreSQL that was found. Pure: no connection, no clock.

use protocol::{Chain, Revision};
use raft_store::backlog::Backlog;

use super::Trouble;

/// What a PostgreSQL says of itself.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its system identifier, which a copy of its disk shares.
    pub system: u64,
    /// Its timeline: higher after each promotion.
    pub timeline: u32,
    /// Whether it follows another one.
    pub is_standby: bool,
    /// Whether it takes no writes.
    pub is_read_only: bool,
    /// The encoding of the database.
    pub encoding: String,
}

/// Where the record in it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Whose record it is.
    pub cluster: String,
    /// The number of the cluster's life.
    pub epoch: u64,
    /// That life's restore id.
    pub restore: String,
    /// Everything up to here is in the record.
    pub revision: Revision,
    /// The chain there.
    pub chain: Chain,
    /// The term of the leader that wrote last.
    pub term: u64,
    /// The life that was claimed last by somebody who brings the cluster back: its number and restore id.
    pub claimed: Option<(u64, String)>,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// There is nothing yet: begin where the outbox does.
    Begin,
    /// Go on from here. `lost` changes had been confirmed and are gone: they are written again first.
    GoOn { from: Revision, lost: u64 },
    /// It ends exactly where this life of the cluster began: take it over.
    NextLife { from: Revision },
    /// It was claimed for this life of the cluster, which came back from something else: what differs is written anew.
    Rebase { from: Revision },
}

/// Whether this is the system on which the record is, and whether it may be written to.
pub(super) fn system(found: &Found, backlog: &Backlog) -> Result<(), Trouble> {
    if found.is_standby {
        return Err(Trouble::Standby);
    }
    if let Some(mark) = backlog.outbox.mark()
        && let Some(wanted) = mark.system
    {
        if found.system != wanted {
            return Err(Trouble::OtherSystem { found: found.system, wanted });
        }
        if found.timeline < mark.timeline {
            return Err(Trouble::OlderTimeline { found: found.timeline, wanted: mark.timeline });
        }
    }
    if found.is_read_only {
        return Err(Trouble::ReadOnly);
    }
    if found.encoding != "UTF8" {
        return Err(Trouble::Encoding(found.encoding.clone()));
    }
    Ok(())
}

/// Whether what it holds is the beginning of this cluster's history.
///
/// The backlog is that of a leader which has applied everything that leaders before it have committed.
pub(super) fn content(
    cursor: Option<&Cursor>,
    cluster: &str,
    term: u64,
    backlog: &Backlog,
) -> Result<Verdict, Trouble> {
    let head = backlog.config.position();
    let Some(base) = backlog.outbox.base() else {
        return Err(Trouble::Database("the cluster keeps no changes for a record".to_owned()));
    };
    let known = backlog.outbox.mark().map(|mark| mark.revision);
    let Some(cursor) = cursor else {
        let base = base.position.revision;
        // What was recorded and is gone can be written again only while all of it is kept.
        return match known {
            Some(_) if base > 0 => Err(Trouble::TooFarBehind { found: 0, base }),
            _ => Ok(Verdict::Begin),
        };
    };
    if cursor.cluster != cluster {
        return Err(Trouble::OtherCluster(cursor.cluster.clone()));
    }
    if cursor.epoch > head.epoch.number {
        return Err(Trouble::HigherEpoch { found: cursor.epoch, here: head.epoch.number });
    }
    let restore = head.epoch.restore.to_string();
    if let Some((number, by)) = &cursor.claimed
        && (*number, by) != (head.epoch.number, &restore)
        && *number >= head.epoch.number
    {
        return Err(match *number == head.epoch.number {
            true => Trouble::EpochConflict(*number),
            false => Trouble::Claimed { number: *number, by: by.clone() },
        });
    }
    if cursor.epoch < head.epoch.number {
        let is_claimed = cursor.claimed.as_ref().is_some_and(|(number, _)| *number == head.epoch.number);
        let (found, begun) = (cursor.revision, base.position.revision);
        return if found == begun && cursor.chain == base.chain {
            Ok(Verdict::NextLife { from: found })
        } else if is_claimed {
            Ok(Verdict::Rebase { from: found })
        } else {
            Err(Trouble::OlderEpoch { found, base: begun })
        };
    }
    if cursor.restore != restore {
        return Err(Trouble::EpochConflict(cursor.epoch));
    }
    if cursor.term > term {
        return Err(Trouble::HigherTerm { found: cursor.term, here: term });
    }
    if cursor.revision > head.revision {
        return Err(Trouble::Ahead { found: cursor.revision, head: head.revision });
    }
    if cursor.revision < base.position.revision {
        return Err(Trouble::TooFarBehind { found: cursor.revision, base: base.position.revision });
    }
    if backlog.outbox.chain_at(cursor.revision) != Some(cursor.chain) {
        return Err(Trouble::DifferentChain(cursor.revision));
    }
    Ok(Verdict::GoOn { from: cursor.revision, lost: known.unwrap_or(0).saturating_sub(cursor.revision) })
}

/// Whether what it holds is this cluster's history, up to where the cluster knows its record to be: what may be read on any
/// node, from a standby too.
pub(super) fn readable(cursor: Option<&Cursor>, cluster: &str, backlog: &Backlog) -> Result<(), Trouble> {
    let recorded = backlog.outbox.mark().map_or(0, |mark| mark.revision);
    let Some(cursor) = cursor else {
        return if recorded > 0 { Err(Trouble::Lags { found: 0, recorded }) } else { Ok(()) };
    };
    if cursor.cluster != cluster {
        return Err(Trouble::OtherCluster(cursor.cluster.clone()));
    }
    // A life that the record has not been taken over for yet is told of up to where the last one came.
    let head = backlog.config.position();
    if cursor.epoch == head.epoch.number {
        if cursor.restore != head.epoch.restore.to_string() {
            return Err(Trouble::EpochConflict(cursor.epoch));
        }
        if cursor.revision < recorded {
            return Err(Trouble::Lags { found: cursor.revision, recorded });
        }
        if backlog.outbox.chain_at(cursor.revision).is_some_and(|chain| chain != cursor.chain) {
            return Err(Trouble::DifferentChain(cursor.revision));
        }
    }
    Ok(())
}
