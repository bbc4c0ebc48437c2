//! From an admitted body to its outcome.

use axum::http::StatusCode;
use daemon::planted;
use plugins::CATALOG;
use protocol::command::{Action, BasedOn, Command, Draft};
use protocol::entry::DEFAULT_GROUP;
use protocol::outcome::{Written, WrittenHow};
use protocol::report::{Path, Problem};
use protocol::resource::{Admitted, KindInfo, admit};
use protocol::{Entry, Outcome, Position, Rejection, Report, ResourceKey, Text};
use tokio::time::Instant;

use super::answer::Answer;
use super::limits::RESOURCE_BYTES_MAX;
use super::request::{Call, WriteTerms, parse};
use super::secrets::Secrets;
use super::{Desk, render, users};

/// What the log is to hold of an admitted body that is to stand under `key`, where `current` stands now. The one door to
/// it: what is secret is sealed here, in `admitted` too.
///
/// # Errors
/// A [`Report`] when it cannot be sealed, or is too large for one resource.
pub(super) fn draft(
    secrets: &Secrets,
    key: &ResourceKey,
    admitted: &mut Admitted,
    current: Option<&Entry>,
    ttl_seconds: Option<u64>,
) -> Result<Draft, Report> {
    secrets.seal(key, admitted, current)?;
    let bytes = admitted.body.len();
    if bytes > RESOURCE_BYTES_MAX {
        let sentence = format!("a resource may have {RESOURCE_BYTES_MAX} bytes, this one has {bytes}");
        return Err(Report { problems: vec![Problem::rule(Path::default(), sentence)] });
    }
    Ok(Draft {
        body: admitted.body.as_str().into(),
        references: admitted.references.clone(),
        claims: admitted.claims.clone(),
        groups: vec![DEFAULT_GROUP.into()],
        ttl_seconds,
    })
}

/// The same of what stood under `key` before, whose secrets are sealed: its body, its groups and its time to live. It is
/// admitted anew, since rules may have become stricter.
///
/// # Errors
/// The answer to whoever wants it back.
pub(super) fn as_it_was(
    secrets: &Secrets,
    kind: &KindInfo,
    key: &ResourceKey,
    body: &str,
    (groups, ttl_seconds): (&[Text], Option<u64>),
    current: Option<&Entry>,
) -> Result<Draft, Answer> {
    let refused = |report: Report| Answer::report_of(&report, key);
    let mut admitted = admit(&CATALOG, kind, Some(&key.id), parse(body.as_bytes())?).map_err(refused)?;
    let draft = draft(secrets, key, &mut admitted, current, ttl_seconds).map_err(refused)?;
    Ok(Draft { groups: groups.to_vec(), ..draft })
}

/// Proposes an action, and waits until this node has applied what came of it: whoever reads here next sees it.
pub(super) async fn propose(
    desk: &Desk,
    call: &Call,
    terms: &WriteTerms,
    mut based_on: Vec<BasedOn>,
    action: Action,
) -> Result<(Position, Vec<Written>), Answer> {
    based_on.extend(call.principal.based_on.iter().cloned());
    let command = Command {
        origin: None,
        idempotency: terms.idempotency.clone(),
        request: terms.request.as_str().into(),
        author: call.principal.name.as_str().into(),
        time: desk.clock.now(),
        based_on,
        action,
    };
    desk.record.check_room().map_err(|why| Answer::not_applied(&why))?;
    let step = desk.deadline();
    let outcome = desk.proposer.propose_any_size(command, step).await;
    let outcome = outcome.map_err(|e| Answer::undecided(&e, &terms.request))?;
    if let Some(position) = outcome.position() {
        // It is decided; that this node lags so far behind only means that a read here may not see it yet.
        let _ = tokio::time::timeout_at(Instant::now() + step, desk.feed.reached(position)).await;
    }
    match outcome {
        Outcome::Done { position, written } => {
            if terms.waits_for_record && !desk.record.holds(position, Instant::now() + step).await {
                return Err(Answer::not_recorded(&terms.request).at(position));
            }
            let position = if planted!("answer-names-another-revision") { position.next() } else { position };
            Ok((position, written))
        }
        Outcome::Refused { position, rejection: Rejection::Stale { key } } if users::is_principal(&key) => {
            Err(Answer::unauthorised("the apikey was revoked, or its user changed, while the request was on its way")
                .at(position))
        }
        Outcome::Refused { position, rejection } => Err(Answer::rejection(&rejection, position)),
        other => Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("a write was answered with {other:?}"))),
    }
}

/// The same for an action that writes one resource.
pub(super) async fn propose_one(
    desk: &Desk,
    call: &Call,
    terms: &WriteTerms,
    based_on: Vec<BasedOn>,
    action: Action,
) -> Result<(Position, Written), Answer> {
    let (position, written) = propose(desk, call, terms, based_on, action).await?;
    match written.into_iter().next() {
        Some(written) => Ok((position, written)),
        None => Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "a write was answered without what it wrote")),
    }
}

/// What a write of one resource is answered.
pub(super) fn answer(written: &Written, body: &str) -> Answer {
    let key = &written.key;
    match written.how {
        WrittenHow::Created { stamp } => {
            Answer::json(StatusCode::CREATED, render::written(key, body, stamp.time, stamp.time))
        }
        WrittenHow::Replaced { created, modified } => {
            Answer::json(StatusCode::OK, render::written(key, body, created.time, modified.time))
        }
        WrittenHow::Deleted => Answer::json(StatusCode::OK, render::deleted(key)),
    }
}
