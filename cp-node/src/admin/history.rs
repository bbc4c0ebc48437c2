//! `/v1/history`, `?at_revision=`, `/v1/revert` and `/v1/record`: what the durable record tells, and what is asked of it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use protocol::command::{Action, Command, RecordAction, Transaction, Write};
use protocol::entry::DEFAULT_GROUP;
use protocol::outcome::Written;
use protocol::resource::KindInfo;
use protocol::{Outcome, Position, ResourceKey, Revision};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::answer::Answer;
use super::limits::OPERATIONS_MAX;
use super::request::{Call, aside, read_body};
use super::secrets::{self, Secrets, View};
use super::{Desk, dry_run, render, wait, write};
use crate::record::{HistoryError, HistoryFilter, HistoryRow, PAGE_MAX, Told};

/// Rows in one page when the client does not say.
const PAGE: u32 = 100;

/// How long an answer waits for what this node has applied; then it goes without.
const TAKEN_IN_MAX: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revert {
    revision: u64,
    /// Also where a resource has been changed again since.
    #[serde(default)]
    force: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Repair {
    confirm: bool,
}

#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    told: Told,
    next: Option<String>,
}

/// What this node has applied shall be in the answer, where it is this node that keeps it.
async fn taken_in(desk: &Desk, position: Position) {
    desk.record.has_taken_in(position, Instant::now() + TAKEN_IN_MAX).await;
}

/// Serves a request about the past.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (&call.method, &path[..]) {
        (&Method::GET, ["history"]) => history(desk, &call).await,
        (&Method::GET, ["record"]) => Ok(Answer::value(StatusCode::OK, &desk.record.status())),
        (&Method::GET, ["record", "verify"]) => verify(desk, &call).await,
        (&Method::POST, ["record", "repair"]) => repair(desk, &call, body).await,
        (&Method::POST, ["record", "release"]) => tell(desk, &call, RecordAction::Release).await,
        (&Method::POST, ["record", "off"]) => tell(desk, &call, RecordAction::Off).await,
        (&Method::POST, ["revert"]) => revert(desk, &call, body).await,
        (_, ["history" | "revert" | "record"] | ["record", "release" | "off" | "verify" | "repair"]) => {
            Err(Answer::method_not_offered(call.method.as_str(), "this path"))
        }
        _ => Err(Answer::no_such_path()),
    }
}

fn refused(e: &HistoryError) -> Answer {
    match e {
        HistoryError::None | HistoryError::NoPostgres => Answer::bad(&e.to_string()),
        HistoryError::Unknown(_) => Answer::error(StatusCode::NOT_FOUND, &e.to_string()),
        HistoryError::Trouble(_) | HistoryError::Embedded(_) => Answer::not_applied(&e.to_string()),
    }
}

async fn history(desk: &Desk, call: &Call) -> Result<Answer, Answer> {
    fn number<T: std::str::FromStr>(call: &Call, name: &str) -> Result<Option<T>, Answer> {
        let bad = |_| Answer::bad(&format!("invalid argument {name}: should be a number"));
        call.query.get(name).map(str::parse).transpose().map_err(bad)
    }
    let before = call.query.get("before").map(|text| {
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next();
        let row = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        Some(row)
    });
    if before == Some(None) {
        return Err(Answer::bad("invalid argument before: should be the `next` of another page"));
    }
    let text = |name: &str| call.query.get(name).map(str::to_owned);
    let filter = HistoryFilter {
        kind: text("kind"),
        id: text("id"),
        author: text("author"),
        since: number(call, "since")?,
        until: number(call, "until")?,
        revision: number(call, "revision")?,
        above: number(call, "above")?,
        upto: number(call, "upto")?,
        before: before.flatten(),
        limit: number(call, "limit")?.unwrap_or(PAGE),
    };
    taken_in(desk, desk.feed.position()).await;
    let mut told = desk.record.history(&filter).await.map_err(|e| refused(&e))?;
    for row in &mut told.list {
        // What the control plane keeps for itself (keys, tokens, users) is nobody's to read who may not see secrets.
        if KindInfo::find(&row.kind).is_none() && !call.principal.sees_secrets {
            (row.old_body, row.body) = (None, None);
            continue;
        }
        let key = ResourceKey::new(&row.kind, &row.id);
        if let (Some(old), Some(new)) = (&row.old_body, &row.body) {
            row.secrets_changed = secrets::differ(&row.kind, old.get(), new.get());
        }
        for body in [&mut row.old_body, &mut row.body] {
            let shown = body.take().map(|body| View::Masked.of(&key, body.get()).into_owned());
            *body = shown.and_then(|shown| RawValue::from_string(shown).ok());
        }
    }
    let last = told.list.last().filter(|_| told.list.len() >= filter.limit.clamp(1, PAGE_MAX) as usize);
    let next = last.map(|row| format!("{}-{}-{}", row.epoch, row.revision, row.seq));
    Ok(Answer::value(StatusCode::OK, &Page { told, next }))
}

