//! Recorded requests of Apache APISIX's Admin API, replayed: `transcript.txt`, which says how it is read.
//!
//! With `HOLDFAST_TRANSCRIPT=rewrite` in the environment, answers that differ are written into the file; each then wants a
//! reason, or a repair.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::node::{KEY, VIEWER};
use super::ssls::{ONE, pair, start as start_with_keyring};

/// Stands in the file for a page of the web server below APISIX.
const PAGE: &str = "…html…";

/// What a rewritten difference has for a reason. The test fails while there is one.
const UNEXPLAINED: &str = "?";

/// The head of most answers: the version of the API, and a body of JSON.
const HEAD: &str = "v3 json";

#[derive(Default)]
struct Exchange {
    /// Everything above the request: headings and its title.
    above: Vec<String>,
    line: usize,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    theirs: String,
    ours: Option<(String, String)>,
    /// Where it is not [`HEAD`].
    their_head: Option<String>,
    our_head: Option<(String, String)>,
}

/// What stands in the file for what is made anew at each run.
struct Filling(Vec<(&'static str, String)>);

impl Filling {
    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    fn empty(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(value, name))
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcript.txt")
}

fn parse(text: &str) -> (String, Vec<Exchange>) {
    let (preface, rest) = text.split_at(text.find("\n# ").unwrap() + 1);
    let mut all: Vec<Exchange> = Vec::new();
    let mut above = Vec::new();
    for (number, line) in rest.lines().enumerate() {
        if let Some(request) = line.strip_prefix("> ") {
            if !above.is_empty() {
                let (method, path) = request.split_once(' ').unwrap();
                let line = preface.lines().count() + number + 1;
                let (method, path) = (method.to_owned(), path.to_owned());
                all.push(Exchange { above: std::mem::take(&mut above), line, method, path, ..Exchange::default() });
            } else if let Some(header) = request.strip_prefix("@ ") {
                let (name, value) = header.split_once(": ").unwrap();
                all.last_mut().unwrap().headers.push((name.to_owned(), value.to_owned()));
            } else {
                request.clone_into(&mut all.last_mut().unwrap().body);
            }
        } else if let Some(head) = line.strip_prefix("< @ ") {
            all.last_mut().unwrap().their_head = Some(head.to_owned());
        } else if let Some(answer) = line.strip_prefix("< ") {
            answer.clone_into(&mut all.last_mut().unwrap().theirs);
        } else if let Some(why) = line.strip_prefix("! why: ") {
            let exchange = all.last_mut().unwrap();
            exchange.our_head.as_mut().or(exchange.ours.as_mut()).unwrap().1 = why.to_owned();
        } else if let Some(head) = line.strip_prefix("! @ ") {
            all.last_mut().unwrap().our_head = Some((head.to_owned(), UNEXPLAINED.to_owned()));
        } else if let Some(answer) = line.strip_prefix("! ") {
            all.last_mut().unwrap().ours = Some((answer.to_owned(), UNEXPLAINED.to_owned()));
        } else if !line.is_empty() {
            above.push(line.to_owned());
        }
    }
    (preface.to_owned(), all)
}

fn print(preface: &str, all: &[Exchange]) -> String {
    let mut text = preface.to_owned();
    for exchange in all {
        for line in &exchange.above {
            text.push_str(line);
            text.push_str(if line.starts_with('#') { "\n\n" } else { "\n" });
        }
        text.push_str(&format!("> {} {}\n", exchange.method, exchange.path));
        for (name, value) in &exchange.headers {
            text.push_str(&format!("> @ {name}: {value}\n"));
        }
        if !exchange.body.is_empty() {
            text.push_str(&format!("> {}\n", exchange.body));
        }
        text.push_str(&format!("< {}\n", exchange.theirs));
        if let Some(head) = &exchange.their_head {
            text.push_str(&format!("< @ {head}\n"));
        }
        if let Some((answer, why)) = &exchange.ours {
            text.push_str(&format!("! {answer}\n! why: {why}\n"));
        }
        if let Some((head, why)) = &exchange.our_head {
            text.push_str(&format!("! @ {head}\n! why: {why}\n"));
        }
        text.push('\n');
    }
    format!("{}\n", text.trim_end())
}

/// An answer without what no two servers have in common.
fn plain(answer: &str) -> (u16, Value) {
    let (status, body) = answer.split_once(' ').unwrap_or((answer, ""));
    let mut value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    blur(&mut value);
    (status.parse().unwrap(), value)
}

/// What is compared of an answer's headers. Of an answer without a body nothing is said of the body.
fn head(headers: &hyper::HeaderMap, body: &str) -> String {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let body = match kind.split(';').next() {
        _ if body.is_empty() => "",
        Some("application/json") => "json",
        _ => "text",
    };
    let version = headers.get("x-api-version").map_or("", |_| "v3");
    format!("{version} {body}").trim().to_owned()
}

fn blur(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("errors");
            for (name, member) in members.iter_mut() {
                match name.as_str() {
                    "create_time" | "update_time" | "createdIndex" | "modifiedIndex" => *member = json!("…"),
                    _ => blur(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blur),
        Value::String(text) => {
            if text.starts_with("$sealed$") {
                "sealed".clone_into(text);
            }
            if let Some(at) = text.find("00000000000000") {
                text.replace_range(at..(at + 20).min(text.len()), "posted");
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apisix_was_seen_to_answer_is_answered() {
    let text = std::fs::read_to_string(file()).unwrap();
    let (preface, mut all) = parse(&text);
    let rewrite = std::env::var("HOLDFAST_TRANSCRIPT").is_ok_and(|what| what == "rewrite");
    assert!(rewrite || print(&preface, &all) == text, "the file is not as it would be written: something is not read");
    let dir = tempfile::tempdir().unwrap();
    let api = start_with_keyring(dir.path(), ONE).await;
    let ((cert, key), (_, other_key)) = (pair(&["test.com", "*.test.com"]), pair(&["test.com"]));
    let pem = |text: &str| json!(text).to_string().trim_matches('"').to_owned();
    let pems = Filling(vec![("{cert}", pem(&cert)), ("{key}", pem(&key)), ("{other_key}", pem(&other_key))]);
    let mut posted = String::new();
    let mut differences = Vec::new();
    for exchange in &mut all {
        if exchange.above.last().is_some_and(|title| title.contains("after the ttl")) {
            let gone = async || api.call("GET", "/apisix/admin/routes/ttl", "").await.0 == 404;
            while !gone().await {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        let fill = |text: &str| text.replace("{admin}", KEY).replace("{viewer}", VIEWER).replace("{posted}", &posted);
        let mut headers: Vec<(String, String)> =
            exchange.headers.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
        if headers.is_empty() {
            headers.push(("x-api-key".to_owned(), KEY.to_owned()));
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, got, body) =
            api.raw(&exchange.method, &fill(&exchange.path), &headers, pems.fill(&exchange.body).as_bytes()).await;
        let server = got["server"].to_str().unwrap();
        assert!(server.starts_with("APISIX/3.18.0"), "line {}: {server}", exchange.line);
        for (name, value) in [("access-control-allow-origin", "*"), ("access-control-allow-credentials", "true")] {
            assert_eq!(got[name], value, "line {}", exchange.line);
        }
        let answer = format!("{status} {}", body.trim_end()).trim_end().to_owned();
        if exchange.method == "POST" && status == 201 {
            posted = serde_json::from_str::<Value>(&body).unwrap()["value"]["id"].as_str().unwrap().to_owned();
        }
        let theirs = exchange.theirs.replace(PAGE, "");
        let wanted = exchange.ours.as_ref().map_or(theirs.as_str(), |(answer, _)| answer);
        let answer = pems.empty(&answer);
        if exchange.ours.is_none() {
            let their_head = exchange.their_head.as_deref().unwrap_or(HEAD);
            let wanted = exchange.our_head.as_ref().map_or(their_head, |(head, _)| head);
            let got = head(&got, &body);
            let said = |head: &str| match body.is_empty() {
                true => head.replace("json", "").replace("text", "").trim().to_owned(),
                false => head.to_owned(),
            };
            let is_same = |wanted: &str| got == said(wanted);
            if !is_same(wanted) {
                differences.push(format!("transcript.txt:{}: headers: want {wanted}, got {got}", exchange.line));
                exchange.our_head = (!is_same(their_head)).then(|| (got.clone(), UNEXPLAINED.to_owned()));
            }
        }
        if plain(&answer) != plain(wanted) {
            differences.push(format!(
                "transcript.txt:{}: {} {} {}\n  want {wanted}\n  got  {answer}",
                exchange.line, exchange.method, exchange.path, exchange.body
            ));
            exchange.ours = (plain(&answer) != plain(&theirs)).then(|| (answer, UNEXPLAINED.to_owned()));
        }
    }
    if rewrite {
        std::fs::write(file(), print(&preface, &all)).unwrap();
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    for exchange in &all {
        for (_, reason) in exchange.ours.iter().chain(&exchange.our_head) {
            assert_ne!(reason, UNEXPLAINED, "line {}: why does it differ?", exchange.line);
        }
    }
}
