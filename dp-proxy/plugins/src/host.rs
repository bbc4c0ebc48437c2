//! The world as a plugin may see it.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use protocol::Text;
use protocol::resource::Values;

use super::auth::Proof;
use super::metadata::Metadata;
use super::request::Identity;

/// What a plugin may ask of the proxy that runs it.
pub trait Host {
    /// The variables of the request as it came, before any plugin.
    fn values(&self) -> &dyn Values;

    /// A header of the request as it came, before any plugin.
    fn header(&self, name: &HeaderName) -> Option<&HeaderValue>;

    /// How long the process has run: for windows and rates.
    fn now(&self) -> Duration;

    /// Seconds since 1970-01-01 UTC by the wall clock: for tokens that expire.
    fn wall_seconds(&self) -> u64;

    /// Random bytes.
    fn random(&self) -> [u8; 16];

    /// What holds wherever a plugin is run, where anything was written.
    fn metadata(&self, plugin: &str) -> Option<&Metadata>;

    /// Who is known to a plugin by that name or key.
    fn login(&self, plugin: &'static str, identity: &str) -> Option<Login<'_>>;

    /// The consumer of that name.
    fn consumer(&self, name: &str) -> Option<&Identity>;
}

/// Somebody whom a plugin knows.
#[derive(Clone, Copy, Debug)]
pub struct Login<'t> {
    /// Who it is, once the proof holds.
    pub identity: &'t Identity,
    /// The credential that says so; `None`: the consumer itself.
    pub credential: Option<&'t Text>,
    /// What must be shown.
    pub proof: &'t Proof,
}
