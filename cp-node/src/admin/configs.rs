//! `GET|HEAD|PUT /apisix/admin/configs`: the whole configuration at once, as APISIX's standalone mode has it.
//!
//! A PUT is one transaction that changes only what differs. What its client says of it (digest and versions by kind) is
//! kept as one resource beside the others, in a group that no proxy can be in: it is written in the same transaction, so
//! it is always about the configuration that it stands beside.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use plugins::CATALOG;
use protocol::command::{Action, Draft, Transaction, Write};
use protocol::json::{self, Map, Value};
use protocol::resource::{IdRule, KINDS, KindInfo, admit};
use protocol::{ConfigState, Kind, Position, ResourceKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::Answer;
use super::limits::{ATTEMPTS, OPERATIONS_MAX};
use super::request::{Call, WriteTerms, aside, read_body};
use super::schemas::{id_of, is_beside_lists};
use super::secrets::{Secrets, View};
use super::{Desk, dry_run, wait, write};

/// What the client of the last PUT said of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    digest: String,
    /// Seconds.
    last_modified: u64,
    /// By kind; what is missing is 0.
    versions: BTreeMap<String, u64>,
}

/// Serves a request on the whole configuration.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    match call.method {
        Method::GET => {
            let config = desk.config(call.wants_stale()?).await?;
            let (secrets, opened) = (desk.secrets.clone(), call.principal.sees_secrets);
            let reading = aside(move || read(&config, if opened { View::Open(&secrets) } else { View::Masked }));
            reading.await
        }
        Method::HEAD => {
            let config = desk.config(call.wants_stale()?).await?;
            let answer = Answer::empty(StatusCode::OK).at(config.position());
            Ok(match said(&config)? {
                Some((said, _)) => with_what_was_said(answer, &said),
                None => answer,
            })
        }
        Method::PUT => put(desk, &call, body).await,
        _ => Err(Answer::method_not_offered(call.method.as_str(), "configs")),
    }
}

fn key() -> ResourceKey {
    ResourceKey::new("standalone", "configs")
}

/// What was said with the last PUT, and whether the configuration is still what that PUT made of it.
fn said(config: &ConfigState) -> Result<Option<(Said, bool)>, Answer> {
    let Some(entry) = config.get(&key()) else { return Ok(None) };
    let said = serde_json::from_str(&entry.body).map_err(|e| {
        Answer::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("what was said of the configuration is unreadable: {e}"),
        )
    })?;
    Ok(Some((said, config.changed_at().revision == entry.modified.revision)))
}

fn with_what_was_said(answer: Answer, said: &Said) -> Answer {
    answer.with_text("x-digest", &said.digest).with_text("x-last-modified", &said.last_modified.to_string())
}

/// Everything as lists by kind, each resource with its id and without its times.
fn read(config: &ConfigState, view: View<'_>) -> Result<Answer, Answer> {
    let said = said(config)?.map(|(said, _)| said);
    let mut all = Map::new();
    for kind in KINDS.iter().filter(|kind| kind.id_rule != IdRule::UnderConsumer) {
        let version = said.as_ref().and_then(|said| said.versions.get(kind.name)).copied().unwrap_or(0);
        all.insert(format!("{}_conf_version", kind.name), json!(version));
        let mut items = Vec::new();
        let mut show = |key: &ResourceKey, body: &str, id: Option<String>| {
            let mut value: Value = serde_json::from_str(&view.to_put_back(key, body)).unwrap_or_default();
            if let (Some(fields), Some(id)) = (value.as_object_mut(), id) {
                fields.insert("id".to_owned(), json!(id));
            }
            items.push(value);
        };
        let is_named_inside = kind.id_rule == IdRule::Username;
        for (key, entry) in config.of_kind(&Kind::new(kind.name)) {
            show(key, &entry.body, (!is_named_inside).then(|| key.id.to_string()));
        }
        if is_named_inside {
            for (key, entry) in config.of_kind(&Kind::new(CREDENTIALS)) {
                show(key, &entry.body, Some(key.id.replacen('/', BETWEEN, 1)));
            }
        }
        if !items.is_empty() {
            all.insert(kind.name.to_owned(), Value::Array(items));
        }
    }
    let answer = |all: Map<String, Value>| Answer::json(StatusCode::OK, Value::Object(all).to_string());
    Ok(match &said {
        Some(said) => {
            all.insert("X-Digest".to_owned(), json!(said.digest));
            all.insert("X-Last-Modified".to_owned(), json!(said.last_modified));
            with_what_was_said(answer(all), said)
        }
        None => answer(all),
    }
    .at(config.position()))
}

