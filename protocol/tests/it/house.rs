//! The house has floors: a crate may use only what lies below it, and what talks to the outside world stands in few
//! places. `docs/ARCHITECTURE.md` says why; this test reads the manifests and says no.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Floor, package, folder, and the outside crates that no other package may name.
#[rustfmt::skip]
const HOUSE: &[(u8, &str, &str, &[&str])] = &[
    (1, "protocol",   "protocol",         &["zstd", "crc32c"]),
    (1, "fuzz",       "dp-proxy/fuzz",    &[]),
    (2, "daemon",     "protocol/daemon",  &["tracing-subscriber", "fail"]),
    (2, "mtls",       "protocol/mtls",    &[]),
    (2, "plugins",    "dp-proxy/plugins", &[]),
    (3, "archive",    "protocol/archive", &["aws-config", "aws-sdk-s3", "aws-smithy-http-client"]),
    (3, "raft-store", "raft-store",       &["sled"]),
    (4, "cp-node",    "cp-node",          &["tokio-postgres", "tokio-postgres-rustls"]),
    (4, "hfctl",      "cp-node/cli",      &[]),
    (4, "dp-proxy",   "dp-proxy",         &[]),
    (5, "chaos",      "chaos",            &[]),
    (5, "failing",    "chaos/failing",    &[]),
    (5, "power-cut",  "chaos/power-cut",  &[]),
    (5, "sim",        "chaos/sim",        &["turmoil", "mad-turmoil"]),
    (5, "benches",    "benches",          &[]),
];

/// With which of a package's features its reach is looked at.
#[derive(Clone, Copy, Debug)]
enum With {
    /// None, not even those that are on by default: what whoever wants the package lean gets.
    None,
    /// Every one that it has.
    All,
}

