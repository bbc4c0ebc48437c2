//! The side of the process that runs: it waits to be asked, and gives way.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::HandoverError;
use super::wire::{self, Ask, Offer, Word};
use crate::feed::{Aside, Stander};
use crate::proxy::Lender;
use crate::settings::Handover;

/// The pause after the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What gives way, and what is handed over.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// The lock of the data directory, as long as the proxy itself has it: whoever has given it up has nothing to hand over.
    pub(crate) lock: Weak<File>,
    /// The feed, which has the disk.
    pub(crate) feed: Stander,
    /// The workers, with their listeners.
    pub(crate) workers: Lender,
    /// Where operators are answered.
    pub(crate) sites: Vec<Arc<TcpListener>>,
}

/// Where a successor asks.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    settings: Handover,
}

/// A successor that serves.
#[derive(Debug)]
pub(crate) struct Succeeded {
    /// Its process.
    pub(crate) pid: Option<u32>,
    /// Dropped at the end of this process.
    _aside: Aside,
}

impl Door {
    /// Opens the socket file, in place of one that an earlier process has left. Only for who holds the lock of the data
    /// directory.
    ///
    /// # Errors
    /// Those of the operating system, with the path: then there is no hot restart.
    pub(crate) fn open(settings: &Handover) -> Result<Self, HandoverError> {
        let path: &PathBuf = &settings.socket;
        let open = || {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = open().map_err(|error| HandoverError::Socket { path: path.clone(), error })?;
        Ok(Self { listener, settings: settings.clone() })
    }

    /// Waits for a successor that comes to serve. Those that do not are told in the log.
    pub(crate) async fn succeeded(self, leaving: &Leaving) -> Succeeded {
        loop {
            let mut stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    warn!(error = %e, "no successor could be heard");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.hand_over(&mut stream, leaving).await {
                Ok(succeeded) => return succeeded,
                Err(e) => error!(reason = %e, "no hand-over has come about, this process goes on"),
            }
        }
    }

    async fn hand_over(&self, stream: &mut UnixStream, leaving: &Leaving) -> Result<Succeeded, HandoverError> {
        let pid = wire::check_peer(stream)?;
        let limit = self.settings.start_timeout;
        let late = || HandoverError::Late(limit);
        let ask: Ask = timeout(limit.0, wire::hear(stream)).await.map_err(|_| late())??;
        if ask.format != wire::FORMAT {
            let reason = format!("it speaks version {} of the hand-over, this one {}", ask.format, wire::FORMAT);
            wire::say(stream, &Offer::Refused(reason.clone())).await?;
            return Err(HandoverError::Unknown(reason));
        }
        info!(successor = pid, version = ask.version, "handing over");
        // Who gives up waiting finds the feed where it was, as soon as the disk lets go of it.
        let aside = match timeout(limit.0, leaving.feed.stand_aside()).await {
            Ok(Some(aside)) => aside,
            Ok(None) => {
                wire::say(stream, &Offer::Refused("it is about to end".to_owned())).await?;
                return Err(HandoverError::BrokenOff);
            }
            Err(_) => {
                wire::say(stream, &Offer::Refused("its disk hangs".to_owned())).await?;
                return Err(late());
            }
        };
        let given = timeout(limit.0, give(stream, leaving)).await.unwrap_or_else(|_| Err(late()));
        let given = match given {
            Ok(()) => match wire::say(stream, &Word::Go).await {
                Ok(()) => timeout(limit.0, wire::expect(stream, Word::Serving)).await.unwrap_or_else(|_| Err(late())),
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        match given {
            Ok(()) => Ok(Succeeded { pid, _aside: aside }),
            Err(e) => {
                end(stream, pid).await;
                aside.come_back();
                Err(e)
            }
        }
    }
}

/// Hands everything over, and waits until the successor is ready.
async fn give(stream: &mut UnixStream, leaving: &Leaving) -> Result<(), HandoverError> {
    let lock = leaving.lock.upgrade().ok_or_else(|| io::Error::other("this process is ending"))?;
    let mut descriptors = vec![OwnedFd::from(lock.try_clone()?)];
    descriptors.extend(leaving.workers.lend().await?);
    for site in &leaving.sites {
        descriptors.push(site.as_fd().try_clone_to_owned()?);
    }
    let version = daemon::build::VERSION.to_owned();
    wire::say(stream, &Offer::Given { version, listeners: descriptors.len() - 1 }).await?;
    wire::send_descriptors(stream, &descriptors).await?;
    wire::expect(stream, Word::Ready).await
}

/// How long a successor that was told to go may take to end.
const END_TIME: Duration = Duration::from_secs(2);

/// Sees to it that a successor is gone: it has the lock, and could write to the disk.
async fn end(stream: &mut UnixStream, pid: Option<u32>) {
    let _ = stream.shutdown().await;
    let mut gone = async || {
        let mut scratch = [0; 64];
        while let Ok(1..) = stream.read(&mut scratch).await {}
    };
    if timeout(END_TIME, gone()).await.is_ok() {
        return;
    }
    let process = pid.filter(|pid| *pid != std::process::id()).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(process) = process {
        // It still holds its end of the connection: the number is its own.
        warn!(successor = pid, "the successor does not end, it is killed");
        let _ = kill_process(process, Signal::KILL);
        gone().await;
    }
}
