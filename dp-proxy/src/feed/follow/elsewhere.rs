//! Reads secrets that are kept elsewhere when they are needed and when they are due, and puts in force what came of it.

use std::path::PathBuf;
use std::time::Duration;

use daemon::{blocking, durable};
use protocol::crypto::Keyring;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::Follower;
use crate::secrets::{Fetched, SecretTerms, Secrets};

/// How long a step waits for secrets that it is the first to refer to. One that comes later is put in force then; until
/// that, the resource is rejected.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where secrets that were fetched are kept.
#[derive(Debug)]
pub(super) struct Kept {
    file: PathBuf,
    keyring: Keyring,
}

/// Takes in what is kept. `None`: nothing is to be.
pub(super) fn recall(terms: &SecretTerms, keyring: Option<Keyring>, secrets: &mut Secrets) -> Option<Kept> {
    secrets.set_refresh(terms.refresh);
    let (file, keyring) = (terms.kept.clone()?, keyring?);
    match secrets.recall_from(&file, &keyring) {
        Ok(0) => {}
        Ok(unreadable) => warn!(unreadable, "secrets that vaults gave in an earlier life are kept and cannot be read"),
        Err(error) => warn!(%error, "secrets that vaults gave in an earlier life cannot be read"),
    }
    Some(Kept { file, keyring })
}

impl Follower {
    /// Reads what the newest entries are the first to refer to, and waits for it, though not for long.
    pub(super) async fn settle_secrets(&mut self) {
        let until = Instant::now() + FIRST_WAIT_MAX;
        self.send_for_secrets();
        while self.compiler.secrets().awaits_first() {
            match timeout_at(until, self.errands.fetched.recv()).await {
                Ok(Some(fetched)) => drop(self.take_fetched(vec![fetched]).await),
                Ok(None) | Err(_) => self.compiler.secrets_mut().give_up(),
            }
        }
    }

    /// Reads what is due, and puts in force what was read. True when the control plane should hear of it.
    pub(super) async fn tend_secrets(&mut self) -> bool {
        self.send_for_secrets();
        let mut all = Vec::new();
        while let Ok(fetched) = self.errands.fetched.try_recv() {
            all.push(fetched);
        }
        if all.is_empty() {
            return false;
        }
        let has_changed = self.take_fetched(all).await;
        if has_changed && !*self.live.borrow() {
            // The first table is still to come.
            return false;
        }
        if has_changed {
            info!("secrets that are kept elsewhere have changed");
            self.publish();
        }
        self.post();
        has_changed
    }

    fn send_for_secrets(&mut self) {
        for order in self.compiler.secrets_mut().take_orders(Instant::now()) {
            self.errands.send(order);
        }
    }

    async fn take_fetched(&mut self, fetched: Vec<Fetched>) -> bool {
        for Fetched { place, fields, .. } in &fetched {
            if let Err(reason) = fields {
                warn!(%place, reason, "a secret cannot be read from where it is kept");
            }
        }
        let has_changed = self.compiler.learn(&self.holding.state, fetched);
        if has_changed && let Some(Kept { file, keyring }) = &self.kept {
            let (file, bytes) = (file.clone(), self.compiler.secrets().sealed(keyring, &*self.random));
            // Should it panic, its thread has said so.
            if let Ok(Err(error)) = blocking::spawn(move || durable::write_private(&file, &bytes)).await {
                warn!(%error, "secrets are not kept on the disk: a restart without the vault would lack them");
            }
        }
        has_changed
    }
}
