//! Files: YAML or JSON, one resource or many, checked before anything is sent.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use daemon::document::{self, Dialect, Item};
use plugins::CATALOG;
use protocol::json;
use protocol::resource::{KindInfo, admit};
use serde_json::Value;

use crate::failure::Failure;
use crate::progress::Progress;

/// One resource of a file.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) kind: &'static KindInfo,
    pub(crate) id: String,
    /// Without its id.
    pub(crate) value: Value,
}

/// A kind by its name in paths (`routes`) or in sentences (`route`).
pub(crate) fn kind(name: &str) -> Result<&'static KindInfo, Failure> {
    document::kind(name).map_err(Failure::Usage)
}

/// The text of a file, or of standard input for `-`.
fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::file(path, &e))?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e))
}

/// The one value of a file.
pub(crate) fn value(path: &Path) -> Result<Value, Failure> {
    let text = text(path)?;
    let bad = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let parsed = if is_json(path) { document::json(&text) } else { document::yaml(&text) };
    parsed.map_err(bad)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// Checks a body as a node would.
pub(crate) fn check(place: &str, kind: &KindInfo, id: &str, value: &Value) -> Result<(), Failure> {
    let bad = |why: String| {
        let lines: Vec<String> = why.lines().map(|line| format!("{place}: {line}")).collect();
        Failure::Usage(lines.join("\n"))
    };
    let value = json::parse(value.to_string().as_bytes()).map_err(|e| bad(e.to_string()))?;
    admit(&CATALOG, kind, Some(id), value).map(drop).map_err(|report| bad(report.to_string()))
}

/// Every resource of these files, and of all `.yaml`, `.yml` and `.json` files of directories, checked; every problem is
/// told, not only the first.
///
/// A file is an object of lists by kind; each resource names its `id` (a consumer its `username`). With `apisix` they are
/// read as APISIX reads its `apisix.yaml`.
pub(crate) fn resources(paths: &[PathBuf], apisix: bool) -> Result<Vec<Resource>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Failure::file(path, &e))?;
        let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|file| {
            file.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
        });
        found.sort();
        if found.is_empty() {
            return Err(Failure::Usage(format!("{}: there is no .yaml, .yml or .json file", path.display())));
        }
        files.extend(found);
    }
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    let mut places: BTreeMap<(&str, String), String> = BTreeMap::new();
    for file in files {
        let resources = match of_file(&file, apisix) {
            Ok(resources) => resources,
            Err(Failure::Usage(why)) => {
                problems.push(why);
                continue;
            }
            Err(other) => return Err(other),
        };
        for (place, resource) in resources {
            let place = format!("{}: {place}", file.display());
            if let Some(first) = places.insert((resource.kind.name, resource.id.clone()), place.clone()) {
                problems.push(format!("{place}: {}/{} stands at {first} too", resource.kind.name, resource.id));
            }
            all.push(resource);
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Failure::Usage(problems.join("\n"))) }
}

fn of_file(path: &Path, apisix: bool) -> Result<Vec<(String, Resource)>, Failure> {
    let reading = Progress::of(&format!("reading {}", path.display()));
    let (value, dialect) = match apisix {
        true => (apisix_value(path)?, Dialect::Apisix),
        false => (value(path)?, Dialect::Holdfast),
    };
    let (items, problems) = document::items(value, dialect);
    drop(reading);
    let mut problems: Vec<_> = problems.into_iter().map(|why| format!("{}: {why}", path.display())).collect();
    let mut all = Vec::new();
    let progress = Progress::of_parts(&format!("checking {}", path.display()), items.len() as u64);
    for Item { place, kind, id, value } in items {
        progress.advance(1);
        match check(&format!("{}: {place}", path.display()), kind, &id, &value) {
            Ok(()) => all.push((place, Resource { kind, id, value })),
            Err(e) => problems.push(e.to_string()),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Failure::Usage(problems.join("\n"))) }
}

/// What a resource refers to, as `<kind>/<id>`.
pub(crate) fn references(resource: &Resource) -> Vec<String> {
    let value = json::parse(resource.value.to_string().as_bytes());
    let admitted = value.ok().and_then(|value| admit(&CATALOG, resource.kind, Some(&resource.id), value).ok());
    admitted.iter().flat_map(|admitted| &admitted.references).map(ToString::to_string).collect()
}

