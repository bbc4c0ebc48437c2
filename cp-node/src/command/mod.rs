//! The command line of a control-plane node.

mod ca;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use daemon::seams::SystemRandom;
use daemon::settings;
use daemon::settings::units::Span;
use daemon::signals::Termination;
use mtls::{BadCredentials, Credentials, ServerTls};
use protocol::crypto::Keyring;
use protocol::seam::Random;

use crate::bootstrap::{self, Plan};
use crate::node::{self, Ended, Node, NodeError, Seams};
use crate::settings::Settings;

/// sysexits.h: something is wrong with the settings.
const EX_CONFIG: u8 = 78;

/// A node of Holdfast's control plane.
#[derive(Parser)]
#[command(name = "cp-node", version = daemon::build::LONG)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the node until SIGTERM.
    Run(Common),
    /// Founds a cluster with this node as its first voter. Once per cluster.
    Init(Common),
    /// Brings a cluster back whose disks are all lost, with this node as its first voter. An operator's decision: see to
    /// it that no node of the old cluster runs any more.
    Bootstrap {
        /// Where the configuration comes from.
        #[arg(long, value_enum, default_value_t = Source::Auto)]
        from: Source,
        /// The file, as `hfctl backup` wrote it.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Come back although proxies have served more than what was found.
        #[arg(long)]
        accept_loss: bool,
        /// For how long proxies may say how far they are; 0s: nobody is asked.
        #[arg(long, default_value = "15s", value_name = "TIME")]
        witness_window: Span,
        /// Go on with a bootstrap that did not finish, by its restore id.
        #[arg(long, value_name = "RESTORE ID")]
        resume: Option<protocol::position::RestoreId>,
        /// Take the next free epoch, past the claims of bootstraps that came to nothing for good.
        #[arg(long, conflicts_with = "resume")]
        past_claims: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Gets this node its place in a running cluster; then run it.
    Join {
        /// The peer address of a node of the cluster. Repeatable.
        #[arg(long, required = true)]
        peer: Vec<String>,
        /// Stay a learner: never vote.
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Takes this (running) node out of its cluster for good. It then stops by itself.
    Leave(Common),
    /// Writes the key files that the settings name and that are lost, from what the record (else the archive, or a file)
    /// keeps of them. Needs the key-encryption key, `secrets.kek_file`. `bootstrap` does so by itself.
    RecoverKeys {
        /// Where they are kept.
        #[arg(long, value_enum, default_value_t = Source::Auto)]
        from: Source,
        /// The file, as `hfctl backup` wrote it.
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// An authority of one's own, for the certificates of `mtls`.
    Ca {
        #[command(subcommand)]
        what: ca::CaCommand,
    },
    /// Looks at the settings.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

/// Where a lost configuration comes from.
#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// The newest of what is set.
    Auto,
    /// The object store.
    Archive,
    /// A file.
    File,
    /// The durable record.
    Record,
}

impl From<Source> for bootstrap::From {
    fn from(source: Source) -> Self {
        match source {
            Source::Auto => Self::Auto,
            Source::Archive => Self::Archive,
            Source::File => Self::File,
            Source::Record => Self::Record,
        }
    }
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Checks them.
    Validate(Common),
    /// Prints them as they are in effect, secrets masked.
    Print(Common),
    /// Prints the public half of the key that signs the archive, for the proxies' `archive.trusted_keys`.
    ArchiveKey(Common),
    /// Prints a new key for `secrets.keyring_file`. To rotate, put it before the others, on every node and proxy, proxies
    /// first; what is written from then on is sealed with it, and the others still open what they sealed.
    Keyring {
        /// The key's name; by default a random one.
        #[arg(long)]
        id: Option<String>,
    },
}

#[derive(Args)]
struct Common {
    /// A YAML file with settings. Repeatable: a later file wins.
    #[arg(long, short, env = "HOLDFAST_CONFIG", value_delimiter = ':')]
    config: Vec<PathBuf>,
    /// One setting, as in a file: `raft.heartbeat=100ms`. Repeatable; wins over files and environment.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Common {
    fn load(&self) -> Result<Settings, Failure> {
        let settings: Settings = settings::load(&self.config, std::env::vars(), &self.set)
            .map_err(|e| Failure { code: EX_CONFIG, message: e.to_string() })?;
        settings.check().map_err(|e| Failure { code: EX_CONFIG, message: e.to_string() })?;
        Ok(settings)
    }
}

/// What ends the process with an error.
struct Failure {
    code: u8,
    message: String,
}

impl From<NodeError> for Failure {
    fn from(e: NodeError) -> Self {
        Self { code: e.exit_code(), message: e.to_string() }
    }
}

/// Does what the process's command line says.
pub fn execute() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = daemon::failpoint::from_environment();
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cp-node: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(common) => run(common.load()?),
        Command::Init(common) => {
            let settings = common.load()?;
            start_logs(&settings)?;
            let identity = block_on(node::found(&settings, &Seams::real()))?;
            println!(
                "cluster {} is founded; this is node {}. Now run it: cp-node run",
                identity.cluster, identity.node
            );
            Ok(())
        }
        Command::Bootstrap { from, file, accept_loss, witness_window, resume, past_claims, common } => {
            let settings = common.load()?;
            start_logs(&settings)?;
            let plan = Plan { from: from.into(), file, accept_loss, window: witness_window.0, resume, past_claims };
            let restored = block_on(bootstrap::bootstrap(&settings, &plan, &Seams::real()))?;
            println!(
                "cluster {} is back from {}: {} resources at {}, where it was at {}; {} proxies were heard. Now run it: cp-node run",
                restored.identity.cluster,
                restored.from,
                restored.resources,
                restored.position,
                restored.found,
                restored.witnesses.len()
            );
            Ok(())
        }
        Command::RecoverKeys { from, file, common } => {
            let settings = common.load()?;
            start_logs(&settings)?;
            let written = block_on(bootstrap::recover_keys(&settings, from.into(), file, &Seams::real()))?;
            match written.is_empty() {
                true => println!("no key file is missing"),
                false => written.iter().for_each(|path| println!("{}", path.display())),
            }
            Ok(())
        }
        Command::Join { peer, learner, common } => {
            let mut settings = common.load()?;
            start_logs(&settings)?;
            settings.cluster.join = peer;
            settings.cluster.voter &= !learner;
            let identity = block_on(node::join(&settings, &Seams::real()))?;
            println!("joined cluster {} as node {}. Now run it: cp-node run", identity.cluster, identity.node);
            Ok(())
        }
        Command::Leave(common) => {
            let node = block_on(node::leave(&common.load()?, &Seams::real()))?;
            println!("node {node} has left the cluster; its process stops by itself");
            Ok(())
        }
        Command::Ca { what } => {
            println!("{}", ca::execute(what).map_err(|e| Failure { code: 1, message: e.to_string() })?);
            Ok(())
        }
        Command::Config { what: ConfigCommand::Validate(common) } => {
            let settings = common.load()?;
            let bad = |e: BadCredentials| Failure { code: EX_CONFIG, message: e.to_string() };
            Credentials::load(&settings.mtls, mtls::Role::ControlPlane, &settings.node_name()).map_err(bad)?;
            ServerTls::load(&settings.admin.tls).map_err(bad)?;
            println!("the settings are good");
            Ok(())
        }
        Command::Config { what: ConfigCommand::ArchiveKey(common) } => {
            let key = common.load()?.archive.signing_key();
            println!("{}", key.map_err(|e| Failure { code: EX_CONFIG, message: e.to_string() })?.public());
            Ok(())
        }
        Command::Config { what: ConfigCommand::Keyring { id } } => {
            let random = SystemRandom;
            let id = id.unwrap_or_else(|| format!("k{:08x}", random.next() >> 32));
            let key = [random.bytes16(), random.bytes16()].concat();
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = format!("{id} {hex}");
            Keyring::parse(&line).map_err(|_| Failure {
                code: EX_CONFIG,
                message: format!("{id:?} is no name of a key: 1 to 64 letters, digits, '-', '_' and '.'"),
            })?;
            println!("{line}");
            Ok(())
        }
        Command::Config { what: ConfigCommand::Print(common) } => {
            let mut settings = common.load()?;
            for key in settings.admin.keys.iter_mut().filter(|key| !key.key.is_empty()) {
                key.key = "***".to_owned();
            }
            settings.archive = settings.archive.masked();
            if !settings.record.dsn.0.is_empty() {
                settings.record.dsn.0 = "***".to_owned();
            }
            let text = settings::print(&settings).map_err(|message| Failure { code: 1, message })?;
            print!("{text}");
            Ok(())
        }
    }
}

