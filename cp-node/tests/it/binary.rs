//! The command line: what a mistyped setting is answered, and how the process ends.

use std::path::Path;
use std::process::{Command, Output};

fn cp_node(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cp-node"));
    command.args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

fn error(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("cp.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn mistyped_settings_name_their_place_and_exit_78() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "raft:\n  heartbeet: 100ms\n");
    let (code, text) = error(&cp_node(&["run", "-c", &config], &[]));
    assert_eq!(code, 78);
    assert!(text.contains("cp.yaml") && text.contains("heartbeet") && text.contains('2'), "{text}");
    let (code, text) = error(&cp_node(&["run"], &[("HOLDFAST_RAFT__HEARTBEAT", "soon")]));
    assert_eq!(code, 78);
    assert!(text.contains("HOLDFAST_RAFT__HEARTBEAT") && text.contains("100ms"), "{text}");
    let (code, text) = error(&cp_node(&["run", "--set", "admin.listen=nowhere"], &[]));
    assert_eq!(code, 78);
    assert!(text.contains("admin.listen: \"nowhere\" is no <host>:<port>"), "{text}");
    let (code, text) = error(&cp_node(&["run", "--nosuch"], &[]));
    assert_eq!(code, 2);
    assert!(text.contains("--nosuch"), "{text}");
}

#[test]
fn a_node_without_a_key_or_a_cluster_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let (code, text) = error(&cp_node(&["run", "--set", &data], &[]));
    assert_eq!(code, 78);
    assert!(text.contains("the Admin API has no default key"), "{text}");
    let keys = r#"[{name: a, key: 0123456789abcdef, role: admin}]"#;
    let (code, text) = error(&cp_node(&["run", "--set", &data], &[("HOLDFAST_ADMIN__KEYS", keys)]));
    assert_eq!(code, 78);
    assert!(text.contains("belongs to no node yet") && text.contains("cp-node init"), "{text}");
}

#[test]
fn settings_are_validated_and_printed_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "admin:\n  keys: [{name: a, key: 0123456789abcdef, role: admin}]\n");
    let output = cp_node(&["config", "validate", "-c", &config], &[]);
    assert!(output.status.success());
    let output = cp_node(&["config", "print", "-c", &config], &[("HOLDFAST_NODE__NAME", "cp-x")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cp-x") && text.contains("***") && text.contains("heartbeat: 100ms"), "{text}");
    assert!(!text.contains("0123456789abcdef"), "{text}");
    // What is printed is a file that says the same.
    let printed = file(dir.path(), &text.replace("***", "0123456789abcdef"));
    assert!(cp_node(&["config", "validate", "-c", &printed], &[]).status.success());
}

#[test]
fn joining_nobody_says_who_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let args = ["join", "--peer", "127.0.0.1:1", "--set", &data, "--set", "peer.listen=127.0.0.1:2"];
    let (code, text) = error(&cp_node(&args, &[]));
    assert_eq!(code, 1);
    assert!(text.contains("127.0.0.1:1: ") && text.contains("no node of the cluster could be joined"), "{text}");
}
