//! `GET /v1/openapi.json`: this API as OpenAPI 3.1, made of the table of kinds, their schemas and a list of the rest.

mod kinds;
mod others;
mod parts;

use axum::http::{Method, StatusCode};
use protocol::resource::{ID_BYTES_MAX, KINDS, USERNAME_CHARS_MAX};
use serde_json::{Map, Value, json};

use self::parts::{content, number, reference, text};
use super::answer::Answer;
use super::limits::OPERATIONS_MAX;
use super::request::Call;

/// Serves the description.
pub(super) fn serve(call: &Call) -> Result<Answer, Answer> {
    match call.method {
        Method::GET => Ok(Answer::json(StatusCode::OK, document().to_string())),
        _ => Err(Answer::method_not_offered(call.method.as_str(), "this path")),
    }
}

fn document() -> Value {
    let (mut paths, mut schemas) = kinds::all();
    paths.extend(others::all().into_iter().map(|(path, item)| (path.to_owned(), item)));
    schemas.extend(shared_schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast Admin API",
            "version": daemon::build::VERSION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "apiKey", "in": "header", "name": "X-API-KEY" } },
            "schemas": schemas,
            "responses": {
                "Error": { "description": "Refused, with the reason", "content": content(&reference("Error")) },
            },
        },
    })
}

fn shared_schemas() -> Map<String, Value> {
    let written = json!({
        "type": "object",
        "required": ["key", "value"],
        "properties": { "key": text(), "value": { "type": "object" }, "fleet": { "type": "object" } },
    });
    let deleted = json!({
        "type": "object",
        "required": ["key", "deleted"],
        "properties": { "key": text(), "deleted": { "const": "1" }, "fleet": { "type": "object" } },
    });
    let item = json!({
        "type": "object",
        "required": ["key", "value", "createdIndex", "modifiedIndex"],
        "properties": {
            "key": text(),
            "value": { "type": "object" },
            "createdIndex": number(1),
            "modifiedIndex": number(1),
        },
    });
    let item_then = json!({
        "type": "object",
        "required": ["key", "value", "at_revision"],
        "properties": { "key": text(), "value": { "type": "object" }, "at_revision": number(0) },
    });
    let list = json!({
        "type": "object",
        "required": ["list", "total"],
        "properties": { "list": { "type": "array", "items": reference("Item") }, "total": number(0) },
    });
    let error = json!({
        "type": "object",
        "anyOf": [{ "required": ["error_msg"] }, { "required": ["message"] }],
        "properties": {
            "error_msg": text(),
            "message": text(),
            "description": text(),
            "errors": { "type": "array", "items": { "type": "object" } },
        },
    });
    let id = json!({ "type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX, "pattern": "^[a-zA-Z0-9_.-]+$" });
    let username =
        json!({ "type": "string", "minLength": 1, "maxLength": USERNAME_CHARS_MAX, "pattern": "^[a-zA-Z0-9_-]+$" });
    // Credentials and secrets stand under something, which their ids begin with.
    let full_id = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": USERNAME_CHARS_MAX + 1 + ID_BYTES_MAX,
        "pattern": "^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)?$",
    });
    let operation = json!({
        "type": "object",
        "required": ["op", "kind", "id"],
        "additionalProperties": false,
        "properties": {
            "op": { "enum": ["put", "create", "patch", "delete"] },
            "kind": { "enum": KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>() },
            "id": full_id,
            "value": { "type": "object" },
            "if_match": number(0),
            "force": { "type": "boolean" },
            "ttl": number(1),
        },
    });
    let transaction = json!({
        "type": "object",
        "required": ["operations"],
        "additionalProperties": false,
        "properties": {
            "operations": { "type": "array", "minItems": 1, "maxItems": OPERATIONS_MAX, "items": reference("Operation") },
            "if_revision": number(0),
            "dry_run": { "type": "boolean" },
        },
    });
    let all = [
        ("Written", written),
        ("Deleted", deleted),
        ("Item", item),
        ("ItemThen", item_then),
        ("List", list),
        ("Error", error),
        ("Id", id),
        ("Username", username),
        ("Operation", operation),
        ("Transaction", transaction),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}
