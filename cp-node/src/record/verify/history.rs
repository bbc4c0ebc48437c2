//! The history, from chain to chain.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::delta::{Cause, Change};
use protocol::{Chain, Digest, Entry, Epoch, Position, ResourceKey, Revision, codec};
use serde::Serialize;
use tokio_postgres::{Row, Transaction};

use super::{NAMED_MAX, PAGE_ROWS, within};
use crate::record::Trouble;
use crate::record::step::number;

/// Revisions of the history in one request, so that it ends in time; the answer says where the next one goes on.
pub(crate) const HISTORY_REVISIONS_MAX: u64 = 10_000;

/// A stretch of the history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct HistoryFindings {
    /// The revisions after this one were looked at: where the history begins, when that is later than what was asked.
    above: Revision,
    /// Up to this one.
    upto: Revision,
    /// Where the next stretch goes on; absent at the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Revision>,
    /// Whether nothing is wrong.
    good: bool,
    revisions: u64,
    problems: u64,
    /// The first of them.
    named: Vec<HistoryFinding>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct HistoryFinding {
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    problem: HistoryProblem,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum HistoryProblem {
    /// The revisions before it are not there.
    Gap,
    /// What it holds does not lead to the chain that it names.
    Chain,
    /// What it replaced is not what was there.
    OldBody,
    /// It does not decode.
    Unreadable,
    /// It leads to another chain than the cursor names.
    CursorChain,
}

/// The revision before the first change of an epoch that the history holds.
pub(super) async fn begins_after(
    transaction: &Transaction<'_>,
    limit: Duration,
    epoch: u64,
) -> Result<Option<Revision>, Trouble> {
    let sql = "SELECT min(revision) FROM holdfast.history WHERE epoch = $1 AND op <> 'base'";
    let row = within(limit, transaction.query_one(sql, &[&number(epoch)])).await?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(|first| first.cast_unsigned().saturating_sub(1)))
}