/// The one value of APISIX's `apisix.yaml` or `apisix.json`, with variables from the environment.
fn apisix_value(path: &Path) -> Result<Value, Failure> {
    if is_json(path) {
        return value(path);
    }
    let bad = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    document::apisix_yaml(&text(path)?, |name| std::env::var(name).ok()).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn kinds_go_by_both_names() {
        for name in ["routes", "route", "plugin_configs", "plugin-config", "global rule"] {
            assert!(kind(name).is_ok(), "{name}");
        }
        assert!(kind("ruotes").unwrap_err().to_string().contains("\"ruotes\" is no kind of resource"));
    }

    #[test]
    fn a_file_holds_resources_by_kind() {
        let text =
            "upstreams:\n  - {id: u1, nodes: {'a:1': 1}}\nroutes:\n  - id: 7\n    uri: /a\n    upstream_id: u1\n";
        let (_dir, path) = file("x.yaml", text);
        let all = resources(&[path], false).unwrap();
        let keys: Vec<String> = all.iter().map(|r| format!("{}/{}", r.kind.name, r.id)).collect();
        assert_eq!(keys, ["routes/7", "upstreams/u1"]);
        assert_eq!(all[0].value, serde_json::json!({"uri": "/a", "upstream_id": "u1"}));
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_place() {
        for (name, text, expected) in [
            ("a.yaml", "routes:\n  - {id: r, uri: 5}\n", "a.yaml: $.routes[0]: $.uri"),
            ("b.yaml", "routes:\n  - {uri: /a}\n", "b.yaml: $.routes[0]: needs an id"),
            ("c.yaml", "routes: {}\n", "c.yaml: $.routes: must be a list"),
            ("d.yaml", "ruotes: []\n", "d.yaml: $.ruotes: \"ruotes\" is no kind"),
            ("e.yaml", "routes: [\n", "e.yaml: "),
            ("f.json", "{\"routes\": [], \"routes\": []}", "f.json: "),
            ("g.yaml", "[]\n", "g.yaml: $: must be an object"),
        ] {
            let (_dir, path) = file(name, text);
            let failure = resources(&[path], false).unwrap_err();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
    }

    #[test]
    fn credentials_may_stand_among_consumers() {
        let text = "consumers:\n  - {username: jack, plugins: {key-auth: {key: k}}}\n  - {id: jack/credentials/c1, plugins: {key-auth: {key: c}}}\n";
        let (_dir, path) = file("x.yaml", text);
        let all = resources(&[path], false).unwrap();
        let keys: Vec<String> = all.iter().map(|r| format!("{}/{}", r.kind.name, r.id)).collect();
        assert_eq!(keys, ["consumers/jack", "credentials/jack/c1"]);
        let (_dir, path) = file("y.yaml", "routes:\n  - {id: r, uri: /r, plugins: {limit-count: {}}}\n");
        let failure = resources(&[path], false).unwrap_err().to_string();
        assert!(failure.contains("$.routes[0]: $.plugins[\"limit-count\"]"), "{failure}");
    }

    #[test]
    fn every_problem_is_told_and_nothing_stands_twice() {
        let (_dir, path) = file("a.yaml", "routes:\n  - {id: r, uri: 5}\n  - {uri: /a}\nruotes: []\n");
        let failure = resources(&[path], false).unwrap_err().to_string();
        assert_eq!(failure.lines().count(), 4, "{failure}");
        let text = "upstreams:\n  - {id: u, nodes: {}}\n  - {id: u, nodes: {}}\n";
        let (_dir, path) = file("a.yaml", text);
        let failure = resources(&[path], false).unwrap_err().to_string();
        assert!(failure.contains("$.upstreams[1]: upstreams/u stands at"), "{failure}");
    }

    #[test]
    fn files_of_apisix_are_read_as_it_reads_them() {
        let text =
            "plugins: []\nroutes:\n  - uri: /a\n    upstream: {nodes: {'${{NO_SUCH_HOST:=h}}:1': 1}}\nssls:\n#END\n";
        let (_dir, path) = file("apisix.yaml", text);
        let all = resources(&[path], true).unwrap();
        assert_eq!((all.len(), all[0].id.as_str()), (1, "arr_1"));
        assert_eq!(all[0].value["upstream"]["nodes"], serde_json::json!({"h:1": 1}));
        let (_dir, path) = file("apisix.yaml", "routes: []\n");
        assert!(resources(&[path], true).unwrap_err().to_string().contains("#END"));
    }
}
