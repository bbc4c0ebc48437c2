//! The claim of an epoch's number: by compare-and-set, so that of two who bring one cluster back, one does.

use archive::Layout;
use archive::store::{StoreError, When};
use bytes::Bytes;
use protocol::Epoch;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;

use super::{BootstrapError, Plan};
use crate::settings::Settings;

/// The largest claim that is read.
const CLAIM_BYTES_MAX: u64 = 256;

/// Numbers that are tried past the claims of bootstraps that came to nothing.
const CLAIMS_PASSED_MAX: u64 = 1000;

/// Claims the number above `above`.
pub(super) async fn claim(
    settings: &Settings,
    cluster: ClusterId,
    above: u64,
    restore: RestoreId,
    plan: &Plan,
) -> Result<Epoch, BootstrapError> {
    let mut number = above + 1;
    if !settings.archive.is_set() {
        tracing::warn!("without an archive nobody arbitrates: see to it that this is the only bootstrap");
        return Ok(Epoch { number, restore });
    }
    let store = settings.archive.open().await?;
    let layout = Layout::new(&settings.archive.prefix);
    let failed = |e: StoreError| BootstrapError::Claim(e.to_string());
    loop {
        let key = layout.claim(cluster, number);
        match store.put(&key, Bytes::from(restore.to_string()), When::Absent).await {
            Ok(_) => return Ok(Epoch { number, restore }),
            Err(StoreError::Lost) => {}
            Err(e) => return Err(failed(e)),
        }
        let claimed = store.get(&key, CLAIM_BYTES_MAX, None).await.map_err(failed)?;
        let by = claimed.map(|claim| String::from_utf8_lossy(&claim.body).trim().to_owned()).unwrap_or_default();
        if by == restore.to_string() {
            // An answer that was lost, or an attempt that is gone on with.
            return Ok(Epoch { number, restore });
        }
        if !plan.past_claims || number - above > CLAIMS_PASSED_MAX {
            return Err(BootstrapError::Claimed { number, by });
        }
        number += 1;
    }
}
