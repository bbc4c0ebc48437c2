//! The durable record with bodies and changes of every shape and size.

use std::time::Duration;

use anyhow::ensure;
use chaos::cluster::Cluster;
use chaos::patience::until;
use chaos::postgres::Postgres;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::record::{DRAIN_MAX, audit, cluster_with, layout, route};

/// Any text that JSON can say and that is admitted, with a bent for what databases stumble over.
fn any_text() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "\\",
        "\"",
        "'",
        "''; --",
        "\\u0000",
        "\\x00",
        "\u{1}",
        "\u{1f}",
        "\u{7f}",
        "\u{80}",
        "\u{fffe}",
        "\u{10ffff}",
        "\u{1F600}",
        "{",
        "}",
        ",",
        "NULL",
        "$1",
        "%s",
        "\t",
        "\n",
        "\r",
        "\u{2028}",
        "é",
        "\u{202e}",
        "\u{feff}",
    ]);
    let piece =
        prop_oneof![nasty.prop_map(str::to_owned), "[ -~]{0,6}", "\\PC{0,4}", any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().replace('\0', ""))
}

/// Any JSON, as deep as is admitted, with numbers at the ends of what is.
fn any_operand() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        Just(json!(5e-324)),
        Just(json!(1.7976931348623157e308)),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
    ];
    prop_oneof![any_text().prop_map(Value::from), number]
}

