//! What must change for a cluster to be as files say, and how that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal, Write};

use protocol::json::differences;
use protocol::resource::conceal;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::Client;
use crate::document::Resource;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::{self, cell};
use crate::verbs::{id_of, path, resource_of};

/// Fields of an answer that are not the user's.
const NOT_THE_USERS: [&str; 3] = ["id", "create_time", "update_time"];

/// The kind of which reads do not show everything.
const KEEPS_KEYS: &str = "ssls";

/// A value of a difference is shown up to here.
const SHOWN_CHARS_MAX: usize = 100;

/// How a resource changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Created,
    Replaced,
    Unchanged,
    Pruned,
}

/// One resource as it is and as it shall be.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) how: How,
    old: Value,
    new: Value,
    /// The revision of its last change.
    modified: Option<u64>,
}

/// A resource on both sides of a comparison. No secret is in it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Sides {
    /// `None`: it was not there.
    pub(crate) before: Option<Value>,
    /// `None`: it is not there any more.
    pub(crate) after: Option<Value>,
    /// Whether a secret differs, which neither side shows.
    pub(crate) secrets_differ: bool,
}

/// A label that a resource has: `name` or `name=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Label(String, Option<String>);

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() { Err("a label has a name".to_owned()) } else { Ok(Self(name.to_owned(), value)) }
    }
}

impl Label {
    pub(crate) fn is_on(&self, value: &Value) -> bool {
        let label = &value["labels"][&self.0];
        label.is_string() && self.1.as_deref().is_none_or(|wanted| label == wanted)
    }
}

/// Compares files with the cluster. Resources with the label `prune` that no file names are to go.
pub(crate) fn make(client: &mut Client, wanted: &[Resource], prune: Option<&Label>) -> Result<Vec<Change>, Failure> {
    let mut kinds: BTreeSet<&'static str> = wanted.iter().map(|resource| resource.kind.name).collect();
    if prune.is_some() {
        kinds.extend(protocol::resource::KINDS.iter().map(|kind| kind.name));
    }
    let mut now: BTreeMap<(&'static str, String), (Value, u64)> = BTreeMap::new();
    let progress = Progress::of("looking at what the cluster has");
    for kind in kinds {
        progress.say(&format!("looking at the {kind} that the cluster has"));
        let answer = client.get(&path(kind, None))?;
        for item in answer.body["list"].as_array().into_iter().flatten() {
            let id = id_of(item);
            let modified = item["modifiedIndex"].as_u64().unwrap_or_default();
            now.insert((kind, id), (fields(item["value"].clone()), modified));
        }
    }
    let mut changes = Vec::new();
    for Resource { kind, id, value } in wanted {
        let (how, old, modified) = match now.remove(&(kind.name, id.clone())) {
            Some((old, modified)) if old == *value => (How::Unchanged, old, Some(modified)),
            Some((old, modified)) => (How::Replaced, old, Some(modified)),
            None => (How::Created, Value::Null, None),
        };
        changes.push(Change { kind: kind.name, id: id.clone(), how, old, new: value.clone(), modified });
    }
    for ((kind, id), (old, modified)) in now {
        if prune.is_some_and(|label| label.is_on(&old)) {
            changes.push(Change { kind, id, how: How::Pruned, old, new: Value::Null, modified: Some(modified) });
        }
    }
    drop(progress);
    look_at_keys(client, &mut changes)?;
    Ok(changes)
}

/// No read shows private keys, so that a node has to say whether those of a file are the ones that it has.
fn look_at_keys(client: &mut Client, changes: &mut [Change]) -> Result<(), Failure> {
    let mut unsure: Vec<&mut Change> = changes.iter_mut().filter(|change| change.changes_only_keys()).collect();
    if unsure.is_empty() {
        return Ok(());
    }
    let operations: Vec<Value> = unsure.iter().filter_map(|change| change.operation()).collect();
    let answer = dry_run(client, &operations)?;
    for (change, result) in unsure.iter_mut().zip(answer["results"].as_array().into_iter().flatten()) {
        if result["result"] == "unchanged" {
            change.how = How::Unchanged;
        }
    }
    Ok(())
}

/// Asks a node what the operations would come to.
pub(crate) fn dry_run(client: &mut Client, operations: &[Value]) -> Result<Value, Failure> {
    let _progress = Progress::of(&format!("trying {} changes", operations.len()));
    let body = json!({ "operations": operations, "dry_run": true }).to_string();
    Ok(client.send(&Method::POST, "/v1/transactions", &[], Some(&body))?.body)
}

/// A value of an answer without what the server put into it.
pub(crate) fn fields(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !NOT_THE_USERS.contains(&name.as_str()));
    }
    value
}

