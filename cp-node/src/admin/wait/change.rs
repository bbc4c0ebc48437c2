//! What clients wait for, and how a proxy stands to it.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use protocol::entry::DEFAULT_GROUP;
use protocol::grpc::{Ack, FleetProxy};
use protocol::{ConfigState, Position, ResourceKey, Text};

use crate::feed::{capability, serves};

/// How far references are followed from a resource that a proxy rejects: a route, its service, its upstream, a certificate.
const REFERENCES_DEPTH_MAX: usize = 4;

/// A proxy that names so many rejected resources may have more of them.
const REJECTED_NAMED_MAX: usize = 256;

/// What is to be served.
pub(super) struct Change {
    pub(super) position: Position,
    /// Empty: any rejected resource counts.
    keys: BTreeSet<ResourceKey>,
    /// What it takes to serve what was written and is there, by group.
    needs: BTreeSet<(Text, String)>,
    pub(super) groups: BTreeSet<String>,
    /// What was written and what this refers to; worked out when a proxy rejects something.
    reach: OnceLock<BTreeSet<ResourceKey>>,
    config: ConfigState,
}

impl Change {
    pub(super) fn new(config: ConfigState, position: Position, keys: BTreeSet<ResourceKey>) -> Self {
        let mut needs = BTreeSet::new();
        for key in &keys {
            let Some(entry) = config.get(key) else { continue };
            let needed = capability::needed(key.kind.as_str(), &entry.body);
            needs.extend(entry.groups.iter().flat_map(|group| needed.iter().map(|need| (group.clone(), need.clone()))));
        }
        // The groups of what is gone are not known any more; every resource of the users is in this one.
        let mut groups: BTreeSet<String> = [DEFAULT_GROUP.to_owned()].into();
        groups.extend(needs.iter().map(|(group, _)| group.to_string()));
        Self { position, keys, needs, groups, reach: OnceLock::new(), config }
    }

    /// These, and everything that they refer to.
    fn reach<'k>(&self, from: impl IntoIterator<Item = &'k ResourceKey>) -> BTreeSet<ResourceKey> {
        let mut level: BTreeSet<ResourceKey> = from.into_iter().cloned().collect();
        let mut all = BTreeSet::new();
        for _ in 0..=REFERENCES_DEPTH_MAX {
            let entries = level.iter().filter_map(|key| self.config.get(key));
            let next = entries.flat_map(|entry| entry.references.iter().cloned()).collect();
            all.append(&mut level);
            level = next;
        }
        all
    }

    /// Whether a resource that a proxy rejects has to do with what was written.
    fn touches(&self, rejected: &ResourceKey) -> bool {
        self.keys.is_empty()
            || self.reach([rejected]).iter().any(|key| self.keys.contains(key))
            || self.reach.get_or_init(|| self.reach(&self.keys)).contains(rejected)
    }

    /// How a proxy stands to it.
    pub(super) fn standing(&self, proxy: &FleetProxy) -> (Standing, String) {
        let ack = proxy.ack.clone().unwrap_or_default();
        let there = |ack: &Ack| serves(Some(&Ack { volatile: false, ..ack.clone() }), self.position);
        let hello = proxy.hello.clone().unwrap_or_default();
        let unknown =
            self.needs.iter().find(|(group, need)| group.as_str() == hello.group && capability::lacks(&hello, need));
        if let Some((_, need)) = unknown {
            return (Standing::TooOld, format!("its version {} does not know {need}", hello.version));
        }
        if !there(&ack) {
            let at = ack.position.and_then(|position| Position::try_from(position).ok());
            let at = at.map_or("has not said what it serves".to_owned(), |at| format!("serves {at}"));
            return match proxy.lost_ms {
                Some(ms) => (Standing::Lost, format!("lost {ms} ms ago, {at}")),
                None => (Standing::Lagging, at),
            };
        }
        if ack.rejected.len() >= REJECTED_NAMED_MAX {
            return (Standing::Rejected, format!("it rejects {} resources, perhaps more", ack.rejected.len()));
        }
        let rejected = ack.rejected.iter().find(|r| self.touches(&ResourceKey::new(&r.kind, &r.id)));
        if let Some(rejected) = rejected {
            return (Standing::Rejected, format!("{}/{}: {}", rejected.kind, rejected.id, rejected.reason));
        }
        if ack.volatile {
            return (Standing::Volatile, "it serves the change, and its disk does not hold it".to_owned());
        }
        (Standing::Serving, String::new())
    }
}

/// How a proxy stands to a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Standing {
    Serving,
    Lagging,
    Lost,
    Rejected,
    Volatile,
    TooOld,
}

impl Standing {
    const ALL: [(Self, &str); 6] = [
        (Self::Serving, "serving"),
        (Self::Lagging, "lagging"),
        (Self::Lost, "lost"),
        (Self::Rejected, "rejected"),
        (Self::Volatile, "volatile"),
        (Self::TooOld, "too_old"),
    ];

    pub(super) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(standing, _)| *standing == self).map_or("", |(_, word)| word)
    }
}
