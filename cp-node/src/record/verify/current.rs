//! What is current, row by row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Digest, Entry, ResourceKey, codec};
use raft_store::backlog::Backlog;
use serde::Serialize;
use tokio_postgres::{Row, Transaction};

use super::{NAMED_MAX, PAGE_ROWS, Stands, within};
use crate::record::Trouble;
use crate::record::step::{meta, number};

/// What is rewritten in one statement at most.
const REPAIR_ROWS: usize = 500;
const REPAIR_BYTES: usize = 8 << 20;

/// What is current, held against the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct CurrentFindings {
    /// Where the record's cursor is.
    position: String,
    /// Whether nothing differs.
    pub(crate) good: bool,
    rows: u64,
    /// The digest over the rows.
    digest: String,
    /// That of the state at the cursor.
    state_digest: String,
    /// Whether the cursor names the state's digest and chain too.
    pub(super) cursor_agrees: bool,
    differing: u64,
    missing: u64,
    extra: u64,
    /// The first of them.
    named: Vec<Finding>,
    /// Rows that were set right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repaired: Option<u64>,
}

/// A row that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    kind: String,
    id: String,
    problem: Problem,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Problem {
    /// It holds something else.
    Differs,
    /// It is not there.
    Missing,
    /// There is no such resource.
    Extra,
}

/// The state at the cursor.
pub(super) struct Expected {
    entries: BTreeMap<ResourceKey, Arc<Entry>>,
    digest: Digest,
    cursor_agrees: bool,
}

impl Expected {
    pub(super) fn at(backlog: &Backlog, stands: &Stands, chain_agrees: bool) -> Result<Self, Trouble> {
        let revision = stands.cursor.revision;
        let base = backlog.outbox.base().map_or(0, |base| base.position.revision);
        let entries = backlog.entries_at(revision).ok_or(Trouble::TooFarBehind { found: revision, base })?;
        let digest = sum(entries.iter().map(|(key, entry)| Digest::of_entry(key, entry)));
        Ok(Self { entries, digest, cursor_agrees: chain_agrees && stands.digest == digest.0 })
    }
}

fn sum(values: impl Iterator<Item = Digest>) -> Digest {
    let mut total = Digest::default();
    values.for_each(|value| total.add(&value));
    total
}

/// Goes through both, in the order of their keys.
pub(super) async fn compare(
    transaction: &Transaction<'_>,
    limit: Duration,
    stands: &Stands,
    expected: &Expected,
    mut found: impl FnMut(&ResourceKey, Problem),
) -> Result<CurrentFindings, Trouble> {
    let mut findings = CurrentFindings {
        position: format!("{}-{}", stands.cursor.epoch, stands.cursor.revision),
        good: true,
        rows: 0,
        digest: String::new(),
        state_digest: expected.digest.to_string(),
        cursor_agrees: expected.cursor_agrees,
        differing: 0,
        missing: 0,
        extra: 0,
        named: Vec::new(),
        repaired: None,
    };
    let mut find = |findings: &mut CurrentFindings, key: &ResourceKey, problem| {
        findings.good = false;
        *match problem {
            Problem::Differs => &mut findings.differing,
            Problem::Missing => &mut findings.missing,
            Problem::Extra => &mut findings.extra,
        } += 1;
        if findings.named.len() < NAMED_MAX {
            let (kind, id) = (key.kind.as_str().to_owned(), key.id.as_str().to_owned());
            findings.named.push(Finding { kind, id, problem });
        }
        found(key, problem);
    };
    let mut digest = Digest::default();
    let mut due = expected.entries.iter().peekable();
    let mut after: Option<(String, String)> = None;
    loop {
        let (kind, id) = match &after {
            Some((kind, id)) => (Some(kind), Some(id)),
            None => (None, None),
        };
        let rows = within(
            limit,
            transaction.query(
                "SELECT kind, id, revision, body, meta FROM holdfast.current
             WHERE $1::text IS NULL OR (kind, id) > ($1, $2) ORDER BY kind, id LIMIT $3",
                &[&kind, &id, &PAGE_ROWS],
            ),
        )
        .await?;
        let Some(last) = rows.last() else { break };
        after = Some((last.try_get(0)?, last.try_get(1)?));
        for row in &rows {
            findings.rows += 1;
            let key = ResourceKey::new(row.try_get(0)?, row.try_get(1)?);
            while let Some((missing, _)) = due.next_if(|(next, _)| **next < key) {
                find(&mut findings, missing, Problem::Missing);
            }
            let value = entry(row, 3, 4)?.map(|entry| (Digest::of_entry(&key, &entry), entry));
            value.iter().for_each(|(value, _)| digest.add(value));
            match due.next_if(|(next, _)| **next == key) {
                None => find(&mut findings, &key, Problem::Extra),
                Some((_, wanted)) => {
                    let revision = row.try_get::<_, i64>(2)?;
                    let is_same = value.is_some_and(|(value, _)| value == Digest::of_entry(&key, wanted));
                    if !is_same || revision != row_revision(wanted, stands, revision) {
                        find(&mut findings, &key, Problem::Differs);
                    }
                }
            }
        }
    }
    for (missing, _) in due {
        find(&mut findings, missing, Problem::Missing);
    }
    findings.digest = digest.to_string();
    Ok(findings)
}