/// A resource as it was.
pub(super) async fn at_revision(desk: &Desk, key: &ResourceKey, revision: &str) -> Result<Answer, Answer> {
    let revision = revision.parse::<i64>().ok().filter(|revision| *revision >= 0);
    let revision = revision.ok_or_else(|| Answer::bad("invalid argument at_revision: should be a number"))?;
    let now = desk.feed.config();
    taken_in(desk, now.position()).await;
    let body = desk.record.body_at(key, revision, now).await.map_err(|e| refused(&e))?;
    let body = View::Masked.of(key, &body.ok_or_else(Answer::missing)?).into_owned();
    let key_path = json!(render::key_path(key));
    Ok(Answer::json(StatusCode::OK, format!("{{\"key\":{key_path},\"value\":{body},\"at_revision\":{revision}}}")))
}

/// What a write is answered that was carried out before: with the body that it stored, where that is known still.
pub(super) async fn answer_again(desk: &Desk, position: Position, done: &Written) -> Answer {
    let now = desk.feed.config();
    let as_then = now.get(&done.key).filter(|entry| entry.modified.revision == position.revision);
    let body = match as_then {
        Some(entry) => Some(entry.body.to_string()),
        None => {
            taken_in(desk, now.position()).await;
            let revision = i64::try_from(position.revision).unwrap_or(i64::MAX);
            desk.record.body_at(&done.key, revision, now).await.ok().flatten()
        }
    };
    match body {
        Some(body) => write::answer(done, &body).at(position),
        None => {
            let sentence =
                format!("this was done before, at {position}, and nobody here knows any more what it stored");
            write::answer(done, "{}").at(position).warn(&[sentence])
        }
    }
}

