//! Holdfast beside its peers, on the same machine in the same run.
//!
//! A bench is a file and a line here. Each is bounded in time, talks only to 127.0.0.0/8, and takes its processes and
//! files with it when it ends. `README.md` says what the figures mean.

mod apply;
mod disk;
mod etcd;
mod figures;
mod holdfast;
mod http;
mod lookups;
mod machine;
mod process;
mod propagation;
mod proxy;
mod record;
mod soak;
mod table;
mod writes;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// As in the proxy, a part of which runs in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Holdfast beside its peers. The programs under test are those beside this one: build with --release.
#[derive(Parser)]
#[command(name = "benches")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// A large configuration by `hfctl apply`, and what reads and single writes cost at that size.
    Apply(apply::Arguments),
    /// How soon a committed change is served by two proxies, at several sizes of the configuration.
    Propagation(propagation::Arguments),
    /// What a request costs the proxy, beside nginx, HAProxy and Envoy.
    Proxy(proxy::Arguments),
    /// How fast a backlog drains into PostgreSQL, and Admin writes while it is up, down or slow.
    Record(record::Arguments),
    /// Large bodies, idle connections, hot restarts and random edits, in such numbers that what does not hold shows.
    Soak(soak::Arguments),
    /// One route of many changes: the proxy's table, step by step against built afresh.
    Table(table::Arguments),
    /// Admin writes per second and their latency, beside a three-node etcd.
    Writes(writes::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("benches: {why:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<String> {
    let results = match cli.bench {
        Bench::Apply(arguments) => apply::run(arguments).await?,
        Bench::Propagation(arguments) => propagation::run(arguments).await?,
        Bench::Proxy(arguments) => proxy::run(arguments).await?,
        Bench::Record(arguments) => record::run(arguments).await?,
        Bench::Soak(arguments) => soak::run(arguments).await?,
        Bench::Table(arguments) => table::run(arguments)?,
        Bench::Writes(arguments) => writes::run(arguments).await?,
    };
    Ok(if cli.json { format!("{:#}", results.json()) } else { results.markdown() })
}
