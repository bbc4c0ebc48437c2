//! Full states, encoded once for all who need the same, and not too many at a time.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use daemon::planted;
use protocol::grpc::payload;
use protocol::seam::WallClock;
use protocol::snapshot::{self, ClusterId, Header, Unsealed};
use protocol::{ConfigState, Position, Text};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Parts;

/// Encodes full states and admits those who want one. Clones share it.
#[derive(Clone)]
pub(crate) struct FullStates {
    cluster: ClusterId,
    clock: Arc<dyn WallClock>,
    admission: Arc<Semaphore>,
    /// The last one of any group. A fleet that comes back asks for the same again and again.
    last: Arc<Mutex<Option<(Text, Position, Bytes)>>>,
}

impl FullStates {
    /// At most `at_once` are sent at the same time.
    pub(crate) fn new(cluster: ClusterId, clock: Arc<dyn WallClock>, at_once: u32) -> Self {
        let admission = Arc::new(Semaphore::new(usize::try_from(at_once).unwrap_or(usize::MAX)));
        Self { cluster, clock, admission, last: Arc::default() }
    }

    /// Waits for its turn. The turn ends when the permit is dropped.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        self.admission.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// The view of a group as a snapshot file.
    pub(super) async fn encode(&self, group: &Text, config: ConfigState) -> std::io::Result<Parts> {
        let position = config.position();
        let known = self.last.lock().expect("no code panics while it holds it").clone();
        if let Some((_, _, bytes)) = known.filter(|(g, at, _)| g == group && *at == position) {
            return Ok(Parts::plain(payload::Kind::Full, bytes));
        }
        let (cluster, created, view) = (self.cluster, self.clock.now(), group.clone());
        let encoding = daemon::blocking::spawn(move || encode(cluster, created, &view, &config));
        let bytes = encoding.await.map_err(std::io::Error::other)??;
        *self.last.lock().expect("no code panics while it holds it") = Some((group.clone(), position, bytes.clone()));
        Ok(Parts::plain(payload::Kind::Full, bytes))
    }
}

fn encode(cluster: ClusterId, created: u64, group: &Text, config: &ConfigState) -> std::io::Result<Bytes> {
    let view = config.view(group);
    let lost = usize::from(planted!("full-state-loses-a-resource"));
    let of_group = config.iter().filter(|(_, entry)| entry.is_in(group));
    let entries = of_group.skip(lost).map(|(key, entry)| (key.clone(), entry.clone()));
    let following = ConfigState::following();
    let seen = ConfigState::from_entries(following, config.position(), view.changed_at(), config.chain(), entries);
    let header = Header {
        cluster,
        view: Some(group.clone()),
        position: seen.position(),
        changed_at: seen.changed_at(),
        chain: None,
        digest: seen.digest(),
        entries: seen.len() as u64,
        level: 0,
        created,
    };
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, &seen, &[], &Unsealed)?;
    Ok(bytes.into())
}
