//! Following the control plane.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Sources;
use super::text::{Page, Type};
use crate::standing::Histogram;

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let board = &sources.board;
    let standing = board.read();
    let node = &sources.node;
    page.family("holdfast_dp_info", Type::Gauge, "This proxy.");
    let labels = [
        ("name", node.name.as_str()),
        ("group", &node.group),
        ("region", &node.region),
        ("version", daemon::build::VERSION),
        ("commit", daemon::build::COMMIT),
    ];
    page.sample("holdfast_dp_info", &labels, 1);
    let last_good = standing.rejected.values().filter(|rejected| rejected.last_good).count();
    let failing = standing.secrets.iter().filter(|secret| secret.failure.is_some()).count();
    let age = standing.connected.as_ref().and_then(|connected| connected.leader_contact_age);
    for (name, help, value) in [
        ("position_epoch", "The epoch of what is served.", standing.position.epoch.number),
        ("position_revision", "The revision of what is served.", standing.position.revision),
        ("changed_revision", "The revision of its last change.", standing.changed_at.revision),
        ("resources", "Resources in the configuration.", standing.resources as u64),
        ("rejected_resources", "Resources whose newest entry cannot be served.", standing.rejected.len() as u64),
        ("last_good_resources", "Those of which the last good entry is served in its place.", last_good as u64),
        ("secrets_referred", "Places in vaults that the configuration refers to.", standing.secrets.len() as u64),
        ("secrets_failing", "Those that could not be read when they were last due.", failing as u64),
        ("feed_connected", "Whether a control plane is followed.", u64::from(standing.connected.is_some())),
        ("ready", "Whether requests should be sent here.", u64::from(sources.readiness.check().is_ok())),
        ("draining", "Whether the proxy is being taken out.", u64::from(sources.readiness.is_draining())),
        ("tables_retained", "Replaced tables that some request still reads.", get(&board.retained_tables)),
    ] {
        page.single(&format!("holdfast_dp_{name}"), Type::Gauge, help, value);
    }
    if let Some(credentials) = &sources.credentials {
        let name = "holdfast_dp_certificate_not_after_timestamp_seconds";
        page.single(
            name,
            Type::Gauge,
            "Until when this proxy's certificate holds, since 1970.",
            credentials.not_after(),
        );
    }
    if let Some(age) = age {
        let name = "holdfast_dp_leader_contact_age_seconds";
        page.single(name, Type::Gauge, "How long ago the node followed last heard from its leader.", age.as_secs_f64());
    }
    for (name, help, value) in [
        ("feed_connects_total", "Streams opened.", &board.connects),
        ("feed_disconnects_total", "Attempts that failed, and streams that ended.", &board.disconnects),
        ("feed_mends_total", "Repairs asked for.", &board.mends),
        ("updates_total", "Steps put to use.", &board.updates),
    ] {
        page.single(&format!("holdfast_dp_{name}"), Type::Counter, help, get(value));
    }
    let name = "holdfast_dp_update_seconds";
    page.family(name, Type::Histogram, "From the arrival of a step to its being served.");
    let bounds: Vec<String> = Histogram::BOUNDS.iter().map(|bound| bound.as_secs_f64().to_string()).collect();
    let (counts, micros) = board.update_time.read();
    #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds is inexact after 285 years")]
    let seconds = micros as f64 / 1e6;
    page.histogram(name, &[], &bounds, &counts, seconds);
}

fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}