async fn put(desk: &Desk, call: &Call, body: Body) -> Result<Answer, Answer> {
    let body = read_body(body, desk.settings.transaction_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    terms.check_for_several()?;
    let digest = call.headers.get("x-digest").and_then(|digest| digest.to_str().ok()).map(str::to_owned);
    let digest = digest.filter(|digest| !digest.is_empty()).ok_or_else(|| Answer::bad("missing digest header"))?;
    let is_yaml = call.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
        matches!(
            kind.split(';').next().unwrap_or_default().trim(),
            "application/yaml" | "text/yaml" | "application/x-yaml"
        )
    });
    let wanted = std::sync::Arc::new(aside(move || parse(&body, is_yaml)).await?);
    for _ in 0..ATTEMPTS {
        let config = desk.config(false).await?;
        if let Some((said, true)) = said(&config)?
            && said.digest == digest
        {
            return Ok(with_what_was_said(Answer::empty(StatusCode::NO_CONTENT), &said).at(config.position()));
        }
        let (wanted, digest, seconds) = (wanted.clone(), digest.clone(), desk.clock.now() / 1000);
        let secrets = desk.secrets.clone();
        let now = config.clone();
        let plan = aside(move || plan(&now, &secrets, &wanted, &digest, seconds)).await?;
        if call.query.is_dry_run()? {
            return aside(move || Ok(dry_run::answer(&config, plan.transaction, &[]))).await;
        }
        match write::propose(desk, call, &terms, Vec::new(), Action::Transaction(plan.transaction)).await {
            Ok((position, written)) => return Ok(accepted(desk, &terms, &plan.said, position, &written).await),
            // Somebody else was faster: what differs is looked at again.
            Err(refused) if refused.status == StatusCode::PRECONDITION_FAILED => {}
            Err(refused) => return Err(refused),
        }
    }
    Err(Answer::error(StatusCode::CONFLICT, "the configuration was changed by others each time it was to be replaced"))
}

/// 202 as APISIX has it: proxies follow. A client that waits gets a 200 when they have.
async fn accepted(
    desk: &Desk,
    terms: &WriteTerms,
    said: &Said,
    position: Position,
    written: &[protocol::outcome::Written],
) -> Answer {
    let status = if terms.wait.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let answer = with_what_was_said(Answer::empty(status), said).at(position);
    wait::settle(desk, terms, position, written, answer).await
}

/// A body as lists by kind.
fn parse(body: &[u8], is_yaml: bool) -> Result<Map<String, Value>, Answer> {
    let value = if is_yaml {
        let text = str::from_utf8(body).map_err(|e| Answer::bad(&format!("invalid request body: {e}")))?;
        let value: Value =
            serde_saphyr::from_str(text).map_err(|e| Answer::bad(&format!("invalid request body: {e}")))?;
        // Once more by the strict reader, so that both forms take the same.
        json::parse(value.to_string().as_bytes()).map_err(|e| Answer::bad_json(&e))?
    } else {
        super::request::parse(body)?
    };
    match value {
        Value::Object(lists) => Ok(lists),
        _ => Err(Answer::bad("a configuration is an object of lists by kind")),
    }
}

struct Plan {
    said: Said,
    transaction: Transaction,
}

