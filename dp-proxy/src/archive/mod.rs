//! The archive as a source: what a proxy starts from when its disk has less and no control plane answers, and what it
//! goes on from as long as none does.
//!
//! ```text
//!   object store --Reader--> look (this task) --Found--> feed thread: newer? -> compile, keep, publish
//! ```
//!
//! It runs beside the feed and holds nothing up: the disk is served before the first look, and a control plane that
//! answers is followed whatever is found here. What is found moves the proxy forward or not at all (law 4); by a proxy that
//! has served nothing yet it is served once the control plane has had the first word (`feed/follow/first.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use archive::read::{Have, Limits, Polled, Reason, open_base};
use archive::{ArchiveSettings, Found, Layout, OpenStore, Reader, Refused, StoreError, View};
use daemon::blocking;
use protocol::crypto::TrustedKeys;
use protocol::seam::Random;
use protocol::snapshot::{ClusterId, Expected};
use protocol::{ConfigState, Text};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

/// Every so many looks at the pointer, the objects are listed: a pointer that stays behind must not hide what is there.
const LISTING_EVERY: u32 = 12;

/// What the feed has not taken yet. One: while it takes that, the next look can wait.
const FOUND_MAX: usize = 1;

/// Refusals that the status page shows.
const REFUSED_SHOWN: usize = 8;

/// What is counted, and what was refused last.
#[derive(Debug, Default)]
pub struct ArchiveBoard {
    /// Looks at the archive.
    pub looks: AtomicU64,
    /// Those that could not be made, or led nowhere.
    pub failures: AtomicU64,
    /// Configurations that were taken from it.
    pub taken: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    place: Option<String>,
    refused: BTreeMap<&'static str, u64>,
    last: Vec<String>,
}

impl ArchiveBoard {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().expect("no code panics while it holds it")
    }

    /// Where the archive is; `None`: there is none.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        self.told().place.clone()
    }

    /// How much was refused, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.told().refused.clone()
    }

    /// What the last look refused.
    #[must_use]
    pub fn last_refused(&self) -> Vec<String> {
        self.told().last.clone()
    }

    pub(crate) fn refuse(&self, refused: &[Refused]) {
        let mut told = self.told();
        let last: Vec<String> = refused.iter().take(REFUSED_SHOWN).map(ToString::to_string).collect();
        for refused in refused {
            *told.refused.entry(refused.reason.name()).or_default() += 1;
        }
        // The same again is counted and not told again.
        if last != told.last {
            for refused in refused {
                warn!(object = refused.object, reason = %refused.reason, "refused in the archive");
            }
            told.last = last;
        }
    }
}

/// What the feed holds, for the next look.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) state: ConfigState,
    /// While a control plane is followed, nobody looks.
    pub(crate) followed: bool,
}

/// The end of the source that the feed holds.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) interest: watch::Sender<Interest>,
    pub(crate) found: mpsc::Receiver<Box<Found>>,
}

/// What a look needs.
#[derive(Clone)]
struct Look {
    reader: Option<Reader>,
    view: View,
    named: Option<ClusterId>,
    file: PathBuf,
    trusted: TrustedKeys,
    limits: Limits,
    poll: Duration,
    board: Arc<ArchiveBoard>,
    random: Arc<dyn Random>,
}

