//! Secrets that are kept elsewhere, as far as the table is concerned: what compiles with them, and compiles again when they
//! have changed.

use std::collections::BTreeSet;

use plugins::CATALOG;
use protocol::resource::{self, KindInfo, SecretManager, SecretReference, Vault};
use protocol::{ConfigState, Entry, ResourceKey, seal};
use serde_json::Value;
use tokio::time::Instant;

use super::super::ssl::NOT_SEALED;
use super::access::Opening;
use super::{Compiler, Rejected, SSLS};
use crate::secrets::{Fetched, Secrets};

impl Compiler {
    /// What is known of the secrets that are kept elsewhere.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The same, for whoever reads them.
    pub(crate) fn secrets_mut(&mut self) -> &mut Secrets {
        &mut self.secrets
    }

    /// Takes in what was read, and compiles again what refers to it. `state` is what the table was compiled from. Returns
    /// whether the table has changed, or what of it is rejected.
    ///
    /// A resource that cannot be compiled with the new values stays as it is, and is reported.
    pub(crate) fn learn(&mut self, state: &ConfigState, fetched: Vec<Fetched>) -> bool {
        let now = Instant::now();
        let mut users = BTreeSet::new();
        for fetched in fetched {
            let place = fetched.place.clone();
            if self.secrets.learn(now, fetched) {
                users.extend(self.secrets.users(&place));
            }
        }
        for key in &users {
            if let (Some(kind), Some(entry)) = (KindInfo::find(key.kind.as_str()), state.get(key)) {
                let entry = entry.clone();
                self.renew(kind, key, &entry);
            }
        }
        !users.is_empty()
    }

    fn renew(&mut self, kind: &KindInfo, key: &ResourceKey, entry: &std::sync::Arc<Entry>) {
        match self.ready(kind, key, entry) {
            Ok(ready) => {
                self.rejected.remove(key);
                self.last_good.remove(key);
                self.put(key, ready);
            }
            Err(reason) => {
                let last_good = match self.rejected.get(key) {
                    Some(rejected) => rejected.last_good,
                    None => {
                        self.last_good.insert(key.clone(), entry.clone());
                        true
                    }
                };
                self.rejected.insert(key.clone(), Rejected { reason, last_good });
            }
        }
    }

    /// Puts what is kept elsewhere into its places in the body of an ssl. True when anything was.
    ///
    /// # Errors
    /// Why it cannot be, or that a key stands there in the clear.
    pub(super) fn resolve_ssl(&self, entry: &Entry, body: &mut Value) -> Result<bool, String> {
        if !SecretReference::may_be_in(&entry.body) {
            return Ok(false);
        }
        for (path, key) in resource::secrets(&CATALOG, SSLS, body) {
            if !key.as_str().is_some_and(|text| text.starts_with(seal::PREFIX)) {
                return Err(format!("{path}: {NOT_SEALED}"));
            }
        }
        self.secrets.resolve(SSLS, body)?;
        Ok(true)
    }

    /// The vault that a secret manager is; `None`: one that nothing is read from.
    ///
    /// # Errors
    /// Why what opens it cannot be had.
    pub(super) fn vault(&self, key: &ResourceKey, mut body: Value) -> Result<Option<Vault>, String> {
        if !key.id.starts_with("vault/") {
            return Ok(None);
        }
        Opening { keyring: self.tls.keyring.as_ref(), secrets: &self.secrets }.open(key, &mut body)?;
        let vault = body.as_object().and_then(SecretManager::vault);
        vault.map(Some).ok_or_else(|| "uri, prefix or token is missing".to_owned())
    }
}
