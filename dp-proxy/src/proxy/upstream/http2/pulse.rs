//! Whether a node is still there while requests wait for it.
//!
//! A connection whose other end is gone without a word (a machine that lost its power, a firewall that forgot it) looks like
//! one whose node takes its time, and carries up to a hundred requests. So a silence in which requests wait is broken by a
//! PING (RFC 9113 §6.7), and a connection on which that is not answered is ended.
//!
//! PINGs are few: servers of gRPC end connections with more than two in five minutes in which they sent nothing
//! themselves ("too many pings").

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// How often a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A silence of this length is broken, once.
const PING_AFTER: Duration = Duration::from_secs(3);
/// When it goes on for so long behind the answer, it is broken again. gRPC's servers allow for five minutes.
const PING_AGAIN: Duration = Duration::from_secs(330);
/// How long the answer may take: a round trip, behind what is under way already.
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// What a connection tells of its requests.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests on the connection.
    waiting: Cell<usize>,
    /// Counts what came of answers, and requests that began when there was none: it is the same as long as all wait.
    moved: Cell<u32>,
    /// Whether the connection was ended because a PING was not answered.
    lost: Cell<bool>,
}

impl Pulse {
    /// Requests on the connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        if self.waiting.get() == 0 {
            self.beat();
        }
        self.waiting.set(self.waiting.get() + 1);
    }

    /// A request is over.
    pub(super) fn end(&self) {
        self.waiting.set(self.waiting.get() - 1);
    }

    /// Something of an answer came.
    pub(super) fn beat(&self) {
        self.moved.set(self.moved.get().wrapping_add(1));
    }

    /// Whether the connection was ended because its node was gone.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Comes back when the node is gone, else never.
    pub(super) async fn lost(&self, mut pings: PingPong) {
        let (mut seen, mut silence, mut due) = (None, Duration::ZERO, PING_AFTER);
        loop {
            sleep(LOOK_EVERY).await;
            let now = self.silent_since();
            if now.is_none() || now != seen {
                (seen, silence, due) = (now, Duration::ZERO, PING_AFTER);
                continue;
            }
            silence += LOOK_EVERY;
            if silence < due {
                continue;
            }
            if let Ok(Ok(_)) = timeout(PONG_WITHIN, pings.ping(Ping::opaque())).await {
                due = silence + PING_AGAIN;
            } else if self.silent_since() == seen {
                self.lost.set(true);
                return;
            } else {
                // It speaks, and knows no PING. Nothing can be learned from that.
                pending::<()>().await;
            }
        }
    }

    /// The silence in which all requests wait, by its number; `None`: there is no request.
    fn silent_since(&self) -> Option<u32> {
        (self.waiting.get() > 0).then(|| self.moved.get())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::spawn_local;
    use tokio::time::Instant;

    use super::*;

    const PING: u8 = 6;
    const ACK: u8 = 1;

    /// A node by hand: it sends settings, counts PINGs, and answers them if it `answers`.
    async fn node(mut stream: DuplexStream, answers: bool, pings: Rc<Cell<usize>>) {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == PING && head[4] & ACK == 0 {
                pings.set(pings.get() + 1);
                if answers {
                    head[4] |= ACK;
                    stream.write_all(&[&head[..], &payload].concat()).await.unwrap();
                }
            }
        }
    }

    /// Lets `during` act on the pulse of a connection, with a clock that runs by itself; gives after how long the node was
    /// lost, if it was, and how many PINGs it got.
    fn watched(answers: bool, during: impl AsyncFn(&Pulse)) -> (Option<u64>, usize) {
        let options = tokio::runtime::LocalOptions::default();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build_local(options).unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let pings = Rc::new(Cell::new(0));
            spawn_local(node(theirs, answers, pings.clone()));
            let (_sender, mut connection) = h2::client::handshake(ours).await.unwrap();
            let ping_pong = connection.ping_pong().unwrap();
            spawn_local(async move { drop(connection.await) });
            let pulse = Pulse::default();
            let begun = Instant::now();
            let lost = tokio::select! {
                () = pulse.lost(ping_pong) => Some(begun.elapsed().as_secs()),
                () = during(&pulse) => None,
            };
            assert_eq!(pulse.is_lost(), lost.is_some());
            (lost, pings.get())
        })
    }

    async fn seconds(count: u64) {
        sleep(Duration::from_secs(count)).await;
    }

    #[test]
    fn a_node_that_is_gone_is_noticed_while_a_request_waits() {
        let (lost, pings) = watched(false, async |pulse| {
            pulse.begin();
            seconds(60).await;
        });
        // It is looked at each second: the first look takes note, the fourth breaks the silence.
        assert_eq!((lost, pings), (Some(9), 1));
    }

    #[test]
    fn nobody_is_asked_while_no_request_waits_or_answers_come() {
        let quiet = async |_: &Pulse| seconds(60).await;
        assert_eq!(watched(false, quiet), (None, 0));
        let lively = async |pulse: &Pulse| {
            pulse.begin();
            for _ in 0..30 {
                seconds(2).await;
                pulse.beat();
            }
            pulse.end();
            seconds(60).await;
        };
        assert_eq!(watched(false, lively), (None, 0));
    }

    #[test]
    fn a_node_that_takes_its_time_is_asked_rarely() {
        let slow = async |pulse: &Pulse| {
            pulse.begin();
            seconds(320).await;
        };
        assert_eq!(watched(true, slow), (None, 1));
        let slower = async |pulse: &Pulse| {
            pulse.begin();
            seconds(400).await;
        };
        assert_eq!(watched(true, slower), (None, 2));
    }

    #[test]
    fn a_node_that_speaks_and_knows_no_ping_is_left_alone() {
        let (lost, _) = watched(false, async |pulse| {
            pulse.begin();
            seconds(6).await;
            pulse.beat();
            seconds(600).await;
        });
        assert_eq!(lost, None);
    }
}
