//! What was changed, when and by whom: as PostgreSQL tells it, or the embedded record where there is none.

use std::sync::Arc;

use protocol::{ConfigState, Entry, Position, ResourceKey, codec};
use serde::Serialize;
use tokio::time::Instant;

use super::embedded::{self, Holds};
use super::link::Session;
use super::{Record, Trouble, judge, step};

/// Rows in one page, at most.
pub(crate) const PAGE_MAX: u32 = 1000;

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistoryFilter {
    pub(crate) kind: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) author: Option<String>,
    /// From this time on, in milliseconds since 1970.
    pub(crate) since: Option<i64>,
    /// Before this time.
    pub(crate) until: Option<i64>,
    /// Only this revision.
    pub(crate) revision: Option<i64>,
    /// Only revisions above this one.
    pub(crate) above: Option<i64>,
    /// Only revisions up to this one.
    pub(crate) upto: Option<i64>,
    /// Older than this row: epoch, revision, number within it.
    pub(crate) before: Option<(i64, i64, i32)>,
    pub(crate) limit: u32,
}

/// One change of one resource.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HistoryRow {
    pub(crate) epoch: i64,
    pub(crate) revision: i64,
    pub(crate) seq: i32,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) op: String,
    pub(crate) author: String,
    pub(crate) request: String,
    pub(crate) time_ms: i64,
    pub(crate) old_body: Option<Box<serde_json::value::RawValue>>,
    pub(crate) body: Option<Box<serde_json::value::RawValue>>,
    /// Whether the bodies differ in secrets, which nobody is shown. Filled in by whoever shows the row.
    pub(crate) secrets_changed: bool,
    /// All that was there before, where one revision was asked for. Its body is `old_body`.
    #[serde(skip)]
    pub(crate) old_entry: Option<Entry>,
}

/// An answer, and who gives it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    pub(crate) list: Vec<HistoryRow>,
    source: Source,
    /// What the embedded record holds. PostgreSQL's begins where it was turned on, with rows of `op = "base"`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    holds: Option<Holds>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Postgresql,
    Embedded,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// This node has no record to ask.
    #[error("this node has no record: set record.dsn, or record.embedded_changes above 0")]
    None,
    /// Only PostgreSQL's record can be asked this.
    #[error("this node has no PostgreSQL: set record.dsn")]
    NoPostgres,
    /// The embedded record cannot answer now.
    #[error("{0}")]
    Embedded(String),
    /// No host of the DSN could answer.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The record does not hold it.
    #[error("{0}")]
    Unknown(String),
}

impl Record {
    /// Rows that fit, newest first.
    pub(crate) async fn history(&self, filter: &HistoryFilter) -> Result<Told, HistoryError> {
        if let Some(embedded) = &self.shared.embedded {
            let list = embedded::rows(embedded, filter).await?;
            return Ok(Told { list, source: Source::Embedded, holds: Some(Holds::of(&embedded.reach())) });
        }
        Ok(Told { list: self.rows(filter).await?, source: Source::Postgresql, holds: None })
    }

    /// Waits until what this node has applied can be asked for, where that is up to this node.
    pub(crate) async fn has_taken_in(&self, position: Position, deadline: Instant) {
        if let Some(embedded) = &self.shared.embedded {
            // Late, it answers with what it has and says how far that reaches.
            embedded.reached(position, deadline).await;
        }
    }

    async fn rows(&self, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, HistoryError> {
        let (epoch, revision, seq) = match filter.before {
            Some((epoch, revision, seq)) => (Some(epoch), Some(revision), Some(seq)),
            None => (None, None, None),
        };
        let limit = i64::from(filter.limit.clamp(1, PAGE_MAX));
        let rows = self
            .ask(
                "SELECT epoch, revision, seq, kind, id, op, author, request, time_ms, old_body, body,
                    CASE WHEN $6::int8 IS NOT NULL AND old_body IS NOT NULL THEN
                        (SELECT meta FROM holdfast.history AS earlier
                         WHERE earlier.kind = history.kind AND earlier.id = history.id
                            AND (earlier.epoch, earlier.revision, earlier.seq)
                                < (history.epoch, history.revision, history.seq)
                         ORDER BY epoch DESC, revision DESC, seq DESC LIMIT 1) END
                 FROM holdfast.history
                 WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR id = $2)
                    AND ($3::text IS NULL OR author = $3) AND ($4::int8 IS NULL OR time_ms >= $4)
                    AND ($5::int8 IS NULL OR time_ms < $5) AND ($6::int8 IS NULL OR revision = $6)
                    AND ($7::int8 IS NULL OR (epoch, revision, seq) < ($7, $8::int8, $9::int4))
                    AND ($11::int8 IS NULL OR revision > $11) AND ($12::int8 IS NULL OR revision <= $12)
                 ORDER BY epoch DESC, revision DESC, seq DESC LIMIT $10",
                &[
                    &filter.kind,
                    &filter.id,
                    &filter.author,
                    &filter.since,
                    &filter.until,
                    &filter.revision,
                    &epoch,
                    &revision,
                    &seq,
                    &limit,
                    &filter.above,
                    &filter.upto,
                ],
            )
            .await?;
        rows.iter().map(row).collect::<Result<_, _>>().map_err(|e: tokio_postgres::Error| Trouble::from(e).into())
    }