/// The chain at a revision, as the history names it; `None` where it begins later.
async fn chain_at(
    transaction: &Transaction<'_>,
    limit: Duration,
    epoch: u64,
    revision: Revision,
) -> Result<Option<Chain>, Trouble> {
    let Some(row) = within(
        limit,
        transaction.query_opt(
            "SELECT chain, revision FROM holdfast.history WHERE (epoch, revision) <= ($1, $2)
         ORDER BY epoch DESC, revision DESC, seq DESC LIMIT 1",
            &[&number(epoch), &number(revision)],
        ),
    )
    .await?
    else {
        return Ok((revision == 0).then(Chain::default));
    };
    let (chain, at): (Vec<u8>, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(chain.try_into().ok().filter(|_| at == number(revision)).map(Chain))
}

/// Follows the chain from change to change.
pub(super) struct Follow {
    epoch: Epoch,
    /// The last revision that was whole, and the chain there where it is known.
    at: Revision,
    chain: Option<Chain>,
    /// The revision whose rows are being read.
    open: Option<Reading>,
    /// What was last seen of each resource.
    bodies: HashMap<ResourceKey, Option<Digest>>,
    revisions: u64,
    problems: u64,
    named: Vec<HistoryFinding>,
}

struct Reading {
    revision: Revision,
    cause: Cause,
    changes: Vec<Change>,
    /// As its rows name it.
    chain: Option<Chain>,
    is_readable: bool,
}

impl Follow {
    /// Goes on after a revision of an epoch.
    pub(super) async fn begin(
        transaction: &Transaction<'_>,
        limit: Duration,
        epoch: Epoch,
        above: Revision,
    ) -> Result<Self, Trouble> {
        let chain = chain_at(transaction, limit, epoch.number, above).await?;
        let (bodies, named) = (HashMap::new(), Vec::new());
        Ok(Self { epoch, at: above, chain, open: None, bodies, revisions: 0, problems: 0, named })
    }

    /// Reads up to a revision, page by page.
    pub(super) async fn read(
        &mut self,
        transaction: &Transaction<'_>,
        limit: Duration,
        upto: Revision,
    ) -> Result<(), Trouble> {
        let mut after = (number(self.at), i32::MAX);
        loop {
            let rows = within(
                limit,
                transaction.query(
                    "SELECT revision, seq, kind, id, old_body, body, meta, author, request, time_ms, chain
                 FROM holdfast.history
                 WHERE epoch = $1 AND (revision, seq) > ($2, $3) AND revision <= $4 AND op <> 'base'
                 ORDER BY revision, seq LIMIT $5",
                    &[&number(self.epoch.number), &after.0, &after.1, &number(upto), &PAGE_ROWS],
                ),
            )
            .await?;
            let Some(last) = rows.last() else { break };
            after = (last.try_get(0)?, last.try_get(1)?);
            for row in &rows {
                self.row(row)?;
            }
        }
        self.end(upto);
        Ok(())
    }

    /// What was read ends where the cursor is: it must lead to the chain that the cursor names.
    pub(super) fn ends_at_cursor(&mut self, cursor: Revision, chain: Chain) {
        if self.revisions > 0 && self.chain != Some(chain) {
            self.find(cursor, None, HistoryProblem::CursorChain);
        }
    }

    /// What was found from `above` up to `upto`, of a history that ends at `cursor`.
    pub(super) fn findings(self, above: Revision, upto: Revision, cursor: Revision) -> HistoryFindings {
        HistoryFindings {
            above,
            upto,
            next: (upto < cursor).then_some(upto),
            good: self.problems == 0,
            revisions: self.revisions,
            problems: self.problems,
            named: self.named,
        }
    }

    fn row(&mut self, row: &Row) -> Result<(), tokio_postgres::Error> {
        let revision = row.try_get::<_, i64>(0)?.cast_unsigned();
        if self.open.as_ref().is_some_and(|open| open.revision != revision) {
            self.close();
        }
        let key = ResourceKey::new(row.try_get(2)?, row.try_get(3)?);
        let (old_body, body): (Option<String>, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
        let rest: Option<Vec<u8>> = row.try_get(6)?;
        let cause = Cause {
            author: row.try_get::<_, &str>(7)?.into(),
            request: row.try_get::<_, &str>(8)?.into(),
            time: row.try_get::<_, i64>(9)?.cast_unsigned(),
        };
        let chain = row.try_get::<_, Vec<u8>>(10)?.try_into().ok().map(Chain);
        let mut is_readable = true;
        let entry = match (&body, rest) {
            (Some(body), Some(rest)) => {
                let bare = codec::open::<Entry>(&rest).ok();
                is_readable = bare.is_some();
                bare.map(|bare| Arc::new(Entry { body: body.as_str().into(), ..bare }))
            }
            (None, None) => None,
            _ => {
                is_readable = false;
                None
            }
        };
        if !is_readable {
            self.find(revision, Some(&key), HistoryProblem::Unreadable);
        }
        let digest = |body: &Option<String>| body.as_ref().map(Digest::of);
        if self.bodies.insert(key.clone(), digest(&body)).is_some_and(|known| known != digest(&old_body)) {
            self.find(revision, Some(&key), HistoryProblem::OldBody);
        }
        let open = self.open.get_or_insert(Reading { revision, cause, changes: Vec::new(), chain, is_readable: true });
        open.is_readable &= is_readable && open.chain == chain;
        open.changes.push(Change { key, entry });
        Ok(())
    }

    /// All rows of a revision were read.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.revisions += 1;
        if open.revision != self.at + 1 {
            self.find(open.revision, None, HistoryProblem::Gap);
            self.chain = None;
        }
        let position = Position { epoch: self.epoch, revision: open.revision };
        // Where the chain before is not known, what this one names is taken as given.
        let leads_to = self.chain.map(|chain| chain.next(&position, &(&open.cause, &open.changes)));
        if !open.is_readable || open.chain.is_none() || leads_to.is_some_and(|leads_to| Some(leads_to) != open.chain) {
            self.find(open.revision, None, HistoryProblem::Chain);
        }
        (self.at, self.chain) = (open.revision, open.chain);
    }

    fn end(&mut self, upto: Revision) {
        self.close();
        if self.at < upto {
            self.find(upto, None, HistoryProblem::Gap);
        }
    }

    fn find(&mut self, revision: Revision, key: Option<&ResourceKey>, problem: HistoryProblem) {
        self.problems += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(HistoryFinding { revision, key: key.map(ToString::to_string), problem });
        }
    }
}
