//! Secrets that are kept elsewhere: in the environment of this process, or in a HashiCorp Vault.
//!
//! ```text
//!   compiler --note, resolve--> Secrets --orders--> fetch (tasks of the feed) --> vault
//!                                  ^------- learn ------+
//!   disk <-------- kept, sealed ---+
//! ```
//!
//! What a reference names is put into its place when a resource is compiled, so a request pays nothing for it. A vault is
//! asked when a reference first comes, then from time to time; what it said last holds for as long as it says nothing
//! else, also over a restart where a keyring is set to seal it with.

mod book;
mod fetch;
mod kept;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use book::SecretStanding;
pub(crate) use book::{Fetched, Secrets};
pub(crate) use fetch::Errands;

/// How secrets that are kept elsewhere are fetched.
#[derive(Clone, Debug)]
pub struct SecretTerms {
    /// How long after a vault has answered it is asked again.
    pub refresh: Duration,
    /// The file in which what it said is kept, sealed; without it, or without a keyring, a restart forgets it.
    pub kept: Option<PathBuf>,
}

/// As APISIX, which asks again after so long.
pub(crate) const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

impl Default for SecretTerms {
    fn default() -> Self {
        Self { refresh: DEFAULT_REFRESH, kept: None }
    }
}

/// What is kept under a path, by field.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct FieldsOf(BTreeMap<String, String>);

/// Values are not printed.
impl fmt::Debug for FieldsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
