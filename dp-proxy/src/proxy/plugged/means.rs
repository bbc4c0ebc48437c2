//! What plugins may have of a request's connection and of the world while they run: its body, and an answer from elsewhere.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use daemon::blocking;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Body as _;
use plugins::{BodyCheck, Call, Reply};
use protocol::resource::Timeouts;
use tokio::time::timeout;
use tracing::debug;

use crate::proxy::account::Tries;
use crate::proxy::body::{ResponseBody, Streaming};
use crate::proxy::downstream::body::RequestBody;
use crate::proxy::downstream::client::Client;
use crate::proxy::error::Refusal;
use crate::proxy::request::outbound::Outbound;
use crate::proxy::upstream::request_head::BodyFraming;
use crate::proxy::values::RequestValues;
use crate::proxy::worker::Worker;
use crate::table::{Table, Upstream};

/// The longest body of an answer to a plugin's call, in bytes: it is kept whole, and may become the client's answer.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// The largest body that is looked through on the worker's own thread, in bytes: of JSON that takes about a millisecond, in
/// which its other requests wait. Larger ones go to another thread. (The other way out is a lower default of what may be kept
/// for a check: it would refuse what APISIX takes, and the first who raises it would stall a worker again.)
const CHECKED_HERE_BYTES_MAX: usize = 128 << 10;

/// See the module.
pub(crate) struct Means<'m> {
    pub(crate) worker: &'m Rc<Worker>,
    pub(crate) client: &'m Rc<Client>,
    pub(crate) body: &'m mut RequestBody,
}

impl Means<'_> {
    /// All of the body, when it has no more than these bytes; `own` is the bound that a plugin has set for it (0: none).
    async fn body(&mut self, bytes_max: u64, own: Option<u64>) -> Result<Bytes, Refusal> {
        let bound = own.unwrap_or(self.worker.limits.body_bytes_max);
        self.body.bound(if bound == 0 { bytes_max } else { bytes_max.min(bound) })?;
        Ok(self.body.whole(&self.worker.buffers).await?)
    }

    /// What a plugin's check says of the body; `own` as for [`Self::body`].
    pub(super) async fn check(&mut self, check: BodyCheck, own: Option<u64>) -> Result<Result<(), String>, Refusal> {
        let body = self.body(check.bytes_max, own).await?;
        if body.len() <= CHECKED_HERE_BYTES_MAX {
            return Ok(check.run(&body));
        }
        let turn = self.worker.buffers.turn().await;
        let work = move || {
            // Also when nobody waits for it any more it lasts as long as the work does.
            let _turn = turn;
            check.run(&body)
        };
        Ok(blocking::run(work).await)
    }

    /// Asks an upstream on a plugin's behalf. `None`: it gave no answer, in time; where that is so of the answer's body alone,
    /// this one is missing. The log says why. `own` as for [`Self::body`].
    pub(super) async fn call(
        &mut self,
        table: &Table,
        upstream: &Upstream,
        asked: RequestValues<'_>,
        call: Call,
        own: Option<u64>,
    ) -> Result<Option<Reply>, Refusal> {
        let body = match call.body_bytes_max {
            Some(bytes_max) => Some(self.body(bytes_max, own).await?),
            None => None,
        };
        let tls = table.client_config(upstream)?;
        let limit = call.timeout;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = call.method;
        parts.headers = call.headers;
        parts.uri = match PathAndQuery::try_from(call.target) {
            Ok(target) => Uri::from(target),
            Err(_) => return Ok(None),
        };
        let framing = body.as_ref().map_or(BodyFraming::None, |body| BodyFraming::Length(body.len() as u64));
        let body = body.filter(|body| !body.is_empty()).map(|body| RequestBody::of(body, self.client.clone()));
        let mut outbound = Outbound {
            worker: self.worker,
            upstream,
            tls,
            path: parts.uri.path(),
            parts: &parts,
            authority: "",
            framing,
            asked,
            tells: true,
            upgrade: None,
            body: body.map(Box::new),
            timeouts: upstream.timeouts.unwrap_or(Timeouts::DEFAULT),
            told_before: None,
        };
        let mut reply = None;
        let asking = async {
            let (head, receiving, node, under_way) =
                outbound.send(&mut Tries::default()).await.map_err(|refusal| refusal.to_string())?;
            // What has been said is not lost with what does not follow.
            let reply = reply.insert(Reply { status: head.status, headers: head.fields.into_map(), body: None });
            let streaming = Streaming {
                receiving,
                pools: self.worker.pools.clone(),
                endpoint: node.endpoint,
                keepalive: upstream.keepalive,
                _under_way: under_way,
            };
            reply.body = Some(whole(ResponseBody::streaming(Box::new(streaming))).await?);
            Ok::<_, String>(())
        };
        let why = match timeout(limit, asking).await {
            Ok(Ok(())) => return Ok(reply),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {limit:?}"),
        };
        if self.worker.may_speak() {
            tracing::warn!(upstream = %upstream.label, reason = why, "a plugin's call got no whole answer");
        } else {
            debug!(upstream = %upstream.label, reason = why, "a plugin's call got no whole answer");
        }
        Ok(reply)
    }
}

/// All of an answer's body.
async fn whole(mut body: ResponseBody) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|cut| cut.to_string())?.into_data() else { continue };
        if whole.len() + data.len() > REPLY_BYTES_MAX {
            return Err(format!("its body has more than {REPLY_BYTES_MAX} bytes"));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
