//! `hfctl token create <user>`, `hfctl token list [user]`, `hfctl token revoke <user> <id>`
//!
//! A token is changed for another without a gap: create the new one, give it to whoever uses it, revoke the old one.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use super::user::users;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes a token and prints it, this once.
    Create {
        /// Whose it is.
        user: String,
        /// After so many days it is good for nothing; otherwise it is until it is revoked.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3660))]
        days: Option<u64>,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        desc: Option<String>,
    },
    /// Lists tokens; the secrets in them are known to nobody.
    List {
        /// Only of this user.
        user: Option<String>,
    },
    /// Revokes a token: it opens nothing any more.
    Revoke {
        /// Whose it is.
        user: String,
        /// Its id, as `hfctl token list` shows it.
        id: String,
    },
}

const SECONDS_A_DAY: u64 = 24 * 3600;

impl Token {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        match &self.what {
            What::Create { user, days, desc } => {
                let mut body = json!({});
                if let Some(days) = days {
                    body["expires_seconds"] = json!(days * SECONDS_A_DAY);
                }
                if let Some(desc) = desc {
                    body["desc"] = json!(desc);
                }
                let path = format!("/v1/users/{user}/tokens");
                let told = client.send(&Method::POST, &path, &[], Some(&body.to_string()))?.body;
                // Nothing but the token goes to standard output: it may be a file.
                Ok(match format {
                    Format::Table => {
                        eprintln!("hfctl: token {} of {user}; it is shown this once", cell(&told["id"]));
                        format!("{}\n", cell(&told["token"]))
                    }
                    format => render::value(&told, format),
                })
            }
            What::List { user } => list(client, user.as_deref(), format),
            What::Revoke { user, id } => {
                let answer = client.send(&Method::DELETE, &format!("/v1/users/{user}/tokens/{id}"), &[], None)?;
                Ok(render::done(&format!("token {id} of {user} is revoked"), &answer.body, format))
            }
        }
    }
}

fn list(client: &mut Client, only: Option<&str>, format: Format) -> Result<String, Failure> {
    let answer = client.get("/v1/users")?.body;
    let mut tokens: Vec<Value> = Vec::new();
    for user in users(&answer).filter(|user| only.is_none_or(|only| user["name"] == only)) {
        for token in user["tokens"].as_array().into_iter().flatten() {
            let mut token = token.clone();
            token["user"] = user["name"].clone();
            tokens.push(token);
        }
    }
    if format != Format::Table {
        return Ok(render::value(&Value::Array(tokens), format));
    }
    let columns = ["user", "id", "created", "expires", "desc"];
    let rows: Vec<Vec<String>> =
        tokens.iter().map(|token| columns.iter().map(|name| cell(&token[*name])).collect()).collect();
    Ok(render::table(&["USER", "ID", "CREATED", "EXPIRES", "FOR"], &rows))
}