    /// A resource's body as it was at a revision; `None` where it did not exist.
    ///
    /// `now` is the configuration as this node has it.
    pub(crate) async fn body_at(
        &self,
        key: &ResourceKey,
        revision: i64,
        now: ConfigState,
    ) -> Result<Option<String>, HistoryError> {
        if let Some(embedded) = &self.shared.embedded {
            return embedded::body_at(embedded, key, revision, now).await;
        }
        let reach = self
            .ask(
                "SELECT min(revision), max(revision), (SELECT revision FROM holdfast.cursor) FROM holdfast.history",
                &[],
            )
            .await?;
        let first = |column| reach.first().and_then(|row| row.try_get::<_, Option<i64>>(column).ok().flatten());
        let cursor = first(2).unwrap_or(0);
        if revision > cursor {
            return Err(HistoryError::Unknown(format!("the record only reaches to revision {cursor}")));
        }
        if first(0).is_some_and(|oldest| revision < oldest) && first(0) != Some(1) {
            return Err(HistoryError::Unknown(format!("the record begins at revision {}", first(0).unwrap_or(0))));
        }
        let rows = self
            .ask(
                // Revisions go on over the lives of a cluster; a later life tells what became of an earlier one's end.
                "SELECT body FROM holdfast.history WHERE kind = $1 AND id = $2 AND revision <= $3
                 ORDER BY epoch DESC, revision DESC LIMIT 1",
                &[&key.kind.as_str(), &key.id.as_str(), &revision],
            )
            .await?;
        match rows.first() {
            Some(row) => Ok(row.try_get(0).map_err(Trouble::from)?),
            None => Ok(None),
        }
    }

    /// Asks over this node's own session for reading, which is opened when it is first needed, and again after trouble. A
    /// host that does not hold this cluster's record, or lacks what has been recorded, is passed over.
    async fn ask(
        &self,
        sql: &str,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, HistoryError> {
        let link = self.shared.link.as_ref().ok_or(HistoryError::None)?;
        // Nobody waits for another one's answer, only for a session to be opened.
        let open = self.shared.history.lock().await.clone();
        if let Some(open) = open
            && let Ok(rows) = self.ask_over(&open, sql, arguments).await
        {
            return Ok(rows);
        }
        let mut session = self.shared.history.lock().await;
        *session = None;
        let mut trouble = HistoryError::None;
        for host in link.hosts() {
            let asked = async {
                let open = Arc::new(link.connect(host).await?);
                let rows = self.ask_over(&open, sql, arguments).await?;
                Ok((open, rows))
            };
            match asked.await {
                Ok((open, rows)) => {
                    *session = Some(open);
                    return Ok(rows);
                }
                Err(e) => trouble = HistoryError::Trouble(e),
            }
        }
        Err(trouble)
    }

    async fn ask_over(
        &self,
        session: &Session,
        sql: &str,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Trouble> {
        let cursor = step::cursor(session).await?;
        judge::readable(cursor.as_ref(), &self.shared.cluster.to_string(), &self.shared.backlog.now())?;
        session.within(session.client.query(sql, arguments)).await
    }
}

fn row(row: &tokio_postgres::Row) -> Result<HistoryRow, tokio_postgres::Error> {
    // What was admitted is JSON; a row that a hand has spoiled is shown without its body.
    let json = |text: Option<String>| text.and_then(|text| serde_json::value::RawValue::from_string(text).ok());
    Ok(HistoryRow {
        epoch: row.try_get(0)?,
        revision: row.try_get(1)?,
        seq: row.try_get(2)?,
        kind: row.try_get(3)?,
        id: row.try_get(4)?,
        op: row.try_get(5)?,
        author: row.try_get(6)?,
        request: row.try_get(7)?,
        time_ms: row.try_get(8)?,
        old_body: json(row.try_get(9)?),
        body: json(row.try_get(10)?),
        secrets_changed: false,
        // One that a hand has spoiled is as good as none.
        old_entry: row.try_get::<_, Option<Vec<u8>>>(11)?.and_then(|meta| codec::open(&meta).ok()),
    })
}
