//! `hfctl validate -f <file or directory>`: checks files as a node would, without any node.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::document;
use crate::failure::Failure;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// A file of lists of resources by kind, or a directory of such files; `-` is standard input. Repeatable.
    #[arg(long, short, required = true)]
    file: Vec<PathBuf>,
    /// The files are APISIX's: they end in #END, may hold ${{VARIABLES}}, and resources may go without an id.
    #[arg(long)]
    apisix: bool,
    /// The files are all there is: a reference to something that stands in none of them is an error.
    #[arg(long)]
    complete: bool,
}

impl Validate {
    pub(crate) fn run(&self, format: Format) -> Result<String, Failure> {
        let resources = document::resources(&self.file, self.apisix)?;
        let here: BTreeSet<String> =
            resources.iter().map(|resource| format!("{}/{}", resource.kind.name, resource.id)).collect();
        let mut elsewhere = Vec::new();
        for resource in &resources {
            for to in document::references(resource) {
                if !here.contains(&to) {
                    elsewhere.push(format!("{}/{} refers to {to}", resource.kind.name, resource.id));
                }
            }
        }
        if self.complete && !elsewhere.is_empty() {
            let lines: Vec<String> = elsewhere.iter().map(|line| format!("{line}, which stands in no file")).collect();
            return Err(Failure::Usage(lines.join("\n")));
        }
        if format != Format::Table {
            return Ok(render::value(&json!({ "resources": resources.len(), "elsewhere": elsewhere }), format));
        }
        let mut text: String = elsewhere.iter().map(|line| format!("{line}, which a cluster must have\n")).collect();
        text.push_str(&format!("{} resources, all good\n", resources.len()));
        Ok(text)
    }
}
