//! What stands outside of the cluster and is asked over a network of its own: the archive's object store, the record's
//! PostgreSQL.
//!
//! ```text
//!   caller --call--> (takes its time, or is lost) --> carried out --answer--> (or is lost) --> caller
//! ```
//!
//! A call that is under way is carried out though whoever sent it has given up or died: late, and after calls that were
//! sent after it. That is how a leader that was deposed still writes.

pub(crate) mod bucket;
pub(crate) mod postgres;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::oneshot;

use crate::random::{below, stream};
use crate::tally::Tally;
use bucket::Bucket;
use postgres::Postgres;

/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a call is under way in good times, in milliseconds, at most.
const WAY_MAX: u64 = 8;

/// How long one is that comes late: longer than its caller's patience, at most.
const LATE_MAX: u64 = 4_000;

/// Everything outside of the cluster, as far as a run has it.
#[derive(Clone, Default)]
pub(crate) struct Outside {
    /// The archive.
    pub(crate) bucket: Option<Server<Bucket>>,
    /// The record.
    pub(crate) postgres: Option<Server<Postgres>>,
}

impl Outside {
    /// Carries out what is due.
    pub(crate) fn advance(&self, now_millis: u64) {
        if let Some(bucket) = &self.bucket {
            bucket.advance(now_millis);
            bucket.change(|bucket| bucket.tick(now_millis));
        }
        if let Some(postgres) = &self.postgres {
            postgres.advance(now_millis);
            postgres.change(|postgres| postgres.tick(now_millis));
        }
    }

    /// Tells how often which fault has met a call.
    pub(crate) fn tell(&self, tally: &mut Tally) {
        let bucket = self.bucket.iter().flat_map(|bucket| tagged("bucket", bucket.faults()));
        let postgres = self.postgres.iter().flat_map(|postgres| tagged("postgres", postgres.faults()));
        bucket.chain(postgres).for_each(|(fault, times)| tally.add(&fault, times));
    }
}

fn tagged(whose: &str, faults: BTreeMap<&'static str, u64>) -> impl Iterator<Item = (String, u64)> {
    faults.into_iter().map(move |(fault, times)| (format!("{whose}_{fault}"), times))
}

/// How calls fare, each chance in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// It is refused: an error, and nothing was done.
    pub(crate) refused: u64,
    /// The connection breaks before anything was done.
    pub(crate) lost: u64,
    /// It is carried out, and the answer is lost.
    pub(crate) unanswered: u64,
    /// It arrives after its caller has given up.
    pub(crate) late: u64,
    /// Listings show what was there a while ago.
    pub(crate) stale: u64,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failed {
    /// Nothing was done.
    Refused,
    /// The connection broke; it may have been done.
    Broken,
    /// Nothing came in time; it may have been done, or yet be done.
    Silent,
}

/// A server with what it holds. Clones are the same one.
pub(crate) struct Server<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    state: S,
    /// What is under way, by the moment at which it arrives and the order in which it was sent.
    calls: BTreeMap<(u64, u64), Call<S>>,
    sent: u64,
    now_millis: u64,
    weather: Weather,
    rng: StdRng,
    faults: BTreeMap<&'static str, u64>,
}

type Call<S> = Box<dyn FnOnce(&mut S) + Send>;

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Server<S> {
    /// A server in good weather, with a source of chance of its own.
    pub(crate) fn new(state: S, seed: u64, part: u64) -> Self {
        let (calls, faults, rng) = (BTreeMap::new(), BTreeMap::new(), stream(seed, part));
        let inner = Inner { state, calls, sent: 0, now_millis: 0, weather: Weather::default(), rng, faults };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().expect("no code panics while it holds it")
    }

    /// Asks for `work`.
    ///
    /// # Errors
    /// [`Failed`], within a second.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let (answer, answered) = oneshot::channel();
        self.lock().send(work, answer);
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failed::Broken),
            Err(_) => Err(Failed::Silent),
        }
    }

    /// Carries out what has arrived by now.
    pub(crate) fn advance(&self, now_millis: u64) {
        let inner = &mut *self.lock();
        inner.now_millis = now_millis;
        while let Some(call) = inner.calls.first_entry().filter(|call| call.key().0 <= now_millis) {
            call.remove()(&mut inner.state);
        }
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Whether a listing is to be stale.
    pub(crate) fn is_stale(&self) -> bool {
        let inner = &mut *self.lock();
        let chance = inner.weather.stale;
        inner.happens("stale_listings", chance)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.lock().state)
    }

    /// Changes it by no call: at once, and surely.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        change(&mut self.lock().state)
    }

    /// How often each fault has met a call.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.lock().faults.clone()
    }
}

impl<S> Inner<S> {
    fn happens(&mut self, fault: &'static str, chance: u64) -> bool {
        let happens = below(&mut self.rng, 1_000) < chance;
        *self.faults.entry(fault).or_default() += u64::from(happens);
        happens
    }

    fn send<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        answer: oneshot::Sender<Result<T, Failed>>,
    ) {
        let Weather { refused, lost, unanswered, late, .. } = self.weather;
        let mut arrives = self.now_millis + 1 + below(&mut self.rng, WAY_MAX);
        // Whoever has given up hears nothing more.
        let call: Call<S> = if self.happens("calls_refused", refused) {
            Box::new(move |_| drop(answer.send(Err(Failed::Refused))))
        } else if self.happens("calls_lost", lost) {
            Box::new(move |_| drop(answer))
        } else if self.happens("calls_unanswered", unanswered) {
            Box::new(move |state| {
                work(state);
                drop(answer);
            })
        } else {
            if self.happens("calls_late", late) {
                arrives += below(&mut self.rng, LATE_MAX);
            }
            Box::new(move |state| drop(answer.send(Ok(work(state)))))
        };
        self.sent += 1;
        self.calls.insert((arrives, self.sent), call);
    }
}
