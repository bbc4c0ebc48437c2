//! Following the control plane: one stream from one of its nodes, put to use on a thread of its own.
//!
//! ```text
//!   Link (gRPC) --message--> Session (pure) --Moved--> Compiler -> disk -> publish -> Ack
//! ```
//!
//! Nothing on the request path waits for this thread, and nothing here decides whether the proxy is ready: without any
//! control plane the last table stays in force.

mod choice;
mod follow;
mod link;
mod payload;
mod session;

pub(crate) use follow::{Aside, Stander};
pub use follow::{Feed, Identity, Start, follow, start};
pub use payload::BadPayload;
pub use session::{Bounds, Event, Holding, Keep, Leave, Moved, Node, Session};
