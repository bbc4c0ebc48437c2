//! The claim of an epoch's number: by compare-and-set in the record, then in the archive, so that of two who bring one
//! cluster back, one does.

use archive::Layout;
use archive::store::{ObjectStore, StoreError, When};
use bytes::Bytes;
use daemon::failpoint;
use protocol::Epoch;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;

use super::{BootstrapError, Candidate, Plan};
use crate::node::Seams;
use crate::record::Link;
use crate::record::restore::{self, Claim, NothingKept};
use crate::settings::Settings;

/// The largest claim that is read.
const CLAIM_BYTES_MAX: u64 = 256;

/// Numbers that are tried past the claims of bootstraps that came to nothing.
const CLAIMS_PASSED_MAX: u64 = 1000;

/// What became of the claim of one number in one place.
enum Held {
    /// It is ours.
    Ours,
    /// It is another's.
    By(String),
    /// Nobody keeps claims there.
    Nowhere,
}

/// Claims the number above `above`.
pub(super) async fn claim(
    settings: &Settings,
    candidate: &Candidate,
    above: u64,
    restore: RestoreId,
    plan: &Plan,
    seams: &Seams,
) -> Result<Epoch, BootstrapError> {
    let link = Link::new(&settings.record, seams.net.clone()).map_err(|e| BootstrapError::Source(e.to_string()))?;
    let store = match settings.archive.is_set() {
        true => Some(seams.stores.open(&settings.archive).await?),
        false => None,
    };
    let layout = Layout::new(&settings.archive.prefix);
    let last = || BootstrapError::Source(format!("epoch {above} leaves no number for another life of the cluster"));
    let mut number = above.checked_add(1).ok_or_else(last)?;
    loop {
        let epoch = Epoch { number, restore };
        failpoint!("bootstrap::before_claim");
        let mut held = match &link {
            Some(link) => in_record(link, candidate, epoch).await?,
            None => Held::Nowhere,
        };
        if let Some(store) = &store
            && !matches!(held, Held::By(_))
        {
            failpoint!("bootstrap::between_claims");
            held = in_archive(&**store, &layout, candidate.cluster, epoch).await?;
        }
        failpoint!("bootstrap::after_claim");
        let by = match held {
            Held::Ours => return Ok(epoch),
            Held::Nowhere => {
                tracing::warn!("nobody arbitrates without a record and an archive: this must be the only bootstrap");
                return Ok(epoch);
            }
            Held::By(by) => by,
        };
        if !plan.past_claims || number - above > CLAIMS_PASSED_MAX {
            return Err(BootstrapError::Claimed { number, by });
        }
        number = number.checked_add(1).ok_or_else(last)?;
    }
}

async fn in_record(link: &Link, candidate: &Candidate, epoch: Epoch) -> Result<Held, BootstrapError> {
    match restore::claim(link, candidate.cluster, epoch).await {
        Ok(Claim::Ours(now)) => match candidate.record {
            // The claim has fenced its writers: it stays where it is now.
            Some(read) if now != read && now.epoch != epoch => {
                Err(BootstrapError::GoesOn { read, now, restore: epoch.restore })
            }
            _ => Ok(Held::Ours),
        },
        Ok(Claim::Taken { by }) => Ok(Held::By(by)),
        Ok(Claim::Empty) => Ok(Held::Nowhere),
        // A record that is lost, or down, is no reason not to come back from something else.
        Err(NothingKept::Hosts(why)) if candidate.record.is_none() => {
            tracing::warn!(why = why.join("; "), "the epoch is not claimed in the record, which gives no answer");
            Ok(Held::Nowhere)
        }
        Err(e) => Err(BootstrapError::Claim { arbiter: "the record", why: e.to_string() }),
    }
}

async fn in_archive(
    store: &dyn ObjectStore,
    layout: &Layout,
    cluster: ClusterId,
    epoch: Epoch,
) -> Result<Held, BootstrapError> {
    let failed = |e: StoreError| BootstrapError::Claim { arbiter: "the archive", why: e.to_string() };
    let (key, ours) = (layout.claim(cluster, epoch.number), epoch.restore.to_string());
    match store.put(&key, Bytes::from(ours.clone()), When::Absent).await {
        Ok(_) => return Ok(Held::Ours),
        Err(StoreError::Lost) => {}
        Err(e) => return Err(failed(e)),
    }
    let claimed = store.get(&key, CLAIM_BYTES_MAX, None).await.map_err(failed)?;
    let by = claimed.map(|claim| String::from_utf8_lossy(&claim.body).trim().to_owned()).unwrap_or_default();
    // Ours: an answer that was lost, or an attempt that is gone on with.
    Ok(if by == ours { Held::Ours } else { Held::By(by) })
}
