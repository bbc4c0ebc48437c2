//! `GET /v1/openapi.json`: this API as OpenAPI 3.1, made of the table of kinds, their schemas and the list below.

use axum::http::{Method, StatusCode};
use protocol::resource::{DESC_CHARS_MAX, IdRule, KINDS, KindInfo};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::limits::{OPERATIONS_MAX, PAGE_SIZE_MAX, PAGE_SIZE_MIN, TOKEN_SECONDS_MAX, WAIT_MILLIS_MAX};
use super::request::Call;

/// Serves the description.
pub(super) fn serve(call: &Call) -> Result<Answer, Answer> {
    match call.method {
        Method::GET => Ok(Answer::json(StatusCode::OK, document().to_string())),
        _ => Err(Answer::method_not_offered(call.method.as_str(), "this path")),
    }
}

fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = shared_schemas();
    for kind in KINDS {
        let Some(path) = path_of(kind) else { continue };
        // A kind without a schema takes an object, of which nothing more is said.
        let mut schema = kind.schema().unwrap_or_else(|| json!({ "type": "object" }));
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
        }
        schemas.insert(kind.name.to_owned(), schema);
        paths.insert(format!("{path}/{{id}}"), one(kind));
        paths.insert(path, collection(kind));
        paths.insert(format!("/apisix/admin/schema/validate/{}", kind.name), json!({ "post": validate(kind) }));
        paths.insert(
            format!("/apisix/admin/schema/{}", kind.name),
            json!({ "get": plain("The JSON Schema of a body", &[200, 401]) }),
        );
    }
    for (path, item) in others() {
        paths.insert(path.to_owned(), item);
    }
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

/// Where the resources of a kind stand; `None`: nowhere yet.
fn path_of(kind: &KindInfo) -> Option<String> {
    match kind.id_rule {
        IdRule::Plain | IdRule::Username | IdRule::Plugin => Some(format!("/apisix/admin/{}", kind.name)),
        IdRule::UnderConsumer => Some(format!("/apisix/admin/consumers/{{username}}/{}", kind.name)),
        IdRule::UnderManager => None,
    }
}

/// The parameters of a kind's paths, `own` beside those of what its resources stand under.
fn at(kind: &KindInfo, own: &[Value]) -> Value {
    let mut all = own.to_vec();
    if kind.id_rule == IdRule::UnderConsumer {
        all.push(json!({ "name": "username", "in": "path", "required": true, "schema": reference("Id") }));
    }
    Value::Array(all)
}

