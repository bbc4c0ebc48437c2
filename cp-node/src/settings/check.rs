//! What of the settings the types alone do not say.

use std::time::Duration;

use raft_store::machine::{BACKLOG_BYTES_MAX, BACKLOG_CHANGES_MAX};

use super::Settings;

/// A setting that cannot be used, with its key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadSetting {
    /// The key, as in a file.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
}

impl Settings {
    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<(), BadSetting> {
        let bad = |key: &str, problem: &str| Err(BadSetting { key: key.into(), problem: problem.into() });
        for (key, address) in [
            ("peer.listen", &self.peer.listen),
            ("admin.listen", &self.admin.listen),
            ("feed.listen", &self.feed.listen),
        ] {
            check_address(key, address)?;
        }
        for (key, address) in [
            ("peer.advertise", &self.peer.advertise),
            ("admin.advertise", &self.admin.advertise),
            ("feed.advertise", &self.feed.advertise),
            ("status.listen", &self.status.listen),
        ] {
            if !address.is_empty() {
                check_address(key, address)?;
            }
        }
        for address in &self.cluster.join {
            check_address("cluster.join", address)?;
        }
        for (listen, advertise, key) in [
            (&self.peer.listen, &self.peer.advertise, "peer.advertise"),
            (&self.admin.listen, &self.admin.advertise, "admin.advertise"),
            (&self.feed.listen, &self.feed.advertise, "feed.advertise"),
        ] {
            if advertise.is_empty() && (listen.starts_with("0.0.0.0:") || listen.starts_with("[::]:")) {
                return bad(key, "is needed when the listener is on all addresses: others must know one to reach it");
            }
        }
        let raft = &self.raft;
        if raft.heartbeat.0 < Duration::from_millis(10) {
            return bad("raft.heartbeat", "must be at least 10ms");
        }
        if raft.election_min.0 < raft.heartbeat.0 * 2 {
            return bad("raft.election_min", "must be at least two heartbeats");
        }
        if raft.election_max <= raft.election_min {
            return bad("raft.election_max", "must be more than raft.election_min");
        }
        for (key, is_zero) in [
            ("raft.snapshot_entries", raft.snapshot_entries == 0),
            ("raft.keep_entries", raft.keep_entries == 0),
            ("admin.requests_max", self.admin.requests_max == 0),
            ("feed.streams_max", self.feed.streams_max == 0),
            ("feed.full_sends_max", self.feed.full_sends_max == 0),
        ] {
            if is_zero {
                return bad(key, "must be at least 1");
            }
        }
        if self.feed.heartbeat.0 < Duration::from_millis(50) {
            return bad("feed.heartbeat", "must be at least 50ms");
        }
        if let Err(e) = self.archive.check() {
            return bad(e.key, &e.problem);
        }
        if self.archive.is_set() && self.archive.signing_key_file.is_none() {
            return bad("archive.signing_key_file", "is needed with an archive: what is put there is signed");
        }
        let record = &self.record;
        if !record.dsn.0.is_empty() && record.dsn_file.is_some() {
            return bad("record.dsn", "is set beside record.dsn_file: only one of them can be");
        }
        for (key, is_zero) in [
            ("record.connect_timeout", record.connect_timeout.0.is_zero()),
            ("record.statement_timeout", record.statement_timeout.0.is_zero()),
            ("record.backlog_age", record.backlog_age.0.is_zero()),
        ] {
            if is_zero {
                return bad(key, "must be above 0");
            }
        }
        if !(1..=BACKLOG_CHANGES_MAX).contains(&record.backlog_changes) {
            return bad("record.backlog_changes", &format!("must be 1 to {BACKLOG_CHANGES_MAX}"));
        }
        if !(1..=BACKLOG_BYTES_MAX).contains(&record.backlog_bytes.0) {
            return bad("record.backlog_bytes", "must be 1 byte to 512 MiB");
        }
        if let Err(e) = self.log.check() {
            return bad("log.filter", &e.to_string());
        }
        self.check_keys()
    }

    fn check_keys(&self) -> Result<(), BadSetting> {
        for (i, key) in self.admin.keys.iter().enumerate() {
            let bad = |problem: &str| Err(BadSetting { key: format!("admin.keys[{i}]"), problem: problem.into() });
            if key.name.is_empty() {
                return bad("needs a name: it stands in the history");
            }
            if key.key.is_empty() == key.key_file.is_none() {
                return bad("needs exactly one of key and key_file");
            }
            if self.admin.keys[..i].iter().any(|other| other.name == key.name) {
                return bad("has the name of another key");
            }
        }
        Ok(())
    }
}

fn check_address(key: &str, address: &str) -> Result<(), BadSetting> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if good {
        return Ok(());
    }
    Err(BadSetting { key: key.into(), problem: format!("{address:?} is no <host>:<port>") })
}

#[cfg(test)]
mod tests {
    use daemon::settings::units::Span;

    use super::*;
    use crate::settings::{AdminKey, Role};

    fn problem(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    }

    #[test]
    fn an_archive_needs_a_key_that_signs() {
        assert_eq!(
            problem(|s| s.archive.directory = "/archive".into()),
            "archive.signing_key_file: is needed with an archive: what is put there is signed"
        );
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_used_names_its_key() {
        assert_eq!(problem(|s| s.admin.listen = "9180".into()), "admin.listen: \"9180\" is no <host>:<port>");
        assert_eq!(problem(|s| s.cluster.join = vec!["x".into()]), "cluster.join: \"x\" is no <host>:<port>");
        assert!(problem(|s| s.peer.listen = "0.0.0.0:9190".into()).starts_with("peer.advertise: is needed"));
        assert!(problem(|s| s.raft.election_min = Span(Duration::from_millis(150))).starts_with("raft.election_min: "));
        assert!(problem(|s| s.raft.election_max = s.raft.election_min).starts_with("raft.election_max: "));
        let key =
            |name: &str, key: &str| AdminKey { name: name.into(), key: key.into(), key_file: None, role: Role::Admin };
        assert_eq!(
            problem(|s| s.admin.keys = vec![key("a", "")]),
            "admin.keys[0]: needs exactly one of key and key_file"
        );
        assert_eq!(
            problem(|s| s.admin.keys = vec![key("a", "1"), key("a", "2")]),
            "admin.keys[1]: has the name of another key"
        );
        for (expected, change) in [
            ("raft.keep_entries: must be at least 1", (|s| s.raft.keep_entries = 0) as fn(&mut Settings)),
            ("feed.full_sends_max: must be at least 1", |s| s.feed.full_sends_max = 0),
            ("record.dsn: is set beside record.dsn_file: only one of them can be", |s| {
                s.record.dsn.0 = "host=pg".into();
                s.record.dsn_file = Some("/dsn".into());
            }),
            ("record.statement_timeout: must be above 0", |s| s.record.statement_timeout = Span(Duration::ZERO)),
            ("record.backlog_age: must be above 0", |s| s.record.backlog_age = Span(Duration::ZERO)),
            ("record.backlog_bytes: must be 1 byte to 512 MiB", |s| s.record.backlog_bytes.0 = 0),
            ("archive.signing_key_file: is needed with an archive: what is put there is signed", |s| {
                s.archive.directory = "/archive".into();
            }),
        ] {
            assert_eq!(problem(change), expected);
        }
    }
}
