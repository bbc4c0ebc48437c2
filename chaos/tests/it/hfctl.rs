//! The command line against a real cluster: what it says, what it does, and how it exits.

use std::path::{Path, PathBuf};

use chaos::binaries;
use chaos::cluster::{Cluster, KEY, READY_MAX};
use chaos::layout::Layout;
use chaos::patience::until;

use super::admin_load::anyhow_ensure;

/// What a command came to.
pub(super) struct Done {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

pub(super) struct Hfctl {
    pub(super) servers: Vec<String>,
    pub(super) dir: PathBuf,
}

impl Hfctl {
    pub(super) async fn run(&self, args: &[&str]) -> Done {
        let output = tokio::process::Command::new(binaries::find("hfctl").unwrap())
            .args(args)
            .current_dir(&self.dir)
            .env("HOLDFAST_ADMIN_KEY", KEY)
            .env("HOLDFAST_SERVER", self.servers.join(","))
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs it with nothing in its environment.
    async fn plain(&self, args: &[&str]) -> Done {
        let output = tokio::process::Command::new(binaries::find("hfctl").unwrap())
            .args(args)
            .current_dir(&self.dir)
            .env_remove("HOLDFAST_ADMIN_KEY")
            .env_remove("HOLDFAST_SERVER")
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs what must succeed; gives what it printed.
    pub(super) async fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args).await;
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        done.out
    }
}

pub(super) fn hfctl(cluster: &Cluster, dir: &Path) -> Hfctl {
    let servers = cluster.cps.iter().map(|cp| format!("http://{}", cp.addresses.admin)).collect();
    Hfctl { servers, dir: dir.to_owned() }
}

const FILE: &str = "
upstreams:
  - {id: u1, nodes: {'127.0.0.1:1': 1}}
routes:
  - {id: r1, uri: /a, upstream_id: u1}
  - {id: r2, uri: /b, upstream_id: u1, desc: \"two\"}
";

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_writes_and_shows_a_cluster() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &[]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let hfctl = hfctl(&cluster, dir.path());
    std::fs::write(dir.path().join("all.yaml"), FILE).unwrap();

    let out = hfctl.ok(&["apply", "-f", "all.yaml", "--dry-run"]).await;
    assert!(out.contains("routes/r1     created") && out.contains("3 to change; this was a dry run"), "{out}");
    assert!(cluster.cp(1).api().get("routes", "r1").await.unwrap().is_none(), "a dry run changes nothing");
    let out = hfctl.ok(&["apply", "-f", "all.yaml"]).await;
    assert!(out.contains("3 changed at 1-1"), "{out}");
    let out = hfctl.ok(&["apply", "-f", "all.yaml"]).await;
    assert!(out.contains("upstreams/u1  unchanged") && out.contains("nothing to change"), "{out}");

    assert_eq!(hfctl.ok(&["list", "route"]).await.lines().next(), Some("ID  NAME  HOSTS  URIS  USES"));
    let json: serde_json::Value = serde_json::from_str(&hfctl.ok(&["get", "route", "r2", "-o", "json"]).await).unwrap();
    assert_eq!((&json["id"], &json["desc"]), (&"r2".into(), &"two".into()));
    std::fs::write(dir.path().join("r3.json"), "{\"uri\": \"/c\", \"upstream_id\": \"u1\"}").unwrap();
    assert_eq!(hfctl.ok(&["put", "routes", "r3", "-f", "r3.json"]).await, "routes/r3 created at 1-2\n");
    assert_eq!(
        hfctl.ok(&["put", "routes", "r3", "-f", "r3.json", "--if-match", "2"]).await,
        "routes/r3 replaced at 1-3\n"
    );
    assert_eq!(hfctl.ok(&["delete", "routes", "r3"]).await, "routes/r3 deleted at 1-4\n");

    cluster.agree(READY_MAX).await.unwrap();
    let members = hfctl.ok(&["members"]).await;
    assert_eq!(members.lines().count(), 4, "{members}");
    assert!(members.contains("leader") && members.contains("follower"), "{members}");
    until("the proxy is shown", READY_MAX, async || {
        // Whichever node it follows: the one that answers has asked the others.
        let fleet = hfctl.ok(&["fleet"]).await;
        let shown = fleet.lines().last().is_some_and(|row| row.starts_with("dp-1 ") && row.contains(" 1-4 "));
        anyhow_ensure(shown, &fleet)
    })
    .await
    .unwrap();

    // A dead node is passed over, and without a quorum it says so.
    cluster.cp(1).kill().await.unwrap();
    hfctl.ok(&["put", "routes", "r4", "-f", "r3.json"]).await;
    // The one that is left does not lead: it knows that nothing was proposed.
    let leader = cluster.leader().await.unwrap();
    cluster.cp(leader).kill().await.unwrap();
    let done = hfctl.run(&["put", "routes", "r5", "-f", "r3.json", "--timeout", "3s"]).await;
    assert!(done.code == 4 && done.err.contains("503"), "{}: {}", done.code, done.err);
    assert!(hfctl.ok(&["dump", "--stale"]).await.contains("id: r4"), "what it has can be saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_on_a_cluster_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display().to_string();
    for (name, text) in [
        ("seed", "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
        ("keyring", "k1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
        ("all.yaml", FILE),
        ("jack.yaml", "consumers:\n  - {username: jack, plugins: {key-auth: {key: jacks-key-1}}}\n"),
        (
            "changed.yaml",
            "routes:\n  - {id: r1, uri: /changed, upstream_id: u1}\n  - {id: r9, uri: /new, upstream_id: u1}\n",
        ),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let settings = [
        format!("archive.directory={place}/archive"),
        format!("archive.signing_key_file={place}/seed"),
        format!("secrets.keyring_file={place}/keyring"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = Cluster::start(Layout::Test { cluster: 0 }, 1, 0, &settings).await.unwrap();
    let hfctl = hfctl(&cluster, dir.path());
    hfctl.ok(&["apply", "-f", "all.yaml"]).await;
    hfctl.ok(&["apply", "-f", "jack.yaml"]).await;
    hfctl.ok(&["backup", "good.snap"]).await;
    let before = hfctl.ok(&["dump"]).await;
    assert_eq!(hfctl.ok(&["restore", "good.snap"]).await, "nothing to change\n");

    hfctl.ok(&["user", "set", "later", "--role", "viewer"]).await;
    hfctl.ok(&["apply", "-f", "changed.yaml"]).await;
    hfctl.ok(&["delete", "routes", "r2"]).await;
    hfctl.ok(&["delete", "consumers", "jack"]).await;
    let out = hfctl.ok(&["restore", "good.snap", "--dry-run"]).await;
    for line in [
        "consumers/jack  created",
        "routes/r1       replaced\n    $.uri: \"/changed\" -> \"/a\"",
        "routes/r2       created",
        "routes/r9       deleted",
        "4 to change; this was a dry run",
    ] {
        assert!(out.contains(line), "{line} is missing in\n{out}");
    }
    assert_ne!(hfctl.ok(&["dump"]).await, before, "a dry run changes nothing");
    let out = hfctl.ok(&["restore", "good.snap"]).await;
    assert!(out.contains("everything is as it was at 1-2"), "{out}");
    assert_eq!(hfctl.ok(&["dump"]).await, before);
    assert!(hfctl.ok(&["get", "consumer", "jack"]).await.contains("jacks-key-1"), "what was sealed opens again");
    assert!(hfctl.ok(&["user"]).await.contains("later"), "users are not the configuration's");

    let mut damaged = std::fs::read(dir.path().join("good.snap")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(dir.path().join("damaged.snap"), damaged).unwrap();
    std::fs::write(dir.path().join("strange.snap"), "routes: []").unwrap();
    for (file, code, words) in [
        ("damaged.snap", 1, "this is no backup that can be restored"),
        ("strange.snap", 1, "this is no backup that can be restored"),
        ("missing.snap", 2, "missing.snap"),
    ] {
        let done = hfctl.run(&["restore", file]).await;
        assert!(done.code == code && done.err.contains(words), "{file}: {}: {}", done.code, done.err);
    }
    assert_eq!(hfctl.ok(&["dump"]).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_its_place_and_its_exit_code() {
    let cluster = Cluster::start(Layout::Test { cluster: 0 }, 1, 0, &[]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let hfctl = hfctl(&cluster, dir.path());
    for (name, text) in [
        ("bad.yaml", "routes:\n  - {id: r1, uri: 5}\n"),
        ("missing.yaml", "routes:\n  - {id: r1, uri: /a, upstream_id: nobody}\n"),
        ("r.json", "{\"uri\": \"/c\", \"upstream\": {\"nodes\": {\"a:1\": 1}}}"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    for (args, code, words) in [
        (&["apply", "-f", "bad.yaml"][..], 2, "bad.yaml: $.routes[0]: $.uri"),
        (&["apply", "-f", "nosuch.yaml"], 2, "nosuch.yaml: No such file"),
        (&["apply", "-f", "missing.yaml"], 1, "failed to fetch upstream info by upstream id [nobody]"),
        (&["get", "routes", "nobody"], 1, "404: Key not found"),
        (&["get", "ruotes", "r1"], 2, "\"ruotes\" is no kind of resource"),
        (&["put", "routes", "r1", "-f", "r.json", "--if-match", "7"], 1, "412"),
        (&["get", "routes", "r1", "--server", "127.0.0.1:9180"], 2, "must be http://<host>:<port>"),
        (&["get", "routes", "r1", "--server", "http://127.0.0.1:9", "--timeout", "1s"], 4, "127.0.0.1:9"),
        (&["members", "remove", "9"], 1, "404"),
    ] {
        let done = hfctl.run(args).await;
        assert!(done.code == code && done.err.contains(words), "{args:?}: {} {}{}", done.code, done.out, done.err);
    }
    std::fs::write(dir.path().join("key"), "not-the-key").unwrap();
    let done = hfctl.run(&["list", "routes", "--key-file", "key"]).await;
    assert!(done.code == 1 && done.err.contains("wrong apikey"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_get_tokens_and_top_shows_the_cluster() {
    let cluster = Cluster::start(Layout::Test { cluster: 0 }, 1, 0, &[]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let hfctl = hfctl(&cluster, dir.path());
    assert!(hfctl.ok(&["user"]).await.starts_with("there are no users"));
    assert_eq!(hfctl.ok(&["user", "set", "ci", "--role", "viewer"]).await, "user ci is created: viewer\n");
    let token = hfctl.ok(&["token", "create", "ci", "--days", "90", "--desc", "the pipeline"]).await;
    assert!(token.starts_with("hft_") && token.lines().count() == 1, "nothing but the token: {token}");
    std::fs::write(dir.path().join("token"), &token).unwrap();
    let as_ci = ["--key-file", "token"];
    assert!(hfctl.ok(&[&["list", "routes"][..], &as_ci].concat()).await.starts_with("ID"));
    let done = hfctl.run(&[&["user", "set", "me", "--role", "admin"][..], &as_ci].concat()).await;
    assert!(done.code == 1 && done.err.contains("invalid method for role viewer"), "{}", done.err);
    let list = hfctl.ok(&["token", "list", "ci"]).await;
    let id = token.split('_').nth(1).unwrap();
    assert!(list.contains(id) && list.contains("the pipeline"), "{list}");
    assert_eq!(hfctl.ok(&["token", "revoke", "ci", id]).await, format!("token {id} of ci is revoked\n"));
    let done = hfctl.run(&[&["list", "routes"][..], &as_ci].concat()).await;
    assert!(done.code == 1 && done.err.contains("wrong apikey"), "{}", done.err);
    assert_eq!(hfctl.ok(&["user", "delete", "ci"]).await, "user ci and its tokens are deleted\n");
    let top = hfctl.ok(&["top"]).await;
    assert!(top.starts_with("revision 4; 0 of 0 proxies serve 1-4\n") && top.contains("cp-1  leader"), "{top}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compared_applied_pruned_dumped_and_waited_for() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 1, 1, &[]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let hfctl = hfctl(&cluster, dir.path());
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.yaml", "upstreams:\n  - {id: u1, nodes: {'127.0.0.1:1': 1}, labels: {owner: shop}}\n");
    write(
        "b.yaml",
        "routes:\n  - {id: r1, uri: /a, upstream_id: u1, labels: {owner: shop}}\n  - {id: r2, uri: /b, upstream_id: u1, labels: {owner: shop}}\n",
    );
    let out = hfctl.ok(&["validate", "-f", "b.yaml"]).await;
    assert!(out.contains("routes/r1 refers to upstreams/u1, which a cluster must have\n"), "{out}");
    assert_eq!(hfctl.run(&["validate", "-f", "b.yaml", "--complete"]).await.code, 2);
    assert_eq!(hfctl.ok(&["validate", "-f", "a.yaml", "-f", "b.yaml", "--complete"]).await, "3 resources, all good\n");

    let out = hfctl.ok(&["apply", "-f", "a.yaml", "-f", "b.yaml", "--wait", "20s"]).await;
    assert!(out.contains("3 changed at 1-1\n1 of 1 proxies serve 1-1\n"), "{out}");
    // Everything as a file, which changes nothing.
    let dump = hfctl.ok(&["dump", "-o", "yaml"]).await;
    write("dump.yaml", &dump);
    let out = hfctl.ok(&["apply", "-f", "dump.yaml"]).await;
    assert!(out.ends_with("nothing to change\n"), "{out}");
    let apisix = hfctl.ok(&["dump", "--apisix", "--kind", "upstream", "--label", "owner=shop"]).await;
    assert!(apisix.starts_with("upstreams:") && apisix.ends_with("#END\n") && !apisix.contains("routes:"), "{apisix}");
    write("apisix.yaml", &apisix);
    assert!(hfctl.ok(&["apply", "--apisix", "-f", "apisix.yaml"]).await.ends_with("nothing to change\n"));

    // What differs is shown with its place; what no file names any more goes, and nothing else.
    hfctl.ok(&["patch", "route", "r2", "-p", "{\"desc\": \"mine\", \"labels\": null}"]).await;
    assert_eq!(hfctl.ok(&["patch", "route", "r1", "-p", "5", "--at", "priority"]).await, "routes/r1 patched at 1-3\n");
    write("c.yaml", "upstreams:\n  - {id: u1, nodes: {'127.0.0.1:2': 1}, labels: {owner: shop}}\n");
    let prune = ["apply", "-f", "c.yaml", "--prune", "owner=shop"];
    let dry: Vec<&str> = prune.iter().copied().chain(["--dry-run"]).collect();
    let out = hfctl.ok(&dry).await;
    for line in ["  + $.nodes[\"127.0.0.1:2\"]: 1\n", "routes/r1     deleted\n", "2 to change; this was a dry run\n"] {
        assert!(out.contains(line), "{line} is missing in\n{out}");
    }
    assert!(!out.contains("routes/r2"), "{out}");
    hfctl.ok(&prune).await;
    assert_eq!(hfctl.run(&["get", "routes", "r1"]).await.code, 1);
    hfctl.ok(&["get", "routes", "r2"]).await;
    write(
        "d.yaml",
        "routes:\n  - {id: r3, uri: /b, upstream_id: u1, priority: 1}\n  - {id: r4, uri: /c, upstream_id: none}\n",
    );
    let done = hfctl.run(&["apply", "-f", "d.yaml", "--dry-run"]).await;
    assert_eq!(done.code, 1, "{}{}", done.out, done.err);
    for line in [
        "broken: /apisix/routes/r4 refers to /apisix/upstreams/none, which would not exist\n",
        "shadowed: /apisix/routes/r2 would get no request any more: /apisix/routes/r3 is asked first\n",
    ] {
        assert!(done.out.contains(line), "{line} is missing in\n{}", done.out);
    }
    assert!(
        done.err.contains("it would be refused: failed to fetch upstream info by upstream id [none]"),
        "{}",
        done.err
    );

    // A proxy that stands still is named, with an exit code of its own.
    cluster.dp(1).process().unwrap().pause().unwrap();
    let done = hfctl.run(&["delete", "route", "r2", "--wait", "500ms"]).await;
    cluster.dp(1).process().unwrap().resume().unwrap();
    assert!(done.code == 5 && done.err.contains("dp-1 (-): lagging"), "{}: {}", done.code, done.err);

    // Contexts stand in for addresses and keys.
    write("key", KEY);
    let address = hfctl.servers[0].clone();
    let context = ["--config", "ctx.yaml"];
    let with = |args: &[&'static str]| -> Vec<&'static str> { args.iter().copied().chain(context).collect() };
    let set = ["context", "set", "here", "--at", &address, "--key", "key", "--config", "ctx.yaml"];
    assert_eq!(hfctl.ok(&set).await, "the current context is here\n");
    let nowhere = Hfctl { servers: Vec::new(), dir: dir.path().to_owned() };
    let out = nowhere.plain(&with(&["list", "upstreams"])).await;
    assert!(out.code == 0 && out.out.contains("u1"), "{}", out.err);
    let out = nowhere.plain(&with(&["list", "upstreams", "--context", "there"])).await;
    assert!(out.code == 2 && out.err.contains("\"there\" is no context; there are: here"), "{}", out.err);
    assert!(hfctl.ok(&["completion", "bash"]).await.contains("hfctl"));
}
