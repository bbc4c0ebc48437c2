//! The durable record on a real PostgreSQL: it is the state machine's history, neither more nor less.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::cluster::{Api, Cluster};
use chaos::layout::Layout;
use chaos::patience::until;
use chaos::postgres::Postgres;
use serde_json::{Value, json};

const LAYOUT: Layout = Layout::Test { cluster: 0 };

/// How long the record may take to come to the head on a busy machine.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn cluster_with(cps: u16, dsn: &str, more: &[&str]) -> Cluster {
    let mut settings = vec![dsn, "record.connect_timeout=1s", "record.statement_timeout=2s"];
    settings.extend_from_slice(more);
    Cluster::start(LAYOUT, cps, 0, &settings).await.unwrap()
}

pub(crate) fn layout() -> Layout {
    LAYOUT
}

pub(crate) async fn record_of(api: &mut Api) -> Result<Value> {
    api.call("GET", "/v1/record", &[], String::new()).await?.expect(&[200])?.json()
}

/// Waits until the record is at the head, and holds it against the cluster (law 9): every revision once, in order; the
/// last change of each resource is what is current; and that is what the cluster serves.
pub(crate) async fn audit(cluster: &Cluster, postgres: &Postgres) {
    let running = cluster.cps.iter().find(|cp| cp.is_running()).unwrap();
    let mut api = running.api();
    let head = until("the record comes to the head", DRAIN_MAX, async || {
        let status = api.status().await?;
        let cursor = postgres.sql("SELECT revision, encode(digest, 'hex') FROM holdfast.cursor").await?;
        ensure!(cursor == format!("{}|{}", status.revision, status.digest), "{cursor}, the cluster is at {status:?}");
        let record = record_of(&mut api).await?;
        ensure!(record["recorded_revision"] == status.revision && record["lag_changes"] == 0, "{record}");
        Ok(status.revision)
    })
    .await
    .unwrap();
    let sql = async |sql: &str| postgres.sql(sql).await.unwrap();
    let gapless = "SELECT count(DISTINCT revision), max(revision) FROM holdfast.history WHERE op <> 'base'";
    assert_eq!(sql(gapless).await, format!("{head}|{head}"), "every revision stands in the history");
    let folded = "WITH last AS (SELECT DISTINCT ON (kind, id) kind, id, revision, body, meta FROM holdfast.history
            ORDER BY kind, id, revision DESC),
        alive AS (SELECT * FROM last WHERE body IS NOT NULL),
        shown AS (SELECT kind, id, revision, body, meta FROM holdfast.current)
        SELECT (SELECT count(*) FROM (SELECT * FROM alive EXCEPT SELECT * FROM shown) AS a)
             + (SELECT count(*) FROM (SELECT * FROM shown EXCEPT SELECT * FROM alive) AS b)";
    assert_eq!(sql(folded).await, "0", "what is current is what the history leads to");
    let chained = "SELECT count(*) FROM (SELECT op, old_body,
            lag(body) OVER (PARTITION BY kind, id ORDER BY revision, seq) AS before FROM holdfast.history) AS steps
        WHERE op <> 'base' AND old_body IS DISTINCT FROM before";
    assert_eq!(sql(chained).await, "0", "each change replaces what the one before it left");
    // In hexadecimal digits: psql leaves out some characters that the server holds (U+10FFFF is one).
    let rows = "SELECT id, revision, encode(convert_to(body, 'UTF8'), 'hex') FROM holdfast.current
        WHERE kind = 'routes' ORDER BY id";
    let rows = sql(rows).await;
    let list = api.call("GET", "/apisix/admin/routes", &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    let list = list.json().unwrap();
    let mut served: Vec<(String, u64, Value)> = list["list"].as_array().unwrap().iter().map(served).collect();
    served.sort_by(|a, b| a.0.cmp(&b.0));
    let recorded: Vec<(String, u64, Value)> = rows.lines().map(|line| recorded(line).unwrap()).collect();
    let differing: Vec<_> = recorded.iter().filter(|row| !served.contains(row)).collect();
    assert!(
        differing.is_empty() && recorded.len() == served.len(),
        "the record holds what is not served: {differing:?}"
    );
}

