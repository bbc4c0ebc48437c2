//! The API as it describes itself: whole, and true under requests that nobody thought of.

use std::path::Path;

use serde_json::Value;

use super::node::{Api, KEY};

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
            let path = path.replace("{id}", "x").replace("{revision}", "0");
            let path = ["{username}", "{name}", "{token}"].iter().fold(path, |path, name| path.replace(name, "x"));
            let (status, answer) = api.call(&method.to_uppercase(), &path, "").await;
            let words = answer["error_msg"].as_str().unwrap_or_default();
            assert!(
                status != 405 && words != "404 Not Found" && !words.starts_with("Unsupported"),
                "{method} {path}: {answer}"
            );
            let (status, _, _) = api.raw(&method.to_uppercase(), &path, &[], &[]).await;
            assert_eq!(status, 401, "{method} {path} without a key");
        }
    }
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
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
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