impl How {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Pruned => "deleted",
        }
    }
}

impl Change {
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }

    /// The operation of a transaction, on the condition that nobody else was faster: what was shown is what is done.
    pub(crate) fn operation(&self) -> Option<Value> {
        let Self { kind, id, new, modified, .. } = self;
        match self.how {
            How::Unchanged => None,
            How::Created => Some(json!({"op": "create", "kind": kind, "id": id, "value": new})),
            How::Replaced => Some(json!({"op": "put", "kind": kind, "id": id, "value": new, "if_match": modified})),
            How::Pruned => Some(json!({"op": "delete", "kind": kind, "id": id, "if_match": modified})),
        }
    }

    /// What is there, and what shall be, as reads would show it.
    pub(crate) fn into_sides(self) -> Sides {
        let secrets_differ = self.changes_only_keys();
        let some = |side: Value| Some(side).filter(|side| !side.is_null());
        Sides { after: some(self.shown()), before: some(self.old), secrets_differ }
    }

    /// What shall be, without what no read shows.
    fn shown(&self) -> Value {
        let mut shown = self.new.clone();
        conceal(self.kind, &mut shown);
        shown
    }

    /// Whether nothing but a private key is another one.
    fn changes_only_keys(&self) -> bool {
        self.how == How::Replaced && self.kind == KEEPS_KEYS && self.shown() == self.old
    }

    fn lines(&self) -> Vec<String> {
        if self.how != How::Replaced {
            return Vec::new();
        }
        if self.changes_only_keys() {
            return vec!["    the private key".to_owned()];
        }
        let differences = differences(&self.old, &self.shown()).into_iter();
        differences
            .map(|difference| line(&difference.path.to_string(), difference.old.as_ref(), difference.new.as_ref()))
            .collect()
    }
}

