//! Asks every proxy for clients' routes, one after the other: each answers with its value itself, so that it is seen which one
//! is served, and no origin is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::looks::{LookedAt, look_at_proxy};
use super::resources;
use crate::cluster::Cluster;
use crate::history::{Event, Recorder, Routed};
use crate::http::Client;

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// The status with which a route answers with its value.
const ANSWERED: u16 = 200;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub(super) fn start(cluster: &Cluster, recorder: &Recorder, stop: &Arc<AtomicBool>, tasks: &mut JoinSet<()>) {
    for proxy in &cluster.dps {
        let (dp, recorder, stop) = (proxy.name(), recorder.clone(), stop.clone());
        let mut status = Client::new(&proxy.addresses.status).patient(ANSWER_MAX);
        let mut traffic = Client::new(&proxy.addresses.proxy).patient(ANSWER_MAX);
        tasks.spawn(async move {
            for (key, path) in resources::routes().iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // First where it stands: it may only be further when it answers.
                if let Ok(LookedAt { position, .. }) = look_at_proxy(&mut status).await
                    && let Ok(reply) = traffic.get(path).await
                {
                    let (dp, key, status, at) = (dp.clone(), key.clone(), reply.status, recorder.now());
                    let value = reply.text().trim_end().parse().ok().filter(|_| status == ANSWERED);
                    recorder.note(Event::Routed(Routed { dp, key, position, at, status, value }));
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}
