//! The house has floors: a crate may use only what lies below it, and what talks to the outside world stands in few
//! places. `docs/ARCHITECTURE.md` says why; this test reads the manifests and says no.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Floor, package, folder, and the outside crates that no other package may name.
#[rustfmt::skip]
const HOUSE: &[(u8, &str, &str, &[&str])] = &[
    (1, "protocol",   "protocol",         &["zstd", "crc32c"]),
    (2, "daemon",     "protocol/daemon",  &["tracing-subscriber", "fail"]),
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

/// What a package may not even reach through others.
const NEVER: &[(&str, &[&str])] = &[
    ("protocol", &["tokio", "openraft", "sled", "hyper", "axum", "rand"]),
    ("raft-store", &["hyper", "axum", "tonic", "prost", "tokio-postgres", "aws-sdk-s3"]),
    ("dp-proxy", &["openraft", "sled", "tokio-postgres", "aws-sdk-s3"]),
    ("hfctl", &["openraft", "sled", "tonic"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is one up").to_path_buf()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names under `[dependencies]` and `[build-dependencies]`, those of targets included, each with whether it is
/// optional; tests may use what they like.
fn dependencies(folder: &str) -> BTreeMap<String, bool> {
    let manifest = manifest(folder);
    let mut names = BTreeMap::new();
    let mut take = |table: &toml::Table| {
        for section in ["dependencies", "build-dependencies"] {
            for (name, spec) in table.get(section).and_then(|s| s.as_table()).into_iter().flatten() {
                let optional = spec.get("optional").and_then(|o| o.as_bool()) == Some(true);
                names.insert(name.clone(), optional);
            }
        }
    };
    take(&manifest);
    for target in manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values()) {
        take(target.as_table().expect("a target is a table"));
    }
    names
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
    // What is optional (the gRPC services of `protocol`) is reached only by who asks for it by name.
    let compiled = |folder| dependencies(folder).into_iter().filter(|(_, optional)| !optional).map(|(name, _)| name);
    let direct: BTreeMap<&str, BTreeSet<String>> =
        HOUSE.iter().map(|(_, package, folder, _)| (*package, compiled(folder).collect())).collect();
    for (package, banned) in NEVER {
        let mut reach = BTreeSet::new();
        let mut open = vec![(*package).to_owned()];
        while let Some(name) = open.pop() {
            if !reach.insert(name.clone()) {
                continue;
            }
            open.extend(direct.get(name.as_str()).into_iter().flatten().cloned());
        }
        let found: Vec<_> = banned.iter().filter(|name| reach.contains(**name)).collect();
        assert!(found.is_empty(), "{package} reaches {found:?}");
    }
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
