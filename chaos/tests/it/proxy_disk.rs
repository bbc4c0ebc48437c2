//! What a proxy's disk has promised, as `failing-proxy-disk` tells it, against what its next life finds.

use std::collections::BTreeMap;

use super::failing::{End, Life};

/// Epoch and revision.
type Position = (u64, u64);

/// What was promised, and what may be.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pinned: bool,
    kept: Option<Position>,
    /// The digest at each position that may be found.
    digests: BTreeMap<Position, String>,
    pub(crate) counts: Counts,
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lives: u64,
    pub(crate) killed: u64,
    pub(crate) aborted: u64,
    /// Acknowledged positions.
    pub(crate) kept: u64,
    /// Lives that found something on their disk that they did not believe.
    pub(crate) findings: u64,
}

impl Counts {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            lives: self.lives + other.lives,
            killed: self.killed + other.killed,
            aborted: self.aborted + other.aborted,
            kept: self.kept + other.kept,
            findings: self.findings + other.findings,
        }
    }
}

fn position(text: &str) -> Position {
    let (epoch, revision) = text.split_once('-').unwrap();
    (epoch.parse().unwrap(), revision.parse().unwrap())
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
        self.counts.findings += u64::from(life.lines.iter().any(|line| line.starts_with("finding")));
        let (mut found, mut cluster) = (None, false);
        for line in &life.lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "finding" | "end" => {}
                "cluster" => cluster = true,
                "found" => found = rest.split_once(' ').map(|(at, digest)| (position(at), digest.to_owned())),
                "ready" => {
                    if self.pinned && !cluster {
                        return Err("it does not know its cluster any more".into());
                    }
                    self.check(found.take())?;
                }
                "pinned" => self.pinned = true,
                "do" => {
                    let (at, digest) = rest.split_once(' ').unwrap();
                    self.digests.insert(position(at), digest.to_owned());
                }
                "ok" => {
                    self.kept = Some(position(rest));
                    self.counts.kept += 1;
                }
                other => panic!("{other} is never said"),
            }
        }
        Ok(())
    }

    /// It starts from the last position that was kept or a later one, and that is what it was.
    fn check(&mut self, found: Option<(Position, String)>) -> Result<(), String> {
        let at = found.as_ref().map(|(at, _)| *at);
        if at < self.kept {
            return Err(format!("it starts from {at:?}, {:?} was kept", self.kept));
        }
        if let Some((at, digest)) = found
            && self.digests.get(&at) != Some(&digest)
        {
            return Err(format!("at {at:?} it has digest {digest}, it was {:?}", self.digests.get(&at)));
        }
        self.kept = at;
        // What was not found will be written anew, with another content.
        self.digests.retain(|position, _| Some(*position) <= at);
        Ok(())
    }
}