/// The revision that a row should name: its entry's last change. A row with which the record began names where it began.
fn row_revision(entry: &Entry, stands: &Stands, found: i64) -> i64 {
    let modified = number(entry.modified.revision);
    if found > modified && found <= number(stands.cursor.revision) { found } else { modified }
}

/// An entry from the columns of its body and of the rest; `None` where they do not decode.
fn entry(row: &Row, body: usize, rest: usize) -> Result<Option<Entry>, tokio_postgres::Error> {
    let (body, rest): (String, Vec<u8>) = (row.try_get(body)?, row.try_get(rest)?);
    Ok(codec::open::<Entry>(&rest).ok().map(|bare| Entry { body: body.into(), ..bare }))
}

/// Takes out the rows of `gone`, writes those of `there` anew, and has the cursor name the digest of the whole.
pub(super) async fn rewrite(
    transaction: &Transaction<'_>,
    limit: Duration,
    expected: &Expected,
    gone: &[ResourceKey],
    there: &[ResourceKey],
) -> Result<(), Trouble> {
    for keys in gone.chunks(REPAIR_ROWS) {
        remove(transaction, limit, keys).await?;
    }
    let mut rest = there;
    while !rest.is_empty() {
        let count = fitting(rest, expected);
        put(transaction, limit, &rest[..count], expected).await?;
        rest = &rest[count..];
    }
    let sql = "UPDATE holdfast.cursor SET digest = $1, updated_at = now() WHERE one";
    within(limit, transaction.execute(sql, &[&&expected.digest.0[..]])).await.map(drop)
}

async fn remove(transaction: &Transaction<'_>, limit: Duration, keys: &[ResourceKey]) -> Result<(), Trouble> {
    let (kinds, ids) = columns(keys);
    within(
        limit,
        transaction.execute(
            "DELETE FROM holdfast.current USING unnest($1::text[], $2::text[]) AS rows (kind, id)
         WHERE current.kind = rows.kind AND current.id = rows.id",
            &[&kinds, &ids],
        ),
    )
    .await
    .map(drop)
}

async fn put(
    transaction: &Transaction<'_>,
    limit: Duration,
    keys: &[ResourceKey],
    expected: &Expected,
) -> Result<(), Trouble> {
    let (kinds, ids) = columns(keys);
    let entries: Vec<&Entry> = keys.iter().filter_map(|key| expected.entries.get(key)).map(|entry| &**entry).collect();
    let revisions: Vec<i64> = entries.iter().map(|entry| number(entry.modified.revision)).collect();
    let bodies: Vec<&str> = entries.iter().map(|entry| &*entry.body).collect();
    let metas: Vec<Vec<u8>> = entries.iter().map(|entry| meta(entry)).collect();
    within(
        limit,
        transaction.execute(
            "INSERT INTO holdfast.current (kind, id, revision, body, meta)
         SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[], $5::bytea[])
         ON CONFLICT (kind, id) DO UPDATE
            SET revision = excluded.revision, body = excluded.body, meta = excluded.meta",
            &[&kinds, &ids, &revisions, &bodies, &metas],
        ),
    )
    .await
    .map(drop)
}

fn columns(keys: &[ResourceKey]) -> (Vec<&str>, Vec<&str>) {
    keys.iter().map(|key| (key.kind.as_str(), key.id.as_str())).unzip()
}

/// How many of the keys go into one statement: one at least.
fn fitting(keys: &[ResourceKey], expected: &Expected) -> usize {
    let mut bytes = 0;
    let fits = keys.iter().take(REPAIR_ROWS).take_while(|key| {
        bytes += expected.entries.get(*key).map_or(0, |entry| entry.body.len());
        bytes <= REPAIR_BYTES
    });
    fits.count().max(1)
}
