//! An HTTP/1 server for one connection: heads in, [`Head`]s to whoever answers, answers out, in their order.
//!
//! ```text
//!   client -> Wire -> request_head -> answer (crate::proxy::request) -> response_head -> Wire -> client
//!               \-> Incoming: the body, for whoever sends it on
//! ```
//!
//! It is our own for the reasons that the nodes' side is: what is refused and how is ours to say, and a connection that
//! waits holds no buffer. It is strict where [RFC 9112] leaves a choice: what two readers
//! could read in two ways is refused, and nothing that comes behind it is believed.
//!
//! [RFC 9112]: https://www.rfc-editor.org/rfc/rfc9112

mod connection;
pub(crate) mod date;
mod incoming;
mod request_head;
mod response_head;
mod sending;
mod wire;

pub(crate) use connection::serve;
pub(crate) use incoming::Incoming;
pub(super) use response_head::write_interim;
pub(crate) use wire::Arena;