fn start_logs(settings: &Settings) -> Result<(), Failure> {
    daemon::logging::start(&settings.log).map_err(|e| Failure { code: EX_CONFIG, message: e.to_string() })
}

fn block_on<T>(work: impl Future<Output = Result<T, NodeError>>) -> Result<T, Failure> {
    Ok(runtime("main", None)?.block_on(work)?)
}

fn runtime(name: &str, workers: Option<usize>) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    builder.thread_name(name).enable_all().build().map_err(|e| Failure { code: 1, message: format!("no runtime: {e}") })
}

fn run(settings: Settings) -> Result<(), Failure> {
    start_logs(&settings)?;
    // Two threads: applying a large change must not stand in front of a heartbeat.
    let consensus = runtime("consensus", Some(2))?;
    let front = runtime("front", None)?;
    let outcome = front.block_on(async {
        let mut termination = Termination::listen()
            .map_err(|e| Failure { code: 1, message: format!("signals cannot be taken over: {e}") })?;
        let node = Node::start(settings, Seams::real(), consensus.handle()).await?;
        let ended = tokio::select! {
            signal = termination.next() => {
                tracing::info!(signal, "stopping");
                None
            }
            ended = node.ended() => Some(ended),
        };
        match ended {
            // Nothing may be acknowledged any more: the process ends as it stands.
            Some(Ended::Failed(reason)) => Err(Failure { code: 1, message: reason }),
            // Nor that: whoever restarts it changes nothing.
            Some(Ended::Superseded(why)) => Err(Failure { code: EX_CONFIG, message: why.to_string() }),
            Some(Ended::Left) => {
                tracing::info!("this node has left the cluster");
                node.stop().await;
                Ok(())
            }
            None => {
                tokio::select! {
                    () = node.stop() => Ok(()),
                    signal = termination.next() => {
                        Err(Failure { code: 1, message: format!("{signal} again: ended without waiting") })
                    }
                }
            }
        }
    });
    // Streams of proxies that did not let go in time are cut.
    front.shutdown_background();
    consensus.shutdown_background();
    outcome
}
