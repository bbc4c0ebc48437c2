//! Every failpoint, with what a cluster has to do to come by it. One that is in the source and not in here, or in here and not
//! in the source, fails a test.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A failpoint. In a schedule it is its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Its name in the source.
    pub name: &'static str,
    /// Who comes by it, and when.
    pub met: Met,
    /// A program passes it so many times at most before it ends there; how many, the seed decides.
    pub passes_max: u64,
}

/// Who comes by a point, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// A node, as it starts and works under load.
    Work,
    /// A node that was away for longer than the log reaches back.
    Behind,
    /// A leader that is asked to stop.
    Stop,
    /// A leader that takes a follower's vote away.
    Vote,
    /// A leader that takes out a node without a vote.
    Remove,
    /// A new node that takes a lost one's place, or the leader that takes it in.
    Replace,
    /// A proxy that follows its node.
    Follow,
    /// A proxy with an empty disk.
    Empty,
    /// A command that founds a cluster, or the node's first start after it.
    Found,
    /// A record that is begun, or written to by a very large change.
    Record,
    /// `cp-node bootstrap`, from the record.
    Bootstrap,
    /// A cluster that came back from something else than the record goes on with its record.
    Rebase,
    /// Only files that are larger than any in a sweep: swept on a disk without its node (`chaos/tests/it/power_cut.rs`).
    LargeFile,
}

impl Met {
    /// Whether a cluster under load comes by it; otherwise a node by itself does, or none.
    #[must_use]
    pub fn is_in_a_cluster(self) -> bool {
        matches!(
            self,
            Self::Work
                | Self::Behind
                | Self::Stop
                | Self::Vote
                | Self::Remove
                | Self::Replace
                | Self::Follow
                | Self::Empty
        )
    }
}

const fn point(name: &'static str, met: Met, passes_max: u64) -> Point {
    Point { name, met, passes_max }
}

/// All of them, by name.
pub const ALL: &[Point] = &[
    point("archive::after_base", Met::Work, 1),
    point("archive::after_delete", Met::Work, 2),
    point("archive::after_pointer", Met::Work, 5),
    point("archive::after_segment", Met::Work, 5),
    point("archive::before_base", Met::Work, 1),
    point("archive::before_delete", Met::Work, 2),
    point("archive::before_pointer", Met::Work, 5),
    point("archive::before_segment", Met::Work, 5),
    point("bootstrap::after_claim", Met::Bootstrap, 0),
    point("bootstrap::after_end", Met::Bootstrap, 0),
    point("bootstrap::after_part", Met::Bootstrap, 0),
    point("bootstrap::before_begin", Met::Bootstrap, 0),
    point("bootstrap::before_claim", Met::Bootstrap, 0),
    point("bootstrap::between_claims", Met::Bootstrap, 0),
    point("dp::base::after_commit", Met::Empty, 0),
    point("dp::base::before_write", Met::Empty, 0),
    point("dp::cluster::before_write", Met::Empty, 0),
    point("dp::follow::after_publish", Met::Follow, 20),
    point("dp::follow::before_keep", Met::Follow, 20),
    point("dp::follow::before_publish", Met::Follow, 20),
    point("dp::journal::after_sync", Met::Follow, 20),
    point("dp::journal::before_sync", Met::Follow, 20),
    point("dp::journal::before_write", Met::Follow, 20),
    point("dp::journal::begin_before_sync", Met::Empty, 0),
    point("dp::journal::begun", Met::Empty, 0),
    point("dp::key::before_sync", Met::Empty, 0),
    point("durable::after_directory_sync", Met::Work, 2),
    point("durable::before_directory_sync", Met::Work, 2),
    point("durable::before_rename", Met::Work, 2),
    point("durable::before_sync", Met::Work, 2),
    point("feed::after_send", Met::Work, 40),
    point("feed::before_ack", Met::Work, 40),
    point("feed::before_send", Met::Work, 40),
    point("feed::before_welcome", Met::Work, 1),
    point("found::after_claim", Met::Found, 0),
    point("found::after_initialize", Met::Found, 0),
    point("found::before_claim", Met::Found, 0),
    point("found::before_initialize", Met::Found, 0),
    point("handover::after_ask", Met::Stop, 0),
    point("handover::before_ask", Met::Stop, 0),
    point("handover::before_silence", Met::Stop, 0),
    point("join::after_claim", Met::Replace, 0),
    point("join::before_ask", Met::Replace, 0),
    point("join::before_claim", Met::Replace, 0),
    point("log::after_sync", Met::Work, 60),
    point("log::after_tell", Met::Work, 60),
    point("log::before_flush", Met::Work, 60),
    point("log::before_sync", Met::Work, 60),
    point("log::before_tell", Met::Work, 60),
    point("log::before_write", Met::Work, 60),
    point("log::rewrite_after_rename", Met::LargeFile, 0),
    point("log::rewrite_before_rename", Met::LargeFile, 0),
    point("members::after_enrol", Met::Replace, 0),
    point("members::after_learner", Met::Replace, 0),
    point("members::after_remove", Met::Remove, 0),
    point("members::after_voters", Met::Vote, 0),
    point("members::before_enrol", Met::Replace, 0),
    point("members::before_remove", Met::Remove, 0),
    point("members::before_voters", Met::Vote, 0),
    point("record::after_claim", Met::Work, 0),
    point("record::after_rebase", Met::Rebase, 0),
    point("record::after_step", Met::Work, 20),
    point("record::after_tell", Met::Work, 20),
    point("record::before_claim", Met::Work, 0),
    point("record::before_rebase", Met::Rebase, 0),
    point("record::before_step", Met::Work, 20),
    point("record::before_tell", Met::Work, 20),
    point("record::begin_after_commit", Met::Record, 0),
    point("record::begin_before_commit", Met::Record, 0),
    point("record::between_parts", Met::Record, 0),
    point("record::migrate_after_commit", Met::Record, 0),
    point("record::migrate_before_commit", Met::Record, 0),
    point("replica::after_apply", Met::Work, 60),
    point("replica::after_install", Met::Behind, 0),
    point("replica::before_apply", Met::Work, 60),
    point("replica::before_install", Met::Behind, 0),
    point("snapshot::after_commit", Met::Work, 0),
    point("snapshot::before_commit", Met::Work, 0),
];

/// The point of this name.
#[must_use]
pub fn find(name: &str) -> Option<Point> {
    ALL.iter().copied().find(|point| point.name == name)
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        find(&name).ok_or_else(|| D::Error::custom(format!("there is no failpoint {name}: see `chaos sweep --list`")))
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Point, find};

    #[test]
    fn the_points_in_the_source_are_those_that_are_swept() {
        let swept: Vec<&str> = ALL.iter().map(|point| point.name).collect();
        assert_eq!(crate::failpoints::all().unwrap(), swept);
    }

    #[test]
    fn a_point_is_its_name_in_a_schedule() {
        let point = find("record::after_step").unwrap();
        let text = serde_json::to_string(&point).unwrap();
        assert_eq!(text, r#""record::after_step""#);
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point);
        let unknown = serde_json::from_str::<Point>(r#""record::nowhere""#).unwrap_err();
        assert!(unknown.to_string().contains("there is no failpoint record::nowhere"), "{unknown}");
    }
}
