//! Every verb of the command line in every format, and the exit codes that are hard to come by.

use std::path::Path;
use std::process::Stdio;

use chaos::binaries;
use chaos::cluster::{Cluster, KEY};
use chaos::layout::Layout;
use daemon::document;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::hfctl::{Hfctl, hfctl};

const KEYRING: &str = "k1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A cluster that seals secrets and can be backed up.
async fn start(dir: &Path, cps: u16) -> Cluster {
    std::fs::write(dir.join("keyring"), KEYRING).unwrap();
    std::fs::write(dir.join("seed"), "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
    let settings = [
        format!("archive.directory={}/archive", dir.display()),
        format!("archive.signing_key_file={}/seed", dir.display()),
        format!("secrets.keyring_file={}/keyring", dir.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Cluster::start(Layout::Test { cluster: 0 }, cps, 0, &settings).await.unwrap()
}

/// Commands in the order in which they are run; what people are shown of each has these words in it.
const VERBS: &[(&str, &str)] = &[
    ("apply -f files/", "changed at 1-"),
    ("apply -f files/", "nothing to change"),
    ("get route r1", "uri: /a"),
    ("list routes", "ID  NAME  HOSTS  URIS  USES"),
    ("put route r2 -f r2.json", "routes/r2 created at 1-"),
    ("patch route r2 -p {\"desc\":\"x\"}", "routes/r2 patched at 1-"),
    ("history", "REVISION"),
    ("history route r2 --author admin --limit 5", "update"),
    ("delete route r2", "routes/r2 deleted at 1-"),
    ("diff 0", "+ upstreams/u1"),
    ("diff -f files/", "nothing differs"),
    ("dump", "upstreams:"),
    ("validate -f files/", "2 resources, all good"),
    ("status", "role"),
    ("members", "ROLE"),
    ("members demote 2", "node 2 is a learner"),
    ("members promote 2", "node 2 votes"),
    ("fleet", "no proxy is known"),
    ("top", "revision "),
    ("user set ci --role viewer", "user ci is created: viewer"),
    ("user", "ci"),
    ("token create ci", "hft_"),
    ("token list ci", "USER"),
    ("user delete ci", "user ci and its tokens are deleted"),
    ("record", "lag_changes"),
    ("record status", "lag_changes"),
    ("record off", "the cluster has no record any more"),
    ("backup all.snap --stale", "everything at 1-"),
    ("snapshot inspect all.snap", "resources"),
    ("restore all.snap --dry-run", "nothing to change"),
    ("context set here --at http://127.0.0.1:1 --config contexts.yaml", "the current context is here"),
    ("context set there --at http://127.0.0.1:2 --config contexts.yaml", "the current context is here"),
    ("context use there --config contexts.yaml", "the current context is there"),
    ("context list --config contexts.yaml", "SERVERS"),
    ("context remove there --config contexts.yaml", "there is no current context"),
    ("delete route r1", "routes/r1 deleted at 1-"),
    ("delete upstream u1", "upstreams/u1 deleted at 1-"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_answers_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), 2).await;
    let hfctl = hfctl(&cluster, dir.path());
    std::fs::create_dir(dir.path().join("files")).unwrap();
    for (name, text) in [
        ("files/a.yaml", "upstreams:\n  - {id: u1, nodes: {'127.0.0.1:1': 1}}\n"),
        ("files/b.json", "{\"routes\": [{\"id\": \"r1\", \"uri\": \"/a\", \"upstream_id\": \"u1\"}]}"),
        ("files/ignored.txt", "no resources"),
        ("r2.json", "{\"uri\": \"/b\", \"upstream_id\": \"u1\"}"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    for format in ["table", "json", "yaml"] {
        for (command, words) in VERBS {
            let args: Vec<&str> = command.split(' ').chain(["-o", format]).collect();
            let done = hfctl.run(&args).await;
            // What has changed since the beginning is what differs.
            let expected = i32::from(*command == "diff 0");
            assert_eq!(done.code, expected, "{args:?}: {}{}", done.out, done.err);
            match format {
                "table" => assert!(done.out.contains(words), "{command}: {words} is missing in\n{}", done.out),
                "json" => drop(serde_json::from_str::<Value>(&done.out).unwrap_or_else(|e| panic!("{command}: {e}"))),
                _ => {
                    let value = document::yaml(&done.out).unwrap_or_else(|e| panic!("{command}: {e}"));
                    assert!(value.is_object() || value.is_array(), "{command}: {}", done.out);
                }
            }
        }
        std::fs::remove_file(dir.path().join("all.snap")).unwrap();
        std::fs::remove_file(dir.path().join("contexts.yaml")).unwrap();
    }
    let done = hfctl.run(&["record", "release"]).await;
    assert!(done.code == 1 && done.err.contains("the record: the cluster has none"), "{}: {}", done.code, done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_differ_and_are_not_shown_and_changes_are_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), 1).await;
    let hfctl = hfctl(&cluster, dir.path());
    let ssl = || {
        let pair = rcgen::generate_simple_self_signed(["a.com".to_owned()]).unwrap();
        let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let one = serde_json::json!({"id": "s1", "cert": cert, "key": key, "sni": "a.com"});
        serde_json::json!({ "ssls": [one] }).to_string()
    };
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("ssl.json", &ssl());
    write("other.json", &ssl());
    let done = hfctl.run(&["diff", "-f", "ssl.json"]).await;
    assert!(done.code == 1 && done.out.starts_with("+ ssls/s1\n"), "{}: {}", done.code, done.out);
    assert!(!done.out.contains("PRIVATE"), "{}", done.out);
    hfctl.ok(&["apply", "-f", "ssl.json"]).await;
    assert_eq!(hfctl.ok(&["diff", "-f", "ssl.json"]).await, "nothing differs\n");
    for format in ["table", "json", "yaml"] {
        let done = hfctl.run(&["diff", "-f", "other.json", "-o", format]).await;
        assert!(done.code == 1 && !done.out.contains("PRIVATE"), "{}: {}", done.code, done.out);
    }

    // That only a secret was changed is a difference too.
    let jack = |key: &str| {
        let text = format!("consumers:\n  - {{username: jack, plugins: {{key-auth: {{key: {key}}}}}}}\n");
        write("jack.yaml", &text);
    };
    for key in ["jacks-key-1", "jacks-key-2"] {
        jack(key);
        hfctl.ok(&["apply", "-f", "jack.yaml"]).await;
    }
    let done = hfctl.run(&["diff", "2", "3"]).await;
    assert_eq!((done.code, done.out.as_str()), (1, "~ consumers/jack\n    $: a secret\n"));
    let done = hfctl.run(&["diff", "2", "3", "-o", "json"]).await;
    assert!(done.out.contains("\"secrets_differ\": true") && !done.out.contains("jacks-key"), "{}", done.out);
    assert_eq!(hfctl.ok(&["revert", "3"]).await, "revision 4 takes back revision 3\n");
    assert!(hfctl.ok(&["get", "consumer", "jack"]).await.contains("jacks-key-1"));
    let done = hfctl.run(&["revert", "2"]).await;
    assert!(done.code == 1 && done.err.contains("412"), "{}: {}", done.code, done.err);
    let out = hfctl.ok(&["revert", "2", "--force", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["reverted"], 2, "{out}");
    assert_eq!(hfctl.run(&["get", "consumer", "jack"]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_can_be_repeated_and_what_is_asked_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), 1).await;
    let hfctl = hfctl(&cluster, dir.path());
    std::fs::write(dir.path().join("u.json"), "{\"nodes\": {}}").unwrap();
    std::fs::write(dir.path().join("u.yaml"), "upstreams:\n  - {id: u1, nodes: {'a:1': 1}}\n").unwrap();

    // It accepts and never answers: a read has failed, of a write nothing is known.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let put = ["put", "upstream", "u1", "-f", "u.json"];
    let done = hfctl.run(&[&put[..], &["--server", &address, "--timeout", "1s"]].concat()).await;
    assert!(done.code == 3 && done.err.contains("--request-id"), "{}: {}", done.code, done.err);
    let request = done.err.split("--request-id ").nth(1).unwrap().trim();
    let done = hfctl.run(&["list", "upstreams", "--server", &address, "--timeout", "1s"]).await;
    assert!(done.code == 4 && done.err.contains("no answer within"), "{}: {}", done.code, done.err);
    // Under its id it is made once, however often it is sent.
    for _ in 0..2 {
        let out = hfctl.ok(&[&put[..], &["--request-id", request]].concat()).await;
        assert_eq!(out, "upstreams/u1 created at 1-1\n");
    }

    let apply = ["apply", "-f", "u.yaml"];
    let (code, text) = at_a_terminal(&hfctl, &apply, "n\n").await;
    assert!(code == 1 && text.contains("change 1? [y/N]") && text.contains("nothing was changed"), "{code}: {text}");
    let (code, text) = at_a_terminal(&hfctl, &apply, "y\n").await;
    assert!(code == 0 && text.contains("1 changed at 1-2"), "{code}: {text}");
    let (code, text) = at_a_terminal(&hfctl, &["apply", "--yes", "-f", "u.yaml"], "").await;
    assert!(code == 0 && text.contains("nothing to change") && !text.contains("[y/N]"), "{code}: {text}");
}

/// Runs a command as somebody at a terminal would, who types an answer.
async fn at_a_terminal(hfctl: &Hfctl, args: &[&str], answer: &str) -> (i32, String) {
    let command = format!("{} {}", binaries::find("hfctl").unwrap().display(), args.join(" "));
    let mut terminal = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(&hfctl.dir)
        .env("HOLDFAST_ADMIN_KEY", KEY)
        .env("HOLDFAST_SERVER", hfctl.servers.join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut typing = terminal.stdin.take().unwrap();
    typing.write_all(answer.as_bytes()).await.unwrap();
    let output = terminal.wait_with_output().await.unwrap();
    drop(typing);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}
