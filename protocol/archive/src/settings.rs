//! Where an archive is and who vouches for it: the keys `archive.*`, the same in both programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::settings::units::{ByteSize, Span};
use futures_util::future::BoxFuture;
use protocol::crypto::{SigningKey, TrustedKeys, VerifyingKey};
use protocol::snapshot::ClusterId;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::pointer::SEGMENTS_MAX;
use crate::store::ObjectStore;
use crate::store::directory::Directory;

/// Where an archive is. Neither a directory nor a bucket: there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveSettings {
    /// A directory that is the archive.
    pub directory: PathBuf,
    /// A bucket that is the archive.
    pub s3: S3Settings,
    /// What every key begins with, without `/` at either end.
    pub prefix: String,
    /// The public keys (64 hexadecimal digits each) whose signatures count. At least one for whoever reads.
    pub trusted_keys: Vec<String>,
    /// Whose configuration is looked for where that is not known: 32 hexadecimal digits. Empty: the only cluster there.
    pub cluster: String,
    /// The largest object that is read, as it lies there.
    pub object_max: ByteSize,
    /// The most that one object may unpack to.
    pub unpacked_max: ByteSize,
    /// For a control-plane node: the file with the seed of the key that signs, as 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key_file: Option<PathBuf>,
    /// For a control-plane node: a change is in the archive so long after it at most, while the store answers.
    pub interval: Span,
    /// For a control-plane node: after so many changes the archive is written at once.
    pub changes: u64,
    /// For a control-plane node: how many bases of a view are kept, with all that follows from them.
    pub keep_bases: u64,
    /// For a control-plane node: so many segments stand behind a base at most, 1 to 256; then a new base is put.
    pub segments: u64,
    /// For a proxy: a signed snapshot of its group's view that it may start from.
    #[serde(skip_serializing_if = "is_empty")]
    pub file: PathBuf,
    /// For a proxy: how often it looks for something newer while it follows no control plane.
    pub poll: Span,
}

/// A bucket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// Its name. Empty: none.
    pub bucket: String,
    /// Where the store is, as a URL. Empty: AWS.
    pub endpoint: String,
    /// The region. Empty: as the environment says, else `us-east-1`.
    pub region: String,
    /// Whether the bucket stands in the path, as stores of one's own want it, rather than in the host.
    pub path_style: bool,
    /// Who we are. Empty: as the environment, its files or the machine's role say.
    pub access_key_id: String,
    /// The secret to it. Either this or the file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_access_key: String,
    /// A file with nothing but the secret in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key_file: Option<PathBuf>,
    /// The token of a session, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_token: String,
    /// How the store encrypts what it keeps: `none`, `AES256`, `aws:kms` or `aws:kms:<key>`.
    pub server_side_encryption: ServerSide,
    /// How long one attempt of one request may take; there are three.
    pub timeout: Span,
}

/// How the store encrypts what it keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ServerSide {
    /// As the bucket says.
    #[default]
    None,
    /// With keys of its own.
    Aes256,
    /// With a key of a key service; empty: the default one.
    Kms(String),
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            s3: S3Settings::default(),
            prefix: "holdfast".to_owned(),
            trusted_keys: Vec::new(),
            cluster: String::new(),
            object_max: ByteSize(512 << 20),
            unpacked_max: ByteSize(2 << 30),
            signing_key_file: None,
            interval: Span(Duration::from_secs(5)),
            changes: 1000,
            keep_bases: 3,
            segments: SEGMENTS_MAX as u64,
            file: PathBuf::new(),
            poll: Span(Duration::from_secs(5)),
        }
    }
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            endpoint: String::new(),
            region: String::new(),
            path_style: false,
            access_key_id: String::new(),
            secret_access_key: String::new(),
            secret_access_key_file: None,
            session_token: String::new(),
            server_side_encryption: ServerSide::None,
            timeout: Span(Duration::from_secs(15)),
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadArchive {
    /// Its key.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn bad(key: &'static str, problem: impl fmt::Display) -> BadArchive {
    BadArchive { key, problem: problem.to_string() }
}