/// The writes that make of `config` what is wanted.
fn plan(
    config: &ConfigState,
    secrets: &Secrets,
    wanted: &Map<String, Value>,
    digest: &str,
    seconds: u64,
) -> Result<Plan, Answer> {
    for name in wanted.keys().filter(|name| !is_beside_lists(name)) {
        KindInfo::find(name).ok_or_else(|| Answer::bad(&format!("Unsupported resource type: {name}")))?;
    }
    let before = said(config)?;
    let mut said = Said { digest: digest.to_owned(), last_modified: seconds, versions: BTreeMap::new() };
    let mut writes = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.id_rule != IdRule::UnderConsumer) {
        let (old, untouched) = match &before {
            Some((said, untouched)) => (said.versions.get(kind.name).copied().unwrap_or(0), *untouched),
            None => (0, false),
        };
        let name = format!("{}_conf_version", kind.name);
        let new = match wanted.get(&name) {
            None => old.saturating_add(1),
            Some(given) => given.as_u64().ok_or_else(|| Answer::bad(&format!("{name} must be a number")))?,
        };
        if new < old {
            return Err(Answer::bad(&format!("{name} must be greater than or equal to ({old})")));
        }
        said.versions.insert(kind.name.to_owned(), new);
        let list = match wanted.get(kind.name) {
            None | Some(Value::Null) => None,
            Some(Value::Array(items)) => Some(items),
            Some(_) => return Err(Answer::bad(&format!("{} must be a list", kind.name))),
        };
        // The same version is the same list, unless somebody else has changed something since.
        if new == old && before.is_some() && (untouched || list.is_none()) {
            continue;
        }
        let list = list.map_or(&[][..], Vec::as_slice);
        if kind.id_rule == IdRule::Username {
            let (credentials, consumers) = credentials_apart(list);
            differences(config, secrets, kind, &consumers, &mut writes)?;
            let kind = KindInfo::find(CREDENTIALS).expect("the table of kinds has it");
            differences(config, secrets, kind, &credentials, &mut writes)?;
            continue;
        }
        differences(config, secrets, kind, list, &mut writes)?;
    }
    if writes.len() >= OPERATIONS_MAX {
        return Err(Answer::bad(&format!("a transaction may have {OPERATIONS_MAX} operations")));
    }
    let body = serde_json::to_value(&said).map(|said| json::canonical(&said)).unwrap_or_default();
    let draft = Draft::of_the_system(body.into());
    writes.push(Write::Put { key: key(), draft, if_match: None, only_new: false });
    Ok(Plan { said, transaction: Transaction { writes, if_revision: Some(config.position().revision) } })
}

/// Credentials stand among consumers here, as in APISIX.
const CREDENTIALS: &str = "credentials";

/// What stands between a consumer's name and the credential's there.
const BETWEEN: &str = "/credentials/";

/// The credentials of a list, under the ids that they have elsewhere, and the consumers.
fn credentials_apart(list: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let (mut credentials, mut consumers) = (Vec::new(), Vec::new());
    for item in list {
        match item["id"].as_str().and_then(|id| id.split_once(BETWEEN)) {
            Some((consumer, id)) if item.get("username").is_none() => {
                let mut item = item.clone();
                item["id"] = json!(format!("{consumer}/{id}"));
                credentials.push(item);
            }
            _ => consumers.push(item.clone()),
        }
    }
    (credentials, consumers)
}

/// What must be written for a kind to hold these items and no others.
fn differences(
    config: &ConfigState,
    secrets: &Secrets,
    kind: &KindInfo,
    items: &[Value],
    writes: &mut Vec<Write>,
) -> Result<(), Answer> {
    let mut kept = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let id =
            id_of(item).ok_or_else(|| Answer::bad(&format!("{}[{index}]: missing {} id", kind.name, kind.singular)))?;
        let mut admitted = admit(&CATALOG, kind, Some(&id), item.clone()).map_err(|report| Answer::report(&report))?;
        if !kept.insert(id.clone()) {
            return Err(Answer::bad(&format!("found duplicate id {id} in {}", kind.name)));
        }
        let key = ResourceKey::new(kind.name, &id);
        let current = config.get(&key).map(|entry| &**entry);
        let draft = write::draft(secrets, &key, &mut admitted, current, None);
        let draft = draft.map_err(|report| Answer::report(&report))?;
        let same = config.get(&key).is_some_and(|entry| entry.body == draft.body && entry.ttl_seconds.is_none());
        if !same {
            writes.push(Write::Put { key, draft, if_match: None, only_new: false });
        }
    }
    let name = Kind::new(kind.name);
    let gone = config.of_kind(&name).filter(|(key, _)| !kept.contains(key.id.as_str()));
    writes.extend(gone.map(|(key, _)| Write::Delete { key: key.clone(), if_match: None, force: false }));
    Ok(())
}
