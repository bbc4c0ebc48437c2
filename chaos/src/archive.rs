//! An archive that a cluster writes to: an S3 server, the key that it is signed with, and how it is held against the
//! cluster.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use archive::layout::Part;
use archive::read::Limits;
use archive::settings::S3Settings;
use archive::store::When;
use archive::{ArchiveSettings, Layout, Pointer, Reader, View};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::snapshot::{self, Header, Unsealed};
use protocol::{ConfigState, Position};
use tempfile::NamedTempFile;

use crate::cluster::{Cluster, READY_MAX};
use crate::patience::until;
use crate::pointers::Pointers;
use crate::s3::{self, S3};

/// RFC 8032, §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// How long after its last trouble it may take to have everything.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// The number of the proxy that starts from it.
const WITNESS: u16 = 9;

/// A forged configuration is so many revisions ahead: the cluster does not come there.
const FORGED_AHEAD: u64 = 1_000_000;
/// The seed of a key that nobody trusts.
const FORGERS_SEED: [u8; 32] = [0x66; 32];

/// How somebody who has no key that counts forges a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forger {
    /// The body has no signature.
    SignsNothing,
    /// The body is signed, with a key that nobody trusts.
    HasAnotherKey,
}

/// All of it.
#[derive(Debug)]
pub struct Archive {
    /// The object store.
    pub s3: S3,
    key: NamedTempFile,
}

impl Archive {
    /// An empty one at an address, which may have port 0.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(address: &str) -> Result<Self> {
        let mut key = NamedTempFile::new()?;
        key.write_all(SEED.as_bytes())?;
        let s3 = S3::start(address)?;
        s3.watch(Pointers::new(trusted()?));
        Ok(Self { s3, key })
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

    /// Puts a configuration into it that lacks a resource and is far ahead, with a pointer to it, as somebody does who may
    /// write there and has no key that counts.
    ///
    /// # Errors
    /// When there is nothing to forge from yet, or it cannot be put.
    pub async fn forge(&self, forger: Forger) -> Result<()> {
        let settings = ArchiveSettings {
            s3: S3Settings {
                bucket: s3::BUCKET.to_owned(),
                endpoint: self.s3.endpoint().to_owned(),
                region: "us-east-1".to_owned(),
                path_style: true,
                access_key_id: s3::ACCESS_KEY.to_owned(),
                secret_access_key: s3::SECRET_KEY.to_owned(),
                ..S3Settings::default()
            },
            ..ArchiveSettings::default()
        };
        let (store, layout) = (settings.open().await?, Layout::new(&settings.prefix));
        let limits = Limits { object_max: settings.object_max.0, unpacked_max: settings.unpacked_max.0 };
        let reader = Reader::new(store.clone(), layout.clone(), trusted()?, limits);
        let view = View::Group("default".into());
        let found = until("there is something to forge from", CATCH_UP_MAX, async || {
            reader.newest(None, &view, None).await.0.context("nothing is archived")
        })
        .await?;
        let (cluster, genuine) = (found.cluster, found.state.position());
        let position = Position { revision: genuine.revision + FORGED_AHEAD, ..genuine };
        let entries = found.state.iter().skip(1).map(|(key, entry)| (key.clone(), entry.clone()));
        let state =
            ConfigState::from_entries(ConfigState::following(), position, position, found.state.chain(), entries);
        let header = Header {
            cluster,
            view: view.text(),
            position,
            changed_at: position,
            chain: None,
            digest: state.digest(),
            entries: state.len() as u64,
            level: 0,
            created: 0,
        };
        let (key, mut base) = (SigningKey::from_seed(FORGERS_SEED), Vec::new());
        match forger {
            Forger::SignsNothing => snapshot::write(&mut base, &header, &state, &[], &Unsealed)?,
            Forger::HasAnotherKey => snapshot::write(&mut base, &header, &state, &[], &key)?,
        };
        let pointer = Pointer {
            cluster,
            view: view.text(),
            position,
            digest: header.digest,
            base: position,
            base_changed_at: position,
            base_bytes: base.len() as u64,
            segments: Vec::new(),
            written: 0,
        };
        let name = layout.object(cluster, &view, position.epoch, Part::Base, position.revision);
        store.put(&name, base.into(), When::Always).await?;
        store.put(&layout.pointer(cluster, &view), pointer.seal(&key).into(), When::Always).await?;
        Ok(())
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

fn trusted() -> Result<TrustedKeys> {
    Ok(TrustedKeys::new([PUBLIC.parse()?]))
}
