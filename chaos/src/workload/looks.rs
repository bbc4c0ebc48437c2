//! Looks again and again where every node and proxy stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinSet;

use super::resources::is_clients;
use crate::cluster::{Api, Cluster};
use crate::history::{At, Event, Recorder, Rejections, Stand};
use crate::http::Client;
use crate::scenario::Sometimes;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A record lags that a change has waited for so long.
const RECORD_LAG_MS: u64 = 1000;
/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Where everybody was last seen to stand.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<HashMap<String, Stand>>>);

impl Board {
    /// Of one of them.
    #[must_use]
    pub fn of(&self, who: &str) -> Option<Stand> {
        self.0.lock().expect("nobody panics while he looks").get(who).cloned()
    }

    fn put(&self, stand: Stand) {
        self.0.lock().expect("nobody panics while he looks").insert(stand.who.clone(), stand);
    }
}

pub(super) fn start(
    cluster: &Cluster,
    recorder: &Recorder,
    board: &Board,
    stop: &Arc<AtomicBool>,
    tasks: &mut JoinSet<()>,
) {
    for cp in &cluster.cps {
        let (who, mut api) = (cp.name(), Api::at(&cp.addresses.admin).patient(LOOK_MAX));
        let (recorder, board, stop) = (recorder.clone(), board.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let asked = recorder.now();
                if let Ok(seen) = api.status().await {
                    if seen.record_lag_ms >= RECORD_LAG_MS {
                        recorder.saw(Sometimes::RecordLag);
                    }
                    let (position, digest) = (At(seen.epoch, seen.revision), seen.digest);
                    let (at, term, follows) = (recorder.now(), seen.term, seen.leader.unwrap_or_default());
                    let stand = Stand { who: who.clone(), asked, at, position, digest, term, follows };
                    recorder.note(Event::Stand(stand.clone()));
                    board.put(stand);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
    for dp in &cluster.dps {
        let (who, mut client) = (dp.name(), Client::new(&dp.addresses.status).patient(LOOK_MAX));
        let (recorder, board, stop) = (recorder.clone(), board.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let asked = recorder.now();
                if let Ok(seen) = look_at_proxy(&mut client).await
                    && seen.position.1 > 0
                {
                    let (at, LookedAt { position, digest, follows, rejected: keys }) = (recorder.now(), seen);
                    recorder.note(Event::Rejected(Rejections { dp: who.clone(), position, at, keys }));
                    let stand = Stand { who: who.clone(), asked, at, position, digest, term: 0, follows };
                    recorder.note(Event::Stand(stand.clone()));
                    board.put(stand);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
}

/// How a proxy says that it stands: all of it is of one moment.
pub(super) struct LookedAt {
    pub(super) position: At,
    digest: String,
    /// The node that it follows; 0: none.
    follows: u64,
    /// What of the clients' it cannot serve, and whether the last good entry is served in its place.
    rejected: Vec<(String, bool)>,
}

pub(super) async fn look_at_proxy(client: &mut Client) -> Result<LookedAt> {
    let seen = client.get("/status/config").await?.expect(&[200])?.json()?;
    let number = |name: &str| seen[name].as_u64().with_context(|| format!("no {name}"));
    let rejected = |item: &Value| {
        let (kind, id) = (item["kind"].as_str()?, item["id"].as_str()?);
        is_clients(kind, id).then(|| (format!("{kind}/{id}"), item["last_good"] == true))
    };
    Ok(LookedAt {
        position: At(number("epoch")?, number("revision")?),
        digest: seen["digest"].as_str().context("no digest")?.to_owned(),
        follows: seen["control_plane"]["node_id"].as_u64().unwrap_or(0),
        rejected: seen["rejected"].as_array().context("no rejected")?.iter().filter_map(rejected).collect(),
    })
}
