//! Statements that move the record. A step is one statement and atomic by itself, so a writer that stops between two
//! messages leaves no transaction open, and no lock. Only one change that is too large for one statement is a transaction
//! of several.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use daemon::{failpoint, planted};
use protocol::{Chain, Digest, Entry, Position, codec};
use raft_store::machine::{ChangeRow, OutboxItem};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::Trouble;
use super::judge::{Cursor, Found};
use super::link::Session;

/// Rows and bytes of bodies in one statement, when one change alone is larger than a step.
const PART_ROWS: usize = 2048;
const PART_BYTES: usize = 8 << 20;

/// Moves the cursor by compare-and-set. Its parameters are the first nine of [`STEP`].
const MOVE: &str = "
        UPDATE holdfast.cursor SET revision = $7, chain = $8, digest = $9, writer_term = $6, updated_at = now()
        WHERE one AND cluster = $1 AND epoch = $2 AND restore_id = $3 AND revision = $4 AND chain = $5
            AND writer_term <= $6 AND coalesce(claimed_epoch, 0) <= $2";

/// The statements of a step.
pub(super) struct Statements {
    /// Moves the cursor; whatever else it does, it does only if the cursor moved.
    step: Statement,
    /// The rows alone, for a change that is written in parts, in a transaction that has moved the cursor.
    part: Statement,
}

/// Writes rows of changes where `moved` gives a row: to the history, and to what is current. `epoch` is the parameter with
/// the epoch, `first` the first of the thirteen with the rows.
fn rows_sql(moved: &str, epoch: usize, first: usize) -> String {
    let types = [
        "int8[]", "int4[]", "text[]", "text[]", "text[]", "text[]", "text[]", "bytea[]", "text[]", "text[]", "int8[]",
        "bytea[]", "bool[]",
    ];
    let columns: Vec<String> = (first..).zip(types).map(|(at, type_)| format!("${at}::{type_}")).collect();
    format!(
        "WITH moved AS ({moved}), rows AS (
        SELECT * FROM unnest({columns})
        AS rows (revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain, is_last)
    ), history AS (
        INSERT INTO holdfast.history
            (epoch, revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain)
        SELECT ${epoch}::int8, revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain
        FROM rows, moved
    ), gone AS (
        DELETE FROM holdfast.current USING rows, moved
        WHERE rows.is_last AND rows.body IS NULL AND current.kind = rows.kind AND current.id = rows.id
    ), there AS (
        INSERT INTO holdfast.current (kind, id, revision, body, meta)
        SELECT kind, id, revision, body, meta FROM rows, moved WHERE is_last AND body IS NOT NULL
        ON CONFLICT (kind, id) DO UPDATE
            SET revision = excluded.revision, body = excluded.body, meta = excluded.meta
    )
    SELECT count(*) FROM moved",
        columns = columns.join(", ")
    )
}

/// Puts the cursor where a history begins, if there is none yet.
const BEGIN: &str = "
    INSERT INTO holdfast.cursor (cluster, epoch, restore_id, revision, chain, digest, writer_term)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

/// Writes a part of the configuration there.
const BASE: &str = "
    WITH rows AS (
        SELECT * FROM unnest($4::int4[], $5::text[], $6::text[], $7::text[], $8::bytea[])
        AS rows (seq, kind, id, body, meta)
    ), history AS (
        INSERT INTO holdfast.history
            (epoch, revision, seq, kind, id, op, body, meta, author, request, time_ms, chain)
        SELECT $1::int8, $2::int8, seq, kind, id, 'base', body, meta, 'system', 'base', 0, $3::bytea FROM rows
    )
    INSERT INTO holdfast.current (kind, id, revision, body, meta)
    SELECT kind, id, $2::int8, body, meta FROM rows";

