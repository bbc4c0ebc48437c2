//! `hfctl`: the command line of Holdfast. It talks to the Admin API of any node and knows nothing that the API does not
//! say.
//!
//! A verb is a file in [`verbs`] and a line in its table.

mod client;
mod document;
mod failure;
mod render;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use client::Client;
use daemon::seams::SystemRandom;
use daemon::settings::units::Span;
use failure::Failure;
use render::Format;
use verbs::Verb;

/// The command line of Holdfast.
///
/// The key of the Admin API comes from a file (--key-file) or the variable HOLDFAST_ADMIN_KEY, and never from the command
/// line, which every user of the machine can read.
///
/// Exit codes: 0 done, 1 refused, or something differs, 2 wrong usage, 3 the outcome is unknown, 4 no node could be asked.
#[derive(Debug, Parser)]
#[command(name = "hfctl", version = daemon::build::LONG, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// A node's Admin API. Repeatable: the next is asked when one does not answer or cannot serve.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:9180",
        value_name = "URL"
    )]
    server: Vec<String>,
    /// A file with nothing but the key in it.
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How long everything together may take.
    #[arg(long, global = true, default_value = "30s", value_name = "TIME")]
    timeout: Span,
    /// How answers are shown.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Format,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure @ Failure::Differs(_)) => {
            print!("{failure}");
            ExitCode::from(failure.exit_code())
        }
        Err(failure) => {
            for line in failure.to_string().lines() {
                eprintln!("hfctl: {line}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<String, Failure> {
    if let Some(result) = cli.verb.offline(cli.output) {
        return result;
    }
    let key = key(cli.key_file.as_deref())?;
    let timeout: Duration = cli.timeout.0;
    let mut client = Client::new(&cli.server, key, timeout, &SystemRandom)?;
    cli.verb.run(&mut client, cli.output)
}

fn key(file: Option<&std::path::Path>) -> Result<String, Failure> {
    let key = match file {
        Some(path) => std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e))?,
        None => std::env::var("HOLDFAST_ADMIN_KEY").unwrap_or_default(),
    };
    match key.trim() {
        "" => Err(Failure::Usage("a key is needed: set HOLDFAST_ADMIN_KEY, or name a file with --key-file".into())),
        key => Ok(key.to_owned()),
    }
}
