//! `hfctl record [status]`, `hfctl record verify|repair`, `hfctl record release|off`

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Record {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Shows how the record is doing, as the node that answers knows it.
    Status,
    /// Holds the record against the state: every row that is current, and the chain of the history. Exit code 1 where
    /// something differs.
    Verify(Verify),
    /// Rewrites the rows that are not as the state has them. The history is never rewritten.
    Repair {
        /// Do it; without it this only shows what would be rewritten.
        #[arg(long)]
        yes: bool,
    },
    /// Lets another PostgreSQL system with the same content take the record's place.
    Release,
    /// Says that the cluster has no record any more: changes are no longer kept for it.
    Off,
}

#[derive(Debug, Args)]
struct Verify {
    /// The history is followed from here on; the last 10,000 revisions when it is not given.
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
}

/// Revisions of the history that are followed when nobody says how many.
const HISTORY: u64 = 10_000;

impl Verify {
    fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let comparing = Progress::of("comparing what is current");
        let current = client.get("/v1/record/verify")?.body;
        drop(comparing);
        let cursor: Option<u64> =
            current["position"].as_str().and_then(|position| position.rsplit('-').next()?.parse().ok());
        let mut above = self.since.unwrap_or_else(|| cursor.unwrap_or(0).saturating_sub(HISTORY));
        let mut history = Vec::new();
        let progress = Progress::of_parts("following the history", cursor.unwrap_or(above).saturating_sub(above));
        loop {
            let stretch = client.get(&format!("/v1/record/verify?history_above={above}"))?.body;
            let next = stretch["next"].as_u64();
            history.push(stretch);
            match next {
                Some(next) => {
                    progress.advance(next.saturating_sub(above));
                    above = next;
                }
                None => break,
            }
        }
        drop(progress);
        differs(&json!({ "current": current, "history": history }), format)
    }
}

/// What was found, and whether it is good.
fn differs(found: &Value, format: Format) -> Result<String, Failure> {
    let stretches: Vec<&Value> = found["history"].as_array().into_iter().flatten().collect();
    let good = found["current"]["good"] == true && stretches.iter().all(|stretch| stretch["good"] == true);
    let text = if format == Format::Table {
        let current = &found["current"];
        let count = |name: &str| cell(&current[name]);
        let mut text = format!(
            "current at {}: {} rows, {} differ, {} are missing, {} are too many\n{}",
            count("position"),
            count("rows"),
            count("differing"),
            count("missing"),
            count("extra"),
            named(current)
        );
        if current["cursor_agrees"] == false {
            text.push_str("  the cursor names another digest or chain than the state has\n");
        }
        for stretch in stretches {
            let count = |name: &str| cell(&stretch[name]);
            let (above, upto, problems) = (count("above"), count("upto"), count("problems"));
            text.push_str(&format!("history after {above} up to {upto}: {problems} problems\n"));
            for one in stretch["named"].as_array().into_iter().flatten() {
                let (problem, revision, key) = (cell(&one["problem"]), cell(&one["revision"]), cell(&one["key"]));
                text.push_str(&format!("  {problem:12} revision {revision} {key}\n"));
            }
        }
        text
    } else {
        render::value(found, format)
    };
    if good { Ok(text) } else { Err(Failure::Differs(text)) }
}

/// The rows that are named, a line each.
fn named(current: &Value) -> String {
    let line = |row: &Value| format!("  {:12} {}/{}\n", cell(&row["problem"]), cell(&row["kind"]), cell(&row["id"]));
    current["named"].as_array().into_iter().flatten().map(line).collect()
}

impl Record {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let (path, done) = match &self.change {
            None | Some(Change::Status) => return show(client, format),
            Some(Change::Verify(verify)) => return verify.run(client, format),
            Some(Change::Repair { yes: false }) => {
                let current = client.get("/v1/record/verify")?.body;
                return differs(&json!({ "current": current }), format);
            }
            Some(Change::Repair { yes: true }) => {
                let body = json!({ "confirm": true }).to_string();
                let current = client.send(&Method::POST, "/v1/record/repair", &[], Some(&body))?.body;
                if format != Format::Table {
                    return Ok(render::value(&current, format));
                }
                return Ok(format!("{}{} rows rewritten\n", named(&current), cell(&current["repaired"])));
            }
            Some(Change::Release) => ("/v1/record/release", "the record may be on another PostgreSQL system now"),
            Some(Change::Off) => ("/v1/record/off", "the cluster has no record any more"),
        };
        client.send(&Method::POST, path, &[], None)?;
        Ok(render::done(done, &json!({"result": done}), format))
    }
}

fn show(client: &mut Client, format: Format) -> Result<String, Failure> {
    let record = client.get("/v1/record")?.body;
    if format != Format::Table {
        return Ok(render::value(&record, format));
    }
    let names =
        ["state", "reason", "message", "recorded_revision", "lag_changes", "lag_bytes", "lag_age_ms", "timeline"];
    Ok(names.iter().map(|name| format!("{name:18} {}\n", cell(&record[*name]))).collect())
}
