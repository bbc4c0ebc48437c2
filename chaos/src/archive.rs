//! An archive that a cluster writes to: an S3 server, the key that it is signed with, and how it is held against the
//! cluster.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::cluster::{Cluster, READY_MAX};
use crate::patience::until;
use crate::s3::S3;

/// RFC 8032, §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// How long after its last trouble it may take to have everything.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// The number of the proxy that starts from it.
const WITNESS: u16 = 9;

/// All of it.
#[derive(Debug)]
pub struct Archive {
    /// The object store.
    pub s3: S3,
    key: NamedTempFile,
}

impl Archive {
    /// An empty one.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        let mut key = NamedTempFile::new()?;
        key.write_all(SEED.as_bytes())?;
        Ok(Self { s3: S3::start("127.0.0.1:0")?, key })
    }

    /// The settings of nodes that write to it.
    #[must_use]
    pub fn writers(&self) -> Vec<String> {
        let mut settings = self.s3.settings();
        settings.push(format!("archive.signing_key_file={}", self.key.path().display()));
        settings
    }

    /// The settings of proxies that read from it.
    #[must_use]
    pub fn readers(&self) -> Vec<String> {
        let mut settings = self.s3.settings();
        settings.push(format!("archive.trusted_keys=[{PUBLIC}]"));
        settings.push("archive.poll=500ms".to_owned());
        settings
    }

    /// Holds it against a cluster in which nobody writes any more: a proxy with an empty disk that finds no node must come
    /// to serve what the cluster holds. No node runs afterwards.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn audit(&self, cluster: &mut Cluster) -> Result<()> {
        let (position, digest) = cluster.agree(READY_MAX).await?;
        let leader = cluster.leader().await?;
        let mut api = cluster.cp(leader).api();
        until("the archive comes to the head", CATCH_UP_MAX, async || {
            let status = api.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?.json()?;
            let archived = status["archive"]["position"].as_str().unwrap_or_default();
            ensure!(archived == position, "the cluster is at {position}: {}", status["archive"]);
            Ok(())
        })
        .await?;
        for cp in cluster.cps.iter_mut().filter(|cp| cp.is_running()) {
            cp.kill().await?;
        }
        let settings = self.readers();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let witness = cluster.add_dp_with(WITNESS, &settings).await?;
        witness.ready().await.context("a proxy that has nothing but the archive")?;
        let view = witness.view().await?;
        let found = (format!("{}-{}", view.epoch, view.revision), view.digest);
        ensure!(found == (position.clone(), digest.clone()), "it has {found:?}, the cluster had {position} {digest}");
        Ok(())
    }
}
