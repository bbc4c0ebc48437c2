//! Public behaviour of the proxy: real sockets, real disks, and everything around it made to misbehave.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod access_log;
mod archive;
mod asked_bodies;
mod balancing;
mod behind;
mod bodies;
mod discovery;
mod feed;
mod floods;
mod framing;
mod going_away;
mod golden;
mod grpc;
mod handover;
mod harness;
mod health;
mod hostile_origins;
mod http1;
mod http2;
mod limits;
mod more_plugins;
mod plugins;
mod program;
mod restart;
mod routing;
mod secrets;
mod standalone;
mod streams;
mod tls;
mod traffic;
mod upstream_http2;
mod upstream_tls;
mod upstreams;
mod websocket;
