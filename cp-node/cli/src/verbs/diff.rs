//! `hfctl diff A [B]`: what changed between two revisions. `hfctl diff -f <file>`: what a file would change.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::plan::{self, Sides};
use crate::render::{self, Format};

/// Rows of the history that are fetched at once.
const PAGE: usize = 500;

/// What differs between two revisions, or between a file and what the cluster has. Exit code 1 where something does.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The earlier revision.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    from: Option<u64>,
    /// The later one; what is now when it is not given.
    #[arg(conflicts_with = "file")]
    to: Option<u64>,
    /// A file or directory as for `apply`: what is in it is held against what the cluster has.
    #[arg(long, short)]
    file: Option<PathBuf>,
}

/// Resources by `<kind>/<id>`.
type All = BTreeMap<String, Sides>;

impl Diff {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let mut all = match (&self.file, self.from) {
            (Some(file), _) => from_file(client, std::slice::from_ref(file))?,
            (None, from) => from_history(client, from.unwrap_or_default(), self.to)?,
        };
        all.retain(|_, sides| sides.secrets_differ || sides.before != sides.after);
        let text = if format == Format::Table { for_people(&all) } else { for_programs(&all, format) };
        if all.is_empty() { Ok(text) } else { Err(Failure::Differs(text)) }
    }
}

fn from_file(client: &mut Client, file: &[PathBuf]) -> Result<All, Failure> {
    let wanted = document::resources(file, false)?;
    let changes = plan::make(client, &wanted, None)?;
    Ok(changes.into_iter().map(|change| (change.key(), change.into_sides())).collect())
}

/// Folds the history between two revisions: the newest change of a resource says what it is, the oldest what it was.
fn from_history(client: &mut Client, from: u64, to: Option<u64>) -> Result<All, Failure> {
    if to.is_some_and(|to| to < from) {
        return Err(Failure::Usage("the earlier revision comes first".to_owned()));
    }
    let mut all = All::new();
    let mut before = String::new();
    let mut lives = Lives::default();
    loop {
        let mut path = format!("/v1/history?limit={PAGE}&above={from}");
        to.iter().for_each(|to| path.push_str(&format!("&upto={to}")));
        if !before.is_empty() {
            path.push_str(&format!("&before={before}"));
        }
        let answer = client.get(&path)?.body;
        check_complete(&answer, from)?;
        for row in answer["list"].as_array().into_iter().flatten() {
            let number = |name: &str| row[name].as_u64().unwrap_or_default();
            if lives.replaced(number("epoch"), number("revision")) {
                continue;
            }
            if row["op"] == "base" {
                let begins = number("revision");
                return Err(Failure::Usage(format!("the record begins at revision {begins}: it does not tell")));
            }
            let key = format!("{}/{}", row["kind"].as_str().unwrap_or("?"), row["id"].as_str().unwrap_or("?"));
            let some = |name: &str| Some(row[name].clone()).filter(|body| !body.is_null());
            let sides = all.entry(key).or_insert_with(|| Sides { after: some("body"), ..Sides::default() });
            sides.before = some("old_body");
            sides.secrets_differ |= row["secrets_changed"] == true;
        }
        match answer["next"].as_str() {
            Some(next) => next.clone_into(&mut before),
            None => return Ok(settled(all)),
        }
    }
}

/// Of what came or went as a whole, its secrets are a part.
fn settled(mut all: All) -> All {
    all.values_mut().for_each(|sides| sides.secrets_differ &= sides.before.is_some() && sides.after.is_some());
    all
}

/// The lives of the cluster that a history goes through, newest first.
#[derive(Default)]
struct Lives {
    /// The epoch of the last row, and its revision.
    last: Option<(u64, u64)>,
    /// The first revision of the lives after it.
    begins: Option<u64>,
}

impl Lives {
    /// Whether a later life, restored from before this revision, has put something else in its place.
    fn replaced(&mut self, epoch: u64, revision: u64) -> bool {
        if let Some((newer, first)) = self.last.filter(|(newer, _)| *newer != epoch) {
            debug_assert!(newer > epoch, "rows come newest first");
            self.begins = Some(self.begins.map_or(first, |begins| begins.min(first)));
        }
        self.last = Some((epoch, revision));
        self.begins.is_some_and(|begins| revision >= begins)
    }
}

/// A node's own record may lack something: then it must not be taken for nothing.
fn check_complete(answer: &Value, from: u64) -> Result<(), Failure> {
    let revision = |text: &Value| text.as_str()?.rsplit('-').next()?.parse::<u64>().ok();
    if let Some(since) = revision(&answer["complete_since"]).filter(|since| *since > from) {
        return Err(Failure::Usage(format!("this node's own record begins after revision {since}: it does not tell")));
    }
    for gap in answer["gaps"].as_array().into_iter().flatten() {
        if revision(&gap["upto"]).is_some_and(|upto| upto > from) {
            let (after, upto) = (render::cell(&gap["after"]), render::cell(&gap["upto"]));
            return Err(Failure::Usage(format!("this node's own record lacks what came after {after} up to {upto}")));
        }
    }
    Ok(())
}

