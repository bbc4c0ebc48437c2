//! Keys in escrow. What a cluster's own keys have sealed or signed is worth nothing without them, and they stand in files on
//! the nodes' disks, which a disaster takes. So the leader keeps a copy of each in the configuration, as a resource of the
//! kind `system`, sealed with the key-encryption key: it goes wherever the configuration goes (log, record, archive,
//! backups), and to no proxy. The key-encryption key and any one of those then bring everything back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::{durable, secret_file};
use protocol::command::{Action, Command, Draft, Write};
use protocol::crypto::{Keyring, SigningKey};
use protocol::report;
use protocol::seal::SealedToken;
use protocol::seam::{Random, WallClock};
use protocol::{ConfigState, Outcome, ResourceKey, json};
use raft_store::feed::Feed;
use raft_store::types::{NodeId, Raft};
use tokio::time::{Instant, MissedTickBehavior};

use crate::propose::Proposer;
use crate::settings::{BadSetting, Settings};

/// The kind of what the control plane keeps for itself.
const KIND: &str = "system";

/// The field of such a resource that holds the sealed text.
const SEALED: &str = "sealed";

const KEK_FILE: &str = "secrets.kek_file";

/// How often the leader looks whether its keys are kept.
const LOOK: Duration = Duration::from_secs(1);

/// How long proposing one may take.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// A key file of which a copy is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// The seed of the key that signs the archive.
    ArchiveKey,
    /// The keys that seal secrets.
    Keyring,
}

impl Kept {
    const ALL: [Self; 2] = [Self::ArchiveKey, Self::Keyring];

    fn id(self) -> &'static str {
        match self {
            Self::ArchiveKey => "archive-key",
            Self::Keyring => "keyring",
        }
    }

    fn key(self) -> ResourceKey {
        ResourceKey::new(KIND, self.id())
    }

    fn setting(self) -> &'static str {
        match self {
            Self::ArchiveKey => "archive.signing_key_file",
            Self::Keyring => "secrets.keyring_file",
        }
    }

    fn path(self, settings: &Settings) -> Option<&Path> {
        match self {
            Self::ArchiveKey => settings.archive.signing_key_file.as_deref(),
            Self::Keyring => settings.secrets.keyring_file.as_deref(),
        }
    }

    /// What is to be kept of a node's file, beside what is kept already; `None`: nothing new. A keyring is kept with every
    /// key that it ever had: a node whose file is older, or newer, takes none away.
    fn joined(self, kept: Option<&str>, file: &str) -> Option<String> {
        let ours: Vec<&str> = lines(file).collect();
        let theirs: Vec<&str> = kept.into_iter().flat_map(lines).collect();
        let has_new = ours.iter().any(|line| !theirs.contains(line));
        let others = theirs.iter().filter(|line| self == Self::Keyring && !ours.contains(line));
        has_new.then(|| ours.iter().chain(others).map(|line| format!("{line}\n")).collect())
    }

    /// Whether a text is what the file holds.
    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::ArchiveKey => SigningKey::parse(text).map(drop).map_err(|e| e.to_string()),
            Self::Keyring => Keyring::parse(text).map(drop).map_err(|e| e.to_string()),
        }
    }
}

/// The lines of a key file that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn bad(key: &str, problem: impl std::fmt::Display) -> BadSetting {
    BadSetting { key: key.into(), problem: problem.to_string() }
}

fn read(setting: &str, path: &Path) -> Result<String, BadSetting> {
    secret_file::read(path).map_err(|e| bad(setting, format!("{}: {e}", path.display())))
}

/// The key-encryption key, where one is set.
fn kek(settings: &Settings) -> Result<Option<Keyring>, BadSetting> {
    let Some(path) = &settings.secrets.kek_file else { return Ok(None) };
    let keyring = Keyring::parse(&read(KEK_FILE, path)?);
    keyring.map(Some).map_err(|e| bad(KEK_FILE, format!("{}: {e}", path.display())))
}

/// The text that is kept of a file; `None`: it is not.
fn open(kek: &Keyring, config: &ConfigState, kept: Kept) -> Result<Option<(String, SealedToken)>, String> {
    let key = kept.key();
    let Some(entry) = config.get(&key) else { return Ok(None) };
    let failed = |why: &dyn std::fmt::Display| format!("{key}: {why}");
    let body: serde_json::Value = serde_json::from_str(&entry.body).map_err(|e| failed(&e))?;
    let token: SealedToken = body[SEALED].as_str().unwrap_or_default().parse().map_err(|e| failed(&e))?;
    let opened = kek.open(&key, &place(), &token).map_err(|e| failed(&e))?;
    Ok(Some((String::from_utf8(opened).map_err(|e| failed(&e))?, token)))
}

fn place() -> report::Path {
    report::Path::default().property(SEALED)
}

/// Keeps a node's keys in escrow.
pub(crate) struct Escrow {
    kek: Keyring,
    files: Vec<(Kept, String)>,
    random: Arc<dyn Random>,
}

