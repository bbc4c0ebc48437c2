//! The paths that lead to no resource.

use protocol::resource::DESC_CHARS_MAX;
use serde_json::{Value, json};

use super::super::limits::TOKEN_SECONDS_MAX;
use super::parts::{
    READ_ERRORS, WRITE_ERRORS, answers, body, consistency, dry_run, if_match, in_path, may_be_a_sentence, number,
    of_resource_writes, of_writes, operation, plain, query, reference, text, waiting,
};
use crate::record::PAGE_MAX;

/// Each with its operations.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    [of_apisix(), of_resources(), of_the_past(), of_users(), of_nodes()].concat()
}

fn get(summary: &str, errors: &[u16]) -> Value {
    json!({ "get": plain(summary, &[200], errors) })
}

fn get_with(summary: &str, errors: &[u16], parameters: &[Value]) -> Value {
    let mut get = get(summary, errors);
    get["get"]["parameters"] = json!(parameters);
    get
}

/// A write that is answered with JSON.
fn write(summary: &str, good: &[u16], parameters: Vec<Value>) -> Value {
    let mut write = plain(summary, good, &WRITE_ERRORS);
    write["parameters"] = Value::Array(parameters);
    write
}

/// A write that is done or refused, without more words.
fn done(summary: &str, parameters: Vec<Value>) -> Value {
    let mut write = write(summary, &[], parameters);
    answers(&mut write, 204, "Done");
    write
}

fn of_apisix() -> Vec<(&'static str, Value)> {
    let mut here = json!({ "summary": "Whether this is an Admin API; needs no key", "security": [], "responses": {} });
    answers(&mut here, 200, "It is");
    let subsystem = query("subsystem", &json!({ "enum": ["http", "stream"] }));
    let schema_type = query("schema_type", &json!({ "enum": ["consumer", "metadata"] }));
    let plugin = in_path("name", &json!({ "enum": plugins::PLUGINS.map(|plugin| plugin.name) }));
    let listed = |summary: &str, own: &[Value]| {
        let mut get = get_with(summary, &[400, 401, 404], &[&[subsystem.clone()][..], own].concat());
        may_be_a_sentence(&mut get["get"], 400);
        get
    };
    let mut named = listed("The JSON Schema of a plugin's configuration", std::slice::from_ref(&schema_type));
    named["parameters"] = json!([plugin]);
    let mut reload = operation("Nothing: plugins are a part of the programs", &[], &[400, 401]);
    reload["responses"]["200"] =
        json!({ "description": "Done", "content": { "text/plain": { "schema": { "type": "string" } } } });
    let mut schema = get_with("The same", &[400, 401], &[schema_type]);
    schema["parameters"] = json!([plugin]);
    let mut check = plain("Check a whole configuration", &[200], &[400, 401, 408, 413]);
    check["requestBody"] = body(&json!({ "type": "object" }));
    vec![
        ("/apisix/admin", json!({ "head": here })),
        ("/apisix/admin/plugins", listed("Everything about each plugin", &[query("all", &json!({ "const": "true" }))])),
        ("/apisix/admin/plugins/list", listed("The names of plugins", &[])),
        ("/apisix/admin/plugins/reload", json!({ "put": reload })),
        ("/apisix/admin/plugins/{name}", named),
        ("/apisix/admin/schema/plugins/{name}", schema),
        ("/apisix/admin/configs", configs()),
        ("/apisix/admin/configs/validate", json!({ "post": check })),
    ]
}

fn configs() -> Value {
    // An answer to HEAD has no body, also when it is a refusal.
    let mut head =
        json!({ "summary": "What was said with the last PUT", "responses": {}, "parameters": [consistency()] });
    for status in [200, 400, 401, 503] {
        answers(&mut head, status, "The headers alone");
    }
    let digest = json!({
        "name": "X-Digest", "in": "header", "required": true, "schema": { "type": "string", "pattern": "^[a-z0-9]{1,64}$" },
    });
    let mut put = write("Replace the whole configuration", &[200], of_resource_writes(&[digest, dry_run()]));
    put["requestBody"] = body(&json!({ "type": "object" }));
    answers(&mut put, 200, "What would happen, or done and served by the proxies that were waited for");
    answers(&mut put, 202, "Done; proxies follow");
    answers(&mut put, 204, "The digest is that of the last one");
    let mut all = get_with("The whole configuration", &[400, 401, 503], &[consistency()]);
    all["head"] = head;
    all["put"] = put;
    all
}

fn of_resources() -> Vec<(&'static str, Value)> {
    let mut transaction =
        write("Several writes, all or nothing", &[200, 202], of_resource_writes(&[dry_run(), consistency()]));
    transaction["requestBody"] = body(&reference("Transaction"));
    let file = json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } });
    let mut backup = plain("Everything that is configured, as a signed file", &[], &[400, 401, 409, 503]);
    backup["responses"]["200"] = json!({ "description": "The file", "content": file });
    backup["parameters"] = json!([consistency()]);
    let mut restore = write("Bring a backup back", &[200, 202], of_resource_writes(&[dry_run()]));
    restore["requestBody"] = json!({ "required": true, "content": file });
    vec![
        ("/v1/transactions", json!({ "post": transaction })),
        ("/v1/backup", json!({ "post": backup })),
        ("/v1/restore", json!({ "post": restore })),
    ]
}