fn word(before: Option<&Value>, after: Option<&Value>) -> &'static str {
    match (before, after) {
        (None, _) => "created",
        (_, None) => "deleted",
        _ => "replaced",
    }
}

fn for_programs(all: &All, format: Format) -> String {
    let change = |(key, Sides { before, after, secrets_differ }): (&String, &Sides)| {
        let word = word(before.as_ref(), after.as_ref());
        json!({"key": key, "change": word, "before": before, "after": after, "secrets_differ": secrets_differ})
    };
    let changes: Vec<Value> = all.iter().map(change).collect();
    render::value(&json!({ "changes": changes }), format)
}

/// A line for each resource, and one for each field that differs.
fn for_people(all: &All) -> String {
    if all.is_empty() {
        return "nothing differs\n".to_owned();
    }
    let mut text = String::new();
    for (key, Sides { before, after, secrets_differ }) in all {
        let sign = match word(before.as_ref(), after.as_ref()) {
            "created" => '+',
            "deleted" => '-',
            _ => '~',
        };
        text.push_str(&format!("{sign} {key}\n"));
        fields("$", before.as_ref(), after.as_ref(), &mut text);
        if *secrets_differ {
            text.push_str("    $: a secret\n");
        }
    }
    text
}

fn fields(path: &str, before: Option<&Value>, after: Option<&Value>, text: &mut String) {
    if before == after {
        return;
    }
    let is_map = |side: Option<&Value>| side.is_none_or(Value::is_object);
    let both = [before, after];
    if is_map(before) && is_map(after) && both.iter().any(Option::is_some) {
        let names: std::collections::BTreeSet<&String> =
            both.iter().flatten().filter_map(|side| side.as_object()).flat_map(|side| side.keys()).collect();
        for name in names {
            let side = |side: Option<&Value>| side.and_then(|side| side.get(name)).cloned();
            fields(&format!("{path}.{name}"), side(before).as_ref(), side(after).as_ref(), text);
        }
        return;
    }
    let show = |side: Option<&Value>| side.map_or("nothing".to_owned(), ToString::to_string);
    text.push_str(&format!("    {path}: {} -> {}\n", show(before), show(after)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_differs_is_named() {
        let before = json!({"uri": "/a", "desc": "x", "upstream": {"nodes": {"a:1": 1, "b:1": 1}}, "list": [1]});
        let after = json!({"uri": "/a", "upstream": {"nodes": {"a:1": 2, "b:1": 1}, "retries": 3}, "list": [1, 2]});
        let sides = |before: Option<Value>, after: Option<Value>| Sides { before, after, secrets_differ: false };
        let jack = Some(json!({"username": "jack"}));
        let all = All::from([
            ("consumers/jack".to_owned(), Sides { before: jack.clone(), after: jack, secrets_differ: true }),
            ("routes/r1".to_owned(), sides(Some(before), Some(after))),
            ("routes/r2".to_owned(), sides(None, Some(json!({"uri": "/new"})))),
            ("routes/r3".to_owned(), sides(Some(json!({"uri": "/old"})), None)),
        ]);
        let expected = "~ consumers/jack
    $: a secret
~ routes/r1
    $.desc: \"x\" -> nothing
    $.list: [1] -> [1,2]
    $.upstream.nodes.a:1: 1 -> 2
    $.upstream.retries: nothing -> 3
+ routes/r2
    $.uri: nothing -> \"/new\"
- routes/r3
    $.uri: \"/old\" -> nothing
";
        assert_eq!(for_people(&all), expected);
    }

    #[test]
    fn what_a_restore_has_replaced_does_not_count() {
        let mut lives = Lives::default();
        let rows = [(3, 12), (3, 11), (2, 30), (2, 11), (2, 10), (2, 8), (1, 9), (1, 8), (1, 7)];
        let replaced: Vec<bool> = rows.iter().map(|(epoch, revision)| lives.replaced(*epoch, *revision)).collect();
        assert_eq!(replaced, [false, false, true, true, false, false, true, true, false]);
    }

    #[test]
    fn what_a_record_lacks_is_not_taken_for_nothing() {
        let holds = json!({"complete_since": "1-10", "gaps": [{"after": "1-20", "upto": "1-30"}]});
        assert!(check_complete(&holds, 30).is_ok());
        assert!(check_complete(&holds, 29).unwrap_err().to_string().contains("after 1-20 up to 1-30"));
        assert!(check_complete(&holds, 5).unwrap_err().to_string().contains("begins after revision 10"));
        assert!(check_complete(&json!({}), 0).is_ok());
    }
}
