//! A connection that was switched to another protocol (RFC 9110 §7.8), such as WebSocket, and what it has in common with
//! one that was never anything else: bytes both ways, unread.
//!
//! It opens when the node has answered 101 and the client was told so, and not before. An end of one direction is passed
//! on as that, and the other goes on; the tunnel ends with both, with an error of either, or when nothing has moved for as
//! long as an upstream may be silent.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;
use tracing::debug;

use super::account::Account;
use super::wheel::Alarm;
use crate::proxy::link::Link;

/// What is read of one side before the other has taken it.
const BUFFER_BYTES: usize = 16 << 10;

/// A tunnel to a node.
#[derive(Debug)]
pub(crate) struct Tunnel {
    link: Link,
    /// What the node has said already.
    early: BytesMut,
    alarm: Alarm,
    idle: Duration,
    /// Settled when it ends.
    pub(crate) account: Option<Account>,
}

/// One direction.
#[derive(Debug)]
struct Direction {
    buffer: BytesMut,
    /// Bytes that were passed on.
    carried: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// The source has ended: the rest goes, and then the end itself.
    Ending,
    Ended,
}

impl Tunnel {
    /// To the node at the other end of `link`, which has said `early` behind its 101; given up when nothing moves for
    /// `idle`.
    pub(crate) fn to((link, early): (Link, BytesMut), alarm: Alarm, idle: Duration) -> Self {
        Self { link, early, alarm, idle, account: None }
    }

    /// Carries bytes until the end. `early` is what the client has sent behind its request.
    pub(crate) async fn run<S>(self: Box<Self>, client: S, early: Bytes)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { link, early: answered, alarm, idle, account } = *self;
        let mut given = 0;
        let result = carry((client, early.into()), (link, answered), (alarm, idle), |_, down| given = down).await;
        if let Err(e) = result {
            debug!(reason = %e, "a tunnel is cut");
        }
        if let Some(account) = account {
            account.goes(given);
        }
    }
}

/// Carries bytes both ways between a client and a node until both have ended. Each comes with what it has said already.
/// `moved` is told, whenever bytes were passed on, how many were so far: up to the node, down to the client.
///
/// # Errors
/// Those of either side, and [`io::ErrorKind::TimedOut`] when nothing has moved for the time beside the alarm.
pub(crate) async fn carry<C, N>(
    (mut client, said): (C, BytesMut),
    (mut node, answered): (N, BytesMut),
    (alarm, idle): (Alarm, Duration),
    mut moved: impl FnMut(usize, usize),
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::starting_with(said);
    let mut down = Direction::starting_with(answered);
    poll_fn(|cx| {
        let moved_up = up.poll(cx, &mut client, &mut node);
        let moved_down = down.poll(cx, &mut node, &mut client);
        moved(up.carried, down.carried);
        let any = moved_up? | moved_down?;
        if up.state == State::Ended && down.state == State::Ended {
            return Poll::Ready(Ok(()));
        }
        if any || !alarm.is_set() {
            alarm.set(idle);
        }
        alarm.poll(cx).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
    })
    .await
}

impl Direction {
    fn starting_with(buffer: BytesMut) -> Self {
        Self { buffer, carried: 0, state: State::Open }
    }

    /// Moves what can be moved now. True when anything was.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> io::Result<bool>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut moved = false;
        while let Poll::Ready(step) = self.poll_step(cx, from, to) {
            step?;
            moved = true;
            if self.state == State::Ended {
                break;
            }
        }
        Ok(moved)
    }

    fn poll_step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.carried += written;
            return Poll::Ready(Ok(()));
        }
        match self.state {
            State::Open => {
                // What was written may still wait in TLS; the next read does not wait for it.
                if let Poll::Ready(Err(e)) = Pin::new(&mut *to).poll_flush(cx) {
                    return Poll::Ready(Err(e));
                }
                self.buffer.reserve(BUFFER_BYTES);
                if ready!(poll_read_buf(Pin::new(from), cx, &mut self.buffer))? == 0 {
                    self.state = State::Ending;
                }
            }
            State::Ending => {
                ready!(Pin::new(to).poll_shutdown(cx))?;
                self.state = State::Ended;
            }
            State::Ended => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}
