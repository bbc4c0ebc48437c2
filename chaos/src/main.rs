//! `chaos`: the demo, by hand.

use std::process::ExitCode;

use anyhow::Result;
use chaos::demo;
use chaos::layout::Layout;
use clap::{Parser, Subcommand};
use daemon::signals::Termination;

/// Shows on real processes that Holdfast holds fast.
#[derive(Debug, Parser)]
#[command(name = "chaos", version = daemon::build::LONG)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three control-plane nodes, two proxies, and what becomes of traffic when the control plane dies.
    Demo {
        /// End after the last step; the exit code is 0 only when all of it held.
        #[arg(long)]
        once: bool,
        /// Use addresses of this process alone instead of 127.0.0.x with the usual ports.
        #[arg(long)]
        own_addresses: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Demo { once, own_addresses } = Cli::parse().command;
    let layout = if own_addresses { Layout::Test { cluster: 0 } } else { Layout::Demo };
    match show(once, layout).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nIt did not hold: {why:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(once: bool, layout: Layout) -> Result<()> {
    let mut termination = Termination::listen()?;
    // Whatever ends it, what was started is dropped, and with it every process and file.
    let mut demo = tokio::select! {
        shown = demo::run(layout) => shown?,
        signal = termination.next() => {
            println!("\n{signal}: everything is taken down.");
            return Ok(());
        }
    };
    if once {
        println!("\nAll of it held.");
        return Ok(());
    }
    demo.explain()?;
    let signal = termination.next().await;
    println!("\n{signal}: everything is taken down.");
    Ok(())
}
