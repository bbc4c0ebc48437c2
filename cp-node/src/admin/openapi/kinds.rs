//! The paths of resources, made of the table of kinds.

use protocol::resource::{IdRule, KINDS, KindInfo};
use serde_json::{Map, Value, json};

use super::super::limits::{PAGE_SIZE_MAX, PAGE_SIZE_MIN};
use super::parts::{
    READ_ERRORS, WRITE_ERRORS, answers, body, consistency, content, if_match, in_path, may_be_a_sentence, number,
    of_resource_writes, operation, plain, query, reference, text,
};

/// Every path, and the schemas of the kinds.
pub(super) fn all() -> (Map<String, Value>, Map<String, Value>) {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in KINDS {
        // A kind without a schema takes an object, of which nothing more is said.
        let mut schema = kind.schema().unwrap_or_else(|| json!({ "type": "object" }));
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
        }
        schemas.insert(kind.name.to_owned(), schema);
        let (path, above) = place(kind);
        let id = in_path("id", &reference(if kind.id_rule == IdRule::Username { "Username" } else { "Id" }));
        let with = |own: &[Value]| [own, &above[..]].concat();
        paths.insert(format!("{path}/{{id}}"), one(kind, &with(std::slice::from_ref(&id))));
        if kind.patch {
            let inside = in_path("path", &json!({ "type": "string", "pattern": "^[a-z_]{1,32}$" }));
            paths.insert(format!("{path}/{{id}}/{{path}}"), part(kind, &with(&[id, inside])));
        }
        paths.insert(path, collection(kind, &above));
        if !above.is_empty() {
            let everywhere = json!({ "get": list("List them, whatever they stand under") });
            paths.insert(format!("/apisix/admin/{}", kind.name), everywhere);
        }
        paths.insert(format!("/apisix/admin/schema/validate/{}", kind.name), json!({ "post": validate(kind) }));
        let schema = plain("The JSON Schema of a body", &[200], &[400, 401]);
        paths.insert(format!("/apisix/admin/schema/{}", kind.name), json!({ "get": schema }));
    }
    (paths, schemas)
}

/// Where the resources of a kind stand, and the parameters of what they stand under.
fn place(kind: &KindInfo) -> (String, Vec<Value>) {
    let name = kind.name;
    match kind.id_rule {
        IdRule::Plain | IdRule::Username | IdRule::Plugin => (format!("/apisix/admin/{name}"), Vec::new()),
        IdRule::UnderConsumer => {
            (format!("/apisix/admin/consumers/{{username}}/{name}"), vec![in_path("username", &reference("Username"))])
        }
        IdRule::UnderManager => {
            let managers = json!({ "enum": ["aws", "gcp", "vault"] });
            (format!("/apisix/admin/{name}/{{manager}}"), vec![in_path("manager", &managers)])
        }
    }
}

fn list(summary: &str) -> Value {
    // What stands under something that is not there is not found.
    let mut get = operation(summary, &[(200, "List")], &READ_ERRORS);
    may_be_a_sentence(&mut get, 400);
    get["parameters"] = json!([
        query("page", &number(1)),
        query("page_size", &json!({ "type": "integer", "minimum": PAGE_SIZE_MIN, "maximum": PAGE_SIZE_MAX })),
        query("name", &text()),
        query("uri", &text()),
        query("label", &text()),
        query("filter", &text()),
        consistency(),
    ]);
    get
}

fn collection(kind: &KindInfo, above: &[Value]) -> Value {
    let mut item = json!({ "parameters": above, "get": list("List the resources") });
    if matches!(kind.id_rule, IdRule::Plain | IdRule::Username) {
        item["put"] = put(kind, "Create or replace what the body names");
    }
    if kind.post {
        let good = [(201, "Written"), (202, "Written")];
        let mut post = write("Create under an id that the server chooses", kind, &good, &[ttl()]);
        post["requestBody"] = body(&reference(kind.name));
        item["post"] = post;
    }
    item
}

fn ttl() -> Value {
    query("ttl", &number(1))
}

fn put(kind: &KindInfo, summary: &str) -> Value {
    let good = [(200, "Written"), (201, "Written"), (202, "Written")];
    let mut put = write(summary, kind, &good, &[ttl(), if_match()]);
    put["requestBody"] = body(&reference(kind.name));
    put
}

fn one(kind: &KindInfo, parameters: &[Value]) -> Value {
    let mut get = plain("Show a resource", &[], &READ_ERRORS);
    let shown = json!({ "anyOf": [reference("Item"), reference("ItemThen")] });
    get["responses"]["200"] = json!({ "description": "Done", "content": content(&shown) });
    get["parameters"] = json!([consistency(), query("at_revision", &number(0))]);
    let mut item = json!({ "parameters": parameters, "get": get, "put": put(kind, "Create or replace") });
    if kind.patch {
        item["patch"] = patch(kind, "Merge: null removes, arrays replace", &json!({ "type": "object" }));
    }
    let force = query("force", &json!({ "type": "boolean" }));
    item["delete"] = write("Delete", kind, &[(200, "Deleted"), (202, "Deleted")], &[force, if_match()]);
    item
}

/// A place inside a resource.
fn part(kind: &KindInfo, parameters: &[Value]) -> Value {
    json!({ "parameters": parameters, "patch": patch(kind, "Replace the value at a place inside", &json!({})) })
}

fn patch(kind: &KindInfo, summary: &str, schema: &Value) -> Value {
    let mut patch = write(summary, kind, &[(200, "Written"), (202, "Written")], &[ttl(), if_match()]);
    patch["requestBody"] = body(schema);
    patch
}

fn write(summary: &str, kind: &KindInfo, good: &[(u16, &str)], own: &[Value]) -> Value {
    let mut operation = operation(summary, good, &WRITE_ERRORS);
    operation["tags"] = json!([kind.name]);
    operation["parameters"] = json!(of_resource_writes(own));
    operation
}

fn validate(kind: &KindInfo) -> Value {
    let mut operation = plain("Check a body without writing it", &[], &[400, 401, 408, 413]);
    answers(&mut operation, 200, "It would be taken");
    operation["requestBody"] = body(&reference(kind.name));
    operation
}
