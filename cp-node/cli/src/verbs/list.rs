//! `hfctl list <kind>`

use clap::Args;
use serde_json::Value;

use super::{id_of, path};
use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The kind: routes, services, upstreams, …
    kind: String,
}

impl List {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kind = document::kind(&self.kind)?;
        let answer = client.get(&path(kind.name, None))?;
        let items: Vec<&Value> = answer.body["list"].as_array().into_iter().flatten().collect();
        if format != Format::Table {
            return Ok(render::value(&items.into_iter().map(|item| item["value"].clone()).collect(), format));
        }
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| {
                let value = &item["value"];
                let uris = if value["uri"].is_null() { &value["uris"] } else { &value["uri"] };
                let hosts = if value["host"].is_null() { &value["hosts"] } else { &value["host"] };
                let uses = ["service_id", "upstream_id"].into_iter().find(|name| !value[*name].is_null());
                vec![
                    id_of(item),
                    cell(&value["name"]),
                    cell(hosts),
                    cell(uris),
                    cell(uses.map_or(&Value::Null, |name| &value[name])),
                ]
            })
            .collect();
        Ok(render::table(&["ID", "NAME", "HOSTS", "URIS", "USES"], &rows))
    }
}
