//! `hfctl`: the command line of Holdfast. It talks to the Admin API of any node and knows nothing that the API does not
//! say.
//!
//! A verb is a file in [`verbs`] and a line in its table.

mod client;
mod contexts;
mod document;
mod failure;
mod fleet;
mod plan;
mod progress;
mod render;
mod tls;
mod verbs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use client::Client;
use contexts::Contexts;
use daemon::seams::SystemRandom;
use daemon::settings::units::Span;
use failure::Failure;
use render::Format;
use tls::TlsFiles;
use verbs::Verb;

/// The node that is asked where none is named.
const SERVER: &str = "http://127.0.0.1:9180";

/// How long everything together may take where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The command line of Holdfast.
///
/// The key of the Admin API comes from a file (--key-file) or the variable HOLDFAST_ADMIN_KEY, and never from the command
/// line, which every user of the machine can read.
///
/// A flag wins over the environment, that over the context (hfctl context), that over defaults.
///
/// Exit codes: 0 done, 1 refused, or something differs, 2 wrong usage or file, 3 the outcome is unknown, 4 no node could be asked, 5 done, and
/// the proxies do not serve it yet.
#[derive(Debug, Parser)]
#[command(name = "hfctl", version = daemon::build::LONG, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// A node's Admin API. Repeatable: the next is asked when one does not answer or cannot serve. [default:
    /// http://127.0.0.1:9180]
    #[arg(long, global = true, env = "HOLDFAST_SERVER", value_delimiter = ',', value_name = "URL")]
    server: Vec<String>,
    /// The context to use, of the contexts file. [default: its current one]
    #[arg(long, global = true, env = "HFCTL_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// The contexts file. [default: ~/.config/holdfast/hfctl.yaml]
    #[arg(long, global = true, env = "HFCTL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with nothing but the key in it.
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsFiles,
    /// How long everything together may take. [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    timeout: Option<Span>,
    /// The id of an earlier attempt whose outcome is unknown, which this is to repeat: the change is made once.
    #[arg(long, global = true, value_name = "ID")]
    request_id: Option<String>,
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
    if let Some(result) = cli.verb.offline(cli.config.as_deref(), cli.output) {
        return result;
    }
    let context = Contexts::read(cli.config.as_deref())?.find(cli.context.as_deref())?;
    let key = key(cli.key_file.as_deref(), context.key_file.as_deref())?;
    let servers = match (cli.server.is_empty(), context.servers.is_empty()) {
        (false, _) => cli.server.clone(),
        (true, false) => context.servers,
        (true, true) => vec![SERVER.to_owned()],
    };
    let timeout = match (&cli.timeout, &context.timeout) {
        (Some(timeout), _) => timeout.0,
        (None, Some(text)) => {
            let span: Result<Span, _> = text.parse();
            span.map_err(|e| Failure::Usage(format!("the context's timeout {text:?}: {e}")))?.0
        }
        (None, None) => TIMEOUT,
    };
    let tls = cli.tls.or(&context.tls);
    let mut client = Client::new(&servers, key, timeout, &tls, &SystemRandom)?;
    if let Some(request) = &cli.request_id {
        client.repeat(request);
    }
    cli.verb.run(&mut client, cli.output)
}

/// The key: from a file that a flag names, from the environment, from the context's file.
fn key(flag: Option<&Path>, of_context: Option<&Path>) -> Result<String, Failure> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e));
    let key = match (flag, std::env::var("HOLDFAST_ADMIN_KEY"), of_context) {
        (Some(path), ..) => read(path)?,
        (None, Ok(key), _) => key,
        (None, Err(_), Some(path)) => read(&contexts::expand(path))?,
        (None, Err(_), None) => String::new(),
    };
    match key.trim() {
        "" => Err(Failure::Usage("a key is needed: set HOLDFAST_ADMIN_KEY, or name a file with --key-file".into())),
        key => Ok(key.to_owned()),
    }
}
