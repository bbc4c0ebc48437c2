//! What a configuration names and others have, as far as the table is concerned: secrets that are kept elsewhere, and nodes that
//! DNS knows. What is compiled with them is compiled again when they have changed.

use std::collections::BTreeSet;

use plugins::CATALOG;
use protocol::resource::{self, KindInfo, SecretManager, SecretReference, Vault};
use protocol::{ConfigState, Entry, ResourceKey, seal};
use serde_json::Value;
use tokio::time::Instant;

use super::super::ssl::NOT_SEALED;
use super::access::Opening;
use super::{Compiler, Rejected, SSLS};
use crate::discovery::{Found, Services};
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
        self.renew_all(state, &users)
    }

    /// Learns that a resource has this body, which may name what others have.
    pub(super) fn note_elsewhere(&mut self, key: &ResourceKey, body: &str) {
        self.secrets.note(key, body);
        self.upstreams.services_mut().note(key, body);
    }

    /// Learns that a resource does not have the bodies any more that were noted for it.
    pub(super) fn forget_elsewhere(&mut self, key: &ResourceKey) {
        self.secrets.forget(key);
        self.upstreams.services_mut().forget(key);
    }

    /// Services whose nodes are to be asked for.
    pub(crate) fn services_mut(&mut self) -> &mut Services {
        self.upstreams.services_mut()
    }

    /// The same as [`Self::learn`], for what DNS says of services.
    pub(crate) fn learn_services(&mut self, state: &ConfigState, found: Vec<Found>) -> bool {
        let now = Instant::now();
        let services = self.upstreams.services_mut();
        let mut users = BTreeSet::new();
        for found in found {
            let service = found.service.clone();
            if services.learn(now, found) {
                users.extend(services.users(&service));
            }
        }
        self.renew_all(state, &users)
    }

    /// Compiles these again; false when there is none.
    fn renew_all(&mut self, state: &ConfigState, users: &BTreeSet<ResourceKey>) -> bool {
        for key in users {
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
                // What is served in its place names others' things as well.
                if let Some(good) = self.last_good.get(key).cloned()
                    && let Ok(ready) = self.ready(kind, key, &good)
                {
                    self.put(key, ready);
                }
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
