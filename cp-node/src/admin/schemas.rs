//! What the API tells of itself and checks without writing: `schema`, `plugins`, `schema/validate`, `configs/validate`.

use std::collections::HashSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use plugins::CATALOG;
use plugins::Plugin;
use protocol::json::Value;
use protocol::resource::{KINDS, KindInfo, admit};
use serde_json::json;

use super::Desk;
use super::answer::Answer;
use super::request::{Call, aside, parse, read_body};
use super::server::of_a_resource;

/// What stands in front of a broken schema's sentence when a resource is written, and not when it is only checked.
const WHEN_WRITTEN: &str = "invalid configuration: ";

/// `schema/<kind>` by the kind's name in paths or in sentences, as APISIX has it.
pub(super) fn schema(call: &Call) -> Result<Answer, Answer> {
    if call.method != Method::GET {
        return Err(Answer::method_not_offered(call.method.as_str(), "schema"));
    }
    let name = call.path[1..].join("/");
    if let Some(plugin) = name.strip_prefix("plugins/").and_then(plugins::find) {
        return Ok(of_a_resource(Answer::json(StatusCode::OK, schema_of(plugin, call).to_string())));
    }
    let known = KINDS.iter().find(|kind| kind.name == name || kind.singular.replace(' ', "_") == name);
    match known.and_then(KindInfo::schema) {
        Some(schema) => Ok(of_a_resource(Answer::json(StatusCode::OK, schema.to_string()))),
        None => Err(of_a_resource(Answer::bad(&format!("not found schema: {name}")))),
    }
}

/// The schema of a plugin's configuration, of a consumer's with `schema_type=consumer`, of its metadata with `metadata`.
fn schema_of(plugin: &Plugin, call: &Call) -> Value {
    let other = match call.query.get("schema_type") {
        Some("consumer") => plugin.consumer_schema(),
        Some("metadata") => plugin.metadata_schema(),
        _ => None,
    };
    other.unwrap_or_else(|| plugin.schema())
}

/// `plugins[/list|reload|<name>]`: the plugins of this build; there are none for TCP and UDP.
pub(super) fn plugin_list(call: &Call) -> Result<Answer, Answer> {
    let rest: Vec<&str> = call.path[1..].iter().map(String::as_str).collect();
    if rest == ["reload"] {
        // Plugins are part of the programs: there is nothing to load again.
        return match call.method {
            Method::PUT => Ok(Answer::plain(StatusCode::OK, "done")),
            _ => Err(Answer::error(
                StatusCode::METHOD_NOT_ALLOWED,
                &format!("please use PUT method to reload the plugins, {} method is not allowed.", call.method),
            )),
        };
    }
    if call.method != Method::GET {
        return Err(Answer::method_not_offered(call.method.as_str(), "plugin"));
    }
    let subsystem = call.query.get("subsystem").unwrap_or("http");
    if !matches!(subsystem, "http" | "stream") {
        return Err(Answer::plain(StatusCode::BAD_REQUEST, "invalid subsystem passed"));
    }
    let mut known: Vec<&Plugin> = if subsystem == "http" { plugins::PLUGINS.to_vec() } else { Vec::new() };
    match rest[..] {
        ["list"] => {
            known.sort_by_key(|plugin| std::cmp::Reverse(plugin.priority));
            let names: Vec<&str> = known.iter().map(|plugin| plugin.name).collect();
            Ok(Answer::json(StatusCode::OK, json!(names).to_string()))
        }
        [] if call.query.get("all") == Some("true") => {
            let all: serde_json::Map<_, _> =
                known.iter().map(|plugin| (plugin.name.to_owned(), plugin.description())).collect();
            Ok(of_a_resource(Answer::json(StatusCode::OK, Value::Object(all).to_string())))
        }
        [name] if known.iter().any(|plugin| plugin.name == name) => {
            let schema = plugins::find(name).map(|plugin| schema_of(plugin, call)).unwrap_or_default();
            Ok(of_a_resource(Answer::json(StatusCode::OK, schema.to_string())))
        }
        _ => Err(of_a_resource(Answer::error(
            StatusCode::NOT_FOUND,
            &format!("plugin not found in subsystem {subsystem}"),
        ))),
    }
}

/// `POST schema/validate/<kind>`: whether a body would be taken, without an id and without looking at others.
pub(super) async fn validate(desk: &Desk, call: &Call, body: Body) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_offered(call.method.as_str(), "schema"));
    }
    let name = call.path[2..].join("/");
    let kind = KindInfo::find(&name).ok_or_else(|| Answer::no_such_kind(&name))?;
    let body = read_body(body, desk.settings.body_max.0).await?;
    match admit(&CATALOG, kind, None, parse(&body)?) {
        Ok(admitted) => Ok(Answer::empty(StatusCode::OK).warn(&admitted.warnings)),
        Err(mut report) => {
            if let Some(first) = report.problems.first_mut()
                && let Some(rest) = first.summary.strip_prefix(WHEN_WRITTEN)
            {
                first.summary = rest.to_owned();
            }
            Err(Answer::report(&report))
        }
    }
}

/// `POST configs/validate`: whether every resource of a whole configuration would be taken.
pub(super) async fn validate_all(desk: &Desk, call: &Call, body: Body) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_offered(call.method.as_str(), "configs"));
    }
    let body = read_body(body, desk.settings.transaction_max.0).await?;
    let checking = aside(move || {
        let errors = problems(&parse(&body)?)?;
        if errors.is_empty() {
            return Ok(Answer::json(StatusCode::OK, "{}".to_owned()));
        }
        let answer = json!({ "error_msg": "Configuration validation failed", "errors": errors });
        Err(Answer::json(StatusCode::BAD_REQUEST, answer.to_string()))
    });
    checking.await
}

/// What is wrong with a configuration given as lists by kind.
fn problems(config: &Value) -> Result<Vec<Value>, Answer> {
    let lists = config.as_object().ok_or_else(|| Answer::bad("a configuration is an object of lists by kind"))?;
    let mut errors = Vec::new();
    for (name, list) in lists {
        if is_beside_lists(name) {
            continue;
        }
        let kind = KindInfo::find(name).ok_or_else(|| Answer::bad(&format!("Unsupported resource type: {name}")))?;
        let items = list.as_array().ok_or_else(|| Answer::bad(&format!("{name} must be a list")))?;
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let id = id_of(item);
            let error = match admit(&CATALOG, kind, None, item.clone()) {
                Err(report) => Some(report.summary().to_owned()),
                Ok(_) => None,
            };
            let twice = id.as_ref().is_some_and(|id| !seen.insert(id.clone()));
            let id = id.unwrap_or_default();
            let twice = twice.then(|| format!("found duplicate id {id} in {name}"));
            errors.extend(
                error
                    .into_iter()
                    .chain(twice)
                    .map(|error| json!({ "index": index, "resource_type": name, "resource_id": id, "error": error })),
            );
        }
    }
    Ok(errors)
}

/// Names in a whole configuration that are no lists of resources.
pub(super) fn is_beside_lists(name: &str) -> bool {
    name.ends_with("_conf_version") || matches!(name, "X-Digest" | "X-Last-Modified")
}

/// The id of a resource in a list; a consumer's is its name.
pub(super) fn id_of(item: &Value) -> Option<String> {
    match item.get("username").or_else(|| item.get("id"))? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}
