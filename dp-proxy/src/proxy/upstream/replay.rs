//! What of a request's body is kept for the case that the request has to be sent once more.

use bytes::Bytes;

use crate::proxy::downstream::body::RequestBody;

/// Of a body that is larger nothing is kept: it can be sent only once. Most requests to APIs, and most calls of gRPC, are
/// smaller.
const REPLAY_BYTES_MAX: usize = 64 << 10;

/// What was sent of a body, as long as it is little.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: Vec<Bytes>,
    bytes: usize,
    /// The body itself, once it has come to its end.
    ended: Option<Box<RequestBody>>,
}

impl Replay {
    /// For this body; `None` when it says itself that it is too large.
    pub(super) fn of(body: &RequestBody) -> Option<Box<Self>> {
        let fits = body.length().is_none_or(|length| length <= REPLAY_BYTES_MAX as u64);
        fits.then(Box::default)
    }

    /// Keeps a piece. False: it is one too many, and the body cannot be sent once more.
    pub(super) fn keep(&mut self, piece: &Bytes) -> bool {
        self.bytes += piece.len();
        self.sent.push(piece.clone());
        self.bytes <= REPLAY_BYTES_MAX
    }

    /// Keeps the body, of which nothing more will come.
    pub(super) fn hold(&mut self, body: Box<RequestBody>) {
        self.ended = Some(body);
    }

    /// The body as it was before anything of it was sent, where that can be had: nothing was taken of it, or all that was is
    /// still here.
    pub(super) fn take_back(replay: Option<Box<Self>>, body: Option<Box<RequestBody>>) -> Option<Box<RequestBody>> {
        let Some(replay) = replay else { return body.filter(|body| !body.is_touched()) };
        let Self { sent, ended, .. } = *replay;
        let mut body = body.or(ended)?;
        body.put_back(sent);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::proxy::downstream::body::Incoming;
    use crate::proxy::downstream::client::{Client, ClientLimits};
    use crate::proxy::wheel::Wheel;

    fn client() -> Rc<Client> {
        let second = std::time::Duration::from_secs(1);
        let limits = ClientLimits { idle: second, head: second, body: second, body_rate: 0, send: second };
        let address = "127.0.0.1:1".parse().unwrap();
        Client::new(address, address, None, limits, &Wheel::new())
    }

    /// A body of these pieces, of which nothing was taken.
    fn body(pieces: &[&'static str]) -> Box<RequestBody> {
        let mut body = RequestBody::new(Incoming::Nothing, client());
        body.put_back(pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect());
        Box::new(body)
    }

    fn next(body: &mut RequestBody) -> Option<String> {
        let Poll::Ready(piece) = body.poll_next(&mut Context::from_waker(Waker::noop())) else { panic!("it is here") };
        piece.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
    }

    #[test]
    fn a_body_comes_back_whole_also_when_only_a_part_of_it_was_sent() {
        let mut body = body(&["one", "two"]);
        // Sent in part, and again in part: what was not reached stays behind what was.
        for _ in 0..2 {
            let mut replay = Replay::of(&body).unwrap();
            let first = next(&mut body).unwrap();
            assert!(body.is_touched() && replay.keep(&first.into()));
            body = Replay::take_back(Some(replay), Some(body)).unwrap();
            assert!(!body.is_touched() && !body.is_ended());
        }
        let mut replay = Replay::of(&body).unwrap();
        while let Some(piece) = next(&mut body) {
            assert!(replay.keep(&piece.into()));
        }
        replay.hold(body);
        let mut body = Replay::take_back(Some(replay), None).unwrap();
        assert_eq!([next(&mut body), next(&mut body), next(&mut body)], [Some("one".into()), Some("two".into()), None]);
    }

    #[test]
    fn what_was_taken_and_not_kept_does_not_come_back() {
        let mut body = body(&["one"]);
        body = Replay::take_back(None, Some(body)).unwrap();
        next(&mut body);
        assert!(Replay::take_back(None, Some(body)).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let large = |bytes| RequestBody::of(vec![0; bytes].into(), client());
        let mut replay = Replay::of(&large(REPLAY_BYTES_MAX)).unwrap();
        assert!(replay.keep(&vec![0; REPLAY_BYTES_MAX].into()));
        assert!(!replay.keep(&"x".into()));
        assert!(Replay::of(&large(REPLAY_BYTES_MAX + 1)).is_none());
    }
}
