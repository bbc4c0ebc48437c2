//! Waiting until the proxies serve a change.

use std::time::{Duration, Instant};

use clap::Args;
use daemon::settings::units::Span;
use serde_json::Value;

use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::cell;

/// How long one question is held back at a node.
const HOLD: Duration = Duration::from_secs(1);

/// Resources that are named in a question; for more, any rejected resource counts.
const KEYS_MAX: usize = 100;

/// What to wait for after a change.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Waiting {
    /// Wait so long until the proxies serve the change; exit code 5 when they do not.
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
    /// Only for these proxies: region:<name>, group:<name>, label:<name>[=<value>], several with commas.
    #[arg(long, requires = "wait")]
    scope: Option<String>,
    /// Only for so many of them: a number, or a share such as 95%.
    #[arg(long, requires = "wait")]
    quorum: Option<String>,
}

impl Waiting {
    /// Waits for the change that an answer speaks of, if that was asked for. What it says is for people.
    pub(crate) fn follow(&self, client: &mut Client, answer: &Answer, keys: &[String]) -> Result<String, Failure> {
        let Some(within) = &self.wait else { return Ok(String::new()) };
        let position = answer.position.clone().unwrap_or_default();
        let revision = position.rsplit('-').next().unwrap_or_default().to_owned();
        let until = Instant::now() + within.0;
        client.extend(within.0);
        let keys = if keys.len() <= KEYS_MAX { keys.join(",") } else { String::new() };
        let progress = Progress::of("asking who serves it");
        loop {
            let hold = until.saturating_duration_since(Instant::now()).min(HOLD).max(Duration::from_millis(1));
            let mut path =
                format!("/v1/revisions/{revision}/convergence?wait={}&keys={}", hold.as_millis(), encoded(&keys));
            for (name, value) in [("scope", &self.scope), ("quorum", &self.quorum)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", encoded(value)));
                }
            }
            let fleet = client.get(&path)?.body;
            let line = format!("{} of {} proxies serve {position}", cell(&fleet["serving"]), cell(&fleet["concerned"]));
            if fleet["served"] == true {
                return Ok(format!("{line}\n"));
            }
            if Instant::now() >= until {
                return Err(Failure::NotServed(explain(&line, &fleet)));
            }
            progress.say(&line);
        }
    }
}

fn explain(line: &str, fleet: &Value) -> String {
    let mut lines = vec![format!("the change is made, and {line}")];
    if fleet["scope_is_empty"] == true {
        lines.push("  no proxy is in this scope".to_owned());
    }
    for proxy in fleet["proxies"].as_array().into_iter().flatten() {
        let part = |name: &str| cell(&proxy[name]);
        lines.push(format!("  {} ({}): {}: {}", part("name"), part("region"), part("state"), part("reason")));
    }
    for node in fleet["nodes"].as_array().into_iter().flatten() {
        lines.push(format!("  node {}: {}", cell(&node["node_id"]), cell(&node["error"])));
    }
    lines.push("look again with: hfctl fleet".to_owned());
    lines.join("\n")
}

/// A value as it may stand in a query.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("label:a=b,50%"), "label:a%3Db,50%25");
    }

    #[test]
    fn who_is_missing_is_named() {
        let fleet = json!({
            "proxies": [{"name": "dp-1", "region": "eu", "state": "lagging", "reason": "serves 1-4"}],
            "nodes": [{"node_id": 2, "error": "no answer"}],
        });
        let text = explain("0 of 1 proxies serve 1-5", &fleet);
        assert!(text.contains("dp-1 (eu): lagging: serves 1-4\n  node 2: no answer"), "{text}");
    }
}
