//! `POST /v1/restore`: what `POST /v1/backup` wrote becomes the configuration again, on a cluster that runs.
//!
//! It is one transaction that changes only what differs, on the condition that nothing else has changed meanwhile; so it
//! stands in the history and can itself be taken back. Users, tokens and whatever else the control plane keeps for itself
//! stay as they are: a backup must not bring a revoked token back. A cluster whose disks are lost comes back another way,
//! by `cp-node bootstrap`.

use std::sync::Arc;

use archive::read::open_base;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use protocol::command::{Action, Transaction, Write};
use protocol::resource::KINDS;
use protocol::snapshot::Expected;
use protocol::{ConfigState, Kind};
use serde_json::json;

use super::answer::Answer;
use super::limits::{ATTEMPTS, OPERATIONS_MAX};
use super::request::{Call, aside, read_body};
use super::secrets::Secrets;
use super::{Desk, dry_run, render, wait, write};

/// Serves a request to restore.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_offered(call.method.as_str(), "this path"));
    }
    let Some(archiver) = desk.describe.archiver.get() else {
        let sentence = "a backup is believed by the archive's key, and this node has no archive: set archive.*";
        return Err(Answer::error(StatusCode::CONFLICT, sentence));
    };
    let body = read_body(body, desk.settings.transaction_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    terms.check_for_several()?;
    let expected = Expected { cluster: Some(desk.describe.peering.cluster), view: None };
    let (trusted, limits) = (archiver.trusted(), archiver.limits());
    let opening = aside(move || {
        let opened = open_base(&body, &expected, &trusted, limits);
        opened.map_err(|e| Answer::bad(&format!("this is no backup that can be restored: {e}")))
    });
    let backup = Arc::new(opening.await?.state);
    for _ in 0..ATTEMPTS {
        let config = desk.config(false).await?;
        let (from, secrets) = (backup.clone(), desk.secrets.clone());
        let now = config.clone();
        let writes = aside(move || plan(&now, &from, &secrets)).await?;
        let transaction = Transaction { writes, if_revision: Some(config.position().revision) };
        if call.query.is_dry_run()? {
            return aside(move || Ok(dry_run::answer(&config, transaction, &[]))).await;
        }
        let restored = backup.position();
        if transaction.writes.is_empty() {
            let position = config.position();
            let answer = json!({ "revision": position.revision, "restored": restored.to_string(), "keys": [] });
            return Ok(Answer::json(StatusCode::OK, answer.to_string()).at(position));
        }
        match write::propose(desk, &call, &terms, Vec::new(), Action::Transaction(transaction)).await {
            Ok((position, written)) => {
                let keys: Vec<_> = written.iter().map(|written| render::key_path(&written.key)).collect();
                tracing::warn!(author = call.principal.name.as_str(), %restored, %position, changed = keys.len(), "a backup was restored");
                let answer = json!({ "revision": position.revision, "restored": restored.to_string(), "keys": keys });
                let answer = Answer::json(StatusCode::OK, answer.to_string()).at(position);
                return Ok(wait::settle(desk, &terms, position, &written, answer).await);
            }
            // Somebody else was faster: what differs is looked at again.
            Err(refused) if refused.status == StatusCode::PRECONDITION_FAILED => {}
            Err(refused) => return Err(refused),
        }
    }
    Err(Answer::error(StatusCode::CONFLICT, "the configuration was changed by others each time it was to be restored"))
}

/// The writes that make of `config` what the backup holds.
fn plan(config: &ConfigState, backup: &ConfigState, secrets: &Secrets) -> Result<Vec<Write>, Answer> {
    let mut writes = Vec::new();
    for kind in KINDS {
        let name = Kind::new(kind.name);
        for (key, old) in backup.of_kind(&name) {
            let current = config.get(key).map(|entry| &**entry);
            let terms_of = |entry: &protocol::Entry| (entry.groups.clone(), entry.ttl_seconds);
            let stands = current.is_some_and(|now| now.body == old.body && terms_of(now) == terms_of(old));
            if !stands {
                let draft = write::as_it_was(secrets, kind, key, &old.body, (&old.groups, old.ttl_seconds), current)?;
                writes.push(Write::Put { key: key.clone(), draft, if_match: None, only_new: false });
            }
        }
        let gone = config.of_kind(&name).filter(|(key, _)| backup.get(key).is_none());
        writes.extend(gone.map(|(key, _)| Write::Delete { key: key.clone(), if_match: None, force: false }));
    }
    if writes.len() > OPERATIONS_MAX {
        return Err(Answer::bad(&format!(
            "{} resources differ: a transaction may have {OPERATIONS_MAX} operations",
            writes.len()
        )));
    }
    Ok(writes)
}