impl Escrow {
    /// Reads the key-encryption key and the files that it is to keep; `None`: there is no such key.
    ///
    /// # Errors
    /// [`BadSetting`] for a file that cannot be read or holds no key.
    pub(crate) fn load(settings: &Settings, random: Arc<dyn Random>) -> Result<Option<Self>, BadSetting> {
        let Some(kek) = kek(settings)? else { return Ok(None) };
        let mut files = Vec::new();
        for kept in Kept::ALL {
            if let Some(path) = kept.path(settings) {
                files.push((kept, read(kept.setting(), path)?));
            }
        }
        Ok(Some(Self { kek, files, random }))
    }

    /// While this node leads: sees to it that its keys are kept.
    pub(crate) async fn keep(
        self,
        node: NodeId,
        raft: Raft,
        feed: Feed,
        proposer: Proposer,
        clock: Arc<dyn WallClock>,
    ) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = BTreeSet::new();
        loop {
            ticks.tick().await;
            if raft.metrics().borrow().current_leader != Some(node) {
                continue;
            }
            let config = feed.config();
            for (kept, file) in &self.files {
                let write = match self.due(&config, *kept, file) {
                    Ok(Some(write)) => write,
                    Ok(None) => continue,
                    Err(why) => {
                        if refused.insert(kept.id()) {
                            tracing::error!(
                                why,
                                "a key that is kept cannot be opened with {KEK_FILE}, and stays as it is"
                            );
                        }
                        continue;
                    }
                };
                let command = Command {
                    origin: None,
                    idempotency: None,
                    request: format!("escrow of {}", kept.setting()).into(),
                    author: "system".into(),
                    time: clock.now(),
                    based_on: Vec::new(),
                    action: Action::Write(write),
                };
                match proposer.propose(command, Instant::now() + PROPOSE_MAX).await {
                    Ok(Outcome::Done { .. }) => {
                        tracing::info!(setting = kept.setting(), "a key is kept, sealed with the key-encryption key");
                    }
                    // It is looked after again, by whoever leads then.
                    other => tracing::warn!(?other, setting = kept.setting(), "a key is not kept yet"),
                }
            }
        }
    }

    /// What must be written to keep a file; `None`: it is kept, with the newest key-encryption key.
    fn due(&self, config: &ConfigState, kept: Kept, file: &str) -> Result<Option<Write>, String> {
        let found = open(&self.kek, config, kept)?;
        let (text, token) = found.unzip();
        let is_newest = token.is_some_and(|token| token.key_id == *self.kek.newest());
        let text = match (kept.joined(text.as_deref(), file), text) {
            (Some(joined), _) => joined,
            (None, Some(text)) if !is_newest => text,
            (None, _) => return Ok(None),
        };
        let key = kept.key();
        let token = self.kek.seal(&key, &place(), text.as_bytes(), &*self.random);
        let body = json::canonical(&serde_json::json!({ SEALED: token.to_string() }));
        let if_match = config.get(&key).map(|entry| entry.modified.revision);
        let draft = Draft::of_the_system(body.into());
        Ok(Some(Write::Put { key, draft, if_match, only_new: if_match.is_none() }))
    }
}

