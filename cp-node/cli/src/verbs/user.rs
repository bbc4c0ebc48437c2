//! `hfctl user`, `hfctl user set <name> --role admin|viewer`, `hfctl user delete <name>`

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct User {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Creates a user, or gives it another role. It has no token yet: see hfctl token create.
    Set {
        /// Its name, which the history shows beside its changes.
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: Role,
    },
    /// Deletes a user with all of its tokens.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Everything.
    Admin,
    /// Reading, without secrets.
    Viewer,
}

impl User {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        match &self.change {
            None => show(client, format),
            Some(Change::Set { name, role }) => {
                let role = match role {
                    Role::Admin => "admin",
                    Role::Viewer => "viewer",
                };
                let body = json!({ "role": role }).to_string();
                let answer = client.send(&Method::PUT, &format!("/v1/users/{name}"), &[], Some(&body))?;
                let how = if answer.status == 201 { "is created" } else { "is changed" };
                Ok(render::done(&format!("user {name} {how}: {role}"), &answer.body, format))
            }
            Some(Change::Delete { name }) => {
                let answer = client.send(&Method::DELETE, &format!("/v1/users/{name}"), &[], None)?;
                Ok(render::done(&format!("user {name} and its tokens are deleted"), &answer.body, format))
            }
        }
    }
}

fn show(client: &mut Client, format: Format) -> Result<String, Failure> {
    let users = client.get("/v1/users")?.body;
    if format != Format::Table {
        return Ok(render::value(&users["list"], format));
    }
    let rows: Vec<Vec<String>> = users["list"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|user| {
            let tokens = user["tokens"].as_array().map_or(0, Vec::len);
            vec![cell(&user["name"]), cell(&user["role"]), tokens.to_string()]
        })
        .collect();
    if rows.is_empty() {
        return Ok("there are no users: only the keys of the nodes' settings open the Admin API\n".to_owned());
    }
    Ok(render::table(&["NAME", "ROLE", "TOKENS"], &rows))
}

/// The users that an answer holds, by name.
pub(super) fn users(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["list"].as_array().into_iter().flatten()
}
