//! `hfctl apply -f <file or directory>`: what differs from what the cluster has is written in one transaction; a second
//! time, nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::path;
use crate::client::Client;
use crate::document::{self, Resource};
use crate::failure::Failure;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A file of lists of resources by kind, or a directory of such files; `-` is standard input.
    #[arg(long, short)]
    file: PathBuf,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// The id of an earlier attempt whose outcome is unknown.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// Fields of an answer that are not the user's.
const NOT_THE_USERS: [&str; 3] = ["id", "create_time", "update_time"];

impl Apply {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let wanted = document::resources(&self.file)?;
        if let Some(request) = &self.request_id {
            client.request.clone_from(request);
        }
        let now = existing(client, &wanted)?;
        let mut rows = Vec::new();
        let mut operations = Vec::new();
        for Resource { kind, id, value } in &wanted {
            let what = match now.get(&(kind.name, id.clone())) {
                Some(existing) if existing == value => "unchanged",
                Some(_) => "replaced",
                None => "created",
            };
            rows.push(vec![format!("{}/{id}", kind.name), what.to_owned()]);
            if what != "unchanged" {
                operations.push(json!({"op": "put", "kind": kind.name, "id": id, "value": value}));
            }
        }
        let count = operations.len();
        let closing = if count == 0 {
            "nothing to change".to_owned()
        } else if self.dry_run {
            format!("{count} to change; this was a dry run")
        } else {
            let body = json!({ "operations": operations }).to_string();
            let answer = client.send(&Method::POST, "/v1/transactions", &[], Some(&body))?;
            if let Some(warning) = &answer.warning {
                eprintln!("hfctl: warning: {warning}");
            }
            format!("{count} changed at {}", answer.position.unwrap_or_default())
        };
        if format != Format::Table {
            let results: Vec<Value> = rows.iter().map(|row| json!({"key": row[0], "result": row[1]})).collect();
            return Ok(render::value(&json!({"results": results, "changed": count, "dry_run": self.dry_run}), format));
        }
        Ok(format!("{}{closing}\n", render::table(&["RESOURCE", "RESULT"], &rows)))
    }
}

/// What the cluster has of every kind that is named, without what is not the user's.
pub(super) fn existing(
    client: &mut Client,
    wanted: &[Resource],
) -> Result<BTreeMap<(&'static str, String), Value>, Failure> {
    let mut now = BTreeMap::new();
    for kind in wanted.iter().map(|resource| resource.kind.name).collect::<std::collections::BTreeSet<_>>() {
        let answer = client.get(&path(kind, None))?;
        for item in answer.body["list"].as_array().into_iter().flatten() {
            let mut value = item["value"].clone();
            let id = value["id"].as_str().unwrap_or_default().to_owned();
            if let Some(fields) = value.as_object_mut() {
                fields.retain(|name, _| !NOT_THE_USERS.contains(&name.as_str()));
            }
            now.insert((kind, id), value);
        }
    }
    Ok(now)
}
