//! What clients write: their keys, what a value looks like in a body, and how a call becomes requests and an answer an outcome.

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use crate::cluster::Api;
use crate::history::{At, Call, Found, Outcome, POISON, Value};
use crate::http::{Reply, was_not_sent};

/// Keys that all clients share: few, so that they meet.
const ROUTES: u64 = 8;
const SERVICES: u64 = 6;
/// What poison has in the place of a secret: no proxy has such a variable.
const BROKEN: &str = "$env://CHAOS_SETS_NO_SUCH_VARIABLE";
/// What a delete or a patch of nothing is answered with.
pub(super) const NOT_FOUND: u16 = 404;
/// A patch that others were faster than, each time; and a condition that does not hold.
pub(super) const CONFLICT: u16 = 409;
pub(super) const LOST: u16 = 412;
const UNAVAILABLE: u16 = 503;

/// Every key.
pub(super) fn keys() -> Vec<String> {
    lists().concat()
}

/// Keys that can be read together, since they are in one list.
pub(super) fn lists() -> [Vec<String>; 2] {
    let routes = (0..ROUTES).map(|n| format!("routes/k{n}"));
    [routes.collect(), (0..SERVICES).map(|n| format!("services/p{n}")).collect()]
}

/// Keys of routes that clients write, with the path that leads to each.
pub(super) fn routes() -> Vec<(String, String)> {
    (0..ROUTES).map(|n| (format!("routes/k{n}"), format!("/k{n}"))).collect()
}

/// Whether clients write this resource.
pub(super) fn is_clients(kind: &str, id: &str) -> bool {
    (kind == "routes" && id.starts_with('k')) || (kind == "services" && id.starts_with('p'))
}

/// The body of a key that holds a value. A route answers with it itself.
fn body(key: &str, value: Value) -> Json {
    let text = value.to_string();
    let mut body = json!({"desc": text, "labels": {"put": text}});
    if let Some(("routes", id)) = key.split_once('/') {
        body["uri"] = json!(format!("/{id}"));
        body["upstream"] = json!({"nodes": {"127.0.0.1:1": 1}});
        body["plugins"] = json!({"mocking": {"response_example": text}});
    }
    if value >= POISON {
        // A reference is admitted as it is written; what it leads to is the proxy's to find out.
        body["plugins"]["csrf"] = json!({"key": BROKEN});
    }
    body
}

/// What is merged into a resource that takes a value and keeps all else.
fn patch(value: Value) -> Json {
    json!({"desc": value.to_string()})
}

/// What a resource that clients have written shows, last changed by this revision.
pub(super) fn found(body: &Json, modified: u64) -> Option<Found> {
    let value: Value = body["desc"].as_str()?.parse().ok()?;
    let put: Value = body["labels"]["put"].as_str()?.parse().ok()?;
    Some(Found { value, modified, put: (put != value).then_some(put) })
}

/// Asks, and tells what came of it.
pub(super) async fn ask(api: &mut Api, call: &Call) -> Outcome {
    let reply = match call {
        Call::Write { writes, if_match, request, patch } => {
            let if_match = if_match.map(|revision| revision.to_string());
            let mut headers: Vec<(&str, &str)> = Vec::new();
            headers.extend(request.as_deref().map(|request| ("idempotency-key", request)));
            headers.extend(if_match.as_deref().map(|revision| ("if-match", revision)));
            write(api, writes, *patch, &headers).await
        }
        Call::Read { keys, stale } => {
            let query = if *stale { "?consistency=stale" } else { "" };
            let of = match &keys[..] {
                [key] => key,
                _ => keys[0].split('/').next().unwrap_or_default(),
            };
            api.call("GET", &format!("/apisix/admin/{of}{query}"), &[], String::new()).await
        }
    };
    match reply {
        Err(e) if was_not_sent(&e) => Outcome::Fail { status: 0 },
        Err(e) => Outcome::Unknown { why: format!("{e:#}") },
        Ok(reply) => judge(call, &reply).unwrap_or_else(|e| Outcome::Unknown { why: format!("{e:#}") }),
    }
}

/// One of them by itself, several in a transaction.
async fn write(
    api: &mut Api,
    writes: &[(String, Option<Value>)],
    is_patch: bool,
    headers: &[(&str, &str)],
) -> Result<Reply> {
    if let [(key, value)] = writes {
        let path = format!("/apisix/admin/{key}");
        return match value {
            Some(value) if is_patch => api.call("PATCH", &path, headers, patch(*value).to_string()).await,
            Some(value) => api.call("PUT", &path, headers, body(key, *value).to_string()).await,
            None => api.call("DELETE", &path, headers, String::new()).await,
        };
    }
    let operation = |(key, value): &(String, Option<Value>)| {
        let (kind, id) = key.split_once('/').unwrap_or_default();
        match value {
            Some(value) if is_patch => json!({"op": "patch", "kind": kind, "id": id, "value": patch(*value)}),
            Some(value) => json!({"op": "put", "kind": kind, "id": id, "value": body(key, *value)}),
            None => json!({"op": "delete", "kind": kind, "id": id}),
        }
    };
    let operations: Vec<Json> = writes.iter().map(operation).collect();
    api.call("POST", "/v1/transactions", headers, json!({"operations": operations}).to_string()).await
}

fn judge(call: &Call, reply: &Reply) -> Result<Outcome> {
    let position = || {
        let position = reply.header("x-holdfast-position").context("an answer without a position")?;
        At::parse(position).context("a position that is none")
    };
    Ok(match (call, reply.status) {
        (Call::Write { .. }, 200 | 201) => Outcome::Ok { position: position()?, found: Vec::new() },
        (Call::Read { keys, .. }, 200 | NOT_FOUND) => {
            let body = reply.json()?;
            let items: Vec<&Json> = body["list"].as_array().map_or_else(|| vec![&body], |list| list.iter().collect());
            let look = |key: &String| -> Result<(String, Option<Found>)> {
                let named = |item: &&&Json| item["key"].as_str().is_some_and(|k| k.ends_with(&format!("/{key}")));
                let Some(item) = items.iter().find(named) else { return Ok((key.clone(), None)) };
                let modified = item["modifiedIndex"].as_u64().context("a resource without a revision")?;
                let found = found(&item["value"], modified).context("a resource without a value")?;
                Ok((key.clone(), Some(found)))
            };
            Outcome::Ok { position: position()?, found: keys.iter().map(look).collect::<Result<_>>()? }
        }
        (_, status @ (NOT_FOUND | CONFLICT | LOST | UNAVAILABLE)) => Outcome::Fail { status },
        (_, status) => bail!("{status}: {}", reply.text().trim_end()),
    })
}
