//! The API as it describes itself: whole, and true under requests that nobody thought of.

use std::path::Path;

use serde_json::Value;

use super::node::{Api, KEY};
use super::ssls::{ONE, start as start_with_keyring};

/// How long requests are made up, in seconds. With its start and end it stays below a minute and a half.
const SECONDS: &str = "45";

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_nothing_that_is_missing() {
    let api = Api::start().await;
    let (status, document) = api.call("GET", "/v1/openapi.json", "").await;
    assert_eq!((status, document["openapi"].as_str()), (200, Some("3.1.0")));
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference} leads nowhere");
    }
    // Every path of it leads somewhere, with every method of it.
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            let path = path.replace("{revision}", "0").replace("{manager}", "vault");
            let others = ["{id}", "{path}", "{username}", "{name}", "{token}"];
            let path = others.iter().fold(path, |path, name| path.replace(name, "x"));
            let (status, answer) = api.call(&method.to_uppercase(), &path, "").await;
            let words = answer["error_msg"].as_str().unwrap_or_default();
            assert!(
                status != 405 && words != "404 Not Found" && !words.starts_with("Unsupported"),
                "{method} {path}: {answer}"
            );
            let (status, _, _) = api.raw(&method.to_uppercase(), &path, &[], &[]).await;
            let expected = if path == "/apisix/admin" { 200 } else { 401 };
            assert_eq!(status, expected, "{method} {path} without a key");
        }
    }
}

/// Every path that is dispatched, with its methods. What comes to `dispatch` in `server.rs`, or to what it calls, comes here.
const SERVED: &[(&str, &str)] = &[
    ("/apisix/admin", "head"),
    ("/apisix/admin/configs", "get head put"),
    ("/apisix/admin/configs/validate", "post"),
    ("/apisix/admin/consumer_groups", "get put"),
    ("/apisix/admin/consumer_groups/{id}", "delete get patch put"),
    ("/apisix/admin/consumer_groups/{id}/{path}", "patch"),
    ("/apisix/admin/consumers", "get put"),
    ("/apisix/admin/consumers/{id}", "delete get put"),
    ("/apisix/admin/consumers/{username}/credentials", "get"),
    ("/apisix/admin/consumers/{username}/credentials/{id}", "delete get put"),
    ("/apisix/admin/credentials", "get"),
    ("/apisix/admin/plugin_metadata", "get"),
    ("/apisix/admin/plugin_metadata/{id}", "delete get put"),
    ("/apisix/admin/plugins", "get"),
    ("/apisix/admin/plugins/list", "get"),
    ("/apisix/admin/plugins/reload", "put"),
    ("/apisix/admin/plugins/{name}", "get"),
    ("/apisix/admin/protos", "get post put"),
    ("/apisix/admin/protos/{id}", "delete get put"),
    ("/apisix/admin/routes", "get post put"),
    ("/apisix/admin/routes/{id}", "delete get patch put"),
    ("/apisix/admin/routes/{id}/{path}", "patch"),
    ("/apisix/admin/schema/plugins/{name}", "get"),
    ("/apisix/admin/schema/routes", "get"),
    ("/apisix/admin/schema/validate/routes", "post"),
    ("/apisix/admin/secrets", "get"),
    ("/apisix/admin/secrets/{manager}", "get"),
    ("/apisix/admin/secrets/{manager}/{id}", "delete get patch put"),
    ("/apisix/admin/secrets/{manager}/{id}/{path}", "patch"),
    ("/v1/backup", "post"),
    ("/v1/cluster", "get"),
    ("/v1/cluster/members/{id}", "delete"),
    ("/v1/cluster/members/{id}/demote", "post"),
    ("/v1/cluster/members/{id}/promote", "post"),
    ("/v1/fleet", "get"),
    ("/v1/history", "get"),
    ("/v1/limits", "get"),
    ("/v1/limits.json", "get"),
    ("/v1/openapi.json", "get"),
    ("/v1/record", "get"),
    ("/v1/record/off", "post"),
    ("/v1/record/release", "post"),
    ("/v1/record/repair", "post"),
    ("/v1/record/verify", "get"),
    ("/v1/restore", "post"),
    ("/v1/revert", "post"),
    ("/v1/revisions/{revision}/convergence", "get"),
    ("/v1/status", "get"),
    ("/v1/transactions", "post"),
    ("/v1/users", "get"),
    ("/v1/users/{name}", "delete put"),
    ("/v1/users/{name}/tokens", "post"),
    ("/v1/users/{name}/tokens/{token}", "delete"),
];

