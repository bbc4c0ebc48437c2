//! What a transaction would do: decided by the same rules as in the log, on the configuration as it is, and written nowhere.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use protocol::command::{Action, Command, Transaction, Write};
use protocol::json::{self, Value};
use protocol::outcome::WrittenHow;
use protocol::resource::KindInfo;
use protocol::{ConfigState, ResourceKey};
use raft_store::machine::decide;
use serde_json::json;

use super::answer::Answer;
use super::limits::DRY_RUN_ENTRIES_MAX;
use super::render;
use super::secrets::View;
use super::shadow::{self, Shadow};

/// The configuration as it would be.
pub(super) struct After<'s> {
    pub(super) config: &'s ConfigState,
    /// Bodies that would be written, `None` for those that would go.
    pub(super) writes: BTreeMap<&'s ResourceKey, Option<&'s str>>,
}

impl After<'_> {
    pub(super) fn body(&self, key: &ResourceKey) -> Option<&str> {
        match self.writes.get(key) {
            Some(body) => *body,
            None => self.config.get(key).map(|entry| &*entry.body),
        }
    }
}

/// The answer to a dry run.
pub(super) fn answer(config: &ConfigState, transaction: Transaction, warnings: &[String]) -> Answer {
    let Transaction { writes, if_revision } = transaction;
    let command = Command {
        origin: None,
        idempotency: None,
        request: "".into(),
        author: "".into(),
        time: 0,
        based_on: Vec::new(),
        action: Action::Transaction(Transaction { writes: Vec::new(), if_revision }),
    };
    let decided = decide(config, &command, &writes, if_revision);
    let bodies = writes.iter().filter_map(|write| match write {
        Write::Put { key, draft, .. } => Some((key, Some(&*draft.body))),
        Write::Delete { key, .. } => Some((key, None)),
        Write::Post { .. } => None,
    });
    let after = After { config, writes: bodies.collect() };
    let how = |index: usize, key: &ResourceKey| match decided.as_ref().ok().and_then(|(written, _)| written.get(index))
    {
        Some(written) => match written.how {
            WrittenHow::Created { .. } => "created",
            WrittenHow::Replaced { .. } => "replaced",
            WrittenHow::Deleted => "deleted",
        },
        None => match (config.get(key).is_some(), after.writes.get(key)) {
            (_, Some(None)) => "deleted",
            (true, _) => "replaced",
            (false, _) => "created",
        },
    };
    let results: Vec<Value> = writes
        .iter()
        .enumerate()
        .filter_map(|(index, write)| {
            // What the control plane keeps for itself is no result.
            let key = write.key().filter(|key| KindInfo::find(key.kind.as_str()).is_some())?;
            let body =
                |text: Option<&str>| -> Option<Value> { serde_json::from_str(&View::Masked.of(key, text?)).ok() };
            let (before, new) = (config.get(key).map(|entry| &*entry.body), after.body(key));
            let is_same = before.is_some() && before == new;
            let (old, new) = (body(before), body(new));
            let how = if is_same { "unchanged" } else { how(index, key) };
            let diff = json::differences(&old.unwrap_or_default(), &new.unwrap_or_default());
            let diff: Vec<Value> = diff
                .into_iter()
                .map(|difference| {
                    let mut entry = json!({ "path": difference.path.to_string() });
                    for (name, value) in [("old", difference.old), ("new", difference.new)] {
                        if let Some(value) = value {
                            entry[name] = value;
                        }
                    }
                    entry
                })
                .collect();
            Some(json!({ "key": render::key_path(key), "result": how, "diff": diff }))
        })
        .collect();
    let broken = broken_references(&after, &writes);
    let shadows: Vec<Value> = shadow::shadows(&after).into_iter().map(Shadow::show).collect();
    let mut answer = json!({
        "dry_run": true,
        "epoch": config.position().epoch.number,
        "revision": config.position().revision,
        "accepted": decided.is_ok(),
        "results": results,
    });
    if let Err(rejection) = &decided {
        answer["error_msg"] = json!(render::error_words(rejection));
    }
    for (name, list) in [("broken_references", broken), ("shadowed", shadows)] {
        answer[format!("{name}_total")] = json!(list.len());
        answer[name] = list.into_iter().take(DRY_RUN_ENTRIES_MAX).collect();
    }
    Answer::json(StatusCode::OK, answer.to_string()).at(config.position()).warn(warnings)
}

/// Every reference that would lead nowhere because of these writes.
fn broken_references(after: &After<'_>, writes: &[Write]) -> Vec<Value> {
    let mut broken = BTreeSet::new();
    for write in writes {
        match write {
            Write::Put { key, draft, .. } => {
                let missing = draft.references.iter().filter(|to| after.body(to).is_none());
                broken.extend(missing.map(|to| (key.clone(), to.clone())));
            }
            Write::Delete { key, .. } => {
                // Those that are written themselves are looked at as they would be.
                let left = after.config.referrers(key).filter(|from| !after.writes.contains_key(from));
                broken.extend(left.map(|from| (from.clone(), key.clone())));
            }
            Write::Post { .. } => {}
        }
    }
    let show = |(from, to): (ResourceKey, ResourceKey)| json!({ "from": render::key_path(&from), "to": render::key_path(&to) });
    broken.into_iter().map(show).collect()
}