/// Asks a PostgreSQL who it is.
pub(super) async fn look(session: &Session) -> Result<Found, Trouble> {
    // The timeline by the name of the log's file: after a promotion `pg_control_checkpoint` shows the old one until the
    // next checkpoint. A standby has no such name.
    let asked = session.client.query_one(
        "SELECT system_identifier, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
            current_setting('server_encoding'),
            CASE WHEN pg_is_in_recovery() THEN '0' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END
         FROM pg_control_system()",
        &[],
    );
    let row = session.within(asked).await?;
    let timeline: String = row.try_get(4)?;
    let timeline = u32::from_str_radix(&timeline, 16)
        .map_err(|_| Trouble::Database(format!("its timeline {timeline:?} is no number")))?;
    Ok(Found {
        system: row.try_get::<_, i64>(0)?.cast_unsigned(),
        timeline,
        is_standby: row.try_get(1)?,
        is_read_only: row.try_get(2)?,
        encoding: row.try_get(3)?,
    })
}

/// What [`read_cursor`] reads.
pub(super) const CURSOR_COLUMNS: &str =
    "cluster, epoch, restore_id, revision, chain, writer_term, claimed_epoch, claimed_restore";

/// Where the record is.
pub(super) async fn cursor(session: &Session) -> Result<Option<Cursor>, Trouble> {
    let sql = format!("SELECT {CURSOR_COLUMNS} FROM holdfast.cursor");
    let asked = session.client.query_opt(&sql, &[]);
    session.within(asked).await?.as_ref().map(read_cursor).transpose()
}

/// Reads the columns of [`CURSOR_COLUMNS`], in their order.
pub(super) fn read_cursor(row: &tokio_postgres::Row) -> Result<Cursor, Trouble> {
    let chain: Vec<u8> = row.try_get(4)?;
    let chain = chain.try_into().map_err(|_| Trouble::Database("the cursor's chain has not 32 bytes".to_owned()))?;
    Ok(Cursor {
        cluster: row.try_get(0)?,
        epoch: row.try_get::<_, i64>(1)?.cast_unsigned(),
        restore: row.try_get(2)?,
        revision: row.try_get::<_, i64>(3)?.cast_unsigned(),
        chain: Chain(chain),
        term: row.try_get::<_, i64>(5)?.cast_unsigned(),
        claimed: match (row.try_get::<_, Option<i64>>(6)?, row.try_get(7)?) {
            (Some(number), Some(restore)) => Some((number.cast_unsigned(), restore)),
            _ => None,
        },
    })
}

/// Puts this leader's term into the cursor, and its life of the cluster: from now on no earlier one moves it.
pub(super) async fn claim(session: &Session, seen: &Cursor, position: Position, term: u64) -> Result<Cursor, Trouble> {
    let restore = position.epoch.restore.to_string();
    failpoint!("record::before_claim");
    let claiming = session
        .within(session.client.execute(
            "UPDATE holdfast.cursor SET epoch = $1, restore_id = $2, writer_term = $3, updated_at = now()
         WHERE one AND epoch = $4 AND restore_id = $5 AND revision = $6 AND chain = $7 AND writer_term = $8",
            &[
                &number(position.epoch.number),
                &restore,
                &number(term),
                &number(seen.epoch),
                &seen.restore,
                &number(seen.revision),
                &&seen.chain.0[..],
                &number(seen.term),
            ],
        ))
        .await?;
    failpoint!("record::after_claim");
    match claiming {
        1 => Ok(Cursor { epoch: position.epoch.number, restore, term, ..seen.clone() }),
        _ => Err(Trouble::Moved),
    }
}

