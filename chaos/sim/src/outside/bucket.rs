//! The archive's object store: objects in memory, exact about conditional puts, as S3 is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use archive::read::{Limits, open_base};
use archive::store::{Listed, Object, Page, Version, When};
use archive::write::encode_base;
use archive::{ArchiveSettings, BadArchive, Found, ObjectStore, OpenStore, StoreError, View};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::snapshot::Expected;
use protocol::{ConfigState, Digest};
use sha2::{Digest as _, Sha256};

use super::{Failed, Server};
use crate::plan::Mutant;

/// Attempts of one call, as a client of S3 makes them.
const ATTEMPTS_MAX: u32 = 3;

/// How far behind a stale listing is, in milliseconds, at most.
const STALE_MAX: u64 = 1_500;

/// With planted bugs: how long an object that was acknowledged takes to be there, or to rot.
const LATER: u64 = 400;

/// What the store holds.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) objects: BTreeMap<String, Bytes>,
    /// Counts puts and deletes.
    pub(crate) changes: u64,
    /// What a stale listing shows, and since when.
    listed: (u64, BTreeMap<String, Bytes>),
    mutant: Option<Mutant>,
    now_millis: u64,
    /// With planted bugs: what becomes of which object, and when.
    later: Vec<(u64, String, Bytes)>,
}

impl Bucket {
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        Self { mutant, ..Self::default() }
    }

    /// Time goes on.
    pub(crate) fn tick(&mut self, now_millis: u64) {
        self.now_millis = now_millis;
        if now_millis >= self.listed.0 + STALE_MAX {
            self.listed = (now_millis, self.objects.clone());
        }
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, ..)| *at <= now_millis);
        self.later = later;
        for (_, key, body) in due {
            self.objects.insert(key, body);
            self.changes += 1;
        }
    }

    fn put(&mut self, key: &str, body: Bytes, when: &When) -> Result<Version, StoreError> {
        let is_pointer = key.ends_with("/latest");
        let there = self.read(key).map(version_of);
        let is_blind = is_pointer && self.mutant == Some(Mutant::BlindPointer);
        let is_fulfilled = match when {
            _ if is_blind => true,
            When::Always => true,
            When::Absent => there.is_none(),
            When::Is(version) => there.as_ref() == Some(version),
        };
        if !is_fulfilled {
            return Err(StoreError::Lost);
        }
        let version = version_of(&body);
        self.changes += 1;
        match self.mutant {
            Some(Mutant::PointerBeforeBody) if !is_pointer => {
                self.later.push((self.now_millis + LATER, key.to_owned(), body));
                return Ok(version);
            }
            Some(Mutant::RottenSegments) if key.ends_with(".delta") => {
                let mut rotten = body.to_vec();
                rotten[body.len() / 2] ^= 1;
                self.later.push((self.now_millis + LATER, key.to_owned(), rotten.into()));
            }
            _ => {}
        }
        self.objects.insert(key.to_owned(), body);
        Ok(version)
    }

    /// As callers see it; with a planted bug that is not what is there.
    fn read(&self, key: &str) -> Option<&Bytes> {
        let cached = self.later.iter().rfind(|(_, late, _)| late == key).map(|(.., body)| body);
        self.objects.get(key).or(cached)
    }

    fn get(&self, key: &str, bytes_max: u64, unless: Option<&Version>) -> Result<Option<Object>, StoreError> {
        let body = self.read(key).ok_or(StoreError::Missing)?;
        if body.len() as u64 > bytes_max {
            return Err(StoreError::TooLarge { max: bytes_max });
        }
        let version = version_of(body);
        Ok((unless != Some(&version)).then(|| Object { body: body.clone(), version }))
    }

    fn list(&self, prefix: &str, is_stale: bool) -> Page {
        let objects = if is_stale { &self.listed.1 } else { &self.objects };
        let under = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let listed = under.map(|(key, body)| Listed { key: key.clone(), bytes: body.len() as u64 });
        Page { objects: listed.collect(), next: None }
    }

    fn folders(&self, prefix: &str) -> Vec<String> {
        let under = self.objects.keys().filter_map(|key| key.strip_prefix(prefix)?.split_once('/'));
        let mut folders: Vec<String> = under.map(|(folder, _)| folder.to_owned()).collect();
        folders.dedup();
        folders
    }

    fn delete(&mut self, key: &str) {
        self.changes += u64::from(self.objects.remove(key).is_some());
    }
}

/// Content names the version, as S3's ETag does.
fn version_of(body: &Bytes) -> Version {
    Version(Digest(Sha256::digest(body).into()).to_string())
}

/// A client of the store.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) server: Server<Bucket>,
    pub(crate) mutant: Option<Mutant>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the model of a bucket")
    }
}

impl Client {
    /// Asks, and asks again, as a client of S3 does: what was done without an answer is done twice.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Bucket) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut failed = Failed::Refused;
        for _ in 0..ATTEMPTS_MAX {
            match self.server.ask(work.clone()).await {
                Ok(answer) => return answer,
                Err(e) => failed = e,
            }
        }
        Err(match failed {
            Failed::Refused => StoreError::Unavailable("503".to_owned()),
            Failed::Broken => StoreError::Unavailable("the connection broke".to_owned()),
            Failed::Silent => StoreError::Timeout("nothing came".to_owned()),
        })
    }
}

