//! Where a lost configuration can come from.

use std::cmp::Ordering;
use std::path::PathBuf;

use archive::read::{Limits, Reader, open_base};
use archive::{ArchiveSettings, Layout, View};
use futures_util::future::BoxFuture;
use protocol::crypto::TrustedKeys;
use protocol::snapshot::{ClusterId, Expected};
use protocol::{Chain, ConfigState};

use super::{BootstrapError, Plan};
use crate::settings::Settings;

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
}

/// Somewhere that a lost configuration can come from.
pub trait RestoreSource {
    /// What it is, for people.
    fn name(&self) -> String;

    /// The newest configuration that it can prove, or why there is none.
    fn newest(&self) -> BoxFuture<'_, Result<Candidate, String>>;
}

/// The newest that the sources of a plan can prove.
pub(super) async fn newest(settings: &Settings, plan: &Plan) -> Result<Candidate, BootstrapError> {
    let mut best: Option<Candidate> = None;
    let mut reasons = Vec::new();
    for source in sources(settings, plan).await? {
        let candidate = match source.newest().await {
            Ok(candidate) => candidate,
            Err(reason) => {
                reasons.push(format!("{}: {reason}", source.name()));
                continue;
            }
        };
        best = match best {
            None => Some(candidate),
            Some(best) if best.cluster != candidate.cluster => {
                return Err(BootstrapError::Clusters(best.from, candidate.from));
            }
            Some(best) => match candidate.state.position().compare(&best.state.position())? {
                Ordering::Greater => Some(candidate),
                Ordering::Equal | Ordering::Less => Some(best),
            },
        };
    }
    for reason in &reasons {
        tracing::warn!(reason, "a source has nothing");
    }
    best.ok_or(BootstrapError::Nothing(reasons))
}

async fn sources(settings: &Settings, plan: &Plan) -> Result<Vec<Box<dyn RestoreSource>>, BootstrapError> {
    let mut sources: Vec<Box<dyn RestoreSource>> = Vec::new();
    if plan.from == From::Record {
        let why =
            "this version brings a cluster back from the archive or from a file: use --from archive or --from file";
        return Err(BootstrapError::Source(why.to_owned()));
    }
    let trusted = trusted(&settings.archive)?;
    let limits = Limits { object_max: settings.archive.object_max.0, unpacked_max: settings.archive.unpacked_max.0 };
    let cluster = settings.archive.cluster_id()?;
    if matches!(plan.from, From::Archive | From::Auto) && (settings.archive.is_set() || plan.from == From::Archive) {
        let store = settings.archive.open().await?;
        let reader = Reader::new(store, Layout::new(&settings.archive.prefix), trusted.clone(), limits);
        sources.push(Box::new(FromArchive { reader, cluster }));
    }
    match (&plan.file, plan.from) {
        (Some(path), From::File | From::Auto) => {
            sources.push(Box::new(FromFile { path: path.clone(), cluster, trusted, limits }));
        }
        (None, From::File) => return Err(BootstrapError::Source("--from file needs --file".to_owned())),
        _ => {}
    }
    Ok(sources)
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
            Ok(Candidate { from: self.name(), cluster: found.cluster, state: found.state, chain, level: found.level })
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
            Ok(Candidate { from: self.name(), cluster: found.cluster, state: found.state, chain, level: found.level })
        })
    }
}