/// Writes the configuration at which the history begins: in parts, and all or nothing.
pub(super) async fn begin(
    session: &Session,
    cluster: &str,
    term: u64,
    config: &protocol::ConfigState,
) -> Result<Cursor, Trouble> {
    let position = config.position();
    let (epoch, revision) = (number(position.epoch.number), number(position.revision));
    let restore = position.epoch.restore.to_string();
    let chain = config.chain();
    session.within(session.client.batch_execute("BEGIN")).await?;
    let digest = config.digest();
    let arguments: [&(dyn ToSql + Sync); 7] =
        [&cluster, &epoch, &restore, &revision, &&chain.0[..], &&digest.0[..], &number(term)];
    if session.within(session.client.execute(BEGIN, &arguments)).await? != 1 {
        return Err(Trouble::Moved);
    }
    let entries: Vec<_> = (0i32..).zip(config.iter()).collect();
    for part in parts(&entries, |(_, (_, entry))| entry.body.len()) {
        let seqs: Vec<i32> = part.iter().map(|(seq, _)| *seq).collect();
        let kinds: Vec<&str> = part.iter().map(|(_, (key, _))| key.kind.as_str()).collect();
        let ids: Vec<&str> = part.iter().map(|(_, (key, _))| key.id.as_str()).collect();
        let bodies: Vec<&str> = part.iter().map(|(_, (_, entry))| &*entry.body).collect();
        let metas: Vec<Vec<u8>> = part.iter().map(|(_, (_, entry))| meta(entry)).collect();
        let arguments: [&(dyn ToSql + Sync); 8] =
            [&epoch, &revision, &&chain.0[..], &seqs, &kinds, &ids, &bodies, &metas];
        session.within(session.client.execute(BASE, &arguments)).await?;
    }
    failpoint!("record::begin_before_commit");
    session.within(session.client.batch_execute("COMMIT")).await?;
    failpoint!("record::begin_after_commit");
    let (cluster, epoch) = (cluster.to_owned(), position.epoch.number);
    Ok(Cursor { cluster, epoch, restore, revision: position.revision, chain, term, claimed: None })
}

/// Cuts a list into parts that one statement each can write; one item at least goes into each.
fn parts<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut all = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take(PART_ROWS).take_while(|item| {
            sum += bytes(item);
            sum <= PART_BYTES
        });
        let (part, more) = rest.split_at(fits.count().max(1));
        all.push(part);
        rest = more;
    }
    all
}

pub(super) async fn prepare(session: &Session) -> Result<Statements, Trouble> {
    // A step touches the rows that it names, each by its key, however large the tables are.
    session.within(session.client.batch_execute("SET enable_hashjoin = off; SET enable_mergejoin = off")).await?;
    let mut step = rows_sql(&format!("{MOVE} RETURNING 1"), 2, 10);
    if is_unfenced() {
        // All of its fences: the compare-and-set, the term, and the key of the history.
        step = step
            .replace("revision = $4 AND chain = $5", "$4::int8 IS NOT NULL AND $5::bytea IS NOT NULL")
            .replace("AND writer_term <= $6", "")
            .replace("FROM rows, moved\n    ), gone", "FROM rows, moved ON CONFLICT DO NOTHING\n    ), gone");
    }
    let step = session.within(session.client.prepare(&step)).await?;
    let part = session.within(session.client.prepare(&rows_sql("SELECT 1", 1, 2))).await?;
    Ok(Statements { step, part })
}

/// Whether a leader that was deposed writes on: a planted bug.
pub(super) fn is_unfenced() -> bool {
    planted!("record-not-fenced")
}

