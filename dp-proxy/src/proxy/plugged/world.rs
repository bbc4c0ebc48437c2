//! The world as plugins see it while they run for one request.

use std::sync::LazyLock;
use std::time::Duration;

use daemon::seams::{SystemClock, SystemRandom};
use http::header::{HeaderName, HeaderValue};
use plugins::{Identity, Login, Metadata};
use protocol::resource::Values;
use protocol::seam::{Random, WallClock};
use tokio::time::Instant;

use super::Came;
use crate::proxy::values::RequestValues;
use crate::table::Table;

/// See the module.
pub(super) struct World<'w> {
    pub(super) values: RequestValues<'w>,
    table: &'w Table,
}

/// The world of a request that asks for this host and canonical path.
pub(super) fn world<'w>(table: &'w Table, came: Came<'w>, host: &'w str, path: &'w str) -> World<'w> {
    let Came { parts, peer, local, secure, .. } = came;
    let headers = &parts.headers;
    World {
        values: RequestValues { parts, headers, host, path, peer, local, secure, consumer: None, asked: None },
        table,
    }
}

/// All workers count time from here: what plugins count is shared by them.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl plugins::Host for World<'_> {
    fn values(&self) -> &dyn Values {
        &self.values
    }

    fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.values.parts.headers.get(name)
    }

    fn now(&self) -> Duration {
        BEGUN.elapsed()
    }

    fn wall_seconds(&self) -> u64 {
        SystemClock.now() / 1000
    }

    fn random(&self) -> [u8; 16] {
        SystemRandom.bytes16()
    }

    fn metadata(&self, plugin: &str) -> Option<&Metadata> {
        self.table.access().metadata.get(plugin)
    }

    fn login(&self, plugin: &'static str, identity: &str) -> Option<Login<'_>> {
        let (known, consumer) = self.table.access().login(plugin, identity)?;
        Some(Login { identity: &consumer.identity, credential: known.credential.as_ref(), proof: &known.proof })
    }

    fn consumer(&self, name: &str) -> Option<&Identity> {
        Some(&self.table.access().consumers.get(name)?.identity)
    }
}
