//! The side of the process that takes over.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use daemon::settings::units::Span;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::info;

use super::wire::{self, Ask, Offer, Word};
use super::{Estate, HandoverError};
use crate::settings::Handover;

/// How long the running process may take until its feed stands aside: its disk may have to end what it does.
const OFFER_TIME: Duration = Duration::from_secs(30);

/// The connection to the predecessor, who serves until it hears otherwise.
#[derive(Debug)]
pub(crate) struct Link(UnixStream);

/// Takes everything over from the process that runs with these settings. `None`: there is none.
///
/// # Errors
/// [`HandoverError`]: it goes on as if it had not been asked.
pub async fn take_over(settings: &Handover) -> Result<Option<Estate>, HandoverError> {
    let mut stream = match connect(&settings.socket).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(HandoverError::Socket { path: settings.socket.clone(), error }),
    };
    let predecessor = wire::check_peer(&stream)?;
    wire::say(&mut stream, &Ask { format: wire::FORMAT, version: daemon::build::VERSION.to_owned() }).await?;
    let offer = timeout(OFFER_TIME, wire::hear(&mut stream)).await;
    let (version, count) = match offer.unwrap_or(Err(HandoverError::Late(Span(OFFER_TIME))))? {
        Offer::Given { version, listeners } => (version, listeners),
        Offer::Refused(reason) => return Err(HandoverError::Refused(reason)),
    };
    let mut descriptors = wire::receive_descriptors(&stream, count + 1).await?.into_iter();
    let lock = descriptors.next().map(File::from);
    let listeners = descriptors.map(|descriptor| {
        let listener = TcpListener::from(descriptor);
        Ok((listener.local_addr()?, listener))
    });
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    info!(predecessor, version, listeners = listeners.len(), "taking over");
    Ok(Some(Estate { lock, listeners, link: Some(Link(stream)) }))
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

impl Link {
    /// Says that there is a table to serve, and waits until the predecessor gives way.
    ///
    /// # Errors
    /// [`HandoverError`]: the predecessor goes on, and this process must end.
    pub(crate) async fn ready(&mut self) -> Result<(), HandoverError> {
        wire::say(&mut self.0, &Word::Ready).await?;
        wire::expect(&mut self.0, Word::Go).await
    }

    /// Waits for ever, unless the predecessor breaks the hand-over off.
    pub(crate) async fn broken_off(&self) -> HandoverError {
        loop {
            if let Err(e) = self.0.readable().await {
                return e.into();
            }
            // The system may say so when there is nothing. Whatever there is: it has nothing to say before it was told that
            // this process is ready.
            match self.0.try_read(&mut [0]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return e.into(),
                Ok(_) => return HandoverError::BrokenOff,
            }
        }
    }

    /// Says that this process accepts. Should the predecessor be gone, there is nothing to tell.
    pub(crate) async fn serving(mut self) {
        let _ = wire::say(&mut self.0, &Word::Serving).await;
    }
}
