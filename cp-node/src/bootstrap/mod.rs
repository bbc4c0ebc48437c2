//! Coming back when the disks of all control-plane nodes are lost: an operator's command, and never automatic.
//!
//! ```text
//!   sources --newest proved--> Candidate --witnesses: has a proxy seen more?--> claim of the next epoch
//!           --> found a cluster of one, RestoreBegin / Part / End --> `cp-node run`, and the others join
//! ```
//!
//! The cluster keeps its id and its revisions; only the epoch grows, so that proxies follow it from wherever they are and
//! refuse whatever is left of the old life.

mod claim;
mod source;
mod witness;

use std::cmp::Ordering;
use std::path::PathBuf;
use std::time::Duration;

use archive::BadArchive;
use daemon::failpoint;
use protocol::codec;
use protocol::command::{Action, Batch, Command, RecordAction, STAGE_PART_BYTES_MAX};
use protocol::position::{EpochConflict, RestoreId};
use protocol::snapshot::{self, Header, Unsealed};
use protocol::{Epoch, Outcome, Position};
use raft_store::disk::Identity;
use raft_store::types::{LogPayload, Raft};
use sha2::{Digest, Sha256};

pub use source::{Candidate, From, RestoreSource};
pub use witness::Witness;

use crate::escrow;
pub use crate::escrow::NotRecovered;
use crate::node::{self, NodeError, Seams};
use crate::settings::Settings;

/// How long one step of the restore may take on a cluster of one: a part on a slow disk, or applying the whole.
const STEP_MAX: Duration = Duration::from_secs(60);

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the configuration comes from.
    pub from: From,
    /// The file, where it comes from one.
    pub file: Option<PathBuf>,
    /// Go on although proxies have served more than what was found.
    pub accept_loss: bool,
    /// For how long proxies may say how far they are.
    pub window: Duration,
    /// Go on with a bootstrap that did not finish.
    pub resume: Option<RestoreId>,
    /// Take the next free number, past claims of bootstraps that came to nothing.
    pub past_claims: bool,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Who this node is now.
    pub identity: Identity,
    /// Where the configuration came from.
    pub from: String,
    /// Where it was.
    pub found: Position,
    /// Where it is now.
    pub position: Position,
    /// How many resources it has.
    pub resources: usize,
    /// The proxies that said how far they are.
    pub witnesses: Vec<Witness>,
}

