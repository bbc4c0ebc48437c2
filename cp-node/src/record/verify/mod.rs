//! Holds PostgreSQL's record against the state machine, row by row, and sets what is current right again.
//!
//! What is current must be the state at the record's cursor: compared by each entry's value in the digest, so that equal
//! means equal everywhere. The history must lead from chain to chain. Nothing that differs is ever adopted; only what is
//! current is ever rewritten, from the state, and only when somebody says so.

mod current;
mod history;

use std::sync::Arc;
use std::time::Duration;

use protocol::{Epoch, Revision};
use raft_store::backlog::Backlog;
use tokio_postgres::{IsolationLevel, Transaction};

pub(crate) use self::current::CurrentFindings;
use self::current::{Expected, Problem};
use self::history::Follow;
pub(crate) use self::history::{HISTORY_REVISIONS_MAX, HistoryFindings};
use super::history::HistoryError;
use super::judge::{self, Cursor};
use super::link::Session;
use super::step;
use super::{Record, Trouble};

/// Rows that are read at once.
const PAGE_ROWS: i64 = 500;

/// How many findings are named; all are counted.
const NAMED_MAX: usize = 100;

/// How long this node may take to apply what the record holds already.
const APPLY_MAX: Duration = Duration::from_secs(5);

impl Record {
    /// Holds what is current against the state.
    pub(crate) async fn verify(&self, cluster: &str) -> Result<CurrentFindings, HistoryError> {
        let mut session = self.primary().await?;
        let limit = session.statement_max;
        let transaction = within(limit, read_only(&mut session)).await?;
        let cursor = cursor_of(&transaction, limit, "").await?;
        let (backlog, agrees) = self.state_at(&cursor, cluster).await?;
        let expected = Expected::at(&backlog, &cursor, agrees)?;
        let mut findings = current::compare(&transaction, limit, &cursor, &expected, |_, _| {}).await?;
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
        let mut findings = current::compare(&transaction, limit, &cursor, &expected, |key, problem| match problem {
            Problem::Extra => gone.push(key.clone()),
            Problem::Differs | Problem::Missing => there.push(key.clone()),
        })
        .await?;
        current::rewrite(&transaction, limit, &expected, &gone, &there).await?;
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
        let begins = history::begins_after(&transaction, limit, epoch.number).await?;
        let above = above.max(begins.unwrap_or(cursor.revision));
        let upto = cursor.revision.min(above.saturating_add(HISTORY_REVISIONS_MAX));
        let mut follow = Follow::begin(&transaction, limit, epoch, above).await?;
        follow.read(&transaction, limit, upto).await?;
        if upto == cursor.revision {
            follow.ends_at_cursor(upto, cursor.chain);
        }
        Ok(follow.findings(above, upto, cursor.revision))
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