fn shared_schemas() -> Map<String, Value> {
    let written = json!({
        "type": "object",
        "required": ["key", "value"],
        "properties": { "key": { "type": "string" }, "value": { "type": "object" }, "fleet": { "type": "object" } },
    });
    let item = json!({
        "type": "object",
        "required": ["key", "value", "createdIndex", "modifiedIndex"],
        "properties": {
            "key": { "type": "string" },
            "value": { "type": "object" },
            "createdIndex": { "type": "integer", "minimum": 1 },
            "modifiedIndex": { "type": "integer", "minimum": 1 },
        },
    });
    let list = json!({
        "type": "object",
        "required": ["list", "total"],
        "properties": { "list": { "type": "array", "items": reference("Item") }, "total": { "type": "integer", "minimum": 0 } },
    });
    let error = json!({
        "type": "object",
        "anyOf": [{ "required": ["error_msg"] }, { "required": ["message"] }],
        "properties": {
            "error_msg": { "type": "string" },
            "message": { "type": "string" },
            "description": { "type": "string" },
            "errors": { "type": "array", "items": { "type": "object" } },
        },
    });
    let id = json!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9_.-]+$" });
    let operation = json!({
        "type": "object",
        "required": ["op", "kind", "id"],
        "additionalProperties": false,
        "properties": {
            "op": { "enum": ["put", "create", "patch", "delete"] },
            "kind": { "enum": KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>() },
            "id": id,
            "value": { "type": "object" },
            "if_match": { "type": "integer", "minimum": 0 },
            "force": { "type": "boolean" },
            "ttl": { "type": "integer", "minimum": 1 },
        },
    });
    let transaction = json!({
        "type": "object",
        "required": ["operations"],
        "additionalProperties": false,
        "properties": {
            "operations": { "type": "array", "minItems": 1, "maxItems": OPERATIONS_MAX, "items": reference("Operation") },
            "if_revision": { "type": "integer", "minimum": 0 },
            "dry_run": { "type": "boolean" },
        },
    });
    let all = [
        ("Written", written),
        ("Item", item),
        ("List", list),
        ("Error", error),
        ("Id", id.clone()),
        ("Operation", operation),
        ("Transaction", transaction),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn collection(kind: &KindInfo) -> Value {
    let mut item = Map::new();
    let page = json!({ "type": "integer", "minimum": 1 });
    let size = json!({ "type": "integer", "minimum": PAGE_SIZE_MIN, "maximum": PAGE_SIZE_MAX });
    let text = json!({ "type": "string" });
    item.insert("parameters".to_owned(), at(kind, &[]));
    // What stands under something that is not there is not found.
    let mut get = operation("List the resources", &[(200, "List")], &[400, 401, 404, 503]);
    get["responses"]["400"] = json!({
        "description": "Refused, with the reason",
        "content": {
            "application/json": { "schema": reference("Error") },
            "text/plain": { "schema": { "type": "string" } },
        },
    });
    get["parameters"] = json!([
        query("page", &page),
        query("page_size", &size),
        query("name", &text),
        query("uri", &text),
        query("label", &text),
        query("filter", &text),
        query("consistency", &json!({ "enum": ["linearizable", "stale"] })),
    ]);
    item.insert("get".to_owned(), get);
    if kind.post {
        let mut post = write("Create under an id that the server chooses", kind, &[(201, "Written"), (202, "Written")]);
        post["requestBody"] = body(&reference(kind.name));
        item.insert("post".to_owned(), post);
    }
    Value::Object(item)
}

fn one(kind: &KindInfo) -> Value {
    let mut item = Map::new();
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": reference("Id") });
    let mut get = operation("Show a resource", &[(200, "Item")], &[400, 401, 404, 503]);
    get["parameters"] = json!([query("consistency", &json!({ "enum": ["linearizable", "stale"] }))]);
    item.insert("parameters".to_owned(), at(kind, &[id]));
    item.insert("get".to_owned(), get);
    let mut put = write("Create or replace", kind, &[(200, "Written"), (201, "Written"), (202, "Written")]);
    put["requestBody"] = body(&reference(kind.name));
    item.insert("put".to_owned(), put);
    if kind.patch {
        let mut patch = write("Merge: null removes, arrays replace", kind, &[(200, "Written"), (202, "Written")]);
        patch["requestBody"] = body(&json!({ "type": "object" }));
        item.insert("patch".to_owned(), patch);
    }
    let mut delete = write("Delete", kind, &[]);
    let deleted = json!({
        "type": "object",
        "required": ["key", "deleted"],
        "properties": { "key": { "type": "string" }, "deleted": { "const": "1" } },
    });
    for status in ["200", "202"] {
        delete["responses"][status] = json!({ "description": "Done", "content": content(&deleted) });
    }
    item.insert("delete".to_owned(), delete);
    Value::Object(item)
}

fn write(summary: &str, kind: &KindInfo, good: &[(u16, &str)]) -> Value {
    let mut operation = operation(summary, good, &[400, 401, 404, 409, 412, 413, 422, 503, 504]);
    operation["tags"] = json!([kind.name]);
    operation["parameters"] = json!([
        query("wait", &json!({ "type": "integer", "minimum": 0, "maximum": WAIT_MILLIS_MAX })),
        query("ttl", &json!({ "type": "integer", "minimum": 1 })),
        { "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" } },
        { "name": "If-Match", "in": "header", "schema": { "type": "integer", "minimum": 0 } },
    ]);
    operation
}

fn validate(kind: &KindInfo) -> Value {
    let mut operation = plain("Check a body without writing it", &[400, 401, 413]);
    operation["responses"]["200"] = json!({ "description": "It would be taken" });
    operation["requestBody"] = body(&reference(kind.name));
    operation
}

