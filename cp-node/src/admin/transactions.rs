//! `POST /v1/transactions`: several writes, all or nothing, under one revision.
//!
//! ```json
//! {"if_revision": 41, "operations": [
//!   {"op": "put",    "kind": "upstreams", "id": "u1", "value": {…}},
//!   {"op": "create", "kind": "routes",    "id": "r1", "value": {…}},
//!   {"op": "patch",  "kind": "services",  "id": "s1", "value": {…}},
//!   {"op": "delete", "kind": "routes",    "id": "r2", "if_match": 17, "force": true}
//! ]}
//! ```
//!
//! References are checked against the result, so the order of the operations does not matter. With `"dry_run": true` the
//! answer is what would happen.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use plugins::CATALOG;
use protocol::command::{Action, BasedOn, Transaction, Write};
use protocol::json::{self, Value};
use protocol::outcome::WrittenHow;
use protocol::resource::{Admitted, KindInfo, admit};
use protocol::{ConfigState, ResourceKey, Revision};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::limits::{ATTEMPTS, OPERATIONS_MAX};
use super::request::{Call, aside, parse, read_body};
use super::secrets::Secrets;
use super::{Desk, dry_run, render, wait, write};
use crate::feed::capability;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'b> {
    #[serde(borrow)]
    operations: Vec<Operation<'b>>,
    #[serde(default)]
    if_revision: Option<Revision>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation<'b> {
    op: Op,
    kind: String,
    id: String,
    #[serde(borrow, default)]
    value: Option<&'b RawValue>,
    #[serde(default)]
    if_match: Option<Revision>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    ttl: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Create,
    Patch,
    Delete,
}

/// Serves a transaction.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_offered(call.method.as_str(), "transaction"));
    }
    let body = read_body(body, desk.settings.transaction_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    terms.check_for_several()?;
    let looked_at = body.clone();
    let (is_dry, needs_read) = aside(move || {
        let document = read(&looked_at)?;
        Ok((document.dry_run, document.operations.iter().any(|operation| operation.op == Op::Patch)))
    })
    .await?;
    if is_dry || call.query.is_dry_run()? {
        let config = desk.config(call.wants_stale()?).await?;
        let secrets = desk.secrets.clone();
        let trying = aside(move || {
            let (transaction, _, warnings) = admit_all(&read(&body)?, Some(&config), &config, &secrets)?;
            Ok(dry_run::answer(&config, transaction, &warnings))
        });
        return trying.await;
    }
    for _ in 0..ATTEMPTS {
        let config = if needs_read { Some(desk.config(false).await?) } else { None };
        let (secrets, known, admitted) = (desk.secrets.clone(), desk.feed.config(), body.clone());
        let admitting = aside(move || {
            let parsed = read(&admitted)?;
            admit_all(&parsed, config.as_ref(), &known, &secrets)
        });
        let (transaction, based_on, mut warnings) = admitting.await?;
        warnings.extend(desk.fleet.warnings(&needed(&transaction)));
        match write::propose(desk, &call, &terms, based_on, Action::Transaction(transaction)).await {
            Ok((position, written)) => {
                let results: Vec<Value> = written
                    .iter()
                    .map(|written| {
                        let how = match written.how {
                            WrittenHow::Created { .. } => "created",
                            WrittenHow::Replaced { .. } => "replaced",
                            WrittenHow::Deleted => "deleted",
                        };
                        json!({ "key": render::key_path(&written.key), "result": how })
                    })
                    .collect();
                let answer = json!({
                    "epoch": position.epoch.number,
                    "revision": position.revision,
                    "results": results,
                });
                let answer = Answer::json(StatusCode::OK, answer.to_string()).at(position).warn(&warnings);
                return Ok(wait::settle(desk, &terms, position, &written, answer).await);
            }
            // Only a patch reads; what it read has changed.
            Err(refused) if refused.is_stale() && needs_read => {}
            Err(refused) => return Err(located(body, refused).await),
        }
    }
    Err(Answer::error(StatusCode::CONFLICT, "what the transaction's patches read was changed by others each time"))
}

