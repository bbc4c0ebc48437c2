//! Files: YAML or JSON, one resource or many, checked before anything is sent.

use std::io::Read;
use std::path::Path;

use protocol::json;
use protocol::resource::{KindInfo, admit};
use serde_json::{Map, Value};

use crate::failure::Failure;

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
    let plain = name.replace(['-', ' '], "_");
    let by_singular = || protocol::resource::KINDS.iter().find(|kind| kind.singular.replace(' ', "_") == plain);
    KindInfo::find(&plain).or_else(by_singular).ok_or_else(|| {
        let names: Vec<&str> = protocol::resource::KINDS.iter().map(|kind| kind.name).collect();
        Failure::Usage(format!("{name:?} is no kind of resource; kinds are: {}", names.join(", ")))
    })
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
    if path.extension().is_some_and(|extension| extension == "json") {
        // The same strict reader that a node uses: what would be refused there is refused here.
        json::parse(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
        return serde_json::from_str(&text).map_err(|e| bad(e.to_string()));
    }
    serde_saphyr::from_str(&text).map_err(|e| bad(e.to_string()))
}

/// Checks a body as a node would; kinds that this version does not serve are left to the node.
pub(crate) fn check(place: &str, kind: &KindInfo, id: &str, value: &Value) -> Result<(), Failure> {
    if !kind.is_served() {
        return Ok(());
    }
    let bad = |why: String| {
        let lines: Vec<String> = why.lines().map(|line| format!("{place}: {line}")).collect();
        Failure::Usage(lines.join("\n"))
    };
    let value = json::parse(value.to_string().as_bytes()).map_err(|e| bad(e.to_string()))?;
    admit(kind, Some(id), value).map(drop).map_err(|report| bad(report.to_string()))
}

/// Every resource of a file, or of all `.yaml`, `.yml` and `.json` files of a directory, checked.
///
/// A file is an object of lists by kind; each resource names its `id` (a consumer its `username`).
pub(crate) fn resources(path: &Path) -> Result<Vec<Resource>, Failure> {
    if !path.is_dir() {
        return of_file(path);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Failure::file(path, &e))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known)));
    files.sort();
    if files.is_empty() {
        return Err(Failure::Usage(format!("{}: there is no .yaml, .yml or .json file", path.display())));
    }
    let mut all = Vec::new();
    for file in files {
        all.extend(of_file(&file)?);
    }
    Ok(all)
}

fn of_file(path: &Path) -> Result<Vec<Resource>, Failure> {
    let bad = |place: String, why: &str| Failure::Usage(format!("{}: {place}: {why}", path.display()));
    let Value::Object(lists) = value(path)? else {
        return Err(bad("$".into(), "must be an object of lists of resources, by kind"));
    };
    let mut all = Vec::new();
    for (name, list) in lists {
        let kind = kind(&name).map_err(|e| bad(format!("$.{name}"), &e.to_string()))?;
        let Value::Array(items) = list else { return Err(bad(format!("$.{name}"), "must be a list")) };
        for (index, item) in items.into_iter().enumerate() {
            let place = format!("$.{name}[{index}]");
            let Value::Object(mut value) = item else { return Err(bad(place, "must be an object")) };
            let id = take_id(&mut value).ok_or_else(|| bad(place.clone(), "needs an id"))?;
            let value = Value::Object(value);
            check(&format!("{}: {place}", path.display()), kind, &id, &value)?;
            all.push(Resource { kind, id, value });
        }
    }
    Ok(all)
}

fn take_id(value: &mut Map<String, Value>) -> Option<String> {
    match value.remove("id") {
        Some(Value::String(id)) => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => value.get("username")?.as_str().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
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
        let all = resources(&path).unwrap();
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
            let failure = resources(&path).unwrap_err();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
    }
}
