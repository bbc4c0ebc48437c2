//! Files of resources: what `hfctl apply` takes, and what APISIX has in its `apisix.yaml`. Reading them is all that is done
//! here; whether a resource is good is for `protocol::resource::admit` to say.

use protocol::json;
use protocol::resource::{KINDS, KindInfo};
use serde_json::{Map, Value};

/// One resource of a file.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it stands, e.g. `$.routes[0]`.
    pub place: String,
    /// What it is.
    pub kind: &'static KindInfo,
    /// Its id.
    pub id: String,
    /// The rest of it.
    pub value: Value,
}

/// Whose files are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Ours: every resource names its `id` (a consumer its `username`).
    Holdfast,
    /// APISIX's: one without an id is `arr_<n>`, counted from 1; an empty list may be left out behind its name; `plugins`,
    /// which there says which plugins are on, says nothing here.
    Apisix,
}

/// The end of a file of APISIX that is whole.
const END: &str = "#END";
/// Bounds on YAML, so that a small text cannot become a large one: several times what 100,000 routes need.
const NODES_MAX: usize = 16 << 20;
const SCALAR_BYTES_MAX: usize = 512 << 20;

/// A kind by its name in paths (`routes`) or in sentences (`route`).
///
/// # Errors
/// A sentence with the names that there are.
pub fn kind(name: &str) -> Result<&'static KindInfo, String> {
    let plain = name.replace(['-', ' '], "_");
    let by_singular = || KINDS.iter().find(|kind| kind.singular.replace(' ', "_") == plain);
    KindInfo::find(&plain).or_else(by_singular).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        format!("{name:?} is no kind of resource; kinds are: {}", names.join(", "))
    })
}

/// The one value of a text in YAML.
///
/// # Errors
/// What is wrong with it, with line and column.
pub fn yaml(text: &str) -> Result<Value, String> {
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = NODES_MAX;
        budget.max_events = 2 * NODES_MAX;
        budget.max_total_scalar_bytes = SCALAR_BYTES_MAX;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// The one value of a text in JSON, by the same strict reader that a node uses: what would be refused there is refused
/// here.
///
/// # Errors
/// What is wrong with it, with its place.
pub fn json(text: &str) -> Result<Value, String> {
    json::parse(text.as_bytes()).map_err(|e| e.to_string())?;
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// The one value of APISIX's `apisix.yaml`: whole only when it ends in `#END`, with `${{VAR}}` and `${{VAR:=default}}`
/// as `variable` has them.
///
/// # Errors
/// What is wrong with it.
pub fn apisix_yaml(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Value, String> {
    if !text.trim_end().ends_with(END) {
        return Err(format!("missing valid end flag: the file must end in {END}, else it may not be whole"));
    }
    yaml(&substitute(text, variable)?)
}

fn substitute(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (inside, behind) = after.split_once("}}").ok_or("a ${{ without its }}")?;
        let (name, default) = match inside.split_once(":=") {
            Some((name, default)) => (name.trim(), Some(default.trim().to_owned())),
            None => (inside.trim(), None),
        };
        done.push_str(before);
        let value = variable(name).or(default);
        done.push_str(&value.ok_or_else(|| format!("the variable {name} is not set, and has no default here"))?);
        rest = behind;
    }
    done.push_str(rest);
    Ok(done)
}

/// The resources of a file, an object of lists by kind; and everything that is wrong with it, each with its place.
#[must_use]
pub fn items(document: Value, dialect: Dialect) -> (Vec<Item>, Vec<String>) {
    let apisix = dialect == Dialect::Apisix;
    let (mut items, mut problems) = (Vec::new(), Vec::new());
    let lists = match document {
        Value::Object(lists) => lists,
        // A file of comments.
        Value::Null if apisix => Map::new(),
        _ => return (items, vec!["$: must be an object of lists of resources, by kind".to_owned()]),
    };
    for (name, list) in lists {
        let kind = match kind(&name) {
            Ok(kind) => kind,
            // Plugins are part of the programs here: there is nothing to switch on.
            Err(_) if apisix && name == "plugins" => continue,
            Err(e) => {
                problems.push(format!("$.{name}: {e}"));
                continue;
            }
        };
        let list = match list {
            Value::Array(list) => list,
            Value::Null if apisix => continue,
            _ => {
                problems.push(format!("$.{name}: must be a list"));
                continue;
            }
        };
        for (index, value) in list.into_iter().enumerate() {
            let place = format!("$.{name}[{index}]");
            match item(&place, kind, value, apisix.then_some(index)) {
                Ok(item) => items.push(item),
                Err(why) => problems.push(format!("{place}: {why}")),
            }
        }
    }
    (items, problems)
}

fn item(place: &str, kind: &'static KindInfo, value: Value, index: Option<usize>) -> Result<Item, String> {
    let Value::Object(mut value) = value else { return Err("must be an object".to_owned()) };
    let id = take_id(&mut value).or_else(|| index.map(|index| format!("arr_{}", index + 1))).ok_or("needs an id")?;
    // As a node's whole configuration has them, and APISIX's files.
    let (kind, id) = match id.split_once("/credentials/") {
        Some((consumer, id)) if kind.name == "consumers" => (self::kind("credentials")?, format!("{consumer}/{id}")),
        _ => (kind, id),
    };
    Ok(Item { place: place.to_owned(), kind, id, value: Value::Object(value) })
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
    use serde_json::json;

    use super::*;

    #[test]
    fn files_of_apisix_are_read_as_it_reads_them() {
        let text = "plugins: []\nroutes:\n  - uri: /a\n    upstream: {nodes: {'${{HOST:=h}}:1': 1}}\nssls:\n#END\n";
        let (items, problems) = items(apisix_yaml(text, |_| None).unwrap(), Dialect::Apisix);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((items.len(), items[0].id.as_str(), items[0].place.as_str()), (1, "arr_1", "$.routes[0]"));
        assert_eq!(items[0].value["upstream"]["nodes"], json!({"h:1": 1}));
        assert!(apisix_yaml("routes: []\n", |_| None).unwrap_err().contains("#END"));
        assert_eq!(apisix_yaml("#END", |_| None), Ok(Value::Null));
        assert!(apisix_yaml("routes: [\n#END", |_| None).unwrap_err().contains("line"));
    }

    #[test]
    fn variables_stand_for_their_values() {
        let x = |name: &str| (name == "X").then(|| "1".to_owned());
        assert_eq!(substitute("a ${{ X }}-${{Y:=2}}", x), Ok("a 1-2".to_owned()));
        assert!(substitute("${{X}}", |_| None).unwrap_err().contains("X is not set"));
        assert!(substitute("${{X", |_| None).is_err());
    }

    #[test]
    fn a_large_file_is_within_the_bounds() {
        let routes: String =
            (0..30_000).map(|n| format!("  - {{id: r{n}, uri: /{n}, methods: [GET], upstream_id: u}}\n")).collect();
        let value = yaml(&format!("routes:\n{routes}")).unwrap();
        assert_eq!(value["routes"].as_array().unwrap().len(), 30_000);
    }
}