/// Why lost key files do not come back.
#[derive(Debug, thiserror::Error)]
pub enum NotRecovered {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A key that is kept cannot be opened.
    #[error("{0}\nIt needs the key-encryption key that sealed it: {KEK_FILE}.")]
    Sealed(String),
    /// A file cannot be written.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// Says how to bring key files back that are lost, where they are kept.
///
/// # Errors
/// [`BadSetting`] of the first that is not there.
pub(crate) fn check_present(settings: &Settings) -> Result<(), BadSetting> {
    match missing(settings).into_iter().next() {
        Some((setting, path)) if settings.secrets.kek_file.is_some() => Err(bad(
            setting,
            format!(
                "{} is not there: `cp-node recover-keys` writes it from what the cluster keeps of it",
                path.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// The key files that the settings name and that are not there.
pub(crate) fn missing(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let named = Kept::ALL.into_iter().filter_map(|kept| Some((kept.setting(), kept.path(settings)?.to_owned())));
    named.filter(|(_, path)| !path.exists()).collect()
}

/// Writes the key files that are missing, from what a configuration keeps of them; gives those that it has written. They
/// are for their owner's eyes only.
///
/// # Errors
/// [`NotRecovered`]; files that were written before stay.
pub(crate) fn recover(settings: &Settings, config: &ConfigState) -> Result<Vec<PathBuf>, NotRecovered> {
    let kek = kek(settings)?.ok_or_else(|| bad(KEK_FILE, "is needed to open what is kept of lost keys"))?;
    let mut written = Vec::new();
    for kept in Kept::ALL {
        let Some(path) = kept.path(settings).filter(|path| !path.exists()) else { continue };
        let Some((text, _)) = open(&kek, config, kept).map_err(NotRecovered::Sealed)? else { continue };
        kept.check(&text).map_err(|e| NotRecovered::Sealed(format!("{}: {e}", kept.key())))?;
        durable::write_private(path, text.as_bytes())?;
        tracing::info!(setting = kept.setting(), path = %path.display(), "a lost key file is back");
        written.push(path.to_owned());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use daemon::seams::SystemRandom;
    use protocol::entry::{SYSTEM_GROUP, Stamp};
    use protocol::{Chain, Entry, Position};

    use super::*;

    const OLD: &str = "k1 1111111111111111111111111111111111111111111111111111111111111111\n";
    const NEW: &str = "k2 2222222222222222222222222222222222222222222222222222222222222222\n";
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\n";

    fn escrow(kek: &str, files: &[(Kept, &str)]) -> Escrow {
        let files = files.iter().map(|(kept, text)| (*kept, (*text).to_owned())).collect();
        Escrow { kek: Keyring::parse(kek).unwrap(), files, random: Arc::new(SystemRandom) }
    }

    fn holding(writes: impl IntoIterator<Item = Write>) -> ConfigState {
        let at = Position { revision: 3, ..Position::default() };
        let stamp = Stamp { revision: 3, time: 0 };
        let entries = writes.into_iter().map(|write| {
            let Write::Put { key, draft, .. } = write else { panic!("{write:?}") };
            let Draft { body, references, claims, groups, ttl_seconds } = draft;
            (key, Arc::new(Entry { body, references, claims, groups, created: stamp, modified: stamp, ttl_seconds }))
        });
        ConfigState::from_entries(ConfigState::serving(), at, at, Chain::default(), entries)
    }

    fn due(escrow: &Escrow, config: &ConfigState) -> Vec<Write> {
        escrow.files.iter().filter_map(|(kept, file)| escrow.due(config, *kept, file).unwrap()).collect()
    }

    #[test]
    fn what_is_kept_is_written_once_and_no_proxy_gets_it() {
        let escrow = escrow(OLD, &[(Kept::ArchiveKey, SEED), (Kept::Keyring, NEW)]);
        let writes = due(&escrow, &holding([]));
        assert_eq!(writes.len(), 2);
        let config = holding(writes);
        assert_eq!(due(&escrow, &config), []);
        let keys: Vec<_> = config.iter().map(|(key, entry)| (key.to_string(), entry.groups.clone())).collect();
        assert!(keys.iter().all(|(_, groups)| *groups == [SYSTEM_GROUP]), "{keys:?}");
        let bodies: String = config.iter().map(|(_, entry)| entry.body.to_string()).collect();
        assert!(!bodies.contains("9d61b1") && !bodies.contains("2222"), "{bodies}");
    }

    #[test]
    fn a_keyring_never_loses_a_key_and_an_older_file_adds_nothing() {
        let both = format!("{NEW}{OLD}");
        assert_eq!(Kept::Keyring.joined(Some(OLD), NEW), Some(both.clone()));
        assert_eq!(Kept::Keyring.joined(Some(&both), OLD), None);
        assert_eq!(Kept::Keyring.joined(Some(&both), &format!("# the newest first\n\n{both}")), None);
        assert_eq!(Kept::ArchiveKey.joined(Some("00\n"), "11"), Some("11\n".to_owned()));
    }

    #[test]
    fn with_a_new_key_encryption_key_it_is_sealed_again() {
        let kept = due(&escrow(OLD, &[(Kept::ArchiveKey, SEED)]), &holding([]));
        let config = holding(kept);
        let rotated = escrow(&format!("{NEW}{OLD}"), &[(Kept::ArchiveKey, SEED)]);
        let config = holding(due(&rotated, &config));
        let only_new = escrow(NEW, &[(Kept::ArchiveKey, SEED)]);
        assert_eq!(due(&only_new, &config), []);
        // With the old one alone it cannot be opened, and is left as it is.
        let why = escrow(OLD, &[]).due(&config, Kept::ArchiveKey, SEED).unwrap_err();
        assert!(why.contains("sealed with key \"k2\""), "{why}");
    }

    #[test]
    fn lost_files_come_back_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("kek"), OLD).unwrap();
        let mut settings = Settings::default();
        settings.secrets.kek_file = Some(path("kek"));
        settings.secrets.keyring_file = Some(path("keyring"));
        settings.archive.signing_key_file = Some(path("archive.key"));
        let config = holding(due(&escrow(OLD, &[(Kept::ArchiveKey, SEED), (Kept::Keyring, NEW)]), &holding([])));
        std::fs::write(path("archive.key"), "mine").unwrap();
        assert_eq!(missing(&settings), [("secrets.keyring_file", path("keyring"))]);
        assert_eq!(recover(&settings, &config).unwrap(), [path("keyring")]);
        assert_eq!(std::fs::read_to_string(path("keyring")).unwrap(), NEW);
        assert_eq!(std::fs::metadata(path("keyring")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(path("archive.key")).unwrap(), "mine");
        // Another key-encryption key opens nothing, and says so.
        std::fs::remove_file(path("archive.key")).unwrap();
        std::fs::write(path("kek"), NEW).unwrap();
        let why = recover(&settings, &config).unwrap_err().to_string();
        assert!(why.contains("sealed with key \"k1\"") && why.contains("secrets.kek_file"), "{why}");
    }
}
