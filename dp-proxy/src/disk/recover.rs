//! Which configuration a proxy starts with: the newest position that its disk can prove.
//!
//! The newest base that can be believed, and from there every record that fits, over all journals that follow. What
//! cannot be believed is told with file and offset, and what stands before it is used.

use std::fmt;
use std::path::{Path, PathBuf};

use protocol::delta::Change;
use protocol::snapshot::{ClusterId, MacKey};
use protocol::{ConfigState, Position, Text};

use super::base;
use super::journal::{self, Journal, JournalHeader, JournalRecord};
use super::{BASE, Generation, Image, JOURNAL, Layout};

/// What was found on the disk.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The newest base that can be believed; `None`: there is no configuration.
    pub base: Option<Image>,
    /// What happened since, in order.
    pub steps: Vec<Step>,
    /// The cluster whose configuration it is.
    pub cluster: Option<ClusterId>,
    /// What could not be believed.
    pub findings: Vec<Finding>,
    /// Bytes of the base that was used.
    pub(super) base_bytes: u64,
    /// Bytes of the journals behind it.
    pub(super) journal_bytes: u64,
    /// The highest number that any file has.
    pub(super) last: Generation,
}

/// One step of the configuration since the base.
#[derive(Debug)]
pub struct Step {
    /// The state before it.
    pub before: ConfigState,
    /// What changed; nothing where only the position moved.
    pub changes: Vec<Change>,
    /// The state after it.
    pub after: ConfigState,
}

/// Something on the disk that cannot be believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// From where on, in bytes.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

impl Finding {
    pub(super) fn whole(file: &Path, reason: String) -> Self {
        Self { file: file.to_owned(), offset: 0, reason }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

impl Recovered {
    /// The newest state.
    #[must_use]
    pub fn state(&self) -> Option<&ConfigState> {
        self.steps.last().map(|step| &step.after).or_else(|| self.base.as_ref().map(|base| &base.state))
    }
}

/// The largest journal that is read: far more than one grows to before the next base is written.
const JOURNAL_BYTES_MAX: u64 = 4 << 30;

/// Reads what is there. Never fails: without anything that can be believed there is no configuration.
pub(super) fn recover(layout: &Layout, cluster: Option<ClusterId>, group: &Text, key: &MacKey) -> Recovered {
    let (bases, journals) = (layout.generations(BASE), layout.generations(JOURNAL));
    let mut recovered = Recovered {
        cluster,
        last: bases.last().copied().max(journals.last().copied()).unwrap_or(0),
        ..Recovered::default()
    };
    let mut found = None;
    for generation in bases.into_iter().rev() {
        let path = layout.base(generation);
        match base::read(&path, cluster, group, key) {
            Ok(base) => {
                found = Some((generation, base));
                break;
            }
            Err(bad) => {
                recovered.findings.push(Finding { file: path, offset: bad.offset, reason: bad.reason });
            }
        }
    }
    let Some((generation, base)) = found else { return recovered };
    recovered.cluster = Some(base.cluster);
    recovered.base_bytes = base.bytes;
    let mut state = base.image.state.clone();
    recovered.base = Some(base.image);
    for generation in journals.into_iter().filter(|journal| *journal >= generation) {
        let path = layout.journal(generation);
        match read_journal(&path, key) {
            Ok(journal) => {
                recovered.journal_bytes += journal.bytes;
                let expected = JournalHeader {
                    cluster: base.cluster,
                    group: group.clone(),
                    position: state.position(),
                    changed_at: state.changed_at(),
                    digest: state.digest(),
                };
                if journal.header != expected {
                    let reason = format!(
                        "it starts from {}, what stands before it ends at {}",
                        journal.header.position, expected.position
                    );
                    recovered.findings.push(Finding { file: path, offset: 0, reason });
                    break;
                }
                replay(&mut recovered, &mut state, &path, journal);
            }
            Err(finding) => recovered.findings.push(finding),
        }
    }
    recovered
}

fn read_journal(path: &Path, key: &MacKey) -> Result<Journal, Finding> {
    let failed = |e: std::io::Error| Finding::whole(path, e.to_string());
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > JOURNAL_BYTES_MAX {
        return Err(Finding::whole(
            path,
            format!("it has {bytes} bytes, no journal of ours has over {JOURNAL_BYTES_MAX}"),
        ));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    journal::read(&bytes, key).map_err(|broken| Finding {
        file: path.to_owned(),
        offset: broken.offset,
        reason: broken.reason,
    })
}

/// Takes the records of a journal as far as they fit.
fn replay(recovered: &mut Recovered, state: &mut ConfigState, path: &Path, journal: Journal) {
    let mut broken = journal.broken;
    for (offset, record) in journal.records {
        let before = state.clone();
        let taken = match &record {
            JournalRecord::Delta(delta) => state.evolve(delta).map(drop),
            JournalRecord::Mark(mark) => state.bookmark(mark.position),
        };
        if let Err(e) = taken {
            broken = Some(journal::Broken { offset, reason: e.to_string() });
            break;
        }
        let changes = match record {
            JournalRecord::Delta(delta) => delta.changes,
            JournalRecord::Mark(_) => Vec::new(),
        };
        recovered.steps.push(Step { before, changes, after: state.clone() });
    }
    if let Some(journal::Broken { offset, reason }) = broken {
        recovered.findings.push(Finding { file: path.to_owned(), offset, reason });
    }
}

/// Positions of two findings of configuration, for logs: what is used and what it stands for.
impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.state().map_or_else(Position::default, ConfigState::position);
        write!(f, "{position} ({} steps after its base)", self.steps.len())
    }
}
