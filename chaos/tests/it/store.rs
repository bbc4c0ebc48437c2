//! What a control-plane node's disk has promised, as `failing-store` tells it, against what its next life finds.

use std::collections::BTreeMap;

use super::failing::{End, Life};

/// What the log holds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Log {
    vote: String,
    committed: String,
    purged: String,
    entries: BTreeMap<u64, String>,
}

/// What was promised, and what may be.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    identity: Option<String>,
    boot: u64,
    /// What the last life began with.
    log: Log,
    /// What it gave to the log since, in order, with their numbers.
    operations: Vec<(u64, String)>,
    /// The highest number that was acknowledged.
    acknowledged: u64,
    /// Each snapshot that may be there, by index.
    snapshots: BTreeMap<u64, String>,
    saved: Option<u64>,
    pub(crate) counts: Counts,
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lives: u64,
    pub(crate) killed: u64,
    pub(crate) aborted: u64,
    pub(crate) entries: u64,
    pub(crate) votes: u64,
    pub(crate) truncations: u64,
    pub(crate) purges: u64,
    pub(crate) snapshots: u64,
    pub(crate) rewrites: u64,
}

impl Counts {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            lives: self.lives + other.lives,
            killed: self.killed + other.killed,
            aborted: self.aborted + other.aborted,
            entries: self.entries + other.entries,
            votes: self.votes + other.votes,
            truncations: self.truncations + other.truncations,
            purges: self.purges + other.purges,
            snapshots: self.snapshots + other.snapshots,
            rewrites: self.rewrites + other.rewrites,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { vote: "-".into(), committed: "-".into(), purged: "-".into(), entries: BTreeMap::new() }
    }
}

impl Log {
    fn apply(&mut self, operation: &str) {
        let (what, rest) = operation.split_once(' ').unwrap();
        match what {
            // A node does not lead on from its former life: its own won vote comes back as a mere vote.
            "vote" => self.vote = if rest.contains(" 1 ") { rest.replace("true", "false") } else { rest.to_owned() },
            "append" => self.entries.extend(rest.split(' ').map(|entry| (index(entry), entry.to_owned()))),
            "truncate" => drop(self.entries.split_off(&rest.parse().unwrap())),
            "committed" => rest.clone_into(&mut self.committed),
            "purge" => {
                self.entries = self.entries.split_off(&(index(rest) + 1));
                rest.clone_into(&mut self.purged);
            }
            other => panic!("{other} is no operation"),
        }
    }
}

/// The index that an id, an entry or a snapshot begins with.
fn index(text: &str) -> u64 {
    text.split('/').next().unwrap().parse().unwrap()
}

impl Promises {
    /// Takes in a life: what it found against what was promised before, then what it promised itself.
    ///
    /// # Errors
    /// The promise that was broken.
    pub(crate) fn take(&mut self, life: &Life) -> Result<(), String> {
        self.counts.lives += 1;
        match life.end {
            End::Failed => return Err(format!("it cannot go on: {}", life.errors)),
            End::Killed => self.counts.killed += 1,
            End::Aborted => self.counts.aborted += 1,
            End::Done => {}
        }
        let mut found = Log::default();
        let mut snapshots = Vec::new();
        for line in &life.lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "claiming" if self.identity.is_some() => return Err("the directory is nobody's any more".into()),
                "claiming" | "end" => {}
                "identity" => {
                    let identity = self.identity.get_or_insert_with(|| rest.to_owned());
                    if identity != rest {
                        return Err(format!("it was {identity}, now it is {rest}"));
                    }
                }
                "boot" => {
                    let boot = rest.parse().unwrap();
                    if boot <= self.boot {
                        return Err(format!("start {boot} after start {}", self.boot));
                    }
                    self.boot = boot;
                }
                "found" => match rest.split_once(' ').unwrap() {
                    ("vote", vote) => vote.clone_into(&mut found.vote),
                    ("committed", id) => id.clone_into(&mut found.committed),
                    ("purged", id) => id.clone_into(&mut found.purged),
                    ("entry", entry) => drop(found.entries.insert(index(entry), entry.to_owned())),
                    ("snapshot", snapshot) => snapshots.push(snapshot.to_owned()),
                    (other, _) => panic!("{other} is never found"),
                },
                "ready" => {
                    self.check_log(&found)?;
                    self.check_snapshots(&snapshots)?;
                    (self.log, self.operations, self.acknowledged) = (found.clone(), Vec::new(), 0);
                }
                "do" => {
                    let (number, operation) = rest.split_once(' ').unwrap();
                    self.operations.push((number.parse().unwrap(), operation.to_owned()));
                }
                "ok" => self.acknowledge(rest.parse().unwrap()),
                "saving" => drop(self.snapshots.insert(index(rest), rest.to_owned())),
                "saved" => {
                    self.saved = Some(index(rest));
                    self.counts.snapshots += 1;
                }
                other => panic!("{other} is never said"),
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, number: u64) {
        self.acknowledged = self.acknowledged.max(number);
        let operation = self.operations.iter().find(|(other, _)| *other == number).map(|(_, operation)| operation);
        match operation.unwrap().split_once(' ').unwrap() {
            ("append", entries) => self.counts.entries += entries.split(' ').count() as u64,
            ("vote", _) => self.counts.votes += 1,
            ("truncate", _) => self.counts.truncations += 1,
            _ => {}
        }
    }

    /// The log is as it was after some operation: the last acknowledged one, or a later one.
    fn check_log(&mut self, found: &Log) -> Result<(), String> {
        let mut log = self.log.clone();
        let mut at = (log == *found).then_some(0);
        for (number, operation) in &self.operations {
            log.apply(operation);
            if log == *found {
                at = Some(*number);
            }
        }
        match at {
            Some(at) if at >= self.acknowledged => {
                self.counts.purges +=
                    self.operations.iter().filter(|(_, what)| what.starts_with("purge")).count() as u64;
                Ok(())
            }
            Some(at) => Err(format!(
                "the log is as it was after operation {at}, operation {} was acknowledged",
                self.acknowledged
            )),
            None => {
                let mut log = self.log.clone();
                let whole = self.operations.iter().filter(|(number, _)| *number <= self.acknowledged);
                whole.for_each(|(_, operation)| log.apply(operation));
                let lost = log.entries.iter().filter(|(index, entry)| found.entries.get(index) != Some(entry)).count();
                Err(format!(
                    "the log is as it never was; of {} entries acknowledged last {lost} are not there; it holds\n{found:?}\nand held\n{log:?}",
                    log.entries.len()
                ))
            }
        }
    }

    fn check_snapshots(&self, found: &[String]) -> Result<(), String> {
        for snapshot in found {
            if self.snapshots.get(&index(snapshot)) != Some(snapshot) {
                return Err(format!("snapshot {snapshot} was never written"));
            }
        }
        match self.saved {
            Some(saved) if !found.iter().any(|snapshot| index(snapshot) == saved) => {
                Err(format!("snapshot {saved} was saved, there are {found:?}"))
            }
            _ => Ok(()),
        }
    }
}
