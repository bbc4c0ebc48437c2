//! What a file says, admitted as a node of the control plane would: every problem with its place.

use std::collections::BTreeMap;

use daemon::document::{self, Dialect, Item};
use plugins::CATALOG;
use protocol::entry::Claim;
use protocol::json;
use protocol::resource::{self, admit};
use protocol::{ResourceKey, Text};

/// A configuration as a file has it.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    pub(super) resources: BTreeMap<ResourceKey, Draft>,
}

/// A resource of it.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Canonical JSON, with secrets in the clear.
    pub(super) body: String,
    pub(super) has_secrets: bool,
    pub(super) references: Vec<ResourceKey>,
    pub(super) claims: Vec<Claim>,
}

impl Configuration {
    /// Reads a text, of `apisix.json` or else of `apisix.yaml`.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn read(text: &str, is_json: bool, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let document = if is_json { document::json(text) } else { document::apisix_yaml(text, variable) };
        let (items, mut problems) = document::items(document.map_err(|why| vec![why])?, Dialect::Apisix);
        let mut configuration = Self::default();
        let mut places = BTreeMap::new();
        let mut holders: BTreeMap<(Text, String), String> = BTreeMap::new();
        for item in items {
            let key = ResourceKey::new(item.kind.name, &item.id);
            if let Some(first) = places.insert(key.clone(), item.place.clone()) {
                problems.push(format!("{}: {key} stands at {first} too", item.place));
            }
            match draft(&item) {
                Ok(draft) => {
                    for unique in uniques(&item, &draft) {
                        let what = unique.0.clone();
                        if let Some(first) = holders.insert(unique, item.place.clone()) {
                            problems.push(format!("{}: what it has for {what} is taken by {first}", item.place));
                        }
                    }
                    configuration.resources.insert(key, draft);
                }
                Err(mut whys) => problems.append(&mut whys),
            }
        }
        for (key, draft) in &configuration.resources {
            for target in draft.references.iter().filter(|target| !places.contains_key(*target)) {
                problems.push(format!("{}: it refers to {target}, which is not in the file", places[key]));
            }
        }
        if problems.is_empty() { Ok(configuration) } else { Err(problems) }
    }
}

fn draft(item: &Item) -> Result<Draft, Vec<String>> {
    let said = |why: String| why.lines().map(|line| format!("{}: {line}", item.place)).collect::<Vec<_>>();
    // YAML has numbers and texts that no body may have.
    let body = json::parse(item.value.to_string().as_bytes()).map_err(|e| said(e.to_string()))?;
    let admitted = admit(&CATALOG, item.kind, Some(&item.id), body).map_err(|report| said(report.to_string()))?;
    Ok(Draft {
        body: admitted.body,
        has_secrets: admitted.has_secrets,
        references: admitted.references,
        claims: admitted.claims,
    })
}

/// What no other resource may have: the keys of consumers, and plugins among global rules.
fn uniques(item: &Item, draft: &Draft) -> Vec<(Text, String)> {
    let mut all = resource::uniques(&CATALOG, item.kind.name, &item.value);
    all.extend(draft.claims.iter().map(|claim| (claim.space.to_string(), String::new())));
    all.into_iter().map(|(space, value)| (space.as_str().into(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Configuration::read(text, false, |_| None).unwrap_err()
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place_all_of_it() {
        for (text, expected) in [
            ("routes: []\n", vec!["missing valid end flag"]),
            ("routes: [\n#END", vec!["line 1 column 9"]),
            (
                "ruotes: []\nroutes:\n- {uri: 5}\n#END",
                vec!["$.ruotes: \"ruotes\" is no kind", "$.routes[0]: $.uri", "$.routes[0]: $: one of upstream"],
            ),
            ("routes:\n- {id: a, uri: /a, upstream_id: u}\n#END", vec!["$.routes[0]: it refers to upstreams/u"]),
            (
                "upstreams:\n- {id: u, nodes: {}}\n- {id: u, nodes: {}}\n#END",
                vec!["$.upstreams[1]: upstreams/u stands at $.upstreams[0] too"],
            ),
            (
                "consumers:\n- {username: a, plugins: {key-auth: {key: k}}}\n- {username: b, plugins: {key-auth: {key: k}}}\n#END",
                vec!["$.consumers[1]: what it has for key-auth is taken by $.consumers[0]"],
            ),
            (
                "global_rules:\n- {id: 1, plugins: {cors: {}}}\n- {id: 2, plugins: {cors: {}}}\n#END",
                vec!["$.global_rules[1]: what it has for global_rules/cors is taken by"],
            ),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{text}: {found}");
            }
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_configuration() {
        assert!(Configuration::read("#END\n", false, |_| None).unwrap().resources.is_empty());
        assert!(Configuration::read("{}", true, |_| None).unwrap().resources.is_empty());
    }

    fn told(bytes: &[u8], is_json: bool) {
        if let Err(problems) = Configuration::read(&String::from_utf8_lossy(bytes), is_json, |_| None) {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.is_empty()));
        }
    }

    #[test]
    fn fuzz_a_file_is_taken_or_its_problems_are_told() {
        let seeds: [&[u8]; 4] = [
            b"routes:\n  - id: 1\n    uri: /a/*\n    vars: [[arg_x, \"==\", \"1\"], [\"!AND\", [http_y, \"~~\", \"^a\"]]]\n    upstream: {nodes: {\"a:1\": 1}}\n#END\n",
            b"upstreams:\n- &u {id: u, type: chash, key: uri, nodes: [{host: a, port: 1, weight: 1}]}\n- {<<: *u, id: v}\n#END",
            b"consumers:\n- username: jack\n  plugins: {key-auth: {key: \"${{K:=k}}\"}}\n- id: jack/credentials/1\n  plugins: {}\n#END",
            b"global_rules: [{id: 1, plugins: {ip-restriction: {whitelist: [10.0.0.0/8]}}}]\nssls:\n#END",
        ];
        fuzz::hammer(20, &seeds, |bytes| {
            told(bytes, false);
        });
        let json: [&[u8]; 2] = [
            br#"{"routes": [{"id": "r", "uri": "/a", "hosts": ["*.a.com"], "upstream": {"nodes": {"a:1": 1}, "retries": 2}}]}"#,
            br#"{"services": [{"id": 1, "plugins": {"limit-count": {"count": 1, "time_window": 1}}}], "plugin_configs": []}"#,
        ];
        fuzz::hammer(20, &json, |bytes| {
            told(bytes, true);
        });
    }
}