/// Moves the record by some changes. Where this fails, whether it was carried out is told by the cursor alone, and the
/// session must not be used again.
///
/// # Errors
/// [`Trouble::Moved`] when the cursor is not at `at`: nothing was written.
pub(super) async fn step(
    session: &Session,
    statements: &Statements,
    at: &Cursor,
    items: &[Arc<OutboxItem>],
) -> Result<Cursor, Trouble> {
    let Some(last) = items.last() else { return Ok(at.clone()) };
    let Digest(digest) = last.delta.digest;
    let revision = last.delta.position.revision;
    let (epoch, from, to, term) = (number(at.epoch), number(at.revision), number(revision), number(at.term));
    let (chain_from, chain_to, digest) = (&at.chain.0[..], &last.chain.0[..], &digest[..]);
    let moving: [&(dyn ToSql + Sync); 9] =
        [&at.cluster, &epoch, &at.restore, &from, &chain_from, &term, &to, &chain_to, &digest];
    let mut changes: Vec<ChangeRow<'_>> = items.iter().flat_map(|item| item.rows()).collect();
    if planted!("record-skips-a-change") {
        changes.pop();
    }
    let weight = |row: &ChangeRow<'_>| {
        let bytes = |entry: Option<&Arc<Entry>>| entry.map_or(0, |entry| entry.body.len());
        bytes(row.before) + bytes(row.entry)
    };
    let is_one_too_large = items.len() == 1 && parts(&changes, weight).len() > 1;
    failpoint!("record::before_step");
    let moved = if is_one_too_large {
        // In a transaction of several messages. A writer that stops between two of them loses its session, or PostgreSQL
        // ends it after as long as a statement may take: either way nothing of it is left.
        session.within(session.client.batch_execute("BEGIN")).await?;
        let moved = session.within(session.client.execute(MOVE, &moving)).await?;
        if moved == 1 {
            for part in parts(&changes, weight) {
                let rows = Rows::of(part);
                let arguments: Vec<&(dyn ToSql + Sync)> =
                    std::iter::once(&epoch as &(dyn ToSql + Sync)).chain(rows.columns()).collect();
                session.within(session.client.query_one(&statements.part, &arguments)).await?;
                failpoint!("record::between_parts");
            }
            session.within(session.client.batch_execute("COMMIT")).await?;
        }
        moved
    } else {
        let rows = Rows::of(&changes);
        let arguments: Vec<&(dyn ToSql + Sync)> = moving.into_iter().chain(rows.columns()).collect();
        let moved = session.within(session.client.query_one(&statements.step, &arguments)).await?;
        moved.try_get::<_, i64>(0)?.cast_unsigned()
    };
    failpoint!("record::after_step");
    match moved {
        1 => Ok(Cursor { revision, chain: last.chain, ..at.clone() }),
        _ => Err(Trouble::Moved),
    }
}

/// The changes of a step, by column.
#[derive(Default)]
struct Rows<'i> {
    revisions: Vec<i64>,
    seqs: Vec<i32>,
    kinds: Vec<&'i str>,
    ids: Vec<&'i str>,
    ops: Vec<&'static str>,
    old_bodies: Vec<Option<&'i str>>,
    bodies: Vec<Option<&'i str>>,
    metas: Vec<Option<Vec<u8>>>,
    authors: Vec<Cow<'i, str>>,
    requests: Vec<Cow<'i, str>>,
    times: Vec<i64>,
    chains: Vec<&'i [u8]>,
    is_last: Vec<bool>,
}

impl<'i> Rows<'i> {
    fn of(changes: &[ChangeRow<'i>]) -> Self {
        let mut rows = Self::default();
        let mut latest = HashMap::new();
        for row in changes {
            if let Some(earlier) = latest.insert(row.key, rows.seqs.len()) {
                rows.is_last[earlier] = false;
            }
            rows.revisions.push(number(row.position.revision));
            rows.seqs.push(row.seq.cast_signed());
            rows.kinds.push(row.key.kind.as_str());
            rows.ids.push(row.key.id.as_str());
            rows.ops.push(row.op.word());
            rows.old_bodies.push(row.before.map(|entry| &*entry.body));
            rows.bodies.push(row.entry.map(|entry| &*entry.body));
            rows.metas.push(row.entry.map(|entry| meta(entry)));
            rows.authors.push(text(row.author));
            rows.requests.push(text(row.request));
            rows.times.push(number(row.time));
            rows.chains.push(&row.chain.0);
            rows.is_last.push(true);
        }
        rows
    }

    /// In the order of [`rows_sql`].
    fn columns(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.revisions,
            &self.seqs,
            &self.kinds,
            &self.ids,
            &self.ops,
            &self.old_bodies,
            &self.bodies,
            &self.metas,
            &self.authors,
            &self.requests,
            &self.times,
            &self.chains,
            &self.is_last,
        ]
    }
}

/// Everything of an entry but its body: the record `entr`.
pub(super) fn meta(entry: &Entry) -> Vec<u8> {
    let bare = Entry { body: "".into(), ..entry.clone() };
    codec::seal(&bare).expect("what an entry has beside its body is bounded far below a record's bound")
}

/// PostgreSQL's text holds everything but NUL. Bodies and ids never have one; a name in a key's settings might.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// PostgreSQL has no unsigned numbers. Ours grow by one: they do not come near the bound.
pub(super) fn number(n: u64) -> i64 {
    n.cast_signed()
}