/// Why a cluster was not brought back. The data directory is nobody's, as before.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A setting.
    #[error(transparent)]
    Archive(#[from] BadArchive),
    /// A source that this build cannot read.
    #[error("{0}")]
    Source(String),
    /// Nothing was found.
    #[error("there is nothing to come back from:\n{}", .0.join("\n"))]
    Nothing(Vec<String>),
    /// Two sources are of clusters, or lives, that have no order.
    #[error("{0} and {1} hold different clusters: say which with --from")]
    Clusters(String, String),
    /// Two sources whose histories part.
    #[error("{older} is not the beginning of {newest}: {why}\nSay which is meant with --from.")]
    Histories {
        /// The older one.
        older: String,
        /// The newest.
        newest: String,
        /// How it shows.
        why: String,
    },
    /// Two lives with one number.
    #[error(transparent)]
    Conflict(#[from] EpochConflict),
    /// Proxies have served more.
    #[error("what was found is at {found}, and {} a proxy has served {}: {} changes would be lost\nFind a newer copy, or accept that with --accept-loss.", .witness.name, .witness.position, .witness.position.revision.saturating_sub(found.revision))]
    Loss {
        /// What was found.
        found: Position,
        /// Who has seen most.
        witness: Box<Witness>,
    },
    /// The number of the epoch is another's.
    #[error(
        "epoch {number} is claimed by restore {by}: another bootstrap is under way, or did not finish\nIf it was this one, go on with --resume {by}. If it came to nothing for good, take the next number with --past-claims."
    )]
    Claimed {
        /// The number.
        number: u64,
        /// By whom.
        by: String,
    },
    /// The claim is not taken.
    #[error("the next epoch cannot be claimed in {arbiter}: {why}")]
    Claim {
        /// Where.
        arbiter: &'static str,
        /// Why.
        why: String,
    },
    /// Somebody still writes to the record.
    #[error(
        "the record has gone on to {now} since it was read at {read}: a node of the old cluster is still running. Stop it, then go on with --resume {restore}"
    )]
    GoesOn {
        /// Where it was read.
        read: Position,
        /// Where it is.
        now: Position,
        /// The restore that has claimed it by now.
        restore: RestoreId,
    },
    /// A listener.
    #[error("{0}")]
    Listen(std::io::Error),
    /// Certificates.
    #[error(transparent)]
    Credentials(#[from] mtls::BadCredentials),
    /// Lost key files do not come back.
    #[error(transparent)]
    Keys(#[from] NotRecovered),
    /// A lost key file was never kept.
    #[error("{setting}: {} is not there, and {from} keeps no copy of it", path.display())]
    NotKept {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was asked.
        from: String,
    },
    /// The snapshot cannot be written or is not taken.
    #[error("the configuration is not taken: {0}")]
    Restore(String),
}

/// Brings a cluster back, with this node as its only voter. Then it is run, and the others join with empty disks.
///
/// # Errors
/// [`NodeError`]; the data directory is then nobody's, as before.
pub async fn bootstrap(settings: &Settings, plan: &Plan, seams: &Seams) -> Result<Restored, NodeError> {
    settings.check()?;
    // Before anything is claimed: this must be a directory that can become a node's.
    raft_store::disk::DataDir::open(&settings.data_dir.0)?.check_unclaimed()?;
    if settings.secrets.kek_file.is_some() && !escrow::missing(settings).is_empty() {
        recover_keys(settings, plan.from, plan.file.clone(), seams).await?;
    }
    let candidate = source::newest(settings, plan, seams).await?;
    tracing::info!(
        from = candidate.from, position = %candidate.state.position(), resources = candidate.state.len(),
        "the newest that can be proved"
    );
    let witnesses = witness::hear(settings, plan.window, candidate.cluster, seams).await?;
    let found = candidate.state.position();
    check_witnesses(found, &witnesses, plan.accept_loss)?;
    let highest = witnesses.iter().map(|witness| witness.position.epoch.number).max().unwrap_or(0);
    let above = found.epoch.number.max(highest);
    let restore = plan.resume.unwrap_or_else(|| RestoreId(seams.random.bytes16()));
    let epoch = claim::claim(settings, &candidate, above, restore, plan, seams).await?;
    let has_record = settings.record.is_set();
    // A log of its own begins here, below the epoch that it restores into, and above none that anybody has seen: peers know
    // by the restore that it is not the old log, whose nodes they refuse.
    let founded_as = Epoch { number: epoch.number - 1, restore };
    let identity = node::found_as(settings, seams, candidate.cluster, founded_as, async |raft| {
        restore_into(raft, &candidate, epoch, seams).await?;
        if has_record {
            // Before any change: the record is to go on from exactly here.
            propose(raft, Action::Record(RecordAction::On), seams).await?;
        }
        Ok(())
    })
    .await?;
    let position = Position { epoch, revision: found.revision };
    let resources = candidate.state.len();
    Ok(Restored { identity, from: candidate.from, found, position, resources, witnesses })
}

/// Writes the key files that the settings name and that are lost, from what the record keeps of them, or, where there is
/// none, the archive or a file; gives those that it has written. Opened by the key-encryption key, `secrets.kek_file`.
///
/// # Errors
/// [`NodeError`].
pub async fn recover_keys(
    settings: &Settings,
    from: From,
    file: Option<PathBuf>,
    seams: &Seams,
) -> Result<Vec<PathBuf>, NodeError> {
    let lost = escrow::missing(settings);
    let mut without = settings.clone();
    if lost.iter().any(|(setting, _)| *setting == "archive.signing_key_file") {
        // What is in the archive is believed by the keys that are trusted, then.
        without.archive.signing_key_file = None;
    }
    let from = if settings.record.is_set() && from == From::Auto { From::Record } else { from };
    let plan = Plan { from, file, accept_loss: true, window: Duration::ZERO, resume: None, past_claims: false };
    let candidate = source::newest(&without, &plan, seams).await?;
    let written = escrow::recover(settings, &candidate.state).map_err(BootstrapError::Keys)?;
    match lost.into_iter().find(|(_, path)| !written.contains(path)) {
        Some((setting, path)) => Err(BootstrapError::NotKept { setting, path, from: candidate.from }.into()),
        None => Ok(written),
    }
}

/// Refuses to come back below what somebody has served.
fn check_witnesses(found: Position, witnesses: &[Witness], accept_loss: bool) -> Result<(), BootstrapError> {
    let mut most: Option<&Witness> = None;
    for witness in witnesses {
        let is_ahead = witness.position.compare(&found)? == Ordering::Greater;
        let is_most = match most {
            Some(most) => witness.position.compare(&most.position)? == Ordering::Greater,
            None => true,
        };
        if is_ahead && is_most {
            most = Some(witness);
        }
    }
    match most {
        Some(witness) if !accept_loss => Err(BootstrapError::Loss { found, witness: Box::new(witness.clone()) }),
        Some(witness) => {
            tracing::warn!(%found, dp = witness.name, served = %witness.position, "changes are lost, as was accepted");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Proposes the configuration to a cluster of one. Nothing of it is visible before the last step.
async fn restore_into(raft: &Raft, candidate: &Candidate, epoch: Epoch, seams: &Seams) -> Result<(), BootstrapError> {
    let bytes = encode(candidate, seams).map_err(|e| BootstrapError::Restore(e.to_string()))?;
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    let restore = epoch.restore;
    failpoint!("bootstrap::before_begin");
    propose(raft, Action::RestoreBegin { epoch }, seams).await?;
    let mut parts = 0;
    for part in bytes.chunks(STAGE_PART_BYTES_MAX) {
        propose(raft, Action::RestorePart { restore, part: parts, bytes: part.to_vec() }, seams).await?;
        failpoint!("bootstrap::after_part");
        parts += 1;
    }
    match propose(raft, Action::RestoreEnd { restore, parts, sha256 }, seams).await? {
        Outcome::Restored { position } => {
            failpoint!("bootstrap::after_end");
            tracing::info!(%position, parts, "the configuration is back");
            Ok(())
        }
        other => Err(BootstrapError::Restore(format!("{other:?}"))),
    }
}

/// A snapshot of everything, as the restore wants it.
fn encode(candidate: &Candidate, seams: &Seams) -> std::io::Result<Vec<u8>> {
    let state = &candidate.state;
    let header = Header {
        cluster: candidate.cluster,
        view: None,
        position: state.position(),
        changed_at: state.changed_at(),
        chain: Some(candidate.chain),
        digest: state.digest(),
        entries: state.len() as u64,
        level: candidate.level,
        created: seams.clock.now(),
    };
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, state, &[], &Unsealed)?;
    Ok(bytes)
}

async fn propose(raft: &Raft, action: Action, seams: &Seams) -> Result<Outcome, BootstrapError> {
    let failed = |why: String| BootstrapError::Restore(why);
    let command = Command {
        origin: None,
        idempotency: None,
        request: "bootstrap".into(),
        author: "system".into(),
        time: seams.clock.now(),
        based_on: Vec::new(),
        action,
    };
    let batch = Batch { elapsed_millis: 0, commands: vec![command] };
    let payload = LogPayload(codec::seal(&batch).map_err(|e| failed(e.to_string()))?.into());
    let written = tokio::time::timeout(STEP_MAX, raft.client_write(payload)).await;
    let written = written.map_err(|_| failed(format!("no answer within {STEP_MAX:?}")))?;
    let outcomes = written.map_err(|e| failed(e.to_string()))?.data;
    match outcomes.0.into_iter().next() {
        Some(Outcome::Refused { rejection, .. }) => Err(failed(format!("{rejection:?}"))),
        Some(outcome) => Ok(outcome),
        None => Err(failed("consensus did not say what became of it".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, restore: u8, revision: u64) -> Position {
        Position { epoch: Epoch { number, restore: RestoreId([restore; 16]) }, revision }
    }

    fn witness(position: Position) -> Witness {
        Witness { name: "dp".into(), address: "a".into(), group: "default".into(), position }
    }

    #[test]
    fn nobody_comes_back_below_what_a_proxy_has_served_unless_that_is_accepted() {
        let found = at(1, 1, 100);
        assert!(check_witnesses(found, &[], false).is_ok());
        assert!(check_witnesses(found, &[witness(at(1, 1, 100)), witness(at(1, 1, 7))], false).is_ok());
        let ahead = [witness(at(1, 1, 103)), witness(at(1, 1, 130)), witness(at(1, 1, 99))];
        let refused = check_witnesses(found, &ahead, false).unwrap_err();
        assert!(refused.to_string().contains("30 changes would be lost"), "{refused}");
        assert!(check_witnesses(found, &ahead, true).is_ok());
        assert!(check_witnesses(found, &[witness(at(2, 2, 1))], false).is_err(), "a later life is more");
        let conflict = check_witnesses(found, &[witness(at(1, 9, 1))], true).unwrap_err();
        assert!(matches!(conflict, BootstrapError::Conflict(_)), "{conflict}");
    }
}
