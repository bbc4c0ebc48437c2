//! Where a lost configuration can come from.

use std::cmp::Ordering;
use std::path::PathBuf;

use archive::read::{Limits, Polled, Reader, Reason, open_base};
use archive::{ArchiveSettings, Layout, View};
use futures_util::future::BoxFuture;
use protocol::crypto::TrustedKeys;
use protocol::snapshot::{ClusterId, Expected};
use protocol::{Chain, ConfigState, Position};

use super::{BootstrapError, Plan};
use crate::node::Seams;
use crate::record::Link;
use crate::record::restore::{self, Kept};
use crate::settings::Settings;

/// The level that a record's cluster is brought back at, since the record does not know it: the lowest there is.
const RECORD_LEVEL: u32 = 1;

/// Which source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The newest of all that are set.
    Auto,
    /// The object store.
    Archive,
    /// A file that `hfctl backup` wrote.
    File,
    /// The durable record.
    Record,
}

/// A configuration that was proved.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it comes from, for people.
    pub from: String,
    /// Whose it is.
    pub cluster: ClusterId,
    /// Everything, with its original metadata.
    pub state: ConfigState,
    /// The chain at its position.
    pub chain: Chain,
    /// The level of the cluster.
    pub level: u32,
    /// Where the durable record is, if this comes from it.
    pub record: Option<Position>,
}

/// What a source says of an older configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Says {
    /// It is the beginning of this one.
    Beginning,
    /// It cannot be told, and why.
    Unknown(String),
    /// It is of another history, and how that shows.
    Other(String),
}

/// Somewhere that a lost configuration can come from.
pub trait RestoreSource {
    /// What it is, for people.
    fn name(&self) -> String;

    /// The newest configuration that it can prove, or why there is none.
    fn newest(&self) -> BoxFuture<'_, Result<Candidate, String>>;

    /// Whether an older configuration is the beginning of what this source holds.
    fn says_of<'s>(&'s self, older: &'s Candidate) -> BoxFuture<'s, Says>;
}

/// The newest that the sources of a plan can prove. Whatever else there is must be the beginning of it.
pub(super) async fn newest(settings: &Settings, plan: &Plan, seams: &Seams) -> Result<Candidate, BootstrapError> {
    let mut found: Vec<(Box<dyn RestoreSource>, Candidate)> = Vec::new();
    let mut reasons = Vec::new();
    for source in sources(settings, plan, seams).await? {
        match source.newest().await {
            Ok(candidate) => {
                let (position, resources) = (candidate.state.position(), candidate.state.len());
                tracing::info!(from = candidate.from, %position, resources, "this can be proved");
                found.push((source, candidate));
            }
            Err(reason) => reasons.push(format!("{}: {reason}", source.name())),
        }
    }
    for reason in &reasons {
        tracing::warn!(reason, "a source has nothing");
    }
    let mut best = 0;
    for at in 1..found.len() {
        let (newest, candidate) = (&found[best].1, &found[at].1);
        if newest.cluster != candidate.cluster {
            return Err(BootstrapError::Clusters(newest.from.clone(), candidate.from.clone()));
        }
        if candidate.state.position().compare(&newest.state.position())? == Ordering::Greater {
            best = at;
        }
    }
    if found.is_empty() {
        return Err(BootstrapError::Nothing(reasons));
    }
    let (source, newest) = found.swap_remove(best);
    for (_, older) in &found {
        let says = match newest.compare_chains(older) {
            Some(says) => says,
            None => source.says_of(older).await,
        };
        match says {
            Says::Beginning => tracing::info!(older = older.from, "it is the beginning of the newest"),
            Says::Unknown(why) => {
                tracing::warn!(older = older.from, why, "whether it is the beginning of the newest cannot be told");
            }
            Says::Other(why) => {
                let (older, newest) = (older.named(), newest.named());
                return Err(BootstrapError::Histories { older, newest, why });
            }
        }
    }
    Ok(newest)
}

impl Candidate {
    fn named(&self) -> String {
        format!("{} (at {})", self.from, self.state.position())
    }

    /// What can be said when both are at one position.
    fn compare_chains(&self, other: &Self) -> Option<Says> {
        (self.state.position() == other.state.position()).then(|| match self.chain == other.chain {
            true => Says::Beginning,
            false => Says::Other("they differ at one position".to_owned()),
        })
    }
}

async fn sources(
    settings: &Settings,
    plan: &Plan,
    seams: &Seams,
) -> Result<Vec<Box<dyn RestoreSource>>, BootstrapError> {
    let mut sources: Vec<Box<dyn RestoreSource>> = Vec::new();
    if matches!(plan.from, From::Record | From::Auto) {
        let link = Link::new(&settings.record, seams.net.clone());
        match link.map_err(|e| BootstrapError::Source(e.to_string()))? {
            Some(link) => sources.push(Box::new(FromRecord { link })),
            None if plan.from == From::Record => {
                return Err(BootstrapError::Source("--from record needs record.dsn".to_owned()));
            }
            None => {}
        }
    }
    if matches!(plan.from, From::Archive | From::Auto) && (settings.archive.is_set() || plan.from == From::Archive) {
        let (cluster, trusted, limits) = signed(&settings.archive)?;
        let store = seams.stores.open(&settings.archive).await?;
        let reader = Reader::new(store, Layout::new(&settings.archive.prefix), trusted, limits);
        sources.push(Box::new(FromArchive { reader, cluster }));
    }
    match (&plan.file, plan.from) {
        (Some(path), From::File | From::Auto) => {
            let (cluster, trusted, limits) = signed(&settings.archive)?;
            sources.push(Box::new(FromFile { path: path.clone(), cluster, trusted, limits }));
        }
        (None, From::File) => return Err(BootstrapError::Source("--from file needs --file".to_owned())),
        _ => {}
    }
    if sources.is_empty() {
        let why = "nothing is set to come back from: record.dsn, archive.s3 or archive.directory, or --file";
        return Err(BootstrapError::Source(why.to_owned()));
    }
    Ok(sources)
}