/// Starts to look, on the current runtime. The settings were checked.
pub(crate) fn start(
    settings: ArchiveSettings,
    stores: Arc<dyn OpenStore>,
    group: &str,
    board: Arc<ArchiveBoard>,
    random: Arc<dyn Random>,
    interest: Interest,
) -> Source {
    let (interest, watched) = watch::channel(interest);
    let (sender, found) = mpsc::channel(FOUND_MAX);
    let group: Text = group.into();
    tokio::spawn(async move {
        let (trusted, named, reader) = match open(&settings, &*stores).await {
            Ok(opened) => opened,
            Err(e) => {
                warn!(error = %e, "the archive cannot be used");
                board.failures.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        board.told().place = Some(reader.as_ref().map_or_else(|| settings.file.display().to_string(), Reader::place));
        let look = Look {
            reader,
            view: View::Group(group),
            named,
            file: settings.file.clone(),
            trusted,
            limits: limits(&settings),
            poll: settings.poll.0,
            board,
            random,
        };
        look.run(watched, sender).await;
    });
    Source { interest, found }
}

fn limits(settings: &ArchiveSettings) -> Limits {
    Limits { object_max: settings.object_max.0, unpacked_max: settings.unpacked_max.0 }
}

async fn open(
    settings: &ArchiveSettings,
    stores: &dyn OpenStore,
) -> Result<(TrustedKeys, Option<ClusterId>, Option<Reader>), archive::BadArchive> {
    let (trusted, named) = (settings.trusted()?, settings.cluster_id()?);
    let reader = match settings.is_set() {
        true => {
            let (store, layout) = (stores.open(settings).await?, Layout::new(&settings.prefix));
            Some(Reader::new(store, layout, trusted.clone(), limits(settings)))
        }
        false => None,
    };
    Ok((trusted, named, reader))
}

impl Look {
    async fn run(self, mut watched: watch::Receiver<Interest>, sender: mpsc::Sender<Box<Found>>) {
        if !self.file.as_os_str().is_empty() {
            let interest = watched.borrow_and_update().clone();
            match self.read_file(&interest).await {
                Ok(found) => {
                    if sender.send(Box::new(found)).await.is_err() {
                        return;
                    }
                }
                Err(reason) => self.board.refuse(&[Refused { object: self.file.display().to_string(), reason }]),
            }
        }
        let Some(reader) = &self.reader else { return };
        let (mut seen, mut looks) = (None, 0u32);
        loop {
            // The first look is made whoever answers: who is at the feed's door is not known yet.
            if looks > 0 && watched.wait_for(|interest| !interest.followed).await.is_err() {
                return;
            }
            let interest = watched.borrow_and_update().clone();
            let listing = looks.is_multiple_of(LISTING_EVERY);
            looks += 1;
            self.board.looks.fetch_add(1, Ordering::Relaxed);
            if let Some(found) = self.look(reader, &interest, listing, &mut seen).await {
                info!(position = %found.state.position(), from = reader.place(), "found in the archive");
                if sender.send(found).await.is_err() {
                    return;
                }
            }
            // Between half and one and a half of the period: a fleet that lost its control plane spreads out.
            let period = u64::try_from(self.poll.as_millis()).unwrap_or(u64::MAX / 4);
            sleep(Duration::from_millis(period / 2 + self.random.below(period.max(1)))).await;
        }
    }

    async fn look(
        &self,
        reader: &Reader,
        interest: &Interest,
        listing: bool,
        seen: &mut Option<archive::store::Version>,
    ) -> Option<Box<Found>> {
        let cluster = interest.cluster.or(self.named);
        if let (false, Some(cluster)) = (listing, cluster) {
            match reader.poll(cluster, &self.view, &interest.state, seen).await {
                Ok(Polled::Nothing) => return None,
                Ok(Polled::Found(found)) => return Some(found),
                Err(refused) => {
                    let is_away = matches!(&refused.reason, Reason::Store(e) if *e != StoreError::Missing);
                    self.board.refuse(&[refused]);
                    if is_away {
                        // A listing would fare no better, and cost the store more.
                        self.board.failures.fetch_add(1, Ordering::Relaxed);
                        return None;
                    }
                }
            }
        }
        let (found, refused) = reader.newest(cluster, &self.view, Have::of(&interest.state)).await;
        if found.is_none() && !refused.is_empty() {
            self.board.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.board.refuse(&refused);
        found.map(Box::new)
    }

    /// A file that was given: a base of this group's view.
    async fn read_file(&self, interest: &Interest) -> Result<Found, Reason> {
        let (path, look) = (self.file.clone(), self.clone());
        let expected = Expected { cluster: interest.cluster.or(self.named), view: self.view.text() };
        let read = blocking::spawn(move || {
            let unavailable = |e: std::io::Error| Reason::Store(StoreError::Unavailable(e.to_string()));
            let max = look.limits.object_max;
            if std::fs::metadata(&path).map_err(unavailable)?.len() > max {
                return Err(StoreError::TooLarge { max }.into());
            }
            let bytes = std::fs::read(&path).map_err(unavailable)?;
            Ok(open_base(&bytes, &expected, &look.trusted, look.limits)?)
        });
        read.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }
}
