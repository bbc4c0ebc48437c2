//! What plugins may have of a request's connection and of the world while they run: its body, and an answer from elsewhere.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Body as _;
use plugins::{Call, Reply};
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

/// See the module.
pub(crate) struct Means<'m> {
    pub(crate) worker: &'m Rc<Worker>,
    pub(crate) client: &'m Rc<Client>,
    pub(crate) body: &'m mut RequestBody,
}

impl Means<'_> {
    /// All of the body, when it has no more than these bytes; `own` is the bound that a plugin has set for it (0: none).
    pub(super) async fn body(&mut self, bytes_max: u64, own: Option<u64>) -> Result<Bytes, Refusal> {
        let bound = own.unwrap_or(self.worker.limits.body_bytes_max);
        self.body.bound(if bound == 0 { bytes_max } else { bytes_max.min(bound) })?;
        Ok(self.body.whole().await?)
    }

    /// Asks an upstream on a plugin's behalf. `None`: it gave no answer that can be used, in time; the log says why.
    pub(super) async fn call(
        &self,
        table: &Table,
        upstream: &Upstream,
        asked: RequestValues<'_>,
        call: Call,
        body: Bytes,
    ) -> Result<Option<Reply>, Refusal> {
        let tls = table.client_config(upstream)?;
        let limit = call.timeout;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = call.method;
        parts.headers = call.headers;
        parts.uri = match PathAndQuery::try_from(call.target) {
            Ok(target) => Uri::from(target),
            Err(_) => return Ok(None),
        };
        let framing = if call.has_body { BodyFraming::Length(body.len() as u64) } else { BodyFraming::None };
        let body = (!body.is_empty() && call.has_body).then(|| RequestBody::of(body, self.client.clone()));
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
        let reply = async {
            let (head, receiving, node, under_way) =
                outbound.send(&mut Tries::default()).await.map_err(|refusal| refusal.to_string())?;
            let streaming = Streaming {
                receiving,
                pools: self.worker.pools.clone(),
                endpoint: node.endpoint,
                keepalive: upstream.keepalive,
                _under_way: under_way,
            };
            let body = whole(ResponseBody::streaming(Box::new(streaming))).await?;
            Ok::<_, String>(Reply { status: head.status, headers: head.fields.into_map(), body })
        };
        let why = match timeout(limit, reply).await {
            Ok(Ok(reply)) => return Ok(Some(reply)),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {limit:?}"),
        };
        if self.worker.may_speak() {
            tracing::warn!(upstream = %upstream.label, reason = why, "a plugin's call got no answer");
        } else {
            debug!(upstream = %upstream.label, reason = why, "a plugin's call got no answer");
        }
        Ok(None)
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