fn of_the_past() -> Vec<(&'static str, Value)> {
    let mut filters: Vec<Value> = ["kind", "id", "author"].iter().map(|name| query(name, &text())).collect();
    filters.extend(["since", "until", "revision", "above", "upto"].iter().map(|name| query(name, &number(0))));
    filters.push(query("limit", &json!({ "type": "integer", "minimum": 1, "maximum": PAGE_MAX })));
    filters.push(query("before", &json!({ "type": "string", "pattern": "^[0-9]{1,9}-[0-9]{1,9}-[0-9]{1,9}$" })));
    let mut revert = write("Take a change back, by a new one", &[200, 202], of_resource_writes(&[dry_run()]));
    revert["requestBody"] = body(&json!({
        "type": "object", "required": ["revision"], "additionalProperties": false,
        "properties": { "revision": number(0), "force": { "type": "boolean" } },
    }));
    let mut repair = plain("Rewrite the rows of the record that differ", &[200], &[400, 401, 404, 408, 413, 503]);
    repair["requestBody"] = body(&json!({
        "type": "object", "required": ["confirm"], "additionalProperties": false,
        "properties": { "confirm": { "type": "boolean" } },
    }));
    let above = query("history_above", &number(0));
    vec![
        ("/v1/history", get_with("Who changed what, and when", &READ_ERRORS, &filters)),
        ("/v1/revert", json!({ "post": revert })),
        ("/v1/record", get("How the durable record is doing", &[401])),
        ("/v1/record/verify", get_with("Hold the record against the state", &READ_ERRORS, &[above])),
        ("/v1/record/repair", json!({ "post": repair })),
        ("/v1/record/release", json!({ "post": done("Let another PostgreSQL take its place", Vec::new()) })),
        ("/v1/record/off", json!({ "post": done("Say that there is no record any more", Vec::new()) })),
    ]
}

fn of_users() -> Vec<(&'static str, Value)> {
    let name = in_path("name", &reference("Id"));
    let token = in_path("token", &reference("Id"));
    let with_condition = || of_writes(&[if_match()]);
    let mut put = write("Create a user, or give it another role", &[200, 201], with_condition());
    put["requestBody"] = body(&json!({
        "type": "object", "required": ["role"], "additionalProperties": false,
        "properties": { "role": { "enum": ["admin", "viewer"] } },
    }));
    let delete = write("Delete a user with its tokens", &[200], with_condition());
    let mut make = write("Make a token; it is told once", &[201], of_writes(&[]));
    make["requestBody"] = body(&json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "expires_seconds": { "type": "integer", "minimum": 1, "maximum": TOKEN_SECONDS_MAX },
            "desc": { "type": "string", "maxLength": DESC_CHARS_MAX },
        },
    }));
    let revoke = write("Revoke a token", &[200], with_condition());
    vec![
        ("/v1/users", get_with("The users, with their tokens", &[400, 401, 503], &[consistency()])),
        ("/v1/users/{name}", json!({ "parameters": [name], "put": put, "delete": delete })),
        ("/v1/users/{name}/tokens", json!({ "parameters": [name], "post": make })),
        ("/v1/users/{name}/tokens/{token}", json!({ "parameters": [name, token], "delete": revoke })),
    ]
}

fn of_nodes() -> Vec<(&'static str, Value)> {
    let revision = in_path("revision", &number(0));
    let keys = query("keys", &json!({ "type": "string", "pattern": "^[a-z_]+/[^,]+(,[a-z_]+/[^,]+)*$" }));
    let parameters = [waiting(), vec![keys, consistency()]].concat();
    let mut convergence = get_with("How far the proxies are with a revision", &READ_ERRORS, &parameters);
    convergence["parameters"] = json!([revision]);
    let id = in_path("id", &number(1));
    let member = |name: &str, operation: Value| {
        let mut item = json!({ "parameters": [id] });
        item[name] = operation;
        item
    };
    vec![
        ("/v1/status", get("This node", &[401])),
        ("/v1/cluster", get("The members", &[401])),
        ("/v1/cluster/members/{id}", member("delete", done("Take a node out for good", Vec::new()))),
        ("/v1/cluster/members/{id}/promote", member("post", done("Make a learner a voter", Vec::new()))),
        ("/v1/cluster/members/{id}/demote", member("post", done("Make a voter a learner", Vec::new()))),
        ("/v1/fleet", get("Every proxy, whichever node it follows", &[401])),
        ("/v1/revisions/{revision}/convergence", convergence),
        ("/v1/limits", get("Every bound of this API", &[401])),
        ("/v1/limits.json", get("The same", &[401])),
        ("/v1/openapi.json", get("This description", &[401])),
    ]
}