fn served(item: &Value) -> (String, u64, Value) {
    let mut value = item["value"].clone();
    let fields = value.as_object_mut().unwrap();
    let id = fields.remove("id").unwrap().as_str().unwrap().to_owned();
    fields.remove("create_time");
    fields.remove("update_time");
    (id, item["modifiedIndex"].as_u64().unwrap(), value)
}

/// In how many seconds a server asks each of its idle connections whether its other end is still there (proc_net_tcp(5)).
fn keepalives((host, port): (&str, &str)) -> Result<Vec<f64>> {
    let ip = u32::from_le_bytes(host.parse::<std::net::Ipv4Addr>()?.octets());
    let (own, table) = (format!("{ip:08X}:{:04X}", port.parse::<u16>()?), std::fs::read_to_string("/proc/net/tcp")?);
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let timers = rows.filter(|row| row.get(1) == Some(&&*own) && row.get(3) == Some(&"01")).filter_map(|row| {
        let in_ticks = row.get(5)?.strip_prefix("02:")?;
        u64::from_str_radix(in_ticks, 16).ok()
    });
    Ok(timers.map(|ticks| ticks as f64 / 100.0).collect())
}

fn recorded(line: &str) -> Result<(String, u64, Value)> {
    let mut parts = line.splitn(3, '|');
    let mut next = || parts.next().context("a row has three columns");
    let (id, revision, hex) = (next()?.to_owned(), next()?.parse()?, next()?);
    let byte = |at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?);
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect::<Result<_>>()?;
    Ok((id, revision, serde_json::from_slice(&bytes)?))
}

