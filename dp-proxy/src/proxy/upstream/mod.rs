//! The nodes' side: an HTTP/1.1 client made for a proxy, and HTTP/2 in [`http2`].
//!
//! The first is our own because a proxy needs what a general client hides: to know whether anything of a request was sent
//! before a connection broke (else a retry could do something twice), to stream both ways at once, to see a response
//! before the request's end, and to give a connection back only when everything on it was read. It also costs less than
//! half of a general one: no task and no channel per connection, no second map of headers per request.

pub(super) mod connection;
pub(super) mod dial;
pub(super) mod exchange;
pub(super) mod http2;
pub(super) mod names;
pub(super) mod pool;
pub(super) mod proxy_header;
mod replay;
pub(super) mod request_head;
pub(super) mod response_head;

use http::StatusCode;

use super::fields::Fields;

/// The head of an answer, as it is passed on.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    /// Without those that concern the node's connection only.
    pub(crate) fields: Fields,
}
