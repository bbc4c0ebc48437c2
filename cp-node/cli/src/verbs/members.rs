//! `hfctl members`, `hfctl members promote|demote|remove <id>`

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Members {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Makes a learner a voter, as soon as it has caught up.
    Promote {
        /// The node's id.
        id: u64,
    },
    /// Makes a voter a learner.
    Demote {
        /// The node's id.
        id: u64,
    },
    /// Takes a node out of the cluster for good, also one that does not run any more.
    Remove {
        /// The node's id.
        id: u64,
    },
}

impl Members {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let (method, path, id, done) = match &self.change {
            None => return show(client, format),
            Some(Change::Promote { id }) => (Method::POST, format!("/v1/cluster/members/{id}/promote"), id, "votes"),
            Some(Change::Demote { id }) => {
                (Method::POST, format!("/v1/cluster/members/{id}/demote"), id, "is a learner")
            }
            Some(Change::Remove { id }) => (Method::DELETE, format!("/v1/cluster/members/{id}"), id, "is removed"),
        };
        client.send(&method, &path, &[], None)?;
        Ok(render::done(&format!("node {id} {done}"), &json!({"node_id": id, "result": done}), format))
    }
}

fn show(client: &mut Client, format: Format) -> Result<String, Failure> {
    let cluster = client.get("/v1/cluster")?.body;
    if format != Format::Table {
        return Ok(render::value(&cluster, format));
    }
    let members: Vec<&Value> = cluster["members"].as_array().into_iter().flatten().collect();
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            let role = if member["role"].is_string() { cell(&member["role"]) } else { "no answer".to_owned() };
            let mut row = vec![cell(&member["node_id"]), cell(&member["name"]), role];
            row.push(if member["voter"] == true { "yes".to_owned() } else { "no".to_owned() });
            let columns = ["region", "admin_address", "revision", "applied_index", "streams", "version"];
            row.extend(columns.iter().map(|name| cell(&member[*name])));
            row
        })
        .collect();
    let head = ["ID", "NAME", "ROLE", "VOTER", "REGION", "ADMIN", "REVISION", "APPLIED", "STREAMS", "VERSION"];
    let table = render::table(&head, &rows);
    Ok(match cluster["changing"] == true {
        true => format!("{table}the membership is being changed: quorums of the voters before and after are needed\n"),
        false => table,
    })
}
