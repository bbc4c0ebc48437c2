//! What can go wrong, a file each: how it begins, how it is healed, and what it is called. A fault is data first
//! ([`Fault`], as a schedule's file has it), and becomes a [`Running`] one in an [`Arena`].

mod archive;
mod bury;
mod clock;
mod corrupt;
mod disk;
mod end_at;
mod feed;
mod forge;
mod kill;
mod link;
mod members;
mod network;
mod outside;
mod pause;
mod postgres;
mod power;
mod proxies;
mod replace;
mod rolling;
mod start_proxy;
mod stop;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use crate::arena::Arena;
use crate::luck::Luck;
use crate::network::Network;
use crate::s3;
use crate::sweep::Point;

pub use corrupt::Tear;
pub use start_proxy::Hindrance;

/// On whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// Whoever leads when it begins.
    Leader,
    /// One that does not.
    Follower,
    /// Every node.
    All,
}

/// What nodes write to outside of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// The record's PostgreSQL.
    Record,
    /// The object store.
    Archive,
}

/// In which direction nothing passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// In neither.
    Both,
    /// What nodes send does not arrive.
    There,
    /// What is sent to them does not arrive: it is done, and they do not know.
    Back,
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL; started again at the end.
    Kill {
        /// Whom.
        whom: Whom,
    },
    /// SIGTERM: it stops in order; started again at the end.
    Stop {
        /// Whom.
        whom: Whom,
    },
    /// SIGSTOP; SIGCONT at the end.
    Pause {
        /// Whom.
        whom: Whom,
    },
    /// Nothing to or from it passes between nodes; clients and proxies still reach it.
    Isolate {
        /// Whom.
        whom: Whom,
    },
    /// It hears nobody, and everybody hears it.
    Deaf {
        /// Whom.
        whom: Whom,
    },
    /// Nobody hears it, and it hears everybody.
    Mute {
        /// Whom.
        whom: Whom,
    },
    /// The leader and one follower do not reach each other; the third reaches both.
    Partial,
    /// Everything between nodes takes longer.
    Delay {
        /// By so much.
        ms: u64,
    },
    /// A part of what is sent between nodes is lost once.
    Loss {
        /// Of a hundred parts.
        of_100: u64,
    },
    /// The last proxy and the node that it follows do not reach each other, and nobody ends their connection.
    CutFeed {
        /// The node still hears the proxy.
        one_way: bool,
    },
    /// Nodes and what they write to do not reach each other, and nobody ends their connections.
    CutOutside {
        /// Whom.
        whom: Whom,
        /// From what.
        from: Outside,
        /// In which direction.
        way: Way,
    },
    /// A node's one link is lost, and comes back: it reaches nobody, and nobody reaches it. In namespaces alone.
    LostLink {
        /// Whose.
        whom: Whom,
        /// Its process dies meanwhile, and nobody hears of it: others take connections for open that are not.
        dies: bool,
    },
    /// Proxies are killed, and started while it goes on.
    KillProxies,
    /// No node is left, and proxies are killed and started meanwhile.
    NobodyLeft,
    /// The last proxy dies, and starts while the archive fails it.
    StartProxy {
        /// Its disk is thrown away before.
        emptied: bool,
        /// It reaches no node.
        alone: bool,
        /// How the archive fails it.
        archive: Hindrance,
    },
    /// A proxy is stopped and goes on at the end.
    PauseProxy,
    /// More is deleted than nodes keep tombstones of, while a proxy reaches no node and a reader of a feed is away.
    Bury,
    /// A follower cuts itself off, and proxies lose the node that they follow: the lagging one is what they find first.
    Lagging,
    /// The power goes, of every node at once where it is all: what no sync covered is lost.
    PowerCut {
        /// Whose.
        #[serde(default = "all")]
        whom: Whom,
    },
    /// The leader dies, and the power of every node goes when another one has voted: all that no sync covered is lost.
    VoteCut,
    /// A follower's disk is thrown away; it must not come back as itself.
    Wipe,
    /// A byte of a stopped follower's files is not what it was.
    Flip,
    /// Syncs on one node take longer.
    SlowDisk {
        /// On whom.
        whom: Whom,
        /// By so much.
        ms: u64,
    },
    /// A sync on one node fails.
    FailedSync {
        /// On whom.
        whom: Whom,
    },
    /// Nothing more can be written to one node's disk.
    FullDisk {
        /// On whom.
        whom: Whom,
    },
    /// One node's disk can be read, and nothing about it changed any more.
    ReadOnlyDisk {
        /// On whom.
        whom: Whom,
    },
    /// Every sync of a proxy's disk fails.
    FailedProxySyncs,
    /// A follower's disk is lost for good, and a new node takes its place while the leader dies.
    Replace,
    /// Every node is stopped in order and started again, one after the other.
    Rolling,
    /// A proxy with an empty disk is killed while it writes what it was sent.
    CutProxyWrite,
    /// The wall clock jumps, and is right again at the end.
    ClockStep {
        /// Whose.
        whom: Whom,
        /// By so much, forth or back.
        seconds: i64,
    },
    /// The wall clock is too fast or too slow.
    ClockRate {
        /// Whose.
        whom: Whom,
        /// By so many microseconds each second.
        ppm: i64,
    },
    /// A follower's vote is taken from it while the leader dies.
    Demote,
    /// The object store fails.
    S3 {
        /// With these requests; nothing: with all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<s3::Call>,
        /// How.
        how: s3::Fault,
    },
    /// A newer configuration that nobody who counts has signed is put into the archive, with a pointer to it.
    Forge,
    /// A standby that lacks the last of what the primary has confirmed takes its place.
    FailOverPostgres,
    /// PostgreSQL is killed.
    KillPostgres,
    /// PostgreSQL takes connections and answers nothing.
    FreezePostgres,
    /// A file of a stopped follower is not what it was.
    TearNode {
        /// How.
        tear: Tear,
    },
    /// A file of the last proxy, stopped for it, is not what it was.
    TearProxy {
        /// How.
        tear: Tear,
    },
    /// Programs end at a failpoint; all of them start without it at the end. Needs programs that have failpoints.
    EndAt {
        /// Which.
        point: Point,
    },
}

