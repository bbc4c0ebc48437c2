//! How the archive is doing, for operators and metrics.

use std::sync::Mutex;
use std::time::Duration;

use archive::write::{Done, WriteError};
use protocol::Position;
use serde::Serialize;
use tokio::time::Instant;

/// How the archive is doing.
#[derive(Debug)]
pub(crate) struct Report {
    place: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leads: bool,
    archived: Option<Position>,
    succeeded: Option<Instant>,
    behind: Option<Instant>,
    error: Option<(&'static str, String)>,
    failures: u64,
    done: Done,
}

/// The archive as `/v1/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ArchiveStatus {
    /// Where it is.
    pub(crate) place: String,
    /// Whether this node keeps it: the leader does.
    pub(crate) keeps: bool,
    /// The last position that this node has brought there.
    pub(crate) position: Option<String>,
    /// For how long it has lacked something; 0: it has everything.
    pub(crate) behind_seconds: f64,
    /// Since this node last found everything there.
    pub(crate) age_seconds: Option<f64>,
    /// Why the last attempt failed.
    pub(crate) error: Option<String>,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) keeps: bool,
    pub(crate) revision: u64,
    pub(crate) behind: Duration,
    pub(crate) age: Option<Duration>,
    pub(crate) failures: u64,
    pub(crate) done: Done,
}

impl Report {
    pub(super) fn new(place: String) -> Self {
        Self { place, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds it")
    }

    pub(super) fn set_leads(&self, leads: bool) {
        let mut state = self.state();
        if state.leads != leads {
            *state = State { leads, failures: state.failures, done: state.done, ..State::default() };
        }
    }

    pub(super) fn set_behind(&self, since: Option<Instant>) {
        let mut state = self.state();
        state.behind = since;
        if since.is_none() && state.error.is_none() && state.archived.is_some() {
            state.succeeded = Some(Instant::now());
        }
    }

    pub(super) fn is_news(&self, error: &WriteError) -> bool {
        self.state().error.as_ref().is_none_or(|(name, _)| *name != error.name())
    }

    pub(super) fn done(&self, more: &Done) {
        let mut state = self.state();
        state.done.segments += more.segments;
        state.done.bases += more.bases;
        state.done.bytes += more.bytes;
        state.done.removed += more.removed;
    }

    pub(super) fn succeeded(&self, position: Position) {
        let mut state = self.state();
        if state.error.take().is_some() {
            tracing::info!(%position, "the archive is kept again");
        }
        (state.archived, state.succeeded, state.behind) = (Some(position), Some(Instant::now()), None);
    }

    pub(super) fn failed(&self, error: &WriteError) {
        let mut state = self.state();
        state.failures += 1;
        state.error = Some((error.name(), error.to_string()));
    }

    /// For operators.
    pub(crate) fn status(&self) -> ArchiveStatus {
        let state = self.state();
        ArchiveStatus {
            place: self.place.clone(),
            keeps: state.leads,
            position: state.archived.map(|position| position.to_string()),
            behind_seconds: state.behind.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            age_seconds: state.succeeded.map(|at| at.elapsed().as_secs_f64()),
            error: state.error.as_ref().map(|(_, error)| error.clone()),
        }
    }

    /// For metrics.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            keeps: state.leads,
            revision: state.archived.map_or(0, |position| position.revision),
            behind: state.behind.map_or(Duration::ZERO, |since| since.elapsed()),
            age: state.succeeded.map(|at| at.elapsed()),
            failures: state.failures,
            done: state.done,
        }
    }
}
