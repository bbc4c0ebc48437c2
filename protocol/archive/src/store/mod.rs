//! What the archive needs of an object store, and no more.

pub mod directory;
#[cfg(feature = "s3")]
pub mod s3;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// The largest key: S3's bound.
pub const KEY_BYTES_MAX: usize = 1024;

/// How many keys a page of a listing has at most: S3's bound.
pub const PAGE_KEYS_MAX: usize = 1000;

/// An object store. Every call ends within a bound of its own, whatever the other side does; a retry that may help has
/// been made when a call fails.
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Puts an object, whole or not at all. When this returns, it is durable.
    fn put<'s>(&'s self, key: &'s str, body: Bytes, when: When) -> BoxFuture<'s, Result<Version, StoreError>>;

    /// Gets an object of at most `bytes_max`. With `unless` the version that the caller has: `None` when it is still
    /// the same.
    fn get<'s>(
        &'s self,
        key: &'s str,
        bytes_max: u64,
        unless: Option<&'s Version>,
    ) -> BoxFuture<'s, Result<Option<Object>, StoreError>>;

    /// The objects whose keys begin with `prefix`, in the order of their keys' bytes, a page at a time. `from` is where
    /// the page before it said to go on.
    fn list<'s>(&'s self, prefix: &'s str, from: Option<&'s str>) -> BoxFuture<'s, Result<Page, StoreError>>;

    /// The names between `prefix` (which ends with `/`) and the next `/`, as of folders.
    fn folders<'s>(&'s self, prefix: &'s str) -> BoxFuture<'s, Result<Vec<String>, StoreError>>;

    /// Takes an object away. One that is not there is no error.
    fn delete<'s>(&'s self, key: &'s str) -> BoxFuture<'s, Result<(), StoreError>>;

    /// Cleans up what uploads that never ended have left under `prefix`, if they began longer ago than `age`; says how
    /// many there were.
    fn clean<'s>(&'s self, prefix: &'s str, age: Duration) -> BoxFuture<'s, Result<usize, StoreError>>;

    /// Where it is, for people; without secrets.
    fn place(&self) -> String;
}

/// On which condition an object is put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// Always.
    Always,
    /// Only if there is none.
    Absent,
    /// Only in place of this version.
    Is(Version),
}

/// A version of an object, as its store names it (S3's ETag).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(pub String);

/// An object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its content.
    pub body: Bytes,
    /// Its version.
    pub version: Version,
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// What is there.
    pub objects: Vec<Listed>,
    /// Where the next page goes on; `None`: this is the last.
    pub next: Option<String>,
}

/// An object in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("it is not there")]
    Missing,
    /// The condition of a put does not hold: somebody else was first. S3 says so with 409 or 412.
    #[error("somebody else was first")]
    Lost,
    /// The store does not know conditional puts.
    #[error("the store does not know conditional puts")]
    Unconditional,
    /// The store does not let us: a wrong key, or no right to it.
    #[error("access is denied: {0}")]
    Denied(String),
    /// The object is larger than is taken.
    #[error("it is larger than {max} bytes")]
    TooLarge {
        /// The bound.
        max: u64,
    },
    /// No answer in time. What was asked for may or may not have been done.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// The body stopped coming.
    #[error("its body came too slowly: {bytes} bytes in {after:?}")]
    Slow {
        /// What had come.
        bytes: u64,
        /// In how long.
        after: Duration,
    },
    /// The store fails, or cannot be reached. What was asked for may or may not have been done.
    #[error("the store fails: {0}")]
    Unavailable(String),
    /// A key that no store takes.
    #[error("{0:?} is no key")]
    Key(String),
}

impl StoreError {
    /// A short name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Lost => "lost",
            Self::Unconditional => "unconditional",
            Self::Denied(_) => "denied",
            Self::TooLarge { .. } => "too_large",
            Self::Timeout(_) => "timeout",
            Self::Slow { .. } => "slow",
            Self::Unavailable(_) => "unavailable",
            Self::Key(_) => "key",
        }
    }
}

/// Whether a key can name an object in every store: relative, in parts that are neither empty nor dots.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    let part_is_good = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']) && !part.starts_with('.')
    };
    if key.len() <= KEY_BYTES_MAX && key.split('/').all(part_is_good) {
        Ok(())
    } else {
        Err(StoreError::Key(key.to_owned()))
    }
}

/// Every object under a prefix.
///
/// # Errors
/// [`StoreError`]; [`StoreError::TooLarge`] when there are more than `objects_max`.
pub async fn list_all(store: &dyn ObjectStore, prefix: &str, objects_max: usize) -> Result<Vec<Listed>, StoreError> {
    let mut objects = Vec::new();
    let mut from = None;
    loop {
        let page = store.list(prefix, from.as_deref()).await?;
        objects.extend(page.objects);
        if objects.len() > objects_max {
            return Err(StoreError::TooLarge { max: objects_max as u64 });
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(objects),
        }
    }
}