/// Whom a power cut is of whose schedule does not say so.
fn all() -> Whom {
    Whom::All
}

/// A fault that goes on.
pub trait Running: Send {
    /// Ends it. What it has ended is started again.
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>>;
}

impl Fault {
    /// Begins it.
    ///
    /// # Errors
    /// When it cannot be done to this arena: then the run says nothing.
    pub async fn start(self, arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
        match self {
            Self::Kill { whom } => kill::start(arena, whom, luck).await,
            Self::Stop { whom } => stop::start(arena, whom, luck).await,
            Self::Pause { whom } => pause::start(arena, whom, luck).await,
            Self::Isolate { .. }
            | Self::Deaf { .. }
            | Self::Mute { .. }
            | Self::Partial
            | Self::Delay { .. }
            | Self::Loss { .. } => network::start(arena, self, luck).await,
            Self::CutFeed { one_way } => feed::start(arena, one_way).await,
            Self::CutOutside { whom, from, way } => outside::start(arena, whom, from, way, luck).await,
            Self::LostLink { whom, dies } => link::start(arena, whom, dies, luck).await,
            Self::KillProxies => proxies::kill(arena).await,
            Self::NobodyLeft => proxies::nobody_left(arena).await,
            Self::StartProxy { emptied, alone, archive } => start_proxy::start(arena, emptied, alone, archive).await,
            Self::PauseProxy => proxies::pause(arena),
            Self::Bury => bury::start(arena).await,
            Self::Lagging => network::lagging(arena, luck).await,
            Self::PowerCut { whom } => power::start(arena, whom, luck).await,
            Self::VoteCut => power::after_vote(arena).await,
            Self::Wipe => disk::wipe(arena, luck).await,
            Self::Flip => corrupt::of_node(arena, Tear::Flip, luck).await,
            Self::SlowDisk { whom, ms } => disk::slow(arena, whom, ms, luck).await,
            Self::FailedSync { whom } => disk::failed_sync(arena, whom, luck).await,
            Self::FullDisk { whom } => disk::full(arena, whom, luck).await,
            Self::ReadOnlyDisk { whom } => disk::read_only(arena, whom, luck).await,
            Self::CutProxyWrite => disk::cut_write_of_proxy(arena, luck).await,
            Self::ClockStep { whom, seconds } => clock::set(arena, whom, (seconds, 0), luck).await,
            Self::ClockRate { whom, ppm } => clock::set(arena, whom, (0, ppm), luck).await,
            Self::Demote => members::start(arena, luck).await,
            Self::S3 { call, how } => archive::start(arena, call, how),
            Self::Forge => forge::start(arena, luck).await,
            Self::FailOverPostgres => postgres::fail_over(arena).await,
            Self::FailedProxySyncs => disk::failed_syncs_of_proxy(arena).await,
            Self::Replace => replace::start(arena, luck).await,
            Self::Rolling => rolling::start(arena).await,
            Self::KillPostgres => postgres::kill(arena).await,
            Self::FreezePostgres => postgres::freeze(arena),
            Self::TearNode { tear } => corrupt::of_node(arena, tear, luck).await,
            Self::TearProxy { tear } => corrupt::of_proxy(arena, tear, luck).await,
            Self::EndAt { point } => end_at::start(arena, point, luck).await,
        }
    }

    /// The one network over which it can be made; nothing: over any.
    #[must_use]
    pub fn network(self) -> Option<Network> {
        match self {
            // Kernels without `netem` delay nothing.
            Self::Delay { .. } | Self::StartProxy { archive: Hindrance::Slow, .. } | Self::VoteCut => {
                Some(Network::Sockets)
            }
            Self::LostLink { .. } => Some(Network::Namespaces),
            _ => None,
        }
    }

    /// What it is called in reports.
    #[must_use]
    pub fn describe(self) -> String {
        serde_json::to_string(&self).unwrap_or_default().replace(['{', '}', '"'], "").replace("fault:", "")
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Whom};

    #[test]
    fn a_power_cut_of_a_schedule_that_names_nobody_is_of_all() {
        let read = |text| serde_json::from_str::<Fault>(text).unwrap();
        assert_eq!(read(r#"{"fault":"power_cut"}"#), Fault::PowerCut { whom: Whom::All });
        let one = Fault::PowerCut { whom: Whom::Leader };
        assert_eq!(read(&serde_json::to_string(&one).unwrap()), one);
    }
}
