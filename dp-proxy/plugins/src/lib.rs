//! The plugins: what each takes for a configuration, and what it does to a request.
//!
//! ```text
//!   control plane: CATALOG.check(name, configuration)          is it good, what in it is secret
//!   proxy:         Chain::compile -> Instance -> Behaviour     rewrite, access, header_filter
//! ```
//!
//! Both link this crate, so they cannot disagree. A plugin is a file and a line in [`PLUGINS`]: its name, priority,
//! schema, constructor and behaviour. It knows no sockets, clocks or tables: it works on a [`Request`] and asks a [`Host`].
//! Names, defaults, priorities, status codes and sentences are those of Apache APISIX.

mod answer;
mod api_breaker;
mod auth;
mod basic_auth;
mod chain;
mod client_control;
mod consumer_restriction;
mod cors;
mod csrf;
mod fault_injection;
mod forward_auth;
mod gzip;
mod header_edits;
mod hmac_auth;
mod host;
mod http_date;
mod ip_restriction;
mod jwt_auth;
mod key_auth;
mod keyed;
mod limit_conn;
mod limit_count;
mod limit_req;
mod limits;
mod list;
mod meta;
mod metadata;
mod mocking;
mod plugin;
mod prometheus;
mod proxy_rewrite;
mod real_ip;
mod redirect;
mod referer_restriction;
mod regex_uri;
mod request;
mod request_id;
mod request_validation;
mod response_rewrite;
#[cfg(test)]
mod testing;
mod traffic_split;
mod ua_restriction;
mod uri_blocker;
mod workflow;

pub use answer::{Answer, Response};
pub use auth::{Credential, Proof};
pub use chain::{Chain, Instance, Merged, gather, merge};
pub use host::{Host, Login};
pub use list::{CATALOG, Catalog, PLUGINS, find};
pub use metadata::Metadata;
pub use plugin::{Behaviour, BodyCheck, Call, Destination, Plugin, Reply, Step};
pub use real_ip::last_forwarded;
pub use request::{Heading, Held, Identity, Request};
