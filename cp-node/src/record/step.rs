//! Statements that move the record. Each is atomic by itself: it is one statement, so a writer that stops between two
//! messages leaves no transaction open, and no lock.

use std::borrow::Cow;
use std::collections::HashMap;

use protocol::{Chain, Digest, Entry, Position, codec};
use raft_store::machine::OutboxItem;
use tokio_postgres::Statement;

use super::Trouble;
use super::judge::{Cursor, Found};
use super::link::Session;

/// Moves the cursor by compare-and-set; whatever else the statement does, it does only if the cursor moved.
const STEP: &str = "
    WITH moved AS (
        UPDATE holdfast.cursor SET revision = $7, chain = $8, digest = $9, writer_term = $6, updated_at = now()
        WHERE one AND cluster = $1 AND epoch = $2 AND restore_id = $3 AND revision = $4 AND chain = $5
            AND writer_term <= $6
        RETURNING 1
    ), rows AS (
        SELECT * FROM unnest($10::int8[], $11::int4[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
            $17::bytea[], $18::text[], $19::text[], $20::int8[], $21::bytea[], $22::bool[])
        AS rows (revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain, is_last)
    ), history AS (
        INSERT INTO holdfast.history
            (epoch, revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain)
        SELECT $2, revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain FROM rows, moved
    ), gone AS (
        DELETE FROM holdfast.current USING rows, moved
        WHERE rows.is_last AND rows.body IS NULL AND current.kind = rows.kind AND current.id = rows.id
    ), there AS (
        INSERT INTO holdfast.current (kind, id, revision, body, meta)
        SELECT kind, id, revision, body, meta FROM rows, moved WHERE is_last AND body IS NOT NULL
        ON CONFLICT (kind, id) DO UPDATE
            SET revision = excluded.revision, body = excluded.body, meta = excluded.meta
    )
    SELECT count(*) FROM moved";

/// Puts the cursor where a history begins, if there is none yet, with the configuration there.
const BEGIN: &str = "
    WITH begun AS (
        INSERT INTO holdfast.cursor (cluster, epoch, restore_id, revision, chain, digest, writer_term)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
        RETURNING 1
    ), rows AS (
        SELECT * FROM unnest($8::int4[], $9::text[], $10::text[], $11::text[], $12::bytea[])
        AS rows (seq, kind, id, body, meta)
    ), history AS (
        INSERT INTO holdfast.history
            (epoch, revision, seq, kind, id, op, body, meta, author, request, time_ms, chain)
        SELECT $2, $4, seq, kind, id, 'base', body, meta, 'system', 'base', 0, $5 FROM rows, begun
    ), there AS (
        INSERT INTO holdfast.current (kind, id, revision, body, meta)
        SELECT kind, id, $4, body, meta FROM rows, begun
    )
    SELECT count(*) FROM begun";

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

/// Where the record is.
pub(super) async fn cursor(session: &Session) -> Result<Option<Cursor>, Trouble> {
    let asked = session
        .client
        .query_opt("SELECT cluster, epoch, restore_id, revision, chain, writer_term FROM holdfast.cursor", &[]);
    session.within(asked).await?.as_ref().map(read_cursor).transpose()
}

/// Reads the columns that [`cursor`] asks for, in their order.
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
    })
}

/// Puts this leader's term into the cursor, and its life of the cluster: from now on no earlier one moves it.
pub(super) async fn claim(session: &Session, seen: &Cursor, position: Position, term: u64) -> Result<Cursor, Trouble> {
    let restore = position.epoch.restore.to_string();
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
    match claiming {
        1 => Ok(Cursor { epoch: position.epoch.number, restore, term, ..seen.clone() }),
        _ => Err(Trouble::Moved),
    }
}

/// Writes the configuration at which the history begins.
pub(super) async fn begin(
    session: &Session,
    cluster: &str,
    term: u64,
    config: &protocol::ConfigState,
) -> Result<Cursor, Trouble> {
    let position = config.position();
    let (mut seqs, mut kinds, mut ids, mut bodies, mut metas) = (vec![], vec![], vec![], vec![], vec![]);
    for (seq, (key, entry)) in (0i32..).zip(config.iter()) {
        seqs.push(seq);
        kinds.push(key.kind.as_str());
        ids.push(key.id.as_str());
        bodies.push(&*entry.body);
        metas.push(meta(entry));
    }
    let restore = position.epoch.restore.to_string();
    let chain = config.chain();
    let begun = session
        .within(session.client.query_one(
            BEGIN,
            &[
                &cluster,
                &number(position.epoch.number),
                &restore,
                &number(position.revision),
                &&chain.0[..],
                &&config.digest().0[..],
                &number(term),
                &seqs,
                &kinds,
                &ids,
                &bodies,
                &metas,
            ],
        ))
        .await?;
    match begun.try_get::<_, i64>(0)? {
        1 => Ok(Cursor {
            cluster: cluster.to_owned(),
            epoch: position.epoch.number,
            restore,
            revision: position.revision,
            chain,
            term,
        }),
        _ => Err(Trouble::Moved),
    }
}

pub(super) async fn prepare(session: &Session) -> Result<Statement, Trouble> {
    // A step touches the rows that it names, each by its key, however large the tables are.
    session.within(session.client.batch_execute("SET enable_hashjoin = off; SET enable_mergejoin = off")).await?;
    session.within(session.client.prepare(STEP)).await
}

/// Moves the record by some changes. Where this fails, whether it was carried out is told by the cursor alone.
///
/// # Errors
/// [`Trouble::Moved`] when the cursor is not at `at`: nothing was written.
pub(super) async fn step(
    session: &Session,
    statement: &Statement,
    at: &Cursor,
    items: &[std::sync::Arc<OutboxItem>],
) -> Result<Cursor, Trouble> {
    let Some(last) = items.last() else { return Ok(at.clone()) };
    let rows = Rows::of(items);
    let Digest(digest) = last.delta.digest;
    let revision = last.delta.position.revision;
    let moving = session
        .within(session.client.query_one(
            statement,
            &[
                &at.cluster,
                &number(at.epoch),
                &at.restore,
                &number(at.revision),
                &&at.chain.0[..],
                &number(at.term),
                &number(revision),
                &&last.chain.0[..],
                &&digest[..],
                &rows.revisions,
                &rows.seqs,
                &rows.kinds,
                &rows.ids,
                &rows.ops,
                &rows.old_bodies,
                &rows.bodies,
                &rows.metas,
                &rows.authors,
                &rows.requests,
                &rows.times,
                &rows.chains,
                &rows.is_last,
            ],
        ))
        .await?;
    match moving.try_get::<_, i64>(0)? {
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
    fn of(items: &'i [std::sync::Arc<OutboxItem>]) -> Self {
        let mut rows = Self::default();
        let mut latest = HashMap::new();
        for row in items.iter().flat_map(|item| item.rows()) {
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
