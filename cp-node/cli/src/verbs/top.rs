//! `hfctl top`: what an operator looks at while something goes on: nodes, proxies by region, the pace of changes.
//!
//! It asks `/v1/cluster` and how far the fleet is with the newest revision, as everybody may. At a terminal it goes on until
//! it is interrupted; otherwise it says it once.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use daemon::settings::units::Span;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Between two looks.
    #[arg(long, default_value = "2s", value_name = "TIME")]
    interval: Span,
    /// Looks, before it ends. [default: no end at a terminal, otherwise one]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// What was seen in one look.
struct Look {
    at: Instant,
    cluster: Value,
    fleet: Value,
}

impl Top {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let is_terminal = std::io::stdout().is_terminal();
        let looks = self.count.or_else(|| (!is_terminal || format != Format::Table).then_some(1)).unwrap_or(u64::MAX);
        let mut before: Option<Look> = None;
        for left in (0..looks).rev() {
            client.extend(self.interval.0);
            let look = look(client)?;
            let text = match format {
                Format::Table => show(&look, before.as_ref()),
                format => render::value(&json!({ "cluster": look.cluster, "fleet": look.fleet }), format),
            };
            if left == 0 {
                return Ok(text);
            }
            let clear = if is_terminal { CLEAR } else { "" };
            print!("{clear}{text}");
            // Nobody reads any more: that is an end too.
            if std::io::stdout().flush().is_err() {
                break;
            }
            before = Some(look);
            std::thread::sleep(self.interval.0);
        }
        Ok(String::new())
    }
}

fn look(client: &mut Client) -> Result<Look, Failure> {
    let at = Instant::now();
    let cluster = client.get("/v1/cluster")?.body;
    let revision = newest(&cluster);
    let fleet = client.get(&format!("/v1/revisions/{revision}/convergence?consistency=stale"))?.body;
    Ok(Look { at, cluster, fleet })
}

/// The newest revision that the node that answers is sure to have too.
fn newest(cluster: &Value) -> u64 {
    let leader = &cluster["leader"];
    let members = cluster["members"].as_array().into_iter().flatten();
    let of = |member: &Value| member["revision"].as_u64();
    let answered: Vec<&Value> = members.filter(|member| of(member).is_some()).collect();
    let leading = answered.iter().find(|member| &member["node_id"] == leader).and_then(|member| of(member));
    let lowest = answered.iter().filter_map(|member| of(member)).min();
    leading.into_iter().chain(lowest).min().unwrap_or_default()
}

fn highest(cluster: &Value) -> u64 {
    let members = cluster["members"].as_array().into_iter().flatten();
    members.filter_map(|member| member["revision"].as_u64()).max().unwrap_or_default()
}

fn show(look: &Look, before: Option<&Look>) -> String {
    let revision = highest(&look.cluster);
    let pace = before.map_or_else(String::new, |before| {
        let changes = revision.saturating_sub(highest(&before.cluster));
        format!(", {:.1} changes/s", per_second(changes, look.at - before.at))
    });
    let fleet = &look.fleet;
    let mut text = format!(
        "revision {revision}{pace}; {} of {} proxies serve {}\n\n",
        cell(&fleet["serving"]),
        cell(&fleet["concerned"]),
        cell(&fleet["position"])
    );
    let leader = &look.cluster["leader"];
    let members = look.cluster["members"].as_array().into_iter().flatten();
    let columns =
        ["node_id", "name", "region", "term", "revision", "applied_index", "streams", "disk_bytes", "version"];
    let rows: Vec<Vec<String>> = members
        .map(|member| {
            let mut row: Vec<String> = columns.iter().map(|name| cell(&member[*name])).collect();
            row.insert(2, role(member, leader));
            row
        })
        .collect();
    let head = ["NODE", "NAME", "ROLE", "REGION", "TERM", "REVISION", "APPLIED", "STREAMS", "DISK (B)", "VERSION"];
    text.push_str(&render::table(&head, &rows));
    let states = ["serving", "lagging", "lost", "rejected", "volatile", "too_old"];
    let regions = fleet["regions"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = regions
        .map(|(region, counts)| {
            let name = if region.is_empty() { "-" } else { region };
            let counts = states.iter().map(|state| counts[*state].as_u64().unwrap_or_default().to_string());
            std::iter::once(name.to_owned()).chain(counts).collect()
        })
        .collect();
    text.push('\n');
    text.push_str(&render::table(&["REGION", "SERVING", "LAGGING", "LOST", "REJECTED", "VOLATILE", "TOO OLD"], &rows));
    for proxy in fleet["proxies"].as_array().into_iter().flatten() {
        let part = |name: &str| cell(&proxy[name]);
        text.push_str(&format!("{} ({}): {}: {}\n", part("name"), part("region"), part("state"), part("reason")));
    }
    text
}

fn role(member: &Value, leader: &Value) -> String {
    match (&member["error"], &member["node_id"] == leader) {
        (Value::String(why), _) => why.clone(),
        (_, true) => "leader".to_owned(),
        _ => cell(&member["role"]),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with one place")]
fn per_second(changes: u64, span: Duration) -> f64 {
    changes as f64 / span.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Instant, revision: u64) -> Look {
        Look {
            at,
            cluster: json!({"leader": 2, "members": [
                {"node_id": 1, "name": "a", "role": "follower", "revision": revision - 1, "term": 3, "streams": 2},
                {"node_id": 2, "name": "b", "role": "leader", "revision": revision, "term": 3},
                {"node_id": 3, "name": "c", "error": "no answer"},
            ]}),
            fleet: json!({
                "serving": 1, "concerned": 2, "position": "1-9", "regions": {"eu": {"serving": 1, "lost": 1}},
                "proxies": [{"name": "dp-1", "region": "eu", "state": "lost", "reason": "lost 5 ms ago"}],
            }),
        }
    }

    #[test]
    fn a_look_shows_nodes_regions_and_the_pace() {
        let began = Instant::now();
        let before = seen(began, 10);
        let text = show(&seen(began + Duration::from_secs(2), 30), Some(&before));
        assert!(text.starts_with("revision 30, 10.0 changes/s; 1 of 2 proxies serve 1-9\n"), "{text}");
        for line in ["2     b     leader", "3     c     no answer", "eu      1        0        1"] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("dp-1 (eu): lost: lost 5 ms ago\n"), "{text}");
        assert_eq!(newest(&before.cluster), 9, "every node that answers has it");
    }
}