impl ArchiveSettings {
    /// Whether there is an archive.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.directory.as_os_str().is_empty() || !self.s3.bucket.is_empty()
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first [`BadArchive`].
    pub fn check(&self) -> Result<(), BadArchive> {
        self.trusted()?;
        self.cluster_id()?;
        if !self.is_set() {
            return Ok(());
        }
        Layout::check_prefix(&self.prefix).map_err(|problem| bad("archive.prefix", problem))?;
        if !self.directory.as_os_str().is_empty() && !self.s3.bucket.is_empty() {
            return Err(bad("archive.directory", "and archive.s3.bucket are two archives: set one of them"));
        }
        if self.interval.0.is_zero() || self.poll.0 < Duration::from_millis(100) {
            return Err(bad("archive.interval", "must be longer than nothing, and archive.poll at least 100ms"));
        }
        if self.changes == 0 || self.keep_bases == 0 {
            return Err(bad("archive.changes", "and archive.keep_bases must be at least 1"));
        }
        if !(1..=SEGMENTS_MAX as u64).contains(&self.segments) {
            return Err(bad("archive.segments", format!("must be 1 to {SEGMENTS_MAX}")));
        }
        if !self.s3.bucket.is_empty() {
            if cfg!(not(feature = "s3")) {
                return Err(bad("archive.s3.bucket", "this build cannot talk to S3"));
            }
            let secrets = usize::from(!self.s3.secret_access_key.is_empty())
                + usize::from(self.s3.secret_access_key_file.is_some());
            if secrets != usize::from(!self.s3.access_key_id.is_empty()) {
                let problem = "needs exactly one of secret_access_key and secret_access_key_file, and only then";
                return Err(bad("archive.s3.access_key_id", problem));
            }
            if self.s3.timeout.0 < Duration::from_millis(100) {
                return Err(bad("archive.s3.timeout", "must be at least 100ms"));
            }
        }
        Ok(())
    }

    /// The keys whose signatures count.
    ///
    /// # Errors
    /// [`BadArchive`] for a text that is no key.
    pub fn trusted(&self) -> Result<TrustedKeys, BadArchive> {
        let keys: Result<Vec<VerifyingKey>, _> = self.trusted_keys.iter().map(|key| key.parse()).collect();
        Ok(TrustedKeys::new(keys.map_err(|e| bad("archive.trusted_keys", e))?))
    }

    /// The same, with one more.
    ///
    /// # Errors
    /// [`BadArchive`] for a text that is no key.
    pub fn trusted_with(&self, key: VerifyingKey) -> Result<TrustedKeys, BadArchive> {
        let keys: Result<Vec<VerifyingKey>, _> = self.trusted_keys.iter().map(|key| key.parse()).collect();
        let keys = keys.map_err(|e| bad("archive.trusted_keys", e))?;
        Ok(TrustedKeys::new(keys.into_iter().chain([key])))
    }

    /// The key that signs.
    ///
    /// # Errors
    /// [`BadArchive`] when there is none, or the file holds none.
    pub fn signing_key(&self) -> Result<SigningKey, BadArchive> {
        let key = "archive.signing_key_file";
        match &self.signing_key_file {
            Some(path) => Secret::signing_key(key, path),
            None => Err(bad(key, "is needed with an archive: what is put there is signed")),
        }
    }

    /// The cluster that is looked for.
    ///
    /// # Errors
    /// [`BadArchive`] for a text that is no cluster's.
    pub fn cluster_id(&self) -> Result<Option<ClusterId>, BadArchive> {
        match self.cluster.as_str() {
            "" => Ok(None),
            id => id.parse().map(Some).map_err(|e| bad("archive.cluster", e)),
        }
    }

    /// The store. Nothing is dialled.
    ///
    /// # Errors
    /// [`BadArchive`], also when there is no archive.
    #[cfg_attr(not(feature = "s3"), expect(clippy::unused_async, reason = "the same with and without S3"))]
    pub async fn open(&self) -> Result<Arc<dyn ObjectStore>, BadArchive> {
        self.check()?;
        if !self.directory.as_os_str().is_empty() {
            return Ok(Arc::new(Directory::new(&self.directory)));
        }
        #[cfg(feature = "s3")]
        if !self.s3.bucket.is_empty() {
            return Ok(Arc::new(crate::store::s3::S3::open(&self.s3).await?));
        }
        Err(bad("archive.s3.bucket", "there is no archive: set this or archive.directory"))
    }

