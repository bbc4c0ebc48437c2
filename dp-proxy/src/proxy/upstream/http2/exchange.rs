//! One request and its answer on one stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::task::{JoinHandle, spawn_local};

use super::pool::Place;
use super::upload::{State, Upload};
use crate::proxy::downstream::body::RequestBody;
use crate::proxy::fields::Fields;
use crate::proxy::headers::{is_hop_by_hop, trailers_passed_on};
use crate::proxy::upstream::AnswerHead;
use crate::proxy::upstream::exchange::{Cut, ExchangeLimits, Failed, Failure, INTERIMS_MAX};
use crate::proxy::wheel::Alarm;

/// Sends a request and waits for the head of its answer. What is left of the body then goes on by itself. `pass` is called with
/// what the node says before (RFC 9110 §15.2), but for a 100.
///
/// # Errors
/// [`Failed`]: `sent` says whether the node can have acted on the request.
pub(crate) async fn exchange(
    place: Place,
    request: Request<()>,
    body: Option<Box<RequestBody>>,
    limits: ExchangeLimits,
    alarm: Alarm,
    pass: impl Fn(StatusCode, &Fields),
) -> Result<(AnswerHead, Receiving), Box<Failed>> {
    let failed = |why, sent, answered, body| Box::new(Failed { why, sent, answered, body });
    let mut sender = place.sender();
    if let Err(e) = poll_fn(|cx| sender.poll_ready(cx)).await {
        return Err(failed(Failure::of_http2(e), false, false, body));
    }
    let (mut answer, stream) = match sender.send_request(request, body.is_none()) {
        Ok(sent) => sent,
        Err(e) => return Err(failed(Failure::of_http2(e), false, false, body)),
    };
    let mut upload = body.map(|body| Upload::new(stream, body));
    let mut interims = 0;
    let result = poll_fn(|cx| {
        poll_interims(cx, &mut answer, &mut interims, &pass)?;
        poll_head(cx, &mut answer, upload.as_mut(), limits, &alarm)
    });
    let result = result.await;
    match result {
        Ok(head) => {
            place.beat();
            let (parts, incoming) = head.into_parts();
            let mut headers = parts.headers;
            drop_hop_by_hop(&mut headers);
            alarm.clear();
            let alarm = Rc::new(alarm);
            let ended = incoming.is_end_stream();
            let upload = upload.filter(|upload| !ended && upload.state() != State::Ended);
            let upload = upload.map(|upload| Uploading::go_on(upload, alarm.clone(), limits.read));
            let receiving =
                Receiving { incoming, alarm, read: limits.read, ended, trailers: None, _upload: upload, place };
            Ok((AnswerHead { status: parts.status, fields: Fields::Made(headers) }, receiving))
        }
        Err(why) => {
            // How the connection then ended is our own doing.
            let why = if place.is_lost() { Failure::ReadTimeout } else { why };
            if matches!(why, Failure::ReadTimeout | Failure::SendTimeout) {
                place.retire();
            }
            let sent = !matches!(why, Failure::NotTaken(_));
            // Without a body there is nothing to lose, and nothing to give back.
            let body = upload.and_then(Upload::take_back);
            Err(failed(why, sent, false, body))
        }
    }
}

/// Takes what comes before the answer.
fn poll_interims(
    cx: &mut Context<'_>,
    answer: &mut ResponseFuture,
    interims: &mut u32,
    pass: &impl Fn(StatusCode, &Fields),
) -> Result<(), Failure> {
    // Whatever else there is, also an error, is found with the answer.
    while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
        *interims += 1;
        if *interims > INTERIMS_MAX {
            return Err(Failure::Interims);
        }
        let (parts, ()) = interim.into_parts();
        // RFC 9113 §8.6: there is no 101.
        if ![StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS].contains(&parts.status) {
            let mut headers = parts.headers;
            drop_hop_by_hop(&mut headers);
            pass(parts.status, &Fields::Made(headers));
        }
    }
    Ok(())
}