/// What a package may not even reach through others, by the features that it and they ask for.
#[rustfmt::skip]
const NEVER: &[(&str, With, &[&str])] = &[
    ("protocol",   With::All,  &["tokio", "openraft", "sled", "hyper", "axum", "rand"]),
    ("protocol",   With::None, &["prost", "tonic", "tonic-prost", "protox", "aws-lc-rs"]),
    ("daemon",     With::None, &["fail"]),
    ("archive",    With::None, &["aws-config", "aws-sdk-s3", "aws-smithy-http-client"]),
    ("plugins",    With::All,  &["tokio", "hyper", "rand", "tracing"]),
    ("raft-store", With::All,  &["hyper", "axum", "tonic", "prost", "tokio-postgres", "aws-sdk-s3"]),
    ("dp-proxy",   With::All,  &["openraft", "sled", "tokio-postgres"]),
    ("dp-proxy",   With::None, &["aws-config", "aws-sdk-s3", "aws-smithy-http-client", "fail"]),
    ("cp-node",    With::None, &["fail"]),
    ("hfctl",      With::All,  &["openraft", "sled", "tonic"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is one up").to_path_buf()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// How a manifest names a dependency.
#[derive(Clone, Default)]
struct Use {
    optional: bool,
    /// What is asked of it, here or for the whole workspace; `default` unless that is taken off.
    features: Vec<String>,
}

/// What stands under `[dependencies]` and `[build-dependencies]`, those of targets included; tests may use what they
/// like.
fn dependencies(folder: &str) -> BTreeMap<String, Use> {
    let (manifest, workspace) = (manifest(folder), manifest(""));
    let mut uses = BTreeMap::new();
    let features = |spec: &toml::Value| {
        let asked = spec.get("features").and_then(|f| f.as_array()).into_iter().flatten();
        asked.filter_map(|feature| Some(feature.as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let lean = |spec: &toml::Value| spec.get("default-features").and_then(|d| d.as_bool()) == Some(false);
    let mut take = |table: &toml::Table| {
        for section in ["dependencies", "build-dependencies"] {
            for (name, spec) in table.get(section).and_then(|s| s.as_table()).into_iter().flatten() {
                let shared = workspace["workspace"].get("dependencies").and_then(|d| d.get(name));
                let optional = spec.get("optional").and_then(|o| o.as_bool()) == Some(true);
                let mut asked = features(spec);
                asked.extend(shared.map(features).unwrap_or_default());
                if !lean(spec) && !shared.is_some_and(lean) {
                    asked.push("default".to_owned());
                }
                uses.insert(name.clone(), Use { optional, features: asked });
            }
        }
    };
    take(&manifest);
    for target in manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values()) {
        take(target.as_table().expect("a target is a table"));
    }
    uses
}

#[test]
fn every_member_has_its_floor() {
    let members: BTreeSet<String> = manifest("")["workspace"]["members"]
        .as_array()
        .expect("members is a list")
        .iter()
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .collect();
    let housed: BTreeSet<String> = HOUSE.iter().map(|(_, _, folder, _)| (*folder).to_owned()).collect();
    assert_eq!(members, housed);
    for (_, package, folder, _) in HOUSE {
        assert_eq!(manifest(folder)["package"]["name"].as_str(), Some(*package));
    }
}

#[test]
fn nobody_looks_up_or_sideways() {
    for (floor, package, folder, _) in HOUSE {
        for name in dependencies(folder).into_keys() {
            let Some((other, ..)) = HOUSE.iter().find(|(_, other, ..)| *other == name) else { continue };
            // Programs never import each other; chaos and benches see everything below.
            assert!(other < floor, "{package} (floor {floor}) uses {name} (floor {other})");
        }
    }
}

#[test]
fn what_touches_the_world_stands_in_one_package() {
    for (_, owner, _, owned) in HOUSE {
        for (_, package, folder, _) in HOUSE.iter().filter(|(_, package, ..)| package != owner) {
            let taken: Vec<_> =
                dependencies(folder).into_keys().filter(|name| owned.contains(&name.as_str())).collect();
            assert!(taken.is_empty(), "{package} names {taken:?}, which belong to {owner}");
        }
    }
}

#[test]
fn some_things_are_out_of_reach() {
    for (package, with, banned) in NEVER {
        let reach = reach(package, *with);
        let found: Vec<_> = banned.iter().filter(|name| reach.contains(**name)).collect();
        assert!(found.is_empty(), "{package} with features {with:?} reaches {found:?}");
    }
}

#[test]
fn what_is_optional_is_reached_by_who_asks_for_it() {
    // Else the test above holds for want of looking.
    for (package, with, wanted) in [
        ("archive", With::All, "aws-sdk-s3"),
        ("dp-proxy", With::All, "aws-sdk-s3"),
        ("dp-proxy", With::None, "prost"),
        ("cp-node", With::None, "aws-sdk-s3"),
        ("raft-store", With::All, "fail"),
    ] {
        assert!(reach(package, with).contains(wanted), "{package} with features {with:?} reaches no {wanted}");
    }
}

/// What is compiled for a package: our own packages that it uses, with the features that are asked of them, and what
/// these name.
fn reach(package: &str, with: With) -> BTreeSet<String> {
    let features = |folder: &str| manifest(folder).get("features").and_then(|f| f.as_table()).cloned();
    let folder_of =
        |name: &str| HOUSE.iter().find(|(_, package, ..)| *package == name).map(|(_, _, folder, _)| *folder);
    let folder = folder_of(package).expect("a package of the house");
    let asked = match with {
        With::None => Vec::new(),
        With::All => features(folder).into_iter().flat_map(|table| table.into_iter().map(|(name, _)| name)).collect(),
    };
    let mut reach = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(package.to_owned(), None)];
    open.extend(asked.into_iter().map(|feature| (package.to_owned(), Some(feature))));
    while let Some((name, feature)) = open.pop() {
        reach.insert(name.clone());
        let Some(folder) = folder_of(&name).filter(|_| seen.insert((name.clone(), feature.clone()))) else { continue };
        let uses = |wanted: &str| dependencies(folder).remove(wanted).unwrap_or_default();
        let ask = |wanted: &str| {
            let Use { features, .. } = uses(wanted);
            features.into_iter().map(Some).chain([None]).map(|feature| (wanted.to_owned(), feature)).collect::<Vec<_>>()
        };
        let Some(feature) = feature else {
            open.extend(dependencies(folder).iter().filter(|(_, u)| !u.optional).flat_map(|(name, _)| ask(name)));
            continue;
        };
        let table = features(folder).unwrap_or_default();
        let turned_on = table.get(&feature).and_then(|list| list.as_array()).into_iter().flatten();
        for what in turned_on.map(|what| what.as_str().expect("a feature is a name")) {
            match what.split_once('/') {
                None => match what.strip_prefix("dep:") {
                    Some(dependency) => open.extend(ask(dependency)),
                    None => open.push((name.clone(), Some(what.to_owned()))),
                },
                // `a?/f` turns on a feature of what something else brings.
                Some((dependency, feature)) => {
                    let weak = dependency.strip_suffix('?');
                    let dependency = weak.unwrap_or(dependency);
                    open.push((dependency.to_owned(), Some(feature.to_owned())));
                    if weak.is_none() {
                        open.extend(ask(dependency));
                    }
                }
            }
        }
    }
    reach
}

#[test]
fn versions_stand_in_one_place() {
    for (_, package, folder, _) in HOUSE {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let manifest = manifest(folder);
            for (name, spec) in manifest.get(section).and_then(|s| s.as_table()).into_iter().flatten() {
                // A crate that turns on its own features for its tests names itself.
                if name == package {
                    continue;
                }
                let from_workspace = spec.get("workspace").and_then(|w| w.as_bool()) == Some(true);
                assert!(from_workspace, "{package}: {name} must come from [workspace.dependencies]");
            }
        }
        let lints = manifest(folder).get("lints").and_then(|l| l.get("workspace")).and_then(|w| w.as_bool());
        // The power-cut layer interposes on libc: it alone needs `unsafe`, and says so in its own lints.
        assert!(lints == Some(true) || *package == "power-cut", "{package} does not take the workspace's lints");
    }
}