/// Takes a change back, as a new change.
async fn revert(desk: &Desk, call: &Call, body: Body) -> Result<Answer, Answer> {
    let body = read_body(body, desk.settings.body_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    terms.check_for_several()?;
    let Revert { revision, force } =
        serde_json::from_slice(&body).map_err(|e| Answer::bad(&format!("invalid request body: {e}")))?;
    // Whichever node made the change: this one has applied it before it looks.
    let config = desk.config(false).await?;
    taken_in(desk, config.position()).await;
    let rows = rows_of(desk, revision, config.position()).await?;
    let secrets = desk.secrets.clone();
    let writes = aside(move || {
        let users = |row: &&HistoryRow| KindInfo::find(&row.kind).is_some();
        rows.iter().filter(users).map(|row| taking_back(&secrets, row, revision, force)).collect::<Result<Vec<_>, _>>()
    });
    let transaction = Transaction { writes: writes.await?, if_revision: None };
    if transaction.writes.is_empty() {
        let sentence = format!("nothing of revision {revision} can be taken back: it has changed no resource");
        return Err(Answer::bad(&sentence));
    }
    if call.query.is_dry_run()? {
        return aside(move || Ok(dry_run::answer(&config, transaction, &[]))).await;
    }
    let (position, written) = write::propose(desk, call, &terms, Vec::new(), Action::Transaction(transaction)).await?;
    let keys: Vec<_> = written.iter().map(|written| render::key_path(&written.key)).collect();
    let answer = json!({ "revision": position.revision, "reverted": revision, "keys": keys });
    let answer = Answer::json(StatusCode::OK, answer.to_string()).at(position);
    Ok(wait::settle(desk, &terms, position, &written, answer).await)
}

/// Every row of a change of this life, of which `now` is a position.
async fn rows_of(desk: &Desk, revision: Revision, now: Position) -> Result<Vec<HistoryRow>, Answer> {
    let wide = |n: u64| i64::try_from(n).map_err(|_| Answer::bad("there is no such revision"));
    let (wanted, epoch) = (wide(revision)?, wide(now.epoch.number)?);
    let mut filter = HistoryFilter { revision: Some(wanted), limit: PAGE_MAX, ..HistoryFilter::default() };
    let mut rows = Vec::new();
    loop {
        let page = desk.record.history(&filter).await.map_err(|e| refused(&e))?.list;
        filter.before = page.last().map(|row| (row.epoch, row.revision, row.seq));
        let is_last = page.len() < PAGE_MAX as usize;
        rows.extend(page.into_iter().filter(|row| row.epoch == epoch && row.op != "base"));
        if rows.len() > OPERATIONS_MAX {
            return Err(Answer::bad(&format!("a change of more than {OPERATIONS_MAX} resources cannot be reverted")));
        }
        if is_last {
            break;
        }
    }
    // Rows are numbered from 0 and go away oldest first: without that one, the record lets go of the change right now.
    if rows.last().is_none_or(|row| row.seq > 0) {
        let sentence = format!("the record holds no change with revision {revision}");
        return Err(Answer::error(StatusCode::NOT_FOUND, &sentence));
    }
    Ok(rows)
}

/// The write that takes one resource's change back. A resource that was deleted must still be gone; another must not have
/// been changed since, unless that is forced.
fn taking_back(secrets: &Secrets, row: &HistoryRow, revision: Revision, force: bool) -> Result<Write, Answer> {
    let key = ResourceKey::new(&row.kind, &row.id);
    let is_gone = row.op == "delete";
    let if_match = (!force && !is_gone).then_some(revision);
    let Some(old) = &row.old_body else { return Ok(Write::Delete { key, if_match, force: false }) };
    let kind = KindInfo::find(&row.kind).ok_or_else(|| Answer::no_such_kind(&row.kind))?;
    let groups_of_default = [DEFAULT_GROUP.into()];
    let terms = match &row.old_entry {
        Some(old) => (&old.groups[..], old.ttl_seconds),
        None => (&groups_of_default[..], None),
    };
    let draft = write::as_it_was(secrets, kind, &key, old.get(), terms, None)?;
    Ok(Write::Put { key, draft, if_match, only_new: is_gone && !force })
}

/// Holds the record against the state: what is current, or with `history_above` a stretch of the history.
async fn verify(desk: &Desk, call: &Call) -> Result<Answer, Answer> {
    let cluster = desk.describe.peering.cluster.to_string();
    let Some(above) = call.query.get("history_above") else {
        let findings = desk.record.verify(&cluster).await.map_err(|e| refused(&e))?;
        return Ok(Answer::value(StatusCode::OK, &findings));
    };
    let bad = |_| Answer::bad("invalid argument history_above: should be a revision");
    let above = above.parse::<u64>().map_err(bad)?;
    let findings = desk.record.verify_history(&cluster, above).await.map_err(|e| refused(&e))?;
    Ok(Answer::value(StatusCode::OK, &findings))
}

/// Sets what is current right.
async fn repair(desk: &Desk, call: &Call, body: Body) -> Result<Answer, Answer> {
    let body = read_body(body, desk.settings.body_max.0).await?;
    let asked = if body.is_empty() { Ok(Repair::default()) } else { serde_json::from_slice(&body) };
    let asked = asked.map_err(|e| Answer::bad(&format!("invalid request body: {e}")))?;
    if !asked.confirm {
        let sentence =
            "repair rewrites rows of the record; look at /v1/record/verify first, then say \"confirm\": true";
        return Err(Answer::bad(sentence));
    }
    let cluster = desk.describe.peering.cluster.to_string();
    let findings = desk.record.repair(&cluster).await.map_err(|e| refused(&e))?;
    tracing::warn!(author = call.principal.name.as_str(), findings = ?findings, "what is current in the record was set right");
    Ok(Answer::value(StatusCode::OK, &findings))
}

/// Says something of the record to all.
async fn tell(desk: &Desk, call: &Call, action: RecordAction) -> Result<Answer, Answer> {
    let terms = call.terms(desk, &Bytes::new()).await?;
    let command = Command {
        origin: None,
        idempotency: None,
        request: terms.request.as_str().into(),
        author: call.principal.name.as_str().into(),
        time: desk.clock.now(),
        based_on: Vec::new(),
        action: Action::Record(action),
    };
    match desk.proposer.propose(command, Instant::now() + desk.deadline()).await {
        Ok(Outcome::Refused { position, rejection }) => Err(Answer::rejection(&rejection, position)),
        Ok(_) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(e) => Err(Answer::undecided(&e, &terms.request)),
    }
}
