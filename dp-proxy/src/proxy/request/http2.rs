//! A request to a node that speaks HTTP/2.

use tokio::time::timeout;

use super::Outbound;
use crate::proxy::body::Receiving;
use crate::proxy::error::Refusal;
use crate::proxy::fields::Fields;
use crate::proxy::link::Secured;
use crate::proxy::upstream::AnswerHead;
use crate::proxy::upstream::exchange::Failure;
use crate::proxy::upstream::http2::exchange::exchange;
use crate::proxy::upstream::http2::pool::Place;
use crate::table::Node;

/// Connections of one node that a request is tried on when the node does not take it: a node that goes away says so on
/// one connection after the other.
const CONNECTIONS_TRIED_MAX: usize = 3;

/// What a node of `grpcs` must choose (RFC 9113 §3.3).
const ALPN: &[u8] = b"h2";

impl Outbound<'_> {
    /// Sends the request to a node. What the node did not take is sent over another connection, if it can be sent once
    /// more; that is no failure of the node.
    ///
    /// Beside a failure: whether the request may be sent to another node.
    pub(super) async fn try_http2(
        &mut self,
        node: &Node,
        secured: Option<Secured>,
    ) -> Result<(AnswerHead, Receiving), (Refusal, bool)> {
        let head = self.head_for(node).to_http2(secured.is_some());
        let head = head.map_err(|_| (Refusal::BadRequest("a host or path that HTTP/2 cannot carry"), false))?;
        let mut tried = 0;
        loop {
            tried += 1;
            let place = self.place(node, secured.as_ref()).await.map_err(|refusal| (refusal, true))?;
            let body = self.body.take();
            let had_body = body.is_some();
            let alarm = self.worker.wheel.alarm();
            let told = self.told_before;
            let pass = |status, fields: &Fields| {
                if let Some(client) = told {
                    client.tell_before(status, fields);
                }
            };
            let failed = match exchange(place, head.clone(), body, self.limits(), alarm, pass).await {
                Ok((head, receiving)) => return Ok((head, Receiving::Http2(receiving))),
                Err(failed) => *failed,
            };
            let (failure, may_retry) = self.failed(failed, had_body);
            if !(may_retry && matches!(failure, Failure::NotTaken(_)) && tried < CONNECTIONS_TRIED_MAX) {
                return Err((Refusal::Upstream(failure), may_retry));
            }
            self.worker.figures.retries.add(1);
        }
    }

    /// A place on a connection that is there, or else on a new one.
    async fn place(&self, node: &Node, secured: Option<&Secured>) -> Result<Place, Refusal> {
        let (pools, keepalive, figures) = (&self.worker.http2_pools, &self.upstream.keepalive, &self.worker.figures);
        let waiting = || {
            let place = pools.pick(node.endpoint, secured, keepalive);
            figures.upstream_reuses.add(u64::from(place.is_some()));
            place
        };
        if let Some(place) = waiting() {
            return Ok(place);
        }
        let limit = self.timeouts.connect;
        let dialling = pools.dialling(node.endpoint);
        let dial = async {
            let _alone = dialling.lock().await;
            // Somebody else may have connected while this one waited.
            if let Some(place) = waiting() {
                return Ok(place);
            }
            let link = self.connect(node, secured).await?;
            if secured.is_some() && link.protocol() != Some(ALPN) {
                return Err(Refusal::Tls("the node does not speak HTTP/2".to_owned()));
            }
            figures.upstream_connects.add(1);
            let header_list_max = self.worker.head_limits.header_list_max();
            let start = pools.start(link, secured.cloned(), node.endpoint, keepalive, header_list_max);
            start.await.map_err(|e| Refusal::Connection(e.to_string()))
        };
        timeout(limit, dial).await.unwrap_or(Err(Refusal::ConnectTimeout(limit)))
    }
}
