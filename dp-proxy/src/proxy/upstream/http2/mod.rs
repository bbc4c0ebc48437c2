//! HTTP/2 to nodes, on the `h2` crate: many requests on one connection, trailers and streaming both ways.
//!
//! As with HTTP/1.1, what a general client hides is needed here: whether a node can have acted on a request that failed
//! (RFC 9113 §8.7), and what of its body can be sent once more. The `h2` crate tells the first, [`upload`] keeps the
//! second. A connection's own frames are handled in a task beside the requests, on the worker's thread.

pub(crate) mod exchange;
pub(crate) mod pool;
mod pulse;
mod upload;