/// With a planted bug: a base that lacks a resource, signed all the same.
fn half(key: &str, body: Bytes) -> Bytes {
    let signing = signing_key();
    let whole = Expected { cluster: None, view: None };
    let found = open_base(&body, &whole, &TrustedKeys::new([signing.public()]), LIMITS);
    let Ok(Found { cluster, state, level, .. }) = found else { return body };
    let (position, chain) = (state.position(), state.chain());
    let entries = state.iter().skip(1).map(|(key, entry)| (key.clone(), entry.clone()));
    let state = ConfigState::from_entries(ConfigState::serving(), position, position, chain, entries);
    let encoded = encode_base(cluster, &View::Whole, &state, level, 0, &signing);
    encoded.map_or_else(|e| panic!("{key}: {e}"), |(_, bytes)| bytes.into())
}

/// The key that signs the archive of every simulation.
pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_seed(SIGNING_SEED)
}

/// Its seed.
pub(crate) const SIGNING_SEED: [u8; 32] = [7; 32];

/// What is read of an object at most.
pub(crate) const LIMITS: Limits = Limits { object_max: 16 << 20, unpacked_max: 64 << 20 };

impl OpenStore for Client {
    fn open<'s>(&'s self, _: &'s ArchiveSettings) -> BoxFuture<'s, Result<Arc<dyn ObjectStore>, BadArchive>> {
        Box::pin(async move { Ok(Arc::new(self.clone()) as Arc<dyn ObjectStore>) })
    }
}

impl ObjectStore for Client {
    fn put<'s>(&'s self, key: &'s str, body: Bytes, when: When) -> BoxFuture<'s, Result<Version, StoreError>> {
        let key = key.to_owned();
        let body =
            if self.mutant == Some(Mutant::HalfABase) && key.ends_with(".base") { half(&key, body) } else { body };
        Box::pin(self.ask(move |bucket| bucket.put(&key, body.clone(), &when)))
    }

    fn get<'s>(
        &'s self,
        key: &'s str,
        bytes_max: u64,
        unless: Option<&'s Version>,
    ) -> BoxFuture<'s, Result<Option<Object>, StoreError>> {
        let (key, unless) = (key.to_owned(), unless.cloned());
        Box::pin(self.ask(move |bucket| bucket.get(&key, bytes_max, unless.as_ref())))
    }

    fn list<'s>(&'s self, prefix: &'s str, _: Option<&'s str>) -> BoxFuture<'s, Result<Page, StoreError>> {
        let (prefix, is_stale) = (prefix.to_owned(), self.server.is_stale());
        Box::pin(self.ask(move |bucket| Ok(bucket.list(&prefix, is_stale))))
    }

    fn folders<'s>(&'s self, prefix: &'s str) -> BoxFuture<'s, Result<Vec<String>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(self.ask(move |bucket| Ok(bucket.folders(&prefix))))
    }

    fn delete<'s>(&'s self, key: &'s str) -> BoxFuture<'s, Result<(), StoreError>> {
        let key = key.to_owned();
        Box::pin(self.ask(move |bucket| {
            bucket.delete(&key);
            Ok(())
        }))
    }

    fn clean<'s>(&'s self, _: &'s str, _: Duration) -> BoxFuture<'s, Result<usize, StoreError>> {
        // Uploads in parts are for objects that a simulation has none of.
        Box::pin(async { Ok(0) })
    }

    fn place(&self) -> String {
        "a model".to_owned()
    }
}

/// The objects of one moment, which answer at once: what the checker reads.
pub(crate) struct Frozen(Bucket);

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a moment of the model of a bucket")
    }
}

impl Frozen {
    pub(crate) fn of(bucket: &Bucket) -> Self {
        Self(Bucket { objects: bucket.objects.clone(), ..Bucket::default() })
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.0
    }
}

impl ObjectStore for Frozen {
    fn put<'s>(&'s self, _: &'s str, _: Bytes, _: When) -> BoxFuture<'s, Result<Version, StoreError>> {
        Box::pin(async { Err(StoreError::Denied("it is frozen".to_owned())) })
    }

    fn get<'s>(
        &'s self,
        key: &'s str,
        bytes_max: u64,
        unless: Option<&'s Version>,
    ) -> BoxFuture<'s, Result<Option<Object>, StoreError>> {
        Box::pin(async move { self.0.get(key, bytes_max, unless) })
    }

    fn list<'s>(&'s self, prefix: &'s str, _: Option<&'s str>) -> BoxFuture<'s, Result<Page, StoreError>> {
        Box::pin(async move { Ok(self.0.list(prefix, false)) })
    }

    fn folders<'s>(&'s self, prefix: &'s str) -> BoxFuture<'s, Result<Vec<String>, StoreError>> {
        Box::pin(async move { Ok(self.0.folders(prefix)) })
    }

    fn delete<'s>(&'s self, _: &'s str) -> BoxFuture<'s, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::Denied("it is frozen".to_owned())) })
    }

    fn clean<'s>(&'s self, _: &'s str, _: Duration) -> BoxFuture<'s, Result<usize, StoreError>> {
        Box::pin(async { Ok(0) })
    }

    fn place(&self) -> String {
        "a moment of the model".to_owned()
    }
}