fn any_route() -> impl Strategy<Value = Value> {
    let vars = prop::collection::vec(("arg_[a-z]{1,5}", any_operand()), 0..4);
    let label = any_text().prop_map(|text| format!("l{}", text.replace(char::is_whitespace, "_")));
    let labels = prop::collection::btree_map("[a-z]{1,8}", label, 0..5);
    (any_text(), labels, vars, 0..12usize, any::<i32>()).prop_map(|(desc, labels, vars, deep, priority)| {
        let mut vars: Vec<Value> = vars.into_iter().map(|(name, operand)| json!([name, "==", operand])).collect();
        if let Some(mut deepest) = vars.pop() {
            for _ in 0..deep {
                let other = json!(["arg_x", "==", "y"]);
                deepest = json!(["AND", deepest, other]);
            }
            vars.push(deepest);
        }
        let desc: String = desc.chars().take(200).collect();
        json!({"uri": "/a", "desc": desc, "labels": labels, "vars": vars, "priority": priority,
            "upstream": {"nodes": {"127.0.0.1:1": 1}}})
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_that_is_admitted_is_recorded_byte_for_byte() {
    let kind = protocol::resource::KindInfo::find("routes").unwrap();
    let mut runner = TestRunner::deterministic();
    let (mut admitted, mut deepest, mut longest) = (Vec::new(), 0, 0);
    for n in 0..3000 {
        let value = any_route().new_tree(&mut runner).unwrap().current();
        let text = value.to_string();
        let id = format!("p{n}");
        let Ok(value_read) = protocol::json::parse(text.as_bytes()) else { continue };
        if let Ok(body) = protocol::resource::admit(&plugins::CATALOG, kind, Some(&id), value_read) {
            deepest = deepest.max(text.matches("AND").count());
            longest = longest.max(body.body.len());
            admitted.push((id, value, body.body));
        }
    }
    assert!(admitted.len() > 500 && deepest > 3, "{} admitted, {deepest} deep, {longest} long", admitted.len());
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[]).await;
    for part in admitted.chunks(500) {
        let operations: Vec<Value> = part
            .iter()
            .map(|(id, value, _)| json!({"op": "put", "kind": "routes", "id": id, "value": value}))
            .collect();
        let body = json!({ "operations": operations }).to_string();
        cluster.cp(1).api().call("POST", "/v1/transactions", &[], body).await.unwrap().expect(&[200]).unwrap();
    }
    audit(&cluster, &postgres).await;
    for table in ["current", "history"] {
        let sql = format!("SELECT id, encode(convert_to(body, 'UTF8'), 'hex') FROM holdfast.{table}");
        let rows = postgres.sql(&sql).await.unwrap();
        let recorded: std::collections::BTreeMap<&str, &str> =
            rows.lines().map(|l| l.split_once('|').unwrap()).collect();
        assert_eq!(recorded.len(), admitted.len());
        for (id, _, body) in &admitted {
            let hex: String = body.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(recorded[id.as_str()], hex, "{table} {id}: {body}");
        }
    }
    // And back from it.
    let mut api = cluster.cp(1).api();
    let head = api.status().await.unwrap().revision;
    for (id, _, body) in admitted.iter().step_by(20) {
        let path = format!("/apisix/admin/routes/{id}?at_revision={head}");
        let reply = api.call("GET", &path, &[], String::new()).await.unwrap().expect(&[200]).unwrap();
        assert!(reply.text().contains(body.as_str()), "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_huge_change_is_recorded_in_bounded_statements_and_as_one() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &["admin.body_max=64MiB"]).await;
    let mut api = cluster.cp(1).api().patient(Duration::from_secs(120));
    let put = |desc: &str| {
        let operations: Vec<Value> = (0..10_000)
            .map(|n| json!({"op": "put", "kind": "routes", "id": format!("t{n}"), "value": route(desc)}))
            .collect();
        json!({ "operations": operations }).to_string()
    };
    let watched = AdminWatch::start(&postgres);
    api.call("POST", "/v1/transactions", &[], put("one")).await.unwrap().expect(&[200]).unwrap();
    api.call("POST", "/v1/transactions", &[], put("two")).await.unwrap().expect(&[200]).unwrap();
    api.put("routes", "t5", &route("alone")).await.unwrap();
    audit(&cluster, &postgres).await;
    let seen = watched.stop().await;
    assert!(
        seen.iter().all(|rows| [0, 10_000, 20_000, 20_001].contains(rows)),
        "a part of a change was seen: {seen:?}"
    );
    let per_statement = "SELECT count(*), max(rows) FROM (SELECT count(*) AS rows FROM holdfast.history
        GROUP BY xmin::text, cmin::text) AS statements";
    let statements = postgres.sql(per_statement).await.unwrap();
    let (count, most) = statements.split_once('|').unwrap();
    assert!(count.parse::<u64>().unwrap() >= 10 && most.parse::<u64>().unwrap() <= 2048, "{statements}");
    // The same where the record begins with much.
    drop(cluster);
    postgres.sql("DROP SCHEMA holdfast CASCADE").await.unwrap();
    let other = chaos::layout::Layout::Test { cluster: 1 };
    let mut cluster = Cluster::start(other, 1, 0, &["admin.body_max=64MiB"]).await.unwrap();
    let mut api = cluster.cp(1).api().patient(Duration::from_secs(120));
    api.call("POST", "/v1/transactions", &[], put("many")).await.unwrap().expect(&[200]).unwrap();
    cluster.cp(1).kill().await.unwrap();
    cluster.cp(1).set(&[&Postgres::dsn(&[postgres.address()])]);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    until("the record begins", DRAIN_MAX, async || {
        let rows = postgres.sql("SELECT count(*) FROM holdfast.history WHERE op = 'base'").await?;
        ensure!(rows == "10000", "{rows}");
        Ok(())
    })
    .await
    .unwrap();
    let found = cluster.cp(1).api().call("GET", "/v1/record/verify", &[], String::new()).await.unwrap();
    let found = found.expect(&[200]).unwrap().json().unwrap();
    assert!(found["good"] == true && found["rows"] == 10_000, "{found}");
    let statements = postgres.sql(per_statement).await.unwrap();
    let (_, most) = statements.split_once('|').unwrap();
    assert!(most.parse::<u64>().unwrap() <= 2048, "{statements}");
}

/// Counts the history's rows over and over, as anybody who reads sees them.
struct AdminWatch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    counting: tokio::task::JoinHandle<std::collections::BTreeSet<u64>>,
}

impl AdminWatch {
    fn start(postgres: &Postgres) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (host, port) = postgres.address();
        let (host, port, stopping) = (host.to_owned(), port.to_owned(), stop.clone());
        let counting = tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while !stopping.load(std::sync::atomic::Ordering::Relaxed) {
                let mut psql = tokio::process::Command::new("psql");
                psql.args(["-X", "-h", &host, "-p", &port, "-U", "holdfast", "-d", "postgres", "-Atqc"]);
                let ran = psql.arg("SELECT count(*) FROM holdfast.history").output().await.unwrap();
                // Before there is a table there is nothing to count.
                seen.extend(String::from_utf8_lossy(&ran.stdout).trim().parse::<u64>().ok());
            }
            seen
        });
        Self { stop, counting }
    }

    async fn stop(self) -> std::collections::BTreeSet<u64> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.counting.await.unwrap()
    }
}
