//! The same answers from the embedded record, on a node without PostgreSQL.

use protocol::{ConfigState, Entry, Position, ResourceKey};
use raft_store::embedded::{Embedded, EmbeddedError, Reach, Row, RowFilter, RowId, Then};
use serde::Serialize;
use serde_json::value::RawValue;

use super::history::{HistoryError, HistoryFilter, HistoryRow, PAGE_MAX};

/// How far the embedded record reaches, and what it lacks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Holds {
    /// It has taken in everything up to here.
    reaches: String,
    /// It holds every change after this position, but for the gaps.
    complete_since: String,
    gaps: Vec<Lacks>,
    rows: u64,
    bytes: u64,
}

/// Changes that it does not hold: those after one position, up to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Lacks {
    after: String,
    upto: String,
}

impl Holds {
    pub(super) fn of(reach: &Reach) -> Self {
        let text = |position: Position| position.to_string();
        Self {
            reaches: text(reach.position),
            complete_since: text(reach.since),
            gaps: reach.gaps.iter().map(|gap| Lacks { after: text(gap.after), upto: text(gap.upto) }).collect(),
            rows: reach.rows,
            bytes: reach.bytes,
        }
    }

    /// For metrics.
    pub(crate) fn figures(&self) -> (u64, u64, u64) {
        (self.rows, self.bytes, self.gaps.len() as u64)
    }
}

impl From<EmbeddedError> for HistoryError {
    fn from(error: EmbeddedError) -> Self {
        Self::Embedded(error.to_string())
    }
}

/// Rows that fit, newest first.
pub(super) async fn rows(embedded: &Embedded, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, HistoryError> {
    let unsigned = |n: Option<i64>| n.map(|n| u64::try_from(n).unwrap_or(0));
    let before = filter.before.map(|(epoch, revision, seq)| RowId {
        epoch: u64::try_from(epoch).unwrap_or(0),
        revision: u64::try_from(revision).unwrap_or(0),
        seq: u32::try_from(seq).unwrap_or(0),
    });
    let filter = RowFilter {
        kind: filter.kind.clone(),
        id: filter.id.clone(),
        author: filter.author.clone(),
        since: unsigned(filter.since),
        until: unsigned(filter.until),
        revision: unsigned(filter.revision),
        above: unsigned(filter.above),
        upto: unsigned(filter.upto),
        before,
        limit: filter.limit.clamp(1, PAGE_MAX) as usize,
    };
    Ok(embedded.rows(filter).await?.into_iter().map(|(id, row)| told(id, row)).collect())
}

fn told(id: RowId, row: Row) -> HistoryRow {
    let json = |entry: Option<&Entry>| entry.and_then(|entry| RawValue::from_string(entry.body.to_string()).ok());
    HistoryRow {
        epoch: id.epoch.cast_signed(),
        revision: id.revision.cast_signed(),
        seq: id.seq.cast_signed(),
        op: row.op().word().to_owned(),
        author: row.author.as_str().to_owned(),
        request: row.request.as_str().to_owned(),
        time_ms: row.time.cast_signed(),
        old_body: json(row.before.as_deref()),
        body: json(row.entry.as_deref()),
        secrets_changed: false,
        kind: row.key.kind.as_str().to_owned(),
        id: row.key.id.as_str().to_owned(),
        old_entry: row.before.as_deref().cloned(),
    }
}

/// A resource's body as it was; `None` where it did not exist.
pub(super) async fn body_at(
    embedded: &Embedded,
    key: &ResourceKey,
    revision: i64,
    now: ConfigState,
) -> Result<Option<String>, HistoryError> {
    let head = now.position().revision;
    match embedded.entry_at(key, u64::try_from(revision).unwrap_or(0), now).await? {
        Then::There(entry) => Ok(Some(entry.body.to_string())),
        Then::Absent => Ok(None),
        Then::Later => Err(HistoryError::Unknown(format!("this node only reaches to revision {head}"))),
        Then::Unknown => {
            let Holds { complete_since, gaps, reaches, .. } = Holds::of(&embedded.reach());
            let lacks: String =
                gaps.iter().map(|gap| format!(", but for those after {} up to {}", gap.after, gap.upto)).collect();
            Err(HistoryError::Unknown(format!(
                "this node's own record does not tell: it holds the changes after {complete_since} up to {reaches}{lacks}"
            )))
        }
    }
}
