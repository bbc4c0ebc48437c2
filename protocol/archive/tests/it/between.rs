//! Somebody between a client and its store, who knows each call and spoils the one that a test names.
//!
//! ```text
//!   client --request--> Between --request--> store
//!          <--answer---         <--answer---
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};

/// A call is made so many times by the client before it fails.
const ATTEMPTS: u32 = 3;

/// Longer than any client of the tests waits.
const NEVER: Duration = Duration::from_secs(60);

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is refused before anything is done.
    Fails(u16),
    /// It is done, and the answer says that it was not.
    FailsAfterwards(u16),
    /// No answer comes; nothing is done.
    Silent,
    /// No answer comes; it is done.
    SilentAfterwards,
    /// The connection ends; nothing is done.
    Reset,
    /// The connection ends; it is done.
    ResetAfterwards,
    /// The answer ends in the middle of its body, and the connection with it.
    Torn,
    /// The answer's body is half of what it was, and says so.
    Halved,
    /// What is sent up arrives with a byte changed.
    Mangled,
}

impl Fault {
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::Silent | Self::SilentAfterwards)
    }
}

/// Which call is spoilt.
#[derive(Clone, Copy, Debug)]
struct Armed {
    /// Calls until then.
    after: usize,
    fault: Fault,
    /// Further attempts of the same call that are spoilt too.
    repeats: u32,
}

#[derive(Debug, Default)]
struct Seen {
    /// What was asked for, in order; an attempt that follows a spoilt one is no new call.
    calls: Vec<String>,
    armed: Option<Armed>,
    /// The call that is being spoilt, and how often it still will be.
    spoiling: Option<(String, Fault, u32)>,
    spoilt: u32,
}

/// In between. It ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Between {
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Seen>>,
}

impl Between {
    /// Before the store at this address.
    pub(crate) async fn start(store: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let between =
            Self { endpoint: format!("http://{}", listener.local_addr().unwrap()), seen: Arc::new(Mutex::default()) };
        let handed = between.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let between = handed.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| between.clone().answer(store, request));
                    // That a connection ends is what some faults are about.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        between
    }

    /// From now on: `after` calls go well, and the next one does not, however often it is tried.
    pub(crate) fn spoil(&self, after: usize, fault: Fault) {
        self.arm(after, fault, ATTEMPTS);
    }

    /// The same, and its second attempt goes well.
    pub(crate) fn spoil_once(&self, after: usize, fault: Fault) {
        self.arm(after, fault, 1);
    }

    fn arm(&self, after: usize, fault: Fault, repeats: u32) {
        let mut seen = self.seen.lock().unwrap();
        *seen = Seen { armed: Some(Armed { after, fault, repeats }), ..Seen::default() };
    }

    /// All goes well again; what was asked for since the last time, and how many attempts were spoilt.
    pub(crate) fn heal(&self) -> (Vec<String>, u32) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        (seen.calls, seen.spoilt)
    }

    fn judge(&self, call: String) -> Option<Fault> {
        let mut seen = self.seen.lock().unwrap();
        if let Some((spoilt, fault, left)) = seen.spoiling.take()
            && spoilt == call
        {
            if left == 0 {
                return None;
            }
            seen.spoiling = Some((spoilt, fault, left - 1));
            seen.spoilt += 1;
            return Some(fault);
        }
        let at = seen.calls.len();
        seen.calls.push(call.clone());
        let armed = seen.armed.filter(|armed| armed.after == at)?;
        seen.armed = None;
        seen.spoiling = Some((call, armed.fault, armed.repeats - 1));
        seen.spoilt += 1;
        Some(armed.fault)
    }

    async fn answer(
        self,
        store: SocketAddr,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::io::Error> {
        let fault = self.judge(format!("{} {}", request.method(), request.uri()));
        let gone = || std::io::Error::other("the connection ends here");
        let (head, body) = request.into_parts();
        let mut body = body.collect().await.map_err(std::io::Error::other)?.to_bytes().to_vec();
        match fault {
            Some(Fault::Fails(status)) => return Ok(refusal(status)),
            Some(Fault::Silent) => tokio::time::sleep(NEVER).await,
            Some(Fault::Reset) => return Err(gone()),
            Some(Fault::Mangled) if !body.is_empty() => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            _ => {}
        }
        let (mut head, body) = ask(store, Request::from_parts(head, Full::new(body.into()))).await?.into_parts();
        match fault {
            Some(Fault::FailsAfterwards(status)) => return Ok(refusal(status)),
            Some(Fault::SilentAfterwards) => tokio::time::sleep(NEVER).await,
            Some(Fault::ResetAfterwards) => return Err(gone()),
            Some(Fault::Torn) if body.len() < 2 => return Err(gone()),
            Some(Fault::Torn) => {
                let half = Frame::data(body.slice(..body.len() / 2));
                let torn = StreamBody::new(stream::iter([Ok(half), Err(gone())]));
                return Ok(Response::from_parts(head, torn.boxed()));
            }
            Some(Fault::Halved) if body.len() > 1 => {
                head.headers.remove(header::CONTENT_LENGTH);
                return Ok(Response::from_parts(head, whole(body.slice(..body.len() / 2))));
            }
            _ => {}
        }
        Ok(Response::from_parts(head, whole(body)))
    }
}

fn whole(body: Bytes) -> BoxBody<Bytes, std::io::Error> {
    Full::new(body).map_err(|never| match never {}).boxed()
}

fn refusal(status: u16) -> Response<BoxBody<Bytes, std::io::Error>> {
    let body = "<Error><Code>Spoilt</Code><Message>spoilt</Message></Error>";
    let mut response = Response::new(whole(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// One call of the store, over a connection of its own.
async fn ask(store: SocketAddr, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, std::io::Error> {
    let stream = TcpSocket::new_v4()?.connect(store).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(std::io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, body))
}