/// One difference, for people.
fn line(path: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    match (old, new) {
        (Some(old), Some(new)) => format!("    {path}: {} -> {}", short(old), short(new)),
        (None, Some(new)) => format!("  + {path}: {}", short(new)),
        (Some(old), None) => format!("  - {path}: {}", short(old)),
        (None, None) => String::new(),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The plan for people: a line for each resource, and below it what is different.
pub(crate) fn show(changes: &[Change]) -> String {
    table(changes.iter().map(|change| (change.key(), change.how.word().to_owned(), change.lines())).collect())
}

/// The same of what a dry run answers.
pub(crate) fn show_dry_run(answer: &Value) -> String {
    let results = answer["results"].as_array().into_iter().flatten();
    let resources = results.map(|result| {
        let key = resource_of(result["key"].as_str().unwrap_or_default()).unwrap_or_default();
        let word = cell(&result["result"]);
        let differences = result["diff"].as_array().into_iter().flatten().filter(|_| word == "replaced");
        let lines = differences.map(|diff| line(&cell(&diff["path"]), diff.get("old"), diff.get("new"))).collect();
        (key, word, lines)
    });
    table(resources.collect())
}

fn table(resources: Vec<(String, String, Vec<String>)>) -> String {
    let rows: Vec<Vec<String>> = resources.iter().map(|(key, word, _)| vec![key.clone(), word.clone()]).collect();
    let table = render::table(&["RESOURCE", "RESULT"], &rows);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (row, (_, _, below)) in lines.zip(&resources) {
        text.push_str(&format!("{row}\n"));
        below.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// What a dry run says would break, or would lose requests.
pub(crate) fn consequences(answer: &Value) -> String {
    let mut text = String::new();
    for broken in answer["broken_references"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "broken: {} refers to {}, which would not exist\n",
            cell(&broken["from"]),
            cell(&broken["to"])
        ));
    }
    for shadow in answer["shadowed"].as_array().into_iter().flatten() {
        let how = if shadow["entirely"] == true { "would get no request any more" } else { "would get fewer requests" };
        text.push_str(&format!("shadowed: {} {how}: {} is asked first\n", cell(&shadow["route"]), cell(&shadow["by"])));
    }
    text
}

/// Asks whoever sits at a terminal, unless that was answered already.
pub(crate) fn confirm(yes: bool, shown: &str, count: usize) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if yes || !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("{shown}change {count}? [y/N] ");
    // A terminal that does not take the question will not give an answer either.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    match read.map(|_| answer.trim().to_ascii_lowercase()) {
        Ok(answer) if answer == "y" || answer == "yes" => Ok(()),
        _ => Err(Failure::Refused("nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(how: How, old: Value, new: Value) -> Change {
        Change { kind: "routes", id: "r1".into(), how, old, new, modified: Some(7) }
    }

    #[test]
    fn a_plan_shows_what_is_different() {
        let replaced = change(How::Replaced, json!({"uri": "/a", "name": "x"}), json!({"uri": "/b", "desc": "d"}));
        let text = show(&[replaced, change(How::Pruned, json!({"uri": "/a"}), Value::Null)]);
        let expected = "RESOURCE   RESULT\nroutes/r1  replaced\n  + $.desc: \"d\"\n  - $.name: \"x\"\n    $.uri: \"/a\" -> \"/b\"\nroutes/r1  deleted\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_dry_run_is_shown_as_a_plan_is() {
        let answer = json!({ "results": [
            {"key": "/apisix/routes/r1", "result": "replaced", "diff": [{"path": "$.uri", "old": "/a", "new": "/b"}]},
            {"key": "/apisix/consumers/jack/credentials/c1", "result": "deleted", "diff": [{"path": "$", "old": {}}]},
        ]});
        let expected = "RESOURCE             RESULT\nroutes/r1            replaced\n    $.uri: \"/a\" -> \"/b\"\ncredentials/jack/c1  deleted\n";
        assert_eq!(show_dry_run(&answer), expected);
    }

    #[test]
    fn a_private_key_is_never_shown() {
        let old = json!({"cert": "c", "sni": "a"});
        let replaced = |new: Value| Change { kind: "ssls", ..change(How::Replaced, old.clone(), new) };
        let text = show(&[replaced(json!({"cert": "c", "sni": "b", "key": "SECRET"}))]);
        assert!(text.contains("$.sni: \"a\" -> \"b\"") && !text.contains("SECRET"), "{text}");
        let text = show(&[replaced(json!({"cert": "c", "sni": "a", "key": "SECRET"}))]);
        assert!(text.contains("the private key") && !text.contains("SECRET"), "{text}");
    }

    #[test]
    fn a_comparison_says_that_a_private_key_differs_and_not_which_it_is() {
        let old = json!({"cert": "c", "sni": "a"});
        let ssl = |how, old: &Value, new| Change { kind: "ssls", ..change(how, old.clone(), new) }.into_sides();
        let with = |sni: &str| json!({"cert": "c", "sni": sni, "key": "SECRET", "keys": ["SECRET"]});
        for (sides, expected) in [
            (ssl(How::Created, &Value::Null, with("a")), (None, Some(old.clone()), false)),
            (ssl(How::Replaced, &old, with("a")), (Some(old.clone()), Some(old.clone()), true)),
            (ssl(How::Replaced, &old, with("b")), (Some(old.clone()), Some(json!({"cert": "c", "sni": "b"})), false)),
            (ssl(How::Unchanged, &old, with("a")), (Some(old.clone()), Some(old.clone()), false)),
        ] {
            assert_eq!((sides.before, sides.after, sides.secrets_differ), expected);
        }
    }

    #[test]
    fn what_was_shown_is_what_is_done() {
        let operation = |how| change(how, Value::Null, json!({})).operation().unwrap_or_default();
        assert_eq!(operation(How::Unchanged), Value::Null);
        assert_eq!(operation(How::Created)["op"], "create");
        assert_eq!(
            (&operation(How::Replaced)["op"], &operation(How::Replaced)["if_match"]),
            (&json!("put"), &json!(7))
        );
        assert_eq!((&operation(How::Pruned)["op"], &operation(How::Pruned)["if_match"]), (&json!("delete"), &json!(7)));
    }

    #[test]
    fn labels() {
        let value = json!({"labels": {"owner": "hfctl", "n": 1}});
        let on = |text: &str| text.parse::<Label>().unwrap().is_on(&value);
        assert!(on("owner") && on("owner=hfctl") && !on("owner=me") && !on("team") && !on("n"));
        assert!("=x".parse::<Label>().is_err());
    }
}