/// Kinds that are described as `routes` or `protos` are.
const ALIKE: [&str; 6] = ["global_rules", "plugin_configs", "services", "ssls", "stream_routes", "upstreams"];

#[tokio::test(flavor = "multi_thread")]
async fn the_description_misses_nothing_that_is_served() {
    let api = Api::start().await;
    let (_, document) = api.call("GET", "/v1/openapi.json", "").await;
    let paths = document["paths"].as_object().unwrap();
    let methods = |path: &str| {
        let item = paths.get(path).unwrap_or_else(|| panic!("{path} is not described"));
        let mut names: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| *name != "parameters");
        names.sort_unstable();
        names.join(" ")
    };
    for (path, expected) in SERVED {
        assert_eq!(&methods(path), expected, "{path}");
    }
    for kind in ALIKE {
        methods(&format!("/apisix/admin/{kind}/{{id}}"));
    }
    // What can be said in a query or header is said of each operation.
    let names = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = parameters.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names.join(" ")
    };
    for (path, method, expected) in [
        ("/apisix/admin/routes/{id}", "get", "at_revision consistency"),
        ("/apisix/admin/routes/{id}", "put", "Idempotency-Key If-Match durability quorum scope ttl wait"),
        ("/apisix/admin/routes/{id}", "delete", "Idempotency-Key If-Match durability force quorum scope wait"),
        ("/apisix/admin/routes", "post", "Idempotency-Key durability quorum scope ttl wait"),
        ("/v1/transactions", "post", "Idempotency-Key consistency dry_run durability quorum scope wait"),
        ("/v1/revert", "post", "Idempotency-Key dry_run durability quorum scope wait"),
        ("/v1/restore", "post", "Idempotency-Key dry_run durability quorum scope wait"),
        ("/apisix/admin/configs", "put", "Idempotency-Key X-Digest dry_run durability quorum scope wait"),
        ("/v1/history", "get", "above author before id kind limit revision since until upto"),
        ("/v1/revisions/{revision}/convergence", "get", "consistency keys quorum scope wait"),
        ("/v1/record/verify", "get", "history_above"),
    ] {
        assert_eq!(names(path, method), expected, "{method} {path}");
    }
    // Ids as they are: those of credentials and secrets stand under something, and names of consumers are long.
    let operation = &document["components"]["schemas"]["Operation"]["properties"]["id"];
    assert!(operation["pattern"].as_str().unwrap().contains('/'), "{operation}");
    assert_eq!(document["components"]["schemas"]["Username"]["maxLength"], 256);
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| collect(member, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

/// Requests made up from the description, good and bad ones: no answer is a 5xx, an answer that the description does not
/// know, or one that needs a key and does not ask for it.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_requests_are_answered_as_described() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "{} is missing: run make schemathesis", program.display());
    let dir = tempfile::tempdir().unwrap();
    let api = start_with_keyring(dir.path(), ONE).await;
    // Whoever waits for proxies that there are not waits as long as was said.
    std::fs::write(dir.path().join("schemathesis.toml"), "[parameters]\n\"query.wait\" = 20\n").unwrap();
    let output = tokio::process::Command::new(program.canonicalize().unwrap())
        .current_dir(dir.path())
        .args(["run", &format!("http://{}/v1/openapi.json", api.node.addresses.admin)])
        .args(["--header", &format!("X-API-KEY: {KEY}"), "--max-time", SECONDS, "--workers", "1", "--no-color"])
        // Its other phase goes by examples of a schema's edges, and on a busy machine stops with an error of its own.
        .args(["--phases", "fuzzing,stateful"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"])
        .args(["--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none", "--continue-on-failure"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("Operations:"), "it has told what it did: {text}");
}
