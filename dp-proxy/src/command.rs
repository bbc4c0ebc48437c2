//! The command line of a proxy: `run` it, look at its settings, ask whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use daemon::settings::SettingsError;
use daemon::signals::{Renewal, Rotation, Termination};
use daemon::{build, logging, supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::handover::{self, HandoverError};
use crate::net;
use crate::run::{Life, Proxy, Seams, StartError};
use crate::settings::{BadSettings, Checked, Settings};

/// The data plane of Holdfast: carries the traffic, follows the control plane, and never needs it to serve.
///
/// Exit codes: 0 ok, 1 an error, 2 wrong usage, 78 settings that cannot be used.
#[derive(Debug, Parser)]
#[command(name = "dp-proxy", version = build::LONG, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// A file with settings (YAML); may be given several times, the later over the earlier.
    #[arg(long, short, global = true, env = "HOLDFAST_CONFIG", value_delimiter = ':', value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting over files and environment, e.g. `proxy.workers=4`; may be given several times.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until it is told to end: SIGTERM or SIGINT drains, a second one ends at once. SIGUSR1 opens the access log
    /// anew, SIGUSR2 starts the program anew in this process's place, without losing a connection.
    Run {
        /// Takes over from the process that runs with this data directory, if there is one: its listeners, its disk, its
        /// place. That one ends what is under way, and itself. This is what SIGUSR2 starts.
        #[arg(long)]
        take_over: bool,
    },
    /// Looks at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Asks a running proxy (by its `status.listen`) whether it is ready: exit code 0 if it is.
    Healthcheck,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says whether the settings can be used.
    Validate,
    /// Prints the settings in force, defaults included.
    Print,
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Bad(#[from] BadSettings),
    #[error(transparent)]
    Log(#[from] logging::BadFilter),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    System(#[from] std::io::Error),
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error("{0}")]
    CannotServe(String),
    #[error("a worker has ended, see above")]
    Worker,
    #[error("ended before everything was drained")]
    CutOff,
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Settings that cannot be used (sysexits' EX_CONFIG).
const BAD_CONFIG: u8 = 78;

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Bad(_) | Self::Log(_) => BAD_CONFIG,
            _ => 1,
        }
    }
}

/// Does what the process's command line says.
pub fn execute() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = daemon::failpoint::from_environment();
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A few words for people; the log has what happened before.
            eprintln!("dp-proxy: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let settings: Settings = daemon::settings::load(&cli.settings.config, std::env::vars(), &cli.settings.set)?;
    if let Command::Run { .. } = cli.command {
        logging::start(&settings.log)?;
    }
    let checked = settings.check()?;
    match cli.command {
        Command::Run { take_over } => runtime()?.block_on(run(checked, take_over)),
        Command::Config(ConfigCommand::Validate) => {
            println!("the settings can be used");
            Ok(())
        }
        Command::Config(ConfigCommand::Print) => {
            let masked = Settings { archive: settings.archive.clone().masked(), ..settings };
            let text = daemon::settings::print(&masked).map_err(std::io::Error::other)?;
            print!("{text}");
            Ok(())
        }
        Command::Healthcheck => runtime()?.block_on(healthcheck(checked.status)),
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

async fn run(settings: Checked, take_over: bool) -> Result<(), Failure> {
    let (mut termination, mut rotation, mut renewal) =
        (Termination::listen()?, Rotation::listen()?, Renewal::listen()?);
    // Found now: the file may have been replaced by the time that it is started anew.
    let program = std::env::current_exe()?;
    info!(version = build::VERSION, commit = build::COMMIT, node = settings.node.name, "starting");
    let estate = match take_over {
        true => handover::take_over(&settings.handover).await?,
        false => None,
    };
    let mut proxy = Proxy::start_with(settings, Seams::default(), estate.unwrap_or_default()).await?;
    info!(
        status = %proxy.status_address(), metrics = %proxy.metrics_address(), proxy = ?proxy.addresses(), "started"
    );
    let mut life = proxy.life();
    loop {
        tokio::select! {
            () = rotation.next() => proxy.reopen_logs(),
            () = renewal.next() => start_anew(&program),
            Ok(()) = life.changed() => match &*life.borrow_and_update() {
                Life::Starting => {}
                Life::Serving => supervisor::tell(&format!("READY=1\nSTATUS=serving, version {}", build::VERSION)),
                Life::Succeeded(pid) => {
                    if let Some(pid) = pid {
                        supervisor::tell(&format!("MAINPID={pid}"));
                    }
                    break;
                }
                Life::Failed(reason) => return Err(Failure::CannotServe(reason.clone())),
            },
            signal = termination.next() => {
                info!(signal, "asked to end");
                supervisor::tell("STOPPING=1");
                break;
            }
            () = proxy.failed() => {
                error!("a worker has ended without being told to");
                return Err(Failure::Worker);
            }
        }
    }
    let is_succeeded = matches!(&*life.borrow(), Life::Succeeded(_));
    let end = async {
        match is_succeeded {
            true => proxy.leave().await,
            false => proxy.drain().await,
        }
    };
    tokio::select! {
        _ = end => Ok(()),
        signal = termination.next() => {
            warn!(signal, "asked to end at once");
            Err(Failure::CutOff)
        }
    }
}

/// Starts the program anew, with the words that this process was started with, to take over from it.
fn start_anew(program: &Path) {
    let mut words: Vec<_> = std::env::args_os().skip(1).collect();
    if !words.iter().any(|word| word == TAKE_OVER) {
        words.push(TAKE_OVER.into());
    }
    info!(program = %program.display(), "starting the program anew, to take over");
    match std::process::Command::new(program).args(words).spawn() {
        Ok(mut successor) => {
            let pid = successor.id();
            // Told even when it ends long before this process does.
            std::thread::spawn(move || match successor.wait() {
                Ok(status) => warn!(successor = pid, %status, "the process that was to take over has ended"),
                Err(e) => warn!(successor = pid, error = %e, "the process that was to take over cannot be watched"),
            });
        }
        Err(e) => {
            error!(program = %program.display(), error = %e, "the program cannot be started anew, this process goes on")
        }
    }
}

/// What [`start_anew`] adds to the command line.
const TAKE_OVER: &str = "--take-over";

/// How long a running proxy may take to say whether it is ready.
const HEALTHCHECK_TIME: Duration = Duration::from_secs(5);

async fn healthcheck(status: SocketAddr) -> Result<(), Failure> {
    // One that listens everywhere is asked on this machine.
    let host: IpAddr = match status.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let ask = async {
        let mut stream = net::connect(SocketAddr::new(host, status.port())).await?;
        stream.write_all(b"GET /status/ready HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(64 << 10).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(HEALTHCHECK_TIME, ask).await;
    let answer = answer.map_err(|_| Failure::NotReady(format!("no answer within {HEALTHCHECK_TIME:?}")))?;
    let answer = answer.map_err(|e| Failure::NotReady(format!("{status}: {e}")))?;
    if answer.split(' ').nth(1) == Some("200") {
        println!("ready");
        return Ok(());
    }
    Err(Failure::NotReady(answer.lines().last().unwrap_or("no answer").to_owned()))
}
