//! What the programs' logs say of a run: kept with it, and looked through for what no program may print.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Step;
use crate::check::Breach;
use crate::fault::Fault;

/// What Rust prints when a thread panics; the place comes next.
const PANICKED: &str = "panicked at ";
/// Where the log's storage engine is: it panics over a disk that fails, and the node ends over that.
const ENGINE: &str = "/sled-";
/// What a node prints when PostgreSQL has less than it has confirmed.
const TAKEN_BACK: &str = "the record had confirmed changes that it does not hold any more";
/// What a node prints when it was sent a snapshot and has taken it.
const INSTALLED: &str = "a snapshot was installed";

/// Copies every log of a cluster's directory.
pub(super) fn keep(from: &Path, to: &Path) -> Result<()> {
    for path in all(from)? {
        fs::copy(&path, to.join(path.file_name().context("a file has a name")?))?;
    }
    Ok(())
}

/// How many snapshots nodes have been sent so far, by the logs in a cluster's directory.
pub(super) fn installed(cluster: &Path) -> Result<usize> {
    let mut count = 0;
    for path in all(cluster)? {
        count += text(&path)?.matches(INSTALLED).count();
    }
    Ok(count)
}

/// The law `nobody-panics`, over the logs in a run's directory. A disk that the harness has broken is excused: the engine of
/// the log panics over it, as it does.
pub(super) fn panics(directory: &Path, schedule: &[Step]) -> Result<Vec<Breach>> {
    let breaks = |step: &Step| {
        matches!(
            step.fault,
            Fault::Flip
                | Fault::TearNode { .. }
                | Fault::FailedSync { .. }
                | Fault::FullDisk { .. }
                | Fault::ReadOnlyDisk { .. }
        )
    };
    let breaks_a_disk = schedule.iter().any(breaks);
    let mut breaches = Vec::new();
    for path in all(directory)? {
        let (text, name) = (text(&path)?, path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !line.contains(PANICKED) || (breaks_a_disk && line.contains(ENGINE)) {
                continue;
            }
            // What it says stands on the next line.
            let message = lines.next().unwrap_or_default();
            breaches.push(Breach { law: "nobody-panics", what: format!("{name}: {line}: {message}") });
        }
    }
    Ok(breaches)
}

/// The law `record-never-goes-back`, over the logs in a run's directory: where no standby has taken a primary's place,
/// PostgreSQL has what the cluster was told that it has.
pub(super) fn taken_back(directory: &Path, schedule: &[Step]) -> Result<Vec<Breach>> {
    if schedule.iter().any(|step| step.fault == Fault::FailOverPostgres) {
        return Ok(Vec::new());
    }
    let mut breaches = Vec::new();
    for path in all(directory)? {
        let (text, name) = (text(&path)?, path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let lines = text.lines().filter(|line| line.contains(TAKEN_BACK));
        breaches.extend(lines.map(|line| Breach { law: "record-never-goes-back", what: format!("{name}: {line}") }));
    }
    Ok(breaches)
}

/// The logs of a directory, in order.
fn all(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for item in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes that are no text are of no matter here.
fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Whom;

    const OURS: &str = "INFO all is well\nthread 'front' (7) panicked at cp-node/src/main.rs:1:1:\nno such thing\n";
    const ENGINES: &str = "thread 'log-writer' (7) panicked at /registry/sled-0.34.7/src/logger.rs:467:41:\nEIO\n";

    /// What is broken when a node has printed this while these faults went on.
    fn broken(printed: &str, faults: &[Fault]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cp-1.log"), printed).unwrap();
        fs::write(dir.path().join("report.md"), OURS).unwrap();
        let schedule: Vec<Step> =
            faults.iter().map(|fault| Step { after_ms: 0, fault: *fault, lasts_ms: 0, beside: false }).collect();
        panics(dir.path(), &schedule).unwrap().into_iter().map(|breach| breach.what).collect()
    }

    #[test]
    fn a_panic_is_found_unless_it_is_the_engines_over_a_disk_that_was_broken() {
        let (kill, fail) = (Fault::Kill { whom: Whom::Leader }, Fault::FailedSync { whom: Whom::Leader });
        assert_eq!(broken("INFO all is well\n", &[kill]), [""; 0]);
        let found = broken(OURS, &[fail]);
        assert!(
            found.len() == 1 && found[0].contains("main.rs:1:1") && found[0].ends_with("no such thing"),
            "{found:?}"
        );
        assert_eq!(broken(ENGINES, &[kill]).len(), 1, "nobody has broken its disk");
        assert_eq!(broken(ENGINES, &[kill, fail]), [""; 0]);
        assert_eq!(broken(&format!("{ENGINES}{OURS}"), &[fail]).len(), 1);
    }

    #[test]
    fn a_record_may_lack_what_it_has_confirmed_only_after_a_failover() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cp-2.log"), format!("INFO all is well\nERROR {TAKEN_BACK} from=7 lost=2\n"))
            .unwrap();
        let found = |fault| {
            let step = Step { after_ms: 0, fault, lasts_ms: 0, beside: false };
            taken_back(dir.path(), &[step]).unwrap().len()
        };
        assert_eq!(found(Fault::KillPostgres), 1);
        assert_eq!(found(Fault::FailOverPostgres), 0);
    }

    #[test]
    fn snapshots_that_were_sent_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cp-1.log"), format!("INFO {INSTALLED} position=1-7\n").repeat(2)).unwrap();
        fs::write(dir.path().join("cp-2.log"), "INFO a snapshot was made\n").unwrap();
        assert_eq!(installed(dir.path()).unwrap(), 2);
    }
}
