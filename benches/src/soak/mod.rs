//! Long runs against the proxy: large bodies, many connections, many restarts, many edits. Each holds, or the program fails.
//!
//! This is no measurement beside peers but a matter of yes and no, with the figures that came of it. Bounds stand beside the
//! parts. The proxy has its configuration from a file; nothing else is needed.

mod bodies;
mod edits;
mod idle;
mod origin;
mod restarts;
mod site;

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use crate::figures::Results;
use crate::process::directory;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Parts whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// MiB of each body.
    #[arg(long, default_value_t = 4096)]
    mib: u64,
    /// Connections that idle.
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
    /// Hot restarts under load.
    #[arg(long, default_value_t = 20)]
    restarts: usize,
    /// Edits of the configuration, one by one.
    #[arg(long, default_value_t = 1_000_000)]
    edits: u64,
    /// After how many edits the table is held against one that is built afresh.
    #[arg(long, default_value_t = 10_000)]
    afresh_every: u64,
    /// Draws the edits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the parts one after the other, and says of each at once what came of it.
pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let mut results = Results::new("soak", &["part", "held", "s", "figures"]);
    let mut failed = Vec::new();
    for part in ["bodies", "idle", "restarts", "edits"].into_iter().filter(|part| part.contains(&arguments.only)) {
        let dir = directory()?;
        let began = Instant::now();
        let outcome = match part {
            "bodies" => bodies::run(dir.path(), arguments.mib << 20).await,
            "idle" => idle::run(dir.path(), arguments.connections).await,
            "restarts" => restarts::run(dir.path(), arguments.restarts).await,
            _ => edits::run(arguments.edits, arguments.afresh_every, arguments.seed),
        };
        let took = began.elapsed().as_secs();
        let (held, figures) = match outcome {
            Ok(figures) => ("yes", figures),
            Err(why) => {
                failed.push(part);
                ("NO", format!("{why:#}"))
            }
        };
        eprintln!("{part}: held: {held}, {took} s: {figures}");
        results.row(vec![part.to_owned(), held.to_owned(), took.to_string(), figures]);
    }
    ensure!(failed.is_empty(), "{}\ndid not hold: {}", results.markdown(), failed.join(", "));
    Ok(results)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