/// What is no resource.
fn others() -> Vec<(&'static str, Value)> {
    let mut transaction =
        plain("Several writes, all or nothing", &[200, 202, 400, 401, 404, 409, 412, 413, 422, 503, 504]);
    transaction["requestBody"] = body(&reference("Transaction"));
    let mut check = plain("Check a whole configuration", &[200, 400, 401, 413]);
    check["requestBody"] = body(&json!({ "type": "object" }));
    let mut convergence = plain("How far the proxies are with a revision", &[200, 400, 401, 404, 503]);
    convergence["parameters"] =
        json!([{ "name": "revision", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 0 } }]);
    let mut put = plain("Replace the whole configuration", &[400, 401, 409, 413, 422, 503, 504]);
    put["requestBody"] = body(&json!({ "type": "object" }));
    put["parameters"] = json!([{
        "name": "X-Digest", "in": "header", "required": true, "schema": { "type": "string", "pattern": "^[a-z0-9]{1,64}$" },
    }]);
    for (status, what) in [("202", "Done; proxies follow"), ("204", "The digest is that of the last one")] {
        put["responses"][status] = json!({ "description": what });
    }
    let mut revert =
        plain("Take a change back, by a new one", &[200, 202, 400, 401, 404, 409, 412, 413, 422, 503, 504]);
    revert["requestBody"] = body(&json!({
        "type": "object", "required": ["revision"], "additionalProperties": false,
        "properties": { "revision": { "type": "integer", "minimum": 0 }, "force": { "type": "boolean" } },
    }));
    let file = json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } });
    let mut backup = plain("Everything that is configured, as a signed file", &[401, 409, 503]);
    backup["responses"]["200"] = json!({ "description": "The file", "content": file });
    let mut restore = plain("Bring a backup back", &[200, 202, 400, 401, 409, 412, 413, 422, 503, 504]);
    restore["parameters"] = json!([query("dry_run", &json!({ "type": "boolean" }))]);
    restore["requestBody"] = json!({ "required": true, "content": file });
    let name = json!([{ "name": "name", "in": "path", "required": true, "schema": reference("Id") }]);
    let token = json!([name[0], { "name": "token", "in": "path", "required": true, "schema": reference("Id") }]);
    let mut put_user =
        plain("Create a user, or give it another role", &[200, 201, 400, 401, 409, 412, 413, 422, 503, 504]);
    put_user["requestBody"] = body(&json!({
        "type": "object", "required": ["role"], "additionalProperties": false,
        "properties": { "role": { "enum": ["admin", "viewer"] } },
    }));
    let delete_user = plain("Delete a user with its tokens", &[200, 400, 401, 404, 409, 412, 422, 503, 504]);
    let mut make_token = plain("Make a token; it is told once", &[201, 400, 401, 404, 409, 412, 413, 422, 503, 504]);
    make_token["requestBody"] = body(&json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "expires_seconds": { "type": "integer", "minimum": 1, "maximum": TOKEN_SECONDS_MAX },
            "desc": { "type": "string", "maxLength": DESC_CHARS_MAX },
        },
    }));
    let revoke = plain("Revoke a token", &[200, 400, 401, 404, 409, 412, 422, 503, 504]);
    let get = |summary: &str, errors: &[u16]| json!({ "get": plain(summary, errors) });
    vec![
        ("/apisix/admin/plugins/list", get("The names of plugins", &[200, 400, 401])),
        (
            "/apisix/admin/plugins/{name}",
            json!({
                "parameters": [{ "name": "name", "in": "path", "required": true,
                                 "schema": { "enum": plugins::PLUGINS.map(|plugin| plugin.name) } }],
                "get": plain("The JSON Schema of a plugin's configuration", &[200, 400, 401, 404]),
            }),
        ),
        ("/apisix/admin/configs", json!({ "get": plain("The whole configuration", &[200, 401, 503]), "put": put })),
        ("/apisix/admin/configs/validate", json!({ "post": check })),
        ("/v1/transactions", json!({ "post": transaction })),
        ("/v1/history", get("Who changed what, and when", &[200, 400, 401, 404, 503])),
        ("/v1/revert", json!({ "post": revert })),
        ("/v1/users", get("The users, with their tokens", &[200, 400, 401, 503])),
        ("/v1/users/{name}", json!({ "parameters": name, "put": put_user, "delete": delete_user })),
        ("/v1/users/{name}/tokens", json!({ "parameters": name, "post": make_token })),
        ("/v1/users/{name}/tokens/{token}", json!({ "parameters": token, "delete": revoke })),
        ("/v1/limits", get("Every bound of this API", &[200, 401])),
        ("/v1/status", get("This node", &[200, 401])),
        ("/v1/cluster", get("The members", &[200, 401])),
        ("/v1/fleet", get("Every proxy, whichever node it follows", &[200, 401])),
        ("/v1/backup", json!({ "post": backup })),
        ("/v1/restore", json!({ "post": restore })),
        ("/v1/revisions/{revision}/convergence", json!({ "get": convergence })),
        ("/v1/openapi.json", get("This description", &[200, 401])),
    ]
}

/// An operation whose good answers are any JSON.
fn plain(summary: &str, statuses: &[u16]) -> Value {
    let (good, bad): (Vec<u16>, Vec<u16>) = statuses.iter().partition(|status| **status < 400);
    let mut operation = operation(summary, &[], &bad);
    for status in good {
        operation["responses"][status.to_string()] = json!({ "description": "Done", "content": content(&json!({})) });
    }
    operation
}

fn operation(summary: &str, good: &[(u16, &str)], bad: &[u16]) -> Value {
    let mut responses = Map::new();
    for (status, schema) in good {
        responses.insert(status.to_string(), json!({ "description": "Done", "content": content(&reference(schema)) }));
    }
    for status in bad {
        responses.insert(status.to_string(), json!({ "$ref": "#/components/responses/Error" }));
    }
    json!({ "summary": summary, "responses": responses })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn content(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

fn body(schema: &Value) -> Value {
    json!({ "required": true, "content": content(schema) })
}

fn query(name: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "schema": schema })
}