pub(crate) fn route(desc: &str) -> Value {
    json!({"uri": "/a", "desc": desc, "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_recorded_once_and_history_tells_it() {
    let postgres = Postgres::primary("pg-1", &LAYOUT.postgres(1)).await.unwrap();
    let cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    let mut api = cluster.cps[1].api();
    // A write that asks for it is answered when PostgreSQL has it.
    let put = |id: &str| format!("/apisix/admin/routes/{id}?durability=record");
    let reply = api.call("PUT", &put("r1"), &[], route("one").to_string()).await.unwrap().expect(&[201]).unwrap();
    let position = reply.header("x-holdfast-position").unwrap().to_owned();
    let recorded = postgres.sql("SELECT epoch || '-' || revision FROM holdfast.cursor").await.unwrap();
    assert_eq!(recorded, position);
    assert!(reply.header("x-holdfast-record-lag").is_some());
    until("the server asks whether its writer is still there", Duration::from_secs(5), async || {
        let asks_in = keepalives(postgres.address())?;
        ensure!(asks_in.iter().any(|seconds| *seconds <= 10.0), "it asks in so many seconds: {asks_in:?}");
        Ok(())
    })
    .await
    .unwrap();
    // Whatever text is accepted is recorded as it is.
    let long = "x".repeat(200);
    let nasty = [
        "'; DROP SCHEMA holdfast; --",
        "\\",
        "\"",
        "\u{1}\u{1f}\u{7f}",
        "\u{10ffff}\u{1F600}é\u{fffe}",
        "$1 %s {}",
        &long,
        "\t\r\n",
        "",
    ];
    for (n, text) in nasty.iter().enumerate() {
        api.put("routes", &format!("n{n}"), &route(text)).await.unwrap();
    }
    let nul = r#"{"uri":"/a","desc":"\u0000","upstream":{"nodes":{"127.0.0.1:1":1}}}"#;
    api.call("PUT", "/apisix/admin/routes/nul", &[], nul.to_owned()).await.unwrap().expect(&[400]).unwrap();
    api.put("routes", "r1", &route("two")).await.unwrap();
    api.call("DELETE", "/apisix/admin/routes/n0", &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    let operations: Vec<Value> = (0..1500)
        .map(|n| json!({"op": "put", "kind": "routes", "id": format!("t{n}"), "value": route("many")}))
        .collect();
    let many = json!({ "operations": operations }).to_string();
    api.call("POST", "/v1/transactions", &[], many).await.unwrap().expect(&[200]).unwrap();
    audit(&cluster, &postgres).await;
    // History, newest first, with who and what.
    let history = api.call("GET", "/v1/history?kind=routes&id=r1", &[], String::new()).await.unwrap();
    let history = history.expect(&[200]).unwrap().json().unwrap();
    let told: Vec<_> = history["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (row["op"].clone(), row["author"].clone(), row["body"]["desc"].clone(), row["old_body"]["desc"].clone())
        })
        .collect();
    assert_eq!(
        told,
        [
            (json!("update"), json!("admin"), json!("two"), json!("one")),
            (json!("create"), json!("admin"), json!("one"), Value::Null),
        ]
    );
    let page = api.call("GET", "/v1/history?limit=2", &[], String::new()).await.unwrap().json().unwrap();
    let next = page["next"].as_str().unwrap().to_owned();
    let page = api.call("GET", &format!("/v1/history?limit=2&before={next}"), &[], String::new()).await.unwrap();
    assert_eq!(page.json().unwrap()["list"][0]["seq"], 1497);
    let first = position.rsplit('-').next().unwrap();
    let then =
        api.call("GET", &format!("/apisix/admin/routes/r1?at_revision={first}"), &[], String::new()).await.unwrap();
    assert_eq!(then.expect(&[200]).unwrap().json().unwrap()["value"]["desc"], "one");
    // A change is taken back by a new one; not when it was changed again since.
    let updated = history["list"][0]["revision"].as_u64().unwrap();
    let revert = async |api: &mut Api, revision: u64| {
        api.call("POST", "/v1/revert", &[], json!({ "revision": revision }).to_string()).await.unwrap()
    };
    revert(&mut api, updated).await.expect(&[200]).unwrap();
    assert_eq!(api.get("routes", "r1").await.unwrap().unwrap()["desc"], "one");
    revert(&mut api, updated).await.expect(&[412]).unwrap();
    audit(&cluster, &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gets_its_record_later_and_without_one_says_so() {
    let postgres = Postgres::primary("pg-1", &LAYOUT.postgres(1)).await.unwrap();
    let mut cluster = Cluster::start(LAYOUT, 1, 0, &[]).await.unwrap();
    let mut api = cluster.cp(1).api();
    for n in 0..3 {
        api.put("routes", &format!("r{n}"), &route("before")).await.unwrap();
    }
    let path = "/apisix/admin/routes/r9?durability=record";
    api.call("PUT", path, &[], route("x").to_string()).await.unwrap().expect(&[400]).unwrap();
    let own = api.call("GET", "/v1/history", &[], String::new()).await.unwrap().expect(&[200]).unwrap().json().unwrap();
    assert_eq!((&own["source"], own["list"].as_array().map(Vec::len)), (&json!("embedded"), Some(3)), "{own}");
    cluster.cp(1).kill().await.unwrap();
    let dsn = Postgres::dsn(&[postgres.address()]);
    cluster.cp(1).set(&[&dsn]);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    let mut api = cluster.cp(1).api();
    until("the record begins", DRAIN_MAX, async || {
        let record = record_of(&mut api).await?;
        ensure!(record["recorded_revision"] == 3, "{record}");
        Ok(())
    })
    .await
    .unwrap();
    api.put("routes", "r0", &route("after")).await.unwrap();
    until("the change is recorded", DRAIN_MAX, async || {
        let rows = postgres.sql("SELECT revision, op FROM holdfast.history ORDER BY revision, seq").await?;
        ensure!(rows == "3|base\n3|base\n3|base\n4|update", "{rows}");
        Ok(())
    })
    .await
    .unwrap();
}
