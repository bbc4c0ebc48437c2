//! The verbs: a file and a line each.

mod apply;
mod backup;
mod completion;
mod context;
mod delete;
mod diff;
mod dump;
mod fleet;
mod get;
mod history;
mod list;
mod members;
mod patch;
mod put;
mod record;
mod restore;
mod revert;
mod snapshot;
mod status;
mod token;
mod top;
mod user;
mod validate;

use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::Format;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Brings resources to what a file says, in one transaction.
    Apply(apply::Apply),
    /// Writes everything that is configured into a signed snapshot file.
    Backup(backup::Backup),
    /// Prints what a shell needs to complete commands.
    Completion(completion::Completion),
    /// Names clusters, so that nobody types addresses.
    Context(context::ContextVerb),
    /// Deletes a resource.
    Delete(delete::Delete),
    /// Shows what differs between two revisions, or between a file and the cluster.
    Diff(diff::Diff),
    /// Prints everything that is configured, as a file that apply takes.
    Dump(dump::Dump),
    /// Shows every proxy, whichever node it follows, and what it serves.
    Fleet(fleet::FleetVerb),
    /// Shows a resource.
    Get(get::Get),
    /// Shows who changed what, and when.
    History(history::History),
    /// Lists the resources of a kind.
    List(list::List),
    /// Shows the nodes of the control plane; promotes, demotes or removes one.
    Members(members::Members),
    /// Changes a part of a resource.
    Patch(patch::Patch),
    /// Writes a resource.
    Put(put::Put),
    /// Shows how the durable record is doing; verifies and repairs it; lets it move to another PostgreSQL.
    Record(record::Record),
    /// Brings everything back that is in a backup of this cluster, in one transaction.
    Restore(restore::Restore),
    /// Takes a change back.
    Revert(revert::Revert),
    /// Looks at a snapshot file; needs no node.
    Snapshot(snapshot::Snapshot),
    /// Shows the node that answers.
    Status(status::Status),
    /// Makes, lists and revokes the tokens of users.
    Token(token::Token),
    /// Shows nodes, proxies by region and the pace of changes, again and again.
    Top(top::Top),
    /// Shows, creates and deletes users of the Admin API.
    User(user::User),
    /// Checks files; needs no node.
    Validate(validate::Validate),
}

impl Verb {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        match self {
            Self::Apply(verb) => verb.run(client, format),
            Self::Backup(verb) => verb.run(client, format),
            Self::Delete(verb) => verb.run(client, format),
            Self::Diff(verb) => verb.run(client, format),
            Self::Fleet(verb) => verb.run(client, format),
            Self::Get(verb) => verb.run(client, format),
            Self::History(verb) => verb.run(client, format),
            Self::List(verb) => verb.run(client, format),
            Self::Members(verb) => verb.run(client, format),
            Self::Put(verb) => verb.run(client, format),
            Self::Record(verb) => verb.run(client, format),
            Self::Restore(verb) => verb.run(client, format),
            Self::Revert(verb) => verb.run(client, format),
            Self::Patch(verb) => verb.run(client, format),
            Self::Dump(verb) => verb.run(client, format),
            Self::Status(verb) => verb.run(client, format),
            Self::Token(verb) => verb.run(client, format),
            Self::Top(verb) => verb.run(client, format),
            Self::User(verb) => verb.run(client, format),
            Self::Completion(_) | Self::Context(_) | Self::Snapshot(_) | Self::Validate(_) => {
                unreachable!("they ask no node")
            }
        }
    }
}

impl Verb {
    /// What a verb says that asks no node; `None`: it asks one.
    pub(crate) fn offline(&self, contexts: Option<&Path>, format: Format) -> Option<Result<String, Failure>> {
        match self {
            Self::Completion(verb) => Some(verb.run()),
            Self::Context(verb) => Some(verb.run(contexts, format)),
            Self::Validate(verb) => Some(verb.run(format)),
            Self::Snapshot(verb) => Some(verb.run(format)),
            _ => None,
        }
    }
}

/// The path of a resource, or of all of a kind.
pub(crate) fn path(kind: &str, id: Option<&str>) -> String {
    match (kind, id, id.and_then(|id| id.split_once('/'))) {
        ("credentials", _, Some((consumer, id))) => format!("/apisix/admin/consumers/{consumer}/credentials/{id}"),
        (kind, Some(id), _) => format!("/apisix/admin/{kind}/{id}"),
        (kind, None, _) => format!("/apisix/admin/{kind}"),
    }
}

/// The id of an item of a list, as keys have it: `r1`, `jack`, `jack/c1`.
pub(crate) fn id_of(item: &Value) -> String {
    let key = item["key"].as_str().unwrap_or_default();
    let below_kind = key.splitn(4, '/').nth(3).unwrap_or_default();
    match below_kind.split_once("/credentials/") {
        Some((consumer, id)) => format!("{consumer}/{id}"),
        None => below_kind.to_owned(),
    }
}

/// The `<kind>/<id>` of a key as answers have it: `/apisix/routes/r1`, `/apisix/consumers/jack/credentials/c1`.
pub(crate) fn resource_of(key: &str) -> Option<String> {
    let below = key.strip_prefix("/apisix/")?;
    let credential = below.strip_prefix("consumers/").and_then(|rest| rest.split_once("/credentials/"));
    Some(credential.map_or_else(|| below.to_owned(), |(consumer, id)| format!("credentials/{consumer}/{id}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_stand_below_their_consumer() {
        assert_eq!(path("credentials", Some("jack/c1")), "/apisix/admin/consumers/jack/credentials/c1");
        assert_eq!(path("consumers", Some("jack")), "/apisix/admin/consumers/jack");
        assert_eq!(path("credentials", None), "/apisix/admin/credentials");
        for (key, id) in [
            ("/apisix/routes/r1", "r1"),
            ("/apisix/consumers/jack", "jack"),
            ("/apisix/consumers/jack/credentials/c1", "jack/c1"),
            ("/apisix/secrets/vault/v1", "vault/v1"),
        ] {
            assert_eq!(id_of(&json!({ "key": key })), id);
        }
        assert_eq!(resource_of("/apisix/routes/r1").as_deref(), Some("routes/r1"));
        let credential = resource_of("/apisix/consumers/jack/credentials/c1");
        assert_eq!(credential.as_deref(), Some("credentials/jack/c1"));
    }
}
