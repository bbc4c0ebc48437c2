//! What operations are made of: parameters, bodies, answers.

use serde_json::{Map, Value, json};

use super::super::limits::WAIT_MILLIS_MAX;

/// What any request may be answered.
pub(super) const READ_ERRORS: [u16; 4] = [400, 401, 404, 503];

/// What a write may be answered: whatever it is of, admission and the log have the same refusals.
pub(super) const WRITE_ERRORS: [u16; 10] = [400, 401, 404, 408, 409, 412, 413, 422, 503, 504];

/// An operation whose good answers have these schemas.
pub(super) fn operation(summary: &str, good: &[(u16, &str)], bad: &[u16]) -> Value {
    let mut responses = Map::new();
    for (status, schema) in good {
        responses.insert(status.to_string(), json!({ "description": "Done", "content": content(&reference(schema)) }));
    }
    for status in bad {
        responses.insert(status.to_string(), json!({ "$ref": "#/components/responses/Error" }));
    }
    json!({ "summary": summary, "responses": responses })
}

/// An operation whose good answers are any JSON.
pub(super) fn plain(summary: &str, good: &[u16], bad: &[u16]) -> Value {
    let mut operation = operation(summary, &[], bad);
    for status in good {
        operation["responses"][status.to_string()] = json!({ "description": "Done", "content": content(&json!({})) });
    }
    operation
}

/// An answer without a body, or with one of which nothing is said.
pub(super) fn answers(operation: &mut Value, status: u16, what: &str) {
    operation["responses"][status.to_string()] = json!({ "description": what });
}

/// A refusal that may be a sentence alone, as APISIX has it.
pub(super) fn may_be_a_sentence(operation: &mut Value, status: u16) {
    operation["responses"][status.to_string()] = json!({
        "description": "Refused, with the reason",
        "content": {
            "application/json": { "schema": reference("Error") },
            "text/plain": { "schema": { "type": "string" } },
        },
    });
}

pub(super) fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

pub(super) fn content(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

pub(super) fn body(schema: &Value) -> Value {
    json!({ "required": true, "content": content(schema) })
}

pub(super) fn query(name: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "schema": schema })
}

pub(super) fn in_path(name: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

/// Whole numbers from `minimum` on.
pub(super) fn number(minimum: u64) -> Value {
    json!({ "type": "integer", "minimum": minimum })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

/// Whether a read asks a quorum.
pub(super) fn consistency() -> Value {
    query("consistency", &json!({ "enum": ["linearizable", "stale"] }))
}

/// Whether something is tried only.
pub(super) fn dry_run() -> Value {
    query("dry_run", &json!({ "type": "boolean" }))
}

/// For which proxies is waited, and how long.
pub(super) fn waiting() -> Vec<Value> {
    let part = "(region|group|label):[^,]+";
    vec![
        query("wait", &json!({ "type": "integer", "minimum": 0, "maximum": WAIT_MILLIS_MAX })),
        query("scope", &json!({ "type": "string", "pattern": format!("^{part}(,{part})*$") })),
        query("quorum", &json!({ "type": "string", "pattern": "^[0-9]{1,5}%?$" })),
    ]
}

/// What holds for every write, `own` beside it.
pub(super) fn of_writes(own: &[Value]) -> Vec<Value> {
    let mut all = own.to_vec();
    all.push(query("durability", &json!({ "enum": ["raft", "record"] })));
    all.push(
        json!({ "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" } }),
    );
    all
}

/// The same for writes of resources, which can wait for the fleet.
pub(super) fn of_resource_writes(own: &[Value]) -> Vec<Value> {
    [of_writes(own), waiting()].concat()
}

/// The condition on the last change.
pub(super) fn if_match() -> Value {
    json!({ "name": "If-Match", "in": "header", "schema": number(0) })
}
