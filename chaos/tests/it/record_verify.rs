//! The record held against the state, and what `hfctl` tells of the past.

use chaos::binaries;
use chaos::cluster::{Api, Cluster, KEY};
use chaos::postgres::Postgres;
use serde_json::{Value, json};

use super::record::{audit, cluster_with, layout, route};

/// What `hfctl` says and its exit code.
async fn hfctl(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let admin = format!("http://{}", cluster.cps[0].addresses.admin);
    let program = binaries::find("hfctl").unwrap();
    let ran = tokio::process::Command::new(program)
        .args(args)
        .env("HOLDFAST_SERVER", admin)
        .env("HOLDFAST_ADMIN_KEY", KEY)
        .output()
        .await
        .unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hand_has_changed_is_found_named_and_set_right() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[]).await;
    let mut api = cluster.cp(1).api();
    let operations: Vec<Value> = (0..1200)
        .map(|n| json!({"op": "put", "kind": "routes", "id": format!("t{n:04}"), "value": route("many")}))
        .collect();
    let many = json!({ "operations": operations }).to_string();
    api.call("POST", "/v1/transactions", &[], many).await.unwrap().expect(&[200]).unwrap();
    for n in 0..20 {
        api.put("routes", "r1", &route(&format!("v{n}"))).await.unwrap();
    }
    api.call("DELETE", "/apisix/admin/routes/t0007", &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    audit(&cluster, &postgres).await;
    let (code, text) = hfctl(&cluster, &["record", "verify"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1200 rows, 0 differ, 0 are missing, 0 are too many"), "{text}");
    assert!(text.contains("history after 0 up to 22: 0 problems"), "{text}");
    // A body, a body that is no JSON, a row's metadata, a row that goes, one that comes.
    for sql in [
        "UPDATE holdfast.current SET body = replace(body, 'many', 'few') WHERE id = 't0100'",
        "UPDATE holdfast.current SET body = 'spoiled' WHERE id = 't0101'",
        "UPDATE holdfast.current SET meta = decode('00', 'hex') WHERE id = 't0102'",
        "DELETE FROM holdfast.current WHERE id IN ('t0000', 't1199')",
        "INSERT INTO holdfast.current SELECT kind, 'zz', revision, body, meta FROM holdfast.current WHERE id = 'r1'",
        "INSERT INTO holdfast.current SELECT kind, 'a', revision, body, meta FROM holdfast.current WHERE id = 'r1'",
    ] {
        postgres.sql(sql).await.unwrap();
    }
    let expected = [
        ("a", "extra"),
        ("t0000", "missing"),
        ("t0100", "differs"),
        ("t0101", "differs"),
        ("t0102", "differs"),
        ("t1199", "missing"),
        ("zz", "extra"),
    ];
    let found = async |api: &mut Api| -> Value {
        let found = api.call("GET", "/v1/record/verify", &[], String::new()).await.unwrap();
        found.expect(&[200]).unwrap().json().unwrap()
    };
    let current = found(&mut api).await;
    let named = current["named"].as_array().unwrap().iter();
    let named: Vec<_> = named.map(|row| (row["id"].as_str().unwrap(), row["problem"].as_str().unwrap())).collect();
    assert_eq!(named, expected);
    assert!(current["good"] == false && current["digest"] != current["state_digest"], "{current}");
    // Without a word of confirmation nothing is touched.
    let repair =
        async |api: &mut Api, body: &str| api.call("POST", "/v1/record/repair", &[], body.to_owned()).await.unwrap();
    repair(&mut api, "").await.expect(&[400]).unwrap();
    let (code, text) = hfctl(&cluster, &["record", "repair"]).await;
    assert!(code == 1 && text.contains("differs      routes/t0100") && found(&mut api).await == current, "{text}");
    let history =
        postgres.sql("SELECT md5(string_agg(history::text, '' ORDER BY revision, seq)) FROM holdfast.history");
    let history = history.await.unwrap();
    let (code, text) = hfctl(&cluster, &["record", "repair", "--yes"]).await;
    assert!(code == 0 && text.contains("7 rows rewritten"), "{code} {text}");
    assert_eq!(found(&mut api).await["good"], true);
    let after = postgres.sql("SELECT md5(string_agg(history::text, '' ORDER BY revision, seq)) FROM holdfast.history");
    assert_eq!(after.await.unwrap(), history, "the history is as it was");
    // The writer goes on where it was.
    api.put("routes", "t0100", &route("after")).await.unwrap();
    audit(&cluster, &postgres).await;
    // The history: a body, an author, an old body, a revision that is gone. Each is named, none is ever rewritten.
    for sql in [
        "UPDATE holdfast.history SET body = replace(body, 'v5', 'v6') WHERE revision = 7",
        "UPDATE holdfast.history SET author = 'nobody' WHERE revision = 10",
        "UPDATE holdfast.history SET old_body = '{}' WHERE revision = 13",
        "DELETE FROM holdfast.history WHERE revision = 16",
    ] {
        postgres.sql(sql).await.unwrap();
    }
    let path = "/v1/record/verify?history_above=0";
    let found = api.call("GET", path, &[], String::new()).await.unwrap().expect(&[200]).unwrap().json().unwrap();
    let named = found["named"].as_array().unwrap().iter();
    let named: Vec<_> =
        named.map(|one| (one["revision"].as_u64().unwrap(), one["problem"].as_str().unwrap())).collect();
    // What follows a changed body says that it replaced another one.
    let expected = [(7, "chain"), (8, "old_body"), (10, "chain"), (13, "old_body"), (17, "old_body"), (17, "gap")];
    assert_eq!(named, expected, "{found}");
    let (code, text) = hfctl(&cluster, &["record", "verify", "--since", "8"]).await;
    assert!(code == 1 && text.contains("history after 8 up to 23: 4 problems"), "{text}");
    // A record of another history is nothing to be set right.
    postgres.sql("UPDATE holdfast.cursor SET chain = decode(repeat('ab', 32), 'hex')").await.unwrap();
    let refused = repair(&mut api, "{\"confirm\": true}").await.expect(&[503]).unwrap();
    assert!(refused.text().contains("another history"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn hfctl_says_what_changed_between_two_revisions() {
    let mut cluster = Cluster::start(layout(), 1, 0, &[]).await.unwrap();
    let mut api = cluster.cp(1).api();
    for (id, desc) in [("r1", "one"), ("r2", "gone soon"), ("r1", "two"), ("r3", "new")] {
        api.put("routes", id, &route(desc)).await.unwrap();
    }
    api.call("DELETE", "/apisix/admin/routes/r2", &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    api.put("routes", "r4", &route("only for a moment")).await.unwrap();
    api.call("DELETE", "/apisix/admin/routes/r4", &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    let (code, text) = hfctl(&cluster, &["diff", "2"]).await;
    assert_eq!(code, 1, "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("upstream") && !line.contains("uri")).collect();
    let expected = [
        "~ routes/r1",
        "    $.desc: \"one\" -> \"two\"",
        "- routes/r2",
        "    $.desc: \"gone soon\" -> nothing",
        "+ routes/r3",
        "    $.desc: nothing -> \"new\"",
    ];
    assert_eq!(lines, expected, "{text}");
    assert_eq!(hfctl(&cluster, &["diff", "5", "7"]).await, (0, "nothing differs\n".to_owned()));
    assert_eq!(hfctl(&cluster, &["diff", "7", "5"]).await.0, 2);
    let (code, text) = hfctl(&cluster, &["diff", "2", "3", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(code == 1 && json["changes"][0]["change"] == "replaced", "{text}");
    // A file against what there is.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("routes.json");
    let mut wanted = route("two");
    wanted["id"] = json!("r1");
    std::fs::write(&file, json!({ "routes": [wanted] }).to_string()).unwrap();
    let path = file.display().to_string();
    assert_eq!(hfctl(&cluster, &["diff", "-f", &path]).await.0, 0);
    wanted["desc"] = json!("three");
    std::fs::write(&file, json!({ "routes": [wanted] }).to_string()).unwrap();
    let (code, text) = hfctl(&cluster, &["diff", "-f", &path]).await;
    assert!(code == 1 && text == "~ routes/r1\n    $.desc: \"two\" -> \"three\"\n", "{text}");
}
