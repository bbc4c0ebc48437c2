//! A directory as an object store: for one machine, for a file system that is shared or backed up, and for tests.
//!
//! An object is a file, put by writing another and renaming it, durably. A conditional put holds a lock on the directory
//! meanwhile: it is exact among processes that share a kernel or a file system with working locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use daemon::durable;
use futures_util::future::BoxFuture;
use protocol::Digest;
use sha2::{Digest as _, Sha256};

use super::{Listed, Object, ObjectStore, PAGE_KEYS_MAX, Page, StoreError, Version, When, check_key};

/// How long one call may take: a network file system that hangs is a store that fails.
const CALL_MAX: Duration = Duration::from_secs(60);

/// The file that a put holds locked.
const LOCK: &str = ".lock";

/// A directory of objects. Clones share it.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The objects under `root`, which is made with the first put.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// Does the work of a call where blocking is allowed.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let here = self.clone();
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || work(&here));
            match tokio::time::timeout(CALL_MAX, work).await {
                Ok(Ok(result)) => result,
                Ok(Err(e)) => Err(StoreError::Unavailable(e.to_string())),
                Err(_) => Err(StoreError::Timeout(format!("the directory was silent for {CALL_MAX:?}"))),
            }
        })
    }

    fn put_now(&self, key: &str, body: &[u8], when: &When) -> Result<Version, StoreError> {
        let path = self.path(key)?;
        let folder = path.parent().unwrap_or(&self.root);
        durable::create_directory(folder).map_err(failed)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(self.root.join(LOCK));
        let lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        let there = match when {
            When::Always => true,
            When::Absent => !path.exists(),
            When::Is(version) => match fs::read(&path) {
                Ok(bytes) => version_of(&bytes) == *version,
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                Err(e) => return Err(failed(e)),
            },
        };
        if !there {
            return Err(StoreError::Lost);
        }
        durable::write(&path, body).map_err(failed)?;
        drop(lock);
        Ok(version_of(body))
    }

    fn get_now(&self, key: &str, bytes_max: u64, unless: Option<&Version>) -> Result<Option<Object>, StoreError> {
        let file = File::open(self.path(key)?).map_err(failed)?;
        let mut body = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut body).map_err(failed)?;
        if body.len() as u64 > bytes_max {
            return Err(StoreError::TooLarge { max: bytes_max });
        }
        let version = version_of(&body);
        if unless == Some(&version) {
            return Ok(None);
        }
        Ok(Some(Object { body: body.into(), version }))
    }

    fn list_now(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        let mut objects = Vec::new();
        self.walk(&self.folder_of(prefix), &mut |path, metadata| {
            let Some(key) = self.key_of(path) else { return };
            if key.starts_with(prefix) && from.is_none_or(|from| *key > *from) {
                objects.push(Listed { key, bytes: metadata.len() });
            }
        })?;
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let next = (objects.len() > PAGE_KEYS_MAX).then(|| objects[PAGE_KEYS_MAX - 1].key.clone());
        objects.truncate(PAGE_KEYS_MAX);
        Ok(Page { objects, next })
    }

    /// The deepest directory that holds everything under a prefix.
    fn folder_of(&self, prefix: &str) -> PathBuf {
        prefix.rsplit_once('/').map_or_else(|| self.root.clone(), |(folder, _)| self.root.join(folder))
    }

    fn key_of(&self, path: &Path) -> Option<String> {
        let key = path.strip_prefix(&self.root).ok()?.to_str()?;
        let is_ours = check_key(key).is_ok() && path.extension().is_none_or(|e| e != durable::TEMPORARY);
        is_ours.then(|| key.to_owned())
    }

    fn walk(&self, folder: &Path, each: &mut impl FnMut(&Path, &fs::Metadata)) -> Result<(), StoreError> {
        let files = match fs::read_dir(folder) {
            Ok(files) => files,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        for file in files {
            let file = file.map_err(failed)?;
            // A file that goes away meanwhile was not there.
            let Ok(metadata) = file.metadata() else { continue };
            match metadata.is_dir() {
                true => self.walk(&file.path(), each)?,
                false => each(&file.path(), &metadata),
            }
        }
        Ok(())
    }

    fn clean_now(&self, prefix: &str, age: Duration) -> Result<usize, StoreError> {
        let mut left = Vec::new();
        self.walk(&self.folder_of(prefix), &mut |path, metadata| {
            let is_old = metadata.modified().ok().and_then(|at| SystemTime::elapsed(&at).ok()).is_some_and(|a| a > age);
            if is_old && path.extension().is_some_and(|extension| extension == durable::TEMPORARY) {
                left.push(path.to_owned());
            }
        })?;
        left.iter().try_for_each(|path| fs::remove_file(path).map_err(failed))?;
        Ok(left.len())
    }
}

impl ObjectStore for Directory {
    fn put<'s>(&'s self, key: &'s str, body: Bytes, when: When) -> BoxFuture<'s, Result<Version, StoreError>> {
        let key = key.to_owned();
        self.call(move |here| here.put_now(&key, &body, &when))
    }

    fn get<'s>(
        &'s self,
        key: &'s str,
        bytes_max: u64,
        unless: Option<&'s Version>,
    ) -> BoxFuture<'s, Result<Option<Object>, StoreError>> {
        let (key, unless) = (key.to_owned(), unless.cloned());
        self.call(move |here| here.get_now(&key, bytes_max, unless.as_ref()))
    }

    fn list<'s>(&'s self, prefix: &'s str, from: Option<&'s str>) -> BoxFuture<'s, Result<Page, StoreError>> {
        let (prefix, from) = (prefix.to_owned(), from.map(ToOwned::to_owned));
        self.call(move |here| here.list_now(&prefix, from.as_deref()))
    }

    fn folders<'s>(&'s self, prefix: &'s str) -> BoxFuture<'s, Result<Vec<String>, StoreError>> {
        let prefix = prefix.to_owned();
        self.call(move |here| {
            let files = match fs::read_dir(here.folder_of(&prefix)) {
                Ok(files) => files,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(failed(e)),
            };
            let folders = files.flatten().filter(|file| file.file_type().is_ok_and(|t| t.is_dir()));
            let mut names: Vec<_> = folders.filter_map(|file| file.file_name().into_string().ok()).collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    fn delete<'s>(&'s self, key: &'s str) -> BoxFuture<'s, Result<(), StoreError>> {
        let key = key.to_owned();
        self.call(move |here| match fs::remove_file(here.path(&key)?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        })
    }

    fn clean<'s>(&'s self, prefix: &'s str, age: Duration) -> BoxFuture<'s, Result<usize, StoreError>> {
        let prefix = prefix.to_owned();
        self.call(move |here| here.clean_now(&prefix, age))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

/// Content names the version: a file that is put again the same is the same.
fn version_of(body: &[u8]) -> Version {
    Version(Digest(Sha256::digest(body).into()).to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn failed(e: io::Error) -> StoreError {
    match e.kind() {
        io::ErrorKind::NotFound => StoreError::Missing,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied(e.to_string()),
        _ => StoreError::Unavailable(e.to_string()),
    }
}
