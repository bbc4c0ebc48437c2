//! One connection: its requests, one after the other, and how it ends.
//!
//! ```text
//!   wait for a head --> answer --> send --> wait for the next
//!         |               |          |
//!         |               |          +--> a tunnel, after a 101
//!         +---------------+-------------> part: say why, let the client read it, close
//! ```
//!
//! What lasts as long as the connection is kept small: it is what one costs that waits. All that belongs to a request lives
//! in one allocation, which goes with it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use hyper::body::Body;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::incoming::Incoming;
use super::request_head::{Head, Read};
use super::response_head::{self, Asked, Connection, Encoding, Frame};
use super::sending::Sending;
use super::wire::Wire;
use crate::proxy::account::Account;
use crate::proxy::downstream::body;
use crate::proxy::downstream::client::Client;
use crate::proxy::error::Refusal;
use crate::proxy::head::line;
use crate::proxy::link::Link;
use crate::proxy::request::answer;
use crate::proxy::response::Response;
use crate::proxy::worker::Worker;

/// What is read, and for how long, of a request that was answered before it was read: a connection that is closed with
/// unread bytes is reset, and the client may never see the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How a connection ends.
enum End {
    /// The client has ended it, or does not use it.
    Gone,
    /// Its last request was answered.
    Answered,
    /// The connection is a tunnel from now on.
    Switched,
    /// A head did not come in time, or is none.
    Unread(Refusal),
}

/// Serves a client that speaks HTTP/1, and has said `early` already.
pub(crate) async fn serve(worker: Rc<Worker>, client: Rc<Client>, link: Link, early: BytesMut) {
    client.came(early.len());
    let wire = Wire::new(link, early, client.clone(), worker.arena.clone());
    let end = {
        let mut drained = pin!(worker.drained());
        // Before the first look at whether it is draining: what begins from now on is heard.
        drained.as_mut().enable();
        let mut first = true;
        loop {
            match next_head(&worker, &client, &wire, drained.as_mut(), std::mem::replace(&mut first, false)).await {
                Ok(Some(head)) => {
                    if let Some(end) = Box::pin(exchange(&worker, &client, &wire, head)).await {
                        break end;
                    }
                }
                Ok(None) => break End::Gone,
                Err(refusal) => break End::Unread(refusal),
            }
        }
    };
    match end {
        End::Gone => {
            let _ = poll_fn(|cx| wire.poll_say_end(cx)).await;
        }
        End::Answered => Box::pin(part(&wire, &[])).await,
        End::Unread(refusal) => {
            debug!(peer = %client.peer, reason = %refusal, "a connection ended");
            Account::unread(&worker, &client, refusal.status());
            Box::pin(part(&wire, &refusal.raw())).await;
        }
        End::Switched => {
            if let (Some(tunnel), Some(wire)) = (client.take_tunnel(), Rc::into_inner(wire)) {
                let (link, early) = wire.into_parts();
                Box::pin(tunnel.run(link, early)).await;
            }
        }
    }
    client.settle_egress();
}

/// Waits for the next request. `None`: there is none.
async fn next_head(
    worker: &Worker,
    client: &Client,
    wire: &Wire,
    mut drained: Pin<&mut Notified<'_>>,
    is_first: bool,
) -> Result<Option<Box<Head>>, Refusal> {
    let mut begun = !wire.is_empty();
    if !begun && !is_first {
        client.begin_idling();
    }
    // What came is looked at once. A part of a head is moved once, and the rest is waited for from then on: most heads come
    // whole, and nothing waits.
    let (mut look, mut rested) = (begun, false);
    poll_fn(|cx| {
        loop {
            if std::mem::replace(&mut look, false) {
                match wire.take_head(worker.head_limits) {
                    Ok(Read::Head(head)) => return Poll::Ready(Ok(Some(head))),
                    Ok(Read::More) => {}
                    Err(bad) => return Poll::Ready(Err(bad.into())),
                }
            }
            match wire.poll_read(cx) {
                Poll::Ready(Ok(1..)) => look = true,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(e)) => {
                    debug!(peer = %client.peer, error = %e, "a connection ended");
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => break,
            }
            begun = true;
        }
        if begun && !std::mem::replace(&mut rested, true) {
            client.begin_head();
            wire.rest();
        }
        // Who has asked for nothing yet may have done so before the draining began.
        let _ = drained.as_mut().poll(cx);
        if worker.is_draining() && !begun && !is_first {
            return Poll::Ready(Ok(None));
        }
        client.poll_late(cx).map(|()| if begun { Err(Refusal::LateHead) } else { Ok(None) })
    })
    .await
}

