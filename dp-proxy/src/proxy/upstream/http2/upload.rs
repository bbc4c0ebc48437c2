//! A request's body on its way to a node, as fast as the node takes it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};

use crate::proxy::downstream::body::{BodyError, RequestBody};
use crate::proxy::upstream::replay::Replay;

/// What is still to be sent.
#[derive(Debug)]
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: Box<RequestBody>,
    /// What came of it and was not sent yet.
    data: Bytes,
    /// What was sent of it, for the case that the node refuses the request unseen.
    replay: Option<Box<Replay>>,
    state: State,
}

/// Whom it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Client,
    Upstream,
    /// Everything was sent, or the node takes nothing more.
    Ended,
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>, body: Box<RequestBody>) -> Self {
        let replay = Replay::of(&body);
        Self { stream, body, data: Bytes::new(), replay, state: State::Client }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Sends what can be sent now. True when anything was.
    ///
    /// # Errors
    /// The client's body is of no use; the node was told that nothing more comes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        let mut progress = false;
        while self.state != State::Ended {
            if !self.data.is_empty() {
                self.stream.reserve_capacity(self.data.len());
                let room = match self.stream.capacity() {
                    0 => match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(0))) => continue,
                        Poll::Ready(Some(Ok(room))) => room,
                        // What became of the request is told by the answer.
                        Poll::Ready(None | Some(Err(_))) => return self.end(progress),
                        Poll::Pending => {
                            self.state = State::Upstream;
                            return Ok(progress);
                        }
                    },
                    room => room,
                };
                let piece = self.data.split_to(room.min(self.data.len()));
                progress = true;
                if self.stream.send_data(piece, false).is_err() {
                    return self.end(progress);
                }
                continue;
            }
            self.state = State::Client;
            match self.body.poll_next(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.replay.take_if(|replay| !replay.keep(&data));
                    self.data = data;
                }
                Poll::Ready(Some(Err(e))) => {
                    self.stream.send_reset(Reason::CANCEL);
                    self.state = State::Ended;
                    return Err(e);
                }
                Poll::Ready(None) => {
                    let _ = match self.body.trailers() {
                        Some(trailers) => self.stream.send_trailers(trailers.clone()),
                        None => self.stream.send_data(Bytes::new(), true),
                    };
                    return self.end(true);
                }
                Poll::Pending => {
                    // A node that wants no more of it resets the stream, which must not go unseen until the client speaks.
                    if self.stream.poll_reset(cx).is_ready() {
                        return self.end(progress);
                    }
                    return Ok(progress);
                }
            }
        }
        Ok(progress)
    }

    fn end(&mut self, progress: bool) -> Result<bool, BodyError> {
        self.state = State::Ended;
        Ok(progress)
    }

    /// The body as it was before, when all that came of it is still there.
    pub(super) fn take_back(self) -> Option<Box<RequestBody>> {
        Replay::take_back(self.replay, Some(self.body))
    }
}
