//! `hfctl dump`: everything that is configured, at one position, as a file that `apply` takes.

use clap::Args;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::plan::Label;
use crate::progress::Progress;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// Only these kinds. Repeatable.
    #[arg(long)]
    kind: Vec<String>,
    /// Only resources with this label: <name> or <name>=<value>.
    #[arg(long, value_name = "LABEL")]
    label: Option<Label>,
    /// What the node that answers has, without asking the others: when too few of them are left.
    #[arg(long)]
    stale: bool,
    /// As APISIX's apisix.yaml, which ends in #END.
    #[arg(long)]
    apisix: bool,
}

impl Dump {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kinds: Vec<&str> =
            self.kind.iter().map(|name| document::kind(name).map(|kind| kind.name)).collect::<Result<_, _>>()?;
        let reading = Progress::of("reading everything that is configured");
        let consistency = if self.stale { "?consistency=stale" } else { "" };
        let answer = client.get(&format!("/apisix/admin/configs{consistency}"))?;
        drop(reading);
        let Value::Object(all) = answer.body else {
            return Err(Failure::Refused("the node has answered with something that is no configuration".to_owned()));
        };
        let mut lists = Map::new();
        for (name, list) in all {
            let Value::Array(mut items) = list else { continue };
            if !kinds.is_empty() && !kinds.contains(&name.as_str()) {
                continue;
            }
            if let Some(label) = &self.label {
                items.retain(|item| label.is_on(item));
            }
            if !items.is_empty() {
                lists.insert(name, Value::Array(items));
            }
        }
        if self.apisix && format == Format::Json {
            return Err(Failure::Usage("--apisix is YAML".to_owned()));
        }
        let end = if self.apisix { "#END\n" } else { "" };
        if lists.is_empty() && format != Format::Json {
            return Ok(end.to_owned());
        }
        Ok(format!("{}{end}", render::value(&Value::Object(lists), format)))
    }
}