/// What is believed of signed snapshots: of which cluster, by which keys, within which limits.
fn signed(settings: &ArchiveSettings) -> Result<(Option<ClusterId>, TrustedKeys, Limits), BootstrapError> {
    let limits = Limits { object_max: settings.object_max.0, unpacked_max: settings.unpacked_max.0 };
    Ok((settings.cluster_id()?, trusted(settings)?, limits))
}

struct FromRecord {
    link: Link,
}

impl RestoreSource for FromRecord {
    fn name(&self) -> String {
        "the record".to_owned()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Candidate, String>> {
        Box::pin(async {
            let Kept { host, cluster, state, chain } = restore::newest(&self.link).await.map_err(|e| e.to_string())?;
            let (from, record) = (format!("the record on {host}"), Some(state.position()));
            Ok(Candidate { from, cluster, state, chain, level: RECORD_LEVEL, record })
        })
    }

    fn says_of<'s>(&'s self, older: &'s Candidate) -> BoxFuture<'s, Says> {
        Box::pin(async {
            match restore::chain_at(&self.link, older.state.position()).await {
                Ok(Some(chain)) if chain == older.chain => Says::Beginning,
                Ok(Some(_)) => Says::Other("the record has another change at that revision".to_owned()),
                Ok(None) => Says::Unknown("the record's history does not name that revision".to_owned()),
                Err(e) => Says::Unknown(e.to_string()),
            }
        })
    }
}

/// The keys whose signatures count: those that are set, and our own.
fn trusted(settings: &ArchiveSettings) -> Result<TrustedKeys, BootstrapError> {
    let trusted = match settings.signing_key_file {
        Some(_) => settings.trusted_with(settings.signing_key()?.public())?,
        None => settings.trusted()?,
    };
    if trusted.is_empty() {
        let why = "nobody is trusted: set archive.trusted_keys or archive.signing_key_file";
        return Err(BootstrapError::Source(why.to_owned()));
    }
    Ok(trusted)
}

struct FromArchive {
    reader: Reader,
    cluster: Option<ClusterId>,
}

impl RestoreSource for FromArchive {
    fn name(&self) -> String {
        format!("the archive at {}", self.reader.place())
    }

    fn newest(&self) -> BoxFuture<'_, Result<Candidate, String>> {
        Box::pin(async {
            let (found, refused) = self.reader.newest(self.cluster, &View::Whole, None).await;
            let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
            for refused in &refused {
                tracing::warn!(refused, "refused in the archive");
            }
            let found = found.ok_or_else(|| match refused.is_empty() {
                true => "it is empty".to_owned(),
                false => refused.join("; "),
            })?;
            let chain = found.chain.ok_or("it does not hold everything: it has no chain")?;
            let (cluster, level) = (found.cluster, found.level);
            Ok(Candidate { from: self.name(), cluster, state: found.state, chain, level, record: None })
        })
    }

    fn says_of<'s>(&'s self, older: &'s Candidate) -> BoxFuture<'s, Says> {
        Box::pin(async {
            // Going on from there by the signed changes, each of which names the one before it and the digest after it.
            match self.reader.poll(older.cluster, &View::Whole, &older.state, &mut None).await {
                Ok(Polled::Found(found)) if found.steps.is_some() => Says::Beginning,
                Ok(Polled::Found(_)) => Says::Unknown("the archive's changes do not reach back to it".to_owned()),
                Ok(Polled::Nothing) => Says::Unknown("the archive's pointer is not beyond it".to_owned()),
                Err(refused) => match refused.reason {
                    Reason::Evolve(_) => Says::Other(refused.to_string()),
                    _ => Says::Unknown(refused.to_string()),
                },
            }
        })
    }
}

struct FromFile {
    path: PathBuf,
    cluster: Option<ClusterId>,
    trusted: TrustedKeys,
    limits: Limits,
}

impl RestoreSource for FromFile {
    fn name(&self) -> String {
        format!("the file {}", self.path.display())
    }

    fn newest(&self) -> BoxFuture<'_, Result<Candidate, String>> {
        Box::pin(async {
            let size = std::fs::metadata(&self.path).map_err(|e| e.to_string())?.len();
            if size > self.limits.object_max {
                return Err(format!("it has {size} bytes, over archive.object_max"));
            }
            let bytes = std::fs::read(&self.path).map_err(|e| e.to_string())?;
            let expected = Expected { cluster: self.cluster, view: None };
            let found = open_base(&bytes, &expected, &self.trusted, self.limits).map_err(|e| e.to_string())?;
            let chain = found.chain.ok_or("it does not hold everything: it has no chain")?;
            let (cluster, level) = (found.cluster, found.level);
            Ok(Candidate { from: self.name(), cluster, state: found.state, chain, level, record: None })
        })
    }

    fn says_of<'s>(&'s self, _older: &'s Candidate) -> BoxFuture<'s, Says> {
        Box::pin(async { Says::Unknown("a file knows one position".to_owned()) })
    }
}