/// A refusal because of a resource that is not there says which operation names it.
async fn located(body: Bytes, refused: Answer) -> Answer {
    let Some(key) = refused.not_found().cloned() else { return refused };
    let wanted = key.clone();
    let names = move |operation: &Operation<'_>| wanted.kind.as_str() == operation.kind && *wanted.id == *operation.id;
    match aside(move || Ok(read(&body)?.operations.iter().position(names))).await {
        Ok(Some(index)) => refused.in_operation(index, &key),
        _ => refused,
    }
}

/// What it takes to serve everything that is written.
fn needed(transaction: &Transaction) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for write in &transaction.writes {
        if let Write::Put { key, draft, .. } = write {
            all.extend(capability::needed(key.kind.as_str(), &draft.body));
        }
    }
    all
}

fn read(body: &[u8]) -> Result<Document<'_>, Answer> {
    let parsed: Document<'_> =
        serde_json::from_slice(body).map_err(|e| Answer::bad(&format!("invalid request body: {e}")))?;
    if parsed.operations.is_empty() {
        return Err(Answer::bad("a transaction needs at least one operation"));
    }
    if parsed.operations.len() > OPERATIONS_MAX {
        return Err(Answer::bad(&format!("a transaction may have {OPERATIONS_MAX} operations")));
    }
    Ok(parsed)
}

type Admission = (Transaction, Vec<BasedOn>, Vec<String>);

/// `config` is what patches are based on; `known` may lag behind, and only saves sealing anew what is sealed already.
fn admit_all(
    body: &Document<'_>,
    config: Option<&ConfigState>,
    known: &ConfigState,
    secrets: &Secrets,
) -> Result<Admission, Answer> {
    let mut writes = Vec::with_capacity(body.operations.len());
    let mut based_on = Vec::new();
    let mut warnings = Vec::new();
    for (index, operation) in body.operations.iter().enumerate() {
        let bad = |sentence: &str| Answer::bad(&format!("operation {index}: {sentence}"));
        let kind = KindInfo::find(&operation.kind)
            .ok_or_else(|| bad(&format!("Unsupported resource type: {}", operation.kind)))?;
        let key = ResourceKey::new(kind.name, &operation.id);
        if operation.op == Op::Delete {
            if operation.value.is_some() {
                return Err(bad("a delete has no value"));
            }
            writes.push(Write::Delete { key, if_match: operation.if_match, force: operation.force });
            continue;
        }
        let value = operation.value.ok_or_else(|| bad("a value is needed"))?;
        let value = json::parse(value.get().as_bytes()).map_err(|e| bad(&format!("invalid value: {e}")))?;
        let mut ttl = operation.ttl;
        let value = match (operation.op, config.and_then(|config| config.get(&key))) {
            (Op::Patch, Some(entry)) => {
                ttl = ttl.or(entry.ttl_seconds);
                based_on.push(BasedOn { key: key.clone(), modified: Some(entry.modified.revision) });
                let mut base = parse(entry.body.as_bytes())?;
                json::merge(&mut base, value);
                base
            }
            (Op::Patch, None) => return Err(Answer::missing_in(index, &key)),
            _ => value,
        };
        let mut admitted: Admitted =
            admit(&CATALOG, kind, Some(&operation.id), value).map_err(|report| Answer::report_in(&report, index))?;
        let current = known.get(&key).map(|entry| &**entry);
        let draft = write::draft(secrets, &key, &mut admitted, current, ttl)
            .map_err(|report| Answer::report_in(&report, index))?;
        warnings.extend(admitted.warnings.iter().map(|warning| format!("operation {index}: {warning}")));
        writes.push(Write::Put { key, draft, if_match: operation.if_match, only_new: operation.op == Op::Create });
    }
    Ok((Transaction { writes, if_revision: body.if_revision }, based_on, warnings))
}
