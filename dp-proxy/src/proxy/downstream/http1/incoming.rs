//! A request's body as its connection gives it.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::request_head::BadFraming;
use super::wire::Wire;
use crate::proxy::downstream::body::Piece;
use crate::proxy::framing::{BadBody, Framing};

/// The body of a request. Dropped before its end, the rest of it is read by nobody.
#[derive(Debug)]
pub(crate) struct Incoming {
    wire: Rc<Wire>,
    bad: Option<BadFraming>,
}

impl Incoming {
    /// The body that begins on `wire` now.
    pub(super) fn begin(wire: &Rc<Wire>, framing: Result<Framing, BadFraming>, expects_continue: bool) -> Self {
        wire.begin_body(framing.unwrap_or(Framing::None), expects_continue);
        Self { wire: wire.clone(), bad: framing.err() }
    }

    /// # Errors
    /// Nobody can say where the body ends, so there is none.
    pub(crate) fn check(&self) -> Result<(), BadFraming> {
        self.bad.map_or(Ok(()), Err)
    }

    /// How much is to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.wire.body_left()
    }

    /// The next piece; `None` at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BadBody>>> {
        self.wire.poll_body(cx)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.wire.abandon_body();
    }
}
