//! What the record gives back when the disks of all control-plane nodes are lost, and the claim of the next life in it.
//!
//! ```text
//!   kept --> verified: rows add up to the digest --> claim (compare-and-set on the cursor's row: fences writers of the
//!   old life) --> the new life's writer takes over, or rebases where it came back from something else
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::failpoint;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use protocol::{Chain, ConfigState, Digest, Entry, Epoch, Position, ResourceKey, codec};
use tokio_postgres::Row;

use super::judge::Cursor;
use super::link::{Link, Session};
use super::step::{self, meta, number};
use super::{Trouble, schema};

/// How long one question may take: a million rows from a slow disk.
const READ_MAX: Duration = Duration::from_secs(120);

/// Rows that are named when they do not add up.
const NAMED_MAX: usize = 5;

/// A record that was found and proved.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Where it was found, for people.
    pub(crate) host: String,
    /// Whose it is.
    pub(crate) cluster: ClusterId,
    /// Everything, with its original metadata.
    pub(crate) state: ConfigState,
    /// The chain at its position.
    pub(crate) chain: Chain,
}

/// Why a record gives nothing back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NothingKept {
    /// No host of the DSN could be asked, with each one's reason.
    #[error("{}", .0.join("; "))]
    Hosts(Vec<String>),
    /// It is there, and there is nothing in it.
    #[error("there is no record in it")]
    Empty,
    /// It holds something that cannot be a record's.
    #[error("{0}")]
    Damaged(String),
}

/// What became of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// It is ours. Where the record is now.
    Ours(Position),
    /// The number, or a later one, is another's.
    Taken { by: String },
    /// There is no record in it to claim.
    Empty,
}

/// The newest primary: of several that take writes, the one of the latest timeline. A standby is behind its primary, and a
/// primary from before a failover is of an earlier timeline.
async fn primary(link: &Link) -> Result<(Session, String), NothingKept> {
    let mut best: Option<(u32, Session, String)> = None;
    let mut reasons = Vec::new();
    for host in link.hosts() {
        let name = link.name(host);
        let found = async {
            let session = link.connect(host).await?;
            let found = step::look(&session).await?;
            match found.is_standby {
                true => Err(Trouble::Standby),
                false => Ok((found.timeline, session)),
            }
        };
        match found.await {
            Ok((timeline, session)) if best.as_ref().is_none_or(|(newest, ..)| timeline > *newest) => {
                best = Some((timeline, session, name));
            }
            Ok((timeline, _)) => tracing::warn!(host = name, timeline, "an older primary is passed over"),
            Err(trouble) => {
                tracing::warn!(host = name, reason = trouble.word(), error = %trouble, "a host of the record gives nothing");
                reasons.push(format!("{name}: {trouble}"));
            }
        }
    }
    let (_, mut session, name) = best.ok_or(NothingKept::Hosts(reasons))?;
    session.statement_max = READ_MAX;
    let limit = format!("SET statement_timeout = {}", READ_MAX.as_millis());
    let asked = session.within(session.client.batch_execute(&limit)).await;
    asked.map_err(|trouble| NothingKept::Hosts(vec![format!("{name}: {trouble}")]))?;
    Ok((session, name))
}

/// The newest configuration that the record can prove.
///
/// # Errors
/// [`NothingKept`].
pub(crate) async fn newest(link: &Link) -> Result<Kept, NothingKept> {
    let (mut session, host) = primary(link).await?;
    let failed = |trouble: Trouble| NothingKept::Hosts(vec![format!("{host}: {trouble}")]);
    if !schema::is_there(&session).await.map_err(failed)? {
        return Err(NothingKept::Empty);
    }
    schema::migrate(&mut session).await.map_err(failed)?;
    // One snapshot of the database for all that is read.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    session.within(session.client.batch_execute(begin)).await.map_err(failed)?;
    let cursor = step::cursor(&session).await.map_err(failed)?.ok_or(NothingKept::Empty)?;
    let digest = digest(&session).await.map_err(failed)?;
    let cluster: ClusterId =
        cursor.cluster.parse().map_err(|_| NothingKept::Damaged(format!("{:?} is no cluster", cursor.cluster)))?;
    let position =
        position_of(&cursor).ok_or_else(|| NothingKept::Damaged(format!("{:?} is no restore id", cursor.restore)))?;
    let current = rows(&session, CURRENT).await.map_err(failed)?;
    let built = build(current.clone(), position, cursor.chain);
    let state = match built {
        Ok(state) if state.digest() == digest => state,
        built => {
            // Somebody has been at `current`; the history, which is only ever added to, may still add up.
            let history = rows(&session, FOLDED).await.map_err(failed)?;
            let differing = differing(&current, &history);
            match build(history, position, cursor.chain) {
                Ok(state) if state.digest() == digest => {
                    tracing::error!(
                        differing,
                        "the record's current rows are not what was written; its history adds up and is taken"
                    );
                    state
                }
                _ => {
                    let why = built.err().unwrap_or_else(|| "its rows do not add up to its digest".to_owned());
                    return Err(NothingKept::Damaged(format!(
                        "{why}, and neither does its history; they disagree on {differing}"
                    )));
                }
            }
        }
    };
    session.within(session.client.batch_execute("COMMIT")).await.map_err(failed)?;
    Ok(Kept { host, cluster, state, chain: cursor.chain })
}

