//! A link that is up, down, or slow.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where it listens.
const LISTEN: (&str, u16) = ("127.40.4.2", 5432);

/// How long what the server says is held back where the link is slow.
const SLOW: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Up,
    /// Every connection is cut, and none is carried.
    Down,
    Slow,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Slow => "slow",
        }
    }
}

pub(super) struct Link {
    state: Arc<watch::Sender<State>>,
}

impl Link {
    pub(super) async fn start(target: (&'static str, u16)) -> Result<Self> {
        let state = Arc::new(watch::Sender::new(State::Up));
        let listener = TcpListener::bind(LISTEN).await?;
        let states = state.subscribe();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let states = states.clone();
                tokio::spawn(async move {
                    if *states.borrow() == State::Down {
                        return;
                    }
                    let Ok(to) = TcpStream::connect(target).await else { return };
                    let (from, to) = (from.into_split(), to.into_split());
                    let mut cut = states.clone();
                    tokio::select! {
                        () = carry(from.0, to.1, None) => {}
                        () = carry(to.0, from.1, Some(states)) => {}
                        _ = cut.wait_for(|state| *state == State::Down) => {}
                    }
                });
            }
        });
        Ok(Self { state })
    }

    pub(super) fn address(&self) -> (&'static str, u16) {
        LISTEN
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, states: Option<watch::Receiver<State>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
    {
        if states.as_ref().is_some_and(|states| *states.borrow() == State::Slow) {
            tokio::time::sleep(SLOW).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