fn poll_head(
    cx: &mut Context<'_>,
    answer: &mut ResponseFuture,
    upload: Option<&mut Upload>,
    limits: ExchangeLimits,
    alarm: &Alarm,
) -> Poll<Result<http::Response<RecvStream>, Failure>> {
    let mut waits_for = State::Ended;
    if let Some(upload) = upload {
        if upload.poll(cx)? {
            alarm.clear();
        }
        waits_for = upload.state();
    }
    if let Poll::Ready(answer) = Pin::new(answer).poll(cx) {
        return Poll::Ready(answer.map_err(Failure::of_http2));
    }
    let (limit, late) = match waits_for {
        State::Client => return Poll::Pending,
        State::Upstream => (limits.send, Failure::SendTimeout),
        State::Ended => (limits.read, Failure::ReadTimeout),
    };
    poll_late(cx, alarm, limit).map(|()| Err(late))
}

fn poll_late(cx: &mut Context<'_>, alarm: &Alarm, limit: Duration) -> Poll<()> {
    if !alarm.is_set() {
        alarm.set(limit);
    }
    alarm.poll(cx)
}

/// Such headers have no place in HTTP/2 (RFC 9113 §8.2.2).
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.keys().any(|name| is_hop_by_hop(name.as_ref())) {
        let names: Vec<_> = headers.keys().filter(|name| is_hop_by_hop(name.as_ref())).cloned().collect();
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
}

impl Failure {
    fn of_http2(e: h2::Error) -> Self {
        // RFC 9113 §6.8, §8.7: a node that goes away fails the requests that it did not look at; those that it did
        // come to their end.
        let not_taken = e.is_remote() && (e.is_go_away() || e.is_reset() && e.reason() == Some(Reason::REFUSED_STREAM));
        if not_taken {
            return Self::NotTaken(e);
        }
        match e.get_io().map(io::Error::kind) {
            Some(kind) => Self::Io(io::Error::new(kind, e.to_string())),
            None => Self::Http2(e),
        }
    }
}

/// The rest of a request's body, which goes on while the answer comes. It is given up with the answer.
#[derive(Debug)]
struct Uploading(JoinHandle<()>);

impl Uploading {
    /// `read` is how long the node may say nothing while nothing goes to it either.
    fn go_on(mut upload: Upload, alarm: Rc<Alarm>, read: Duration) -> Self {
        Self(spawn_local(poll_fn(move |cx| {
            match upload.poll(cx) {
                Ok(progress) => {
                    if progress && alarm.is_set() {
                        alarm.set(read);
                    }
                    if upload.state() == State::Ended { Poll::Ready(()) } else { Poll::Pending }
                }
                // The answer is on its way already; the node was told that the request is given up.
                Err(_) => Poll::Ready(()),
            }
        })))
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body is under way.
#[derive(Debug)]
pub(crate) struct Receiving {
    incoming: RecvStream,
    alarm: Rc<Alarm>,
    read: Duration,
    ended: bool,
    trailers: Option<HeaderMap>,
    _upload: Option<Uploading>,
    place: Place,
}

impl Receiving {
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// What came behind the body.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The next piece; `None` at the end. The node may send more in its place.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match self.poll_incoming(cx) {
            Poll::Ready(next) => {
                self.alarm.clear();
                self.place.beat();
                self.ended = next.is_none();
                Poll::Ready(next)
            }
            Poll::Pending => poll_late(cx, &self.alarm, self.read).map(|()| {
                self.place.retire();
                Some(Err(Cut::Late))
            }),
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match std::task::ready!(self.incoming.poll_data(cx)) {
            Some(Ok(data)) => {
                let released = self.incoming.flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| data).map_err(Cut::Http2)))
            }
            Some(Err(e)) => Poll::Ready(Some(Err(Cut::Http2(e)))),
            None => match std::task::ready!(self.incoming.poll_trailers(cx)) {
                Ok(trailers) => {
                    self.trailers = trailers.and_then(trailers_passed_on);
                    Poll::Ready(None)
                }
                Err(e) => Poll::Ready(Some(Err(Cut::Http2(e)))),
            },
        }
    }
}
