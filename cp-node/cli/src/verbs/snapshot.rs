//! `hfctl snapshot inspect|verify <file>`: looks at a snapshot file, without any node.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::ConfigState;
use protocol::crypto::{TrustedKeys, VerifyingKey};
use protocol::snapshot::{self, Examined, Expected, Seal, Unsealed};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows what a snapshot says of itself, and checks that it is whole. Nothing is said about who made it.
    Inspect {
        /// The snapshot.
        file: PathBuf,
    },
    /// Checks everything about a snapshot: that it is whole, who signed it, and its content's digest.
    Verify {
        /// The snapshot.
        file: PathBuf,
        /// A public key whose signature counts, as 64 hexadecimal digits. Repeatable.
        #[arg(long, required = true)]
        trusted_key: Vec<VerifyingKey>,
        /// The cluster that it must be of.
        #[arg(long)]
        cluster: Option<snapshot::ClusterId>,
        /// The most that it may unpack to, in bytes.
        #[arg(long, default_value_t = 2 << 30)]
        unpacked_max: u64,
    },
}

impl Snapshot {
    pub(crate) fn run(&self, format: Format) -> Result<String, Failure> {
        let file = match &self.what {
            What::Inspect { file } | What::Verify { file, .. } => file,
        };
        let open = || File::open(file).map(BufReader::new).map_err(|e| Failure::file(file, &e));
        let refused = |e: snapshot::SnapshotError| Failure::Refused(format!("{}: {e}", file.display()));
        let examined = match &self.what {
            What::Inspect { .. } => snapshot::inspect(&mut open()?, &Unsealed).map_err(refused)?,
            What::Verify { trusted_key, cluster, unpacked_max, .. } => {
                let trusted = TrustedKeys::new(trusted_key.iter().copied());
                let examined = snapshot::inspect(&mut open()?, &trusted).map_err(refused)?;
                let expected = Expected { cluster: *cluster, view: examined.header.view.clone() };
                // Now that it is known who made it: its bounds, then its content.
                snapshot::examine(&mut open()?, &expected, &trusted, *unpacked_max).map_err(refused)?;
                snapshot::read(&mut open()?, ConfigState::serving(), &expected, &trusted).map_err(refused)?;
                examined
            }
        };
        let value = describe(&examined);
        if format != Format::Table {
            return Ok(render::value(&value, format));
        }
        let mut text = String::new();
        for (name, value) in value.as_object().into_iter().flatten() {
            text.push_str(&format!("{name:14} {}\n", cell(value)));
        }
        if matches!(self.what, What::Verify { .. }) {
            text.push_str("good\n");
        }
        Ok(text)
    }
}

fn describe(examined: &Examined) -> Value {
    let Examined { header, footer, raw_bytes } = examined;
    let seal = match &footer.seal {
        Seal::None => "none".to_owned(),
        Seal::Mac { .. } => "a proxy's own".to_owned(),
        Seal::Signature { key_id, .. } => format!("signed by key {key_id}"),
    };
    json!({
        "cluster": header.cluster.to_string(),
        "view": header.view.as_ref().map_or("(everything)", |view| view.as_str()),
        "position": header.position.to_string(),
        "restore_id": header.position.epoch.restore.to_string(),
        "changed_at": header.changed_at.to_string(),
        "digest": header.digest.to_string(),
        "resources": header.entries,
        "level": header.level,
        "created_ms": header.created,
        "bytes": footer.bytes,
        "unpacked_bytes": raw_bytes,
        "sha256": protocol::Digest(footer.sha256).to_string(),
        "seal": seal,
    })
}

#[cfg(test)]
mod tests {
    use protocol::crypto::SigningKey;
    use protocol::snapshot::{ClusterId, Header};

    use super::*;

    fn file(dir: &std::path::Path) -> PathBuf {
        let state = ConfigState::serving();
        let header = Header {
            cluster: ClusterId([5; 16]),
            view: None,
            position: state.position(),
            changed_at: state.changed_at(),
            chain: Some(state.chain()),
            digest: state.digest(),
            entries: 0,
            level: 1,
            created: 1,
        };
        let mut bytes = Vec::new();
        snapshot::write(&mut bytes, &header, &state, &[], &SigningKey::from_seed([1; 32])).unwrap();
        let path = dir.join("a.snap");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_snapshot_is_shown_and_verified_against_the_keys_that_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let inspect = Snapshot { what: What::Inspect { file: file.clone() } };
        let text = inspect.run(Format::Table).unwrap();
        assert!(text.contains("05050505") && text.contains("signed by key"), "{text}");
        let verify = |seed: u8, cluster: Option<ClusterId>| {
            let trusted_key = vec![SigningKey::from_seed([seed; 32]).public()];
            Snapshot { what: What::Verify { file: file.clone(), trusted_key, cluster, unpacked_max: 1 << 20 } }
                .run(Format::Table)
        };
        assert!(verify(1, None).unwrap().ends_with("good\n"));
        assert!(verify(1, Some(ClusterId([5; 16]))).is_ok());
        let refused = |result: Result<String, Failure>| result.unwrap_err().to_string();
        assert!(refused(verify(2, None)).contains("not trusted"));
        assert!(refused(verify(1, Some(ClusterId([6; 16])))).contains("it is of cluster"));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(inspect.run(Format::Table).is_err());
    }
}