/// Answers one request. `None`: another may follow.
async fn exchange(worker: &Rc<Worker>, client: &Rc<Client>, wire: &Rc<Wire>, head: Box<Head>) -> Option<End> {
    let Head { parts, framing, keep_alive, expects_continue, takes_trailers } = *head;
    let asked = Asked { version: parts.version, is_head: parts.method == Method::HEAD };
    let incoming = body::Incoming::Http1(Incoming::begin(wire, framing, expects_continue));
    let response = {
        let mut answer = pin!(answer(worker.clone(), client.clone(), parts, incoming));
        let given = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => match wire.poll_before(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(None),
                _ => wire.poll_gone(cx).map(|()| None),
            },
        });
        given.await
    };
    let Some(response) = response else {
        debug!(peer = %client.peer, "a client went away before it was answered");
        return Some(End::Gone);
    };
    let Response { status, fields, body } = response;
    let frame = Frame::of(status, fields.length(), body.size_hint().exact(), asked);
    let goes_on = keep_alive
        && frame.encoding != Encoding::UntilClose
        && (wire.finish_body() || wire.is_body_wanted())
        && !worker.is_draining()
        && !response_head::says_close(&fields);
    let connection = match status {
        StatusCode::SWITCHING_PROTOCOLS => Connection::Switches,
        _ if goes_on => Connection::GoesOn(asked.version),
        _ => Connection::Closes,
    };
    let mut out = worker.scratch.take();
    out.clear();
    response_head::write(&mut out, status, &fields, frame, connection, |out| {
        worker.date.with(Instant::now(), |date| line(out, b"date", date.as_bytes()));
    });
    drop(fields);
    let mut sending = Sending::new(wire, out, frame.encoding, takes_trailers, body);
    let sent = match poll_fn(|cx| wire.poll_begin_answer(cx)).await {
        Ok(()) => poll_fn(|cx| sending.poll(cx)).await,
        Err(e) => Err(e),
    };
    worker.scratch.replace(sending.into_buffer());
    match sent {
        Ok(whole) if connection == Connection::Switches => Some(if whole { End::Switched } else { End::Gone }),
        Ok(true) if goes_on && wire.finish_body() => None,
        Ok(_) => Some(End::Answered),
        Err(e) => {
            debug!(peer = %client.peer, error = %e, "a connection ended");
            Some(End::Gone)
        }
    }
}

/// Ends a connection, so that the client gets what was sent and `last_words`.
async fn part(wire: &Wire, last_words: &[u8]) {
    let mut left = last_words;
    let parting = async {
        while !left.is_empty() {
            let Ok(written) = poll_fn(|cx| wire.poll_write(cx, &[std::io::IoSlice::new(left)])).await else { return };
            left = &left[written..];
        }
        if poll_fn(|cx| wire.poll_flush(cx)).await.is_err() {
            return;
        }
        if last_words.is_empty() && wire.finish_body() && wire.is_empty() {
            let _ = poll_fn(|cx| wire.poll_say_end(cx)).await;
            return;
        }
        if poll_fn(|cx| wire.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut bytes = LINGER_BYTES;
        while let dropped @ 1.. = poll_fn(|cx| wire.poll_discard(cx)).await {
            let Some(rest) = bytes.checked_sub(dropped) else { return };
            bytes = rest;
        }
    };
    let _ = timeout(LINGER_TIME, parting).await;
}
