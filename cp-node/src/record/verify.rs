//! Holds PostgreSQL's record against the state machine, row by row, and sets what is current right again.
//!
//! What is current must be the state at the record's cursor: compared by each entry's value in the digest, so that equal
//! means equal everywhere. The history must lead from chain to chain. Nothing that differs is ever adopted; only what is
//! current is ever rewritten, from the state, and only when somebody says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::delta::{Cause, Change};
use protocol::{Chain, Digest, Entry, Epoch, Position, ResourceKey, Revision, codec};
use raft_store::backlog::Backlog;
use serde::Serialize;
use tokio_postgres::{IsolationLevel, Row, Transaction};

use super::history::HistoryError;
use super::judge::{self, Cursor};
use super::link::Session;
use super::step::{self, meta, number};
use super::{Record, Trouble};

/// Rows that are read at once.
const PAGE_ROWS: i64 = 500;

/// What is rewritten in one statement at most.
const REPAIR_ROWS: usize = 500;
const REPAIR_BYTES: usize = 8 << 20;

/// How many findings are named; all are counted.
const NAMED_MAX: usize = 100;

/// Revisions of the history in one request, so that it ends in time; the answer says where the next one goes on.
pub(crate) const HISTORY_REVISIONS_MAX: u64 = 10_000;

/// How long this node may take to apply what the record holds already.
const APPLY_MAX: Duration = Duration::from_secs(5);

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
    cursor_agrees: bool,
    differing: u64,
    missing: u64,
    extra: u64,
    /// The first of them.
    named: Vec<Finding>,
    /// Rows that were set right.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<u64>,
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
enum Problem {
    /// It holds something else.
    Differs,
    /// It is not there.
    Missing,
    /// There is no such resource.
    Extra,
}

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

impl Record {
    /// Holds what is current against the state.
    pub(crate) async fn verify(&self, cluster: &str) -> Result<CurrentFindings, HistoryError> {
        let mut session = self.primary().await?;
        let limit = session.statement_max;
        let transaction = within(limit, read_only(&mut session)).await?;
        let cursor = cursor_of(&transaction, limit, "").await?;
        let (backlog, agrees) = self.state_at(&cursor, cluster).await?;
        let expected = Expected::at(&backlog, &cursor, agrees)?;
        let mut findings = compare(&transaction, limit, &cursor, &expected, |_, _| {}).await?;
        findings.good &= findings.cursor_agrees;
        Ok(findings)
    }

    /// Makes what is current the state at the cursor again, in one transaction that keeps the writer out. The history
    /// stays as it is.
    pub(crate) async fn repair(&self, cluster: &str) -> Result<CurrentFindings, HistoryError> {
        let mut session = self.primary().await?;
        let limit = session.statement_max;
        let transaction = within(limit, session.client.transaction()).await?;
        let cursor = cursor_of(&transaction, limit, " FOR UPDATE").await?;
        let (backlog, agrees) = self.state_at(&cursor, cluster).await?;
        if !agrees {
            // This is no record of our history: nothing in it is ours to set right.
            return Err(Trouble::DifferentChain(cursor.cursor.revision).into());
        }
        let expected = Expected::at(&backlog, &cursor, agrees)?;
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        let mut findings = compare(&transaction, limit, &cursor, &expected, |key, problem| match problem {
            Problem::Extra => gone.push(key.clone()),
            Problem::Differs | Problem::Missing => there.push(key.clone()),
        })
        .await?;
        for keys in gone.chunks(REPAIR_ROWS) {
            remove(&transaction, limit, keys).await?;
        }
        let mut rest = &there[..];
        while !rest.is_empty() {
            let count = fitting(rest, &expected);
            put(&transaction, limit, &rest[..count], &expected).await?;
            rest = &rest[count..];
        }
        let sql = "UPDATE holdfast.cursor SET digest = $1, updated_at = now() WHERE one";
        within(limit, transaction.execute(sql, &[&&expected.digest.0[..]])).await?;
        within(limit, transaction.commit()).await?;
        findings.repaired = Some((gone.len() + there.len()) as u64);
        Ok(findings)
    }