const CURRENT: &str = "SELECT kind, id, body, meta FROM holdfast.current";

const FOLDED: &str = "
    SELECT kind, id, body, meta FROM (
        SELECT DISTINCT ON (kind, id) kind, id, body, meta FROM holdfast.history
        ORDER BY kind, id, epoch DESC, revision DESC, seq DESC
    ) AS last WHERE body IS NOT NULL";

type Rows = BTreeMap<ResourceKey, (String, Vec<u8>)>;

async fn rows(session: &Session, sql: &str) -> Result<Rows, Trouble> {
    let rows = session.within(session.client.query(sql, &[])).await?;
    let row = |row: &Row| {
        let key = ResourceKey::new(row.try_get(0)?, row.try_get(1)?);
        Ok::<_, tokio_postgres::Error>((key, (row.try_get(2)?, row.try_get(3)?)))
    };
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

async fn digest(session: &Session) -> Result<Digest, Trouble> {
    let row = session.within(session.client.query_one("SELECT digest FROM holdfast.cursor", &[])).await?;
    let digest: Vec<u8> = row.try_get(0)?;
    let digest = digest.try_into().map_err(|_| Trouble::Database("the cursor's digest has not 32 bytes".to_owned()))?;
    Ok(Digest(digest))
}

fn position_of(cursor: &Cursor) -> Option<Position> {
    let restore: RestoreId = cursor.restore.parse().ok()?;
    Some(Position { epoch: Epoch { number: cursor.epoch, restore }, revision: cursor.revision })
}

fn build(rows: Rows, position: Position, chain: Chain) -> Result<ConfigState, String> {
    let mut entries = Vec::with_capacity(rows.len());
    for (key, (body, meta)) in rows {
        let bare: Entry = codec::open(&meta).map_err(|e| format!("the row of {key} cannot be read: {e}"))?;
        entries.push((key, Arc::new(Entry { body: body.into(), ..bare })));
    }
    Ok(ConfigState::from_entries(ConfigState::serving(), position, position, chain, entries))
}

/// The keys on which two sets of rows disagree: the first few of them.
fn differing(a: &Rows, b: &Rows) -> String {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let mut differing: Vec<String> = keys.filter(|key| a.get(*key) != b.get(*key)).map(ToString::to_string).collect();
    differing.sort();
    match differing.len() {
        0 => "nothing".to_owned(),
        n if n > NAMED_MAX => format!("{} and {} more", differing[..NAMED_MAX].join(", "), n - NAMED_MAX),
        _ => differing.join(", "),
    }
}

/// The chain that the record has at a position; `None` where its history does not reach there.
///
/// # Errors
/// [`NothingKept`].
pub(crate) async fn chain_at(link: &Link, position: Position) -> Result<Option<Chain>, NothingKept> {
    let (session, host) = primary(link).await?;
    let (epoch, revision) = (number(position.epoch.number), number(position.revision));
    let sql = "SELECT chain FROM holdfast.history WHERE epoch = $1 AND revision = $2 LIMIT 1";
    let failed = |trouble: Trouble| NothingKept::Hosts(vec![format!("{host}: {trouble}")]);
    let asked = session.within(session.client.query_opt(sql, &[&epoch, &revision])).await;
    let Some(row) = asked.map_err(failed)? else { return Ok(None) };
    let chain: Vec<u8> = row.try_get(0).map_err(|e| failed(e.into()))?;
    Ok(chain.try_into().ok().map(Chain))
}

/// Claims an epoch for a restore: from then on no writer of an earlier life moves the cursor.
///
/// # Errors
/// [`NothingKept`]; whether the claim was made is then not known, and it can be made again.
pub(crate) async fn claim(link: &Link, cluster: ClusterId, epoch: Epoch) -> Result<Claim, NothingKept> {
    let (mut session, host) = primary(link).await?;
    let failed = |trouble: Trouble| NothingKept::Hosts(vec![format!("{host}: {trouble}")]);
    if !schema::is_there(&session).await.map_err(failed)? {
        return Ok(Claim::Empty);
    }
    schema::migrate(&mut session).await.map_err(failed)?;
    let (restore, wanted, number) = (epoch.restore.to_string(), cluster.to_string(), number(epoch.number));
    let sql = "UPDATE holdfast.cursor SET claimed_epoch = $1, claimed_restore = $2, updated_at = now()
         WHERE one AND cluster = $3 AND epoch < $1 AND (claimed_epoch IS NULL OR claimed_epoch < $1)";
    session.within(session.client.execute(sql, &[&number, &restore, &wanted])).await.map_err(failed)?;
    let Some(cursor) = step::cursor(&session).await.map_err(failed)? else { return Ok(Claim::Empty) };
    if cursor.cluster != wanted {
        return Err(NothingKept::Damaged(format!("it is the record of cluster {}", cursor.cluster)));
    }
    let holder = match &cursor.claimed {
        Some((_, by)) => by.clone(),
        None => cursor.restore.clone(),
    };
    if holder != restore || cursor.epoch > epoch.number {
        return Ok(Claim::Taken { by: holder });
    }
    let position = position_of(&cursor);
    position.map(Claim::Ours).ok_or_else(|| NothingKept::Damaged(format!("{:?} is no restore id", cursor.restore)))
}

/// Moves the cursor of an earlier life to where this one began, which is somewhere else, with the configuration there:
/// what differs stands in the history as `base`, what is gone as `delete`.
const REBASE: &str = "
    WITH moved AS (
        UPDATE holdfast.cursor SET epoch = $2, restore_id = $3, revision = $4, chain = $5, digest = $6,
            writer_term = $7, updated_at = now()
        WHERE one AND cluster = $1 AND epoch = $8 AND restore_id = $9 AND revision = $10 AND chain = $11
            AND writer_term = $12 AND claimed_epoch = $2 AND claimed_restore = $3
        RETURNING 1
    ), rows AS (
        SELECT * FROM unnest($13::text[], $14::text[], $15::text[], $16::bytea[]) AS rows (kind, id, body, meta)
    ), differing AS (
        SELECT kind, id, current.body AS old_body, rows.body AS body, rows.meta AS meta
        FROM rows FULL JOIN holdfast.current AS current USING (kind, id)
        WHERE (rows.body, rows.meta) IS DISTINCT FROM (current.body, current.meta)
    ), history AS (
        INSERT INTO holdfast.history
            (epoch, revision, seq, kind, id, op, old_body, body, meta, author, request, time_ms, chain)
        SELECT $2, $4, row_number() OVER (ORDER BY kind, id) - 1, kind, id,
            CASE WHEN body IS NULL THEN 'delete' ELSE 'base' END,
            old_body, body, meta, 'system', 'bootstrap', 0, $5
        FROM differing, moved
    ), gone AS (
        DELETE FROM holdfast.current USING differing, moved
        WHERE differing.body IS NULL AND current.kind = differing.kind AND current.id = differing.id
    ), there AS (
        INSERT INTO holdfast.current (kind, id, revision, body, meta)
        SELECT kind, id, $4, body, meta FROM differing, moved WHERE body IS NOT NULL
        ON CONFLICT (kind, id) DO UPDATE
            SET revision = excluded.revision, body = excluded.body, meta = excluded.meta
    )
    SELECT count(*), (SELECT count(*) FROM differing) FROM moved";

/// Takes the record over for a life that came back from something else than the record; it was claimed for it.
pub(super) async fn rebase(
    session: &Session,
    seen: &Cursor,
    term: u64,
    config: &ConfigState,
) -> Result<Cursor, Trouble> {
    let position = config.position();
    let (mut kinds, mut ids, mut bodies, mut metas) = (vec![], vec![], vec![], vec![]);
    for (key, entry) in config.iter() {
        kinds.push(key.kind.as_str());
        ids.push(key.id.as_str());
        bodies.push(&*entry.body);
        metas.push(meta(entry));
    }
    let restore = position.epoch.restore.to_string();
    let chain = config.chain();
    failpoint!("record::before_rebase");
    let rebased = session
        .within(session.client.query_one(
            REBASE,
            &[
                &seen.cluster,
                &number(position.epoch.number),
                &restore,
                &number(position.revision),
                &&chain.0[..],
                &&config.digest().0[..],
                &number(term),
                &number(seen.epoch),
                &seen.restore,
                &number(seen.revision),
                &&seen.chain.0[..],
                &number(seen.term),
                &kinds,
                &ids,
                &bodies,
                &metas,
            ],
        ))
        .await?;
    failpoint!("record::after_rebase");
    if rebased.try_get::<_, i64>(0)? != 1 {
        return Err(Trouble::Moved);
    }
    let differing: i64 = rebased.try_get(1)?;
    tracing::warn!(
        from = seen.revision,
        to = position.revision,
        differing,
        "the record goes on from where this life of the cluster began; the changes between are not in its history"
    );
    Ok(Cursor { epoch: position.epoch.number, restore, revision: position.revision, chain, term, ..seen.clone() })
}