    /// The settings with secrets masked, for printing.
    #[must_use]
    pub fn masked(mut self) -> Self {
        for secret in [&mut self.s3.secret_access_key, &mut self.s3.session_token] {
            if !secret.is_empty() {
                "***".clone_into(secret);
            }
        }
        self
    }
}

/// Opens the store that settings name: the one that they name, or the model of a simulation in its place.
pub trait OpenStore: Send + Sync {
    /// The store. Nothing is dialled.
    ///
    /// # Errors
    /// [`BadArchive`], also when there is no archive.
    fn open<'s>(&'s self, settings: &'s ArchiveSettings) -> BoxFuture<'s, Result<Arc<dyn ObjectStore>, BadArchive>>;
}

/// Opens the store that settings name.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsSet;

impl OpenStore for AsSet {
    fn open<'s>(&'s self, settings: &'s ArchiveSettings) -> BoxFuture<'s, Result<Arc<dyn ObjectStore>, BadArchive>> {
        Box::pin(settings.open())
    }
}

/// Reading secrets.
#[derive(Debug)]
pub struct Secret;

impl Secret {
    /// The secret itself, or what a file holds, without white space around it.
    ///
    /// # Errors
    /// [`BadArchive`] when the file cannot be read.
    pub fn read(key: &'static str, plain: &str, file: Option<&Path>) -> Result<String, BadArchive> {
        match file {
            None => Ok(plain.to_owned()),
            Some(path) => {
                let text = daemon::secret_file::read(path);
                Ok(text.map_err(|e| bad(key, format!("{}: {e}", path.display())))?.trim().to_owned())
            }
        }
    }

    /// The signing key in a file: its seed as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`BadArchive`] when the file cannot be read or holds no key.
    pub fn signing_key(key: &'static str, path: &Path) -> Result<SigningKey, BadArchive> {
        let seed = Self::read(key, "", Some(path))?;
        SigningKey::parse(&seed).map_err(|e| bad(key, format!("{}: {e}", path.display())))
    }
}

/// Secrets are not printed.
impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Aes256 => f.write_str("AES256"),
            Self::Kms(key) if key.is_empty() => f.write_str("aws:kms"),
            Self::Kms(key) => write!(f, "aws:kms:{key}"),
        }
    }
}

impl Serialize for ServerSide {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerSide {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "none" | "" => Ok(Self::None),
            "AES256" => Ok(Self::Aes256),
            "aws:kms" => Ok(Self::Kms(String::new())),
            text => match text.strip_prefix("aws:kms:") {
                Some(key) => Ok(Self::Kms(key.to_owned())),
                None => {
                    Err(serde::de::Error::custom(format!("{text:?} is none of none, AES256, aws:kms, aws:kms:<key>")))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_names_its_key() {
        let mut settings = ArchiveSettings::default();
        assert_eq!(settings.check(), Ok(()));
        settings.trusted_keys = vec!["xyz".to_owned()];
        assert!(settings.check().unwrap_err().to_string().starts_with("archive.trusted_keys: "));
        settings.trusted_keys.clear();
        settings.cluster = "1".to_owned();
        assert!(settings.check().unwrap_err().to_string().starts_with("archive.cluster: "));
        settings.cluster.clear();
        settings.directory = "/a".into();
        settings.prefix = "/a/".to_owned();
        assert!(settings.check().unwrap_err().to_string().starts_with("archive.prefix: "));
        settings.prefix = "a".to_owned();
        assert_eq!(settings.check(), Ok(()));
        settings.s3.bucket = "b".to_owned();
        assert!(settings.check().unwrap_err().to_string().starts_with("archive.directory: "));
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut settings = ArchiveSettings::default();
        settings.s3.secret_access_key = "hunter2".to_owned();
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.masked().s3.secret_access_key, "***");
    }
}