    /// Follows the chain through the history after a revision of the current epoch.
    pub(crate) async fn verify_history(&self, cluster: &str, above: Revision) -> Result<HistoryFindings, HistoryError> {
        let mut session = self.primary().await?;
        let limit = session.statement_max;
        let transaction = within(limit, read_only(&mut session)).await?;
        let stands = cursor_of(&transaction, limit, "").await?;
        self.state_at(&stands, cluster).await?;
        let cursor = &stands.cursor;
        let restore = cursor.restore.parse().map_err(|_| Trouble::Database("the restore id is none".to_owned()))?;
        let epoch = Epoch { number: cursor.epoch, restore };
        // What came before the record began is in no row; what it begins with is taken as given where nothing vouches
        // for it (rows of an earlier epoch, base rows, or that it is the first revision of all).
        let above = above.max(begins_after(&transaction, limit, epoch.number).await?.unwrap_or(cursor.revision));
        let upto = cursor.revision.min(above.saturating_add(HISTORY_REVISIONS_MAX));
        let mut follow = Follow::from(epoch, above, chain_at(&transaction, limit, epoch.number, above).await?);
        let mut after = (number(above), i32::MAX);
        loop {
            let rows = within(
                limit,
                transaction.query(
                    "SELECT revision, seq, kind, id, old_body, body, meta, author, request, time_ms, chain
                 FROM holdfast.history
                 WHERE epoch = $1 AND (revision, seq) > ($2, $3) AND revision <= $4 AND op <> 'base'
                 ORDER BY revision, seq LIMIT $5",
                    &[&number(epoch.number), &after.0, &after.1, &number(upto), &PAGE_ROWS],
                ),
            )
            .await?;
            let Some(last) = rows.last() else { break };
            after = (last.try_get(0).map_err(Trouble::from)?, last.try_get(1).map_err(Trouble::from)?);
            for row in &rows {
                follow.row(row).map_err(Trouble::from)?;
            }
        }
        follow.end(upto);
        if upto == cursor.revision && follow.revisions > 0 && follow.chain != Some(cursor.chain) {
            follow.find(upto, None, HistoryProblem::CursorChain);
        }
        Ok(HistoryFindings {
            above,
            upto,
            next: (upto < cursor.revision).then_some(upto),
            good: follow.problems == 0,
            revisions: follow.revisions,
            problems: follow.problems,
            named: follow.named,
        })
    }

    /// A session with the PostgreSQL on which the record is.
    async fn primary(&self) -> Result<Session, HistoryError> {
        let link = self.shared.link.as_ref().ok_or(HistoryError::NoPostgres)?;
        let mut trouble = HistoryError::NoPostgres;
        for host in link.hosts() {
            let found = async {
                let session = link.connect(host).await?;
                judge::system(&step::look(&session).await?, &self.shared.backlog.now())?;
                Ok::<_, Trouble>(session)
            };
            match found.await {
                Ok(session) => return Ok(session),
                Err(e) => trouble = e.into(),
            }
        }
        Err(trouble)
    }

    /// What this node knows, once it has applied as much as the record holds; and whether both have one history there.
    async fn state_at(&self, stands: &Stands, cluster: &str) -> Result<(Arc<Backlog>, bool), Trouble> {
        let revision = stands.cursor.revision;
        let mut reader = self.shared.backlog.clone();
        let applied = reader.wait_for(|backlog| backlog.config.position().revision >= revision);
        // Late, the judgement says that the record is ahead.
        let _ = tokio::time::timeout(APPLY_MAX, applied).await;
        let backlog = reader.now();
        // Whoever leads: this changes neither cursor nor history.
        match judge::content(Some(&stands.cursor), cluster, u64::MAX, &backlog) {
            Ok(_) => Ok((backlog, true)),
            Err(Trouble::DifferentChain(_)) => Ok((backlog, false)),
            Err(trouble) => Err(trouble),
        }
    }
}

/// The cursor, with the digest that it names.
struct Stands {
    cursor: Cursor,
    digest: Vec<u8>,
}

/// The state at the cursor.
struct Expected {
    entries: BTreeMap<ResourceKey, Arc<Entry>>,
    digest: Digest,
    cursor_agrees: bool,
}

impl Expected {
    fn at(backlog: &Backlog, stands: &Stands, chain_agrees: bool) -> Result<Self, Trouble> {
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

async fn read_only(session: &mut Session) -> Result<Transaction<'_>, tokio_postgres::Error> {
    session.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await
}

/// As [`Session::within`], for a transaction that borrows the session.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Trouble::Silent(limit)),
    }
}

async fn cursor_of(transaction: &Transaction<'_>, limit: Duration, lock: &str) -> Result<Stands, HistoryError> {
    let sql = format!("SELECT {}, digest FROM holdfast.cursor{lock}", step::CURSOR_COLUMNS);
    let Some(row) = within(limit, transaction.query_opt(&sql, &[])).await? else {
        return Err(HistoryError::Unknown("nothing was recorded yet".to_owned()));
    };
    let cursor = step::read_cursor(&row)?;
    Ok(Stands { cursor, digest: row.try_get(8).map_err(Trouble::from)? })
}

/// The revision before the first change of an epoch that the history holds.
async fn begins_after(transaction: &Transaction<'_>, limit: Duration, epoch: u64) -> Result<Option<Revision>, Trouble> {
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

/// Goes through both, in the order of their keys.
async fn compare(
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

/// Follows the chain from change to change.
struct Follow {
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
    fn from(epoch: Epoch, at: Revision, chain: Option<Chain>) -> Self {
        let (bodies, named) = (HashMap::new(), Vec::new());
        Self { epoch, at, chain, open: None, bodies, revisions: 0, problems: 0, named }
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
