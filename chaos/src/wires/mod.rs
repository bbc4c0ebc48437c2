//! The network between control-plane nodes, between proxies and nodes, and between nodes and what they write to: a wire from
//! each to each, in each direction, that can be cut, slow or lossy. There are two of them: of sockets, which every machine
//! allows, and of namespaces, where kernels themselves resend, give up, and take for open what is not.

mod sockets;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use self::sockets::Sockets;
use crate::namespaces::Namespaces;
use crate::scenario::OfTheHarness;

/// Where a wire ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// A node, for other nodes.
    Node(u16),
    /// A node, for proxies.
    Feed(u16),
    /// A proxy.
    Proxy(u16),
    /// A PostgreSQL that holds the record.
    Record(u16),
    /// The object store.
    Archive,
    /// Whoever is none of them: a command line, a test.
    Other,
}

/// How a wire is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wire {
    /// Nothing arrives.
    pub cut: bool,
    /// How long everything takes.
    pub delay: Duration,
    /// Of a hundred parts, so many are lost once.
    pub lost_of_100: u64,
}

/// All wires of a cluster. They are gone when this is dropped.
#[derive(Debug)]
pub struct Wires(Kind);

#[derive(Debug)]
enum Kind {
    Sockets(Sockets),
    Namespaces(Arc<Namespaces>),
}

impl Wires {
    /// Wires of sockets: none yet.
    #[must_use]
    pub fn of_sockets() -> Self {
        Self(Kind::Sockets(Sockets::default()))
    }

    /// The wires between namespaces: from each to each.
    #[must_use]
    pub fn of_namespaces(namespaces: Arc<Namespaces>) -> Self {
        Self(Kind::Namespaces(namespaces))
    }

    /// Leads whoever dials `listen` to `end` at `target`. In namespaces both are one address, and nothing is to be done.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn add(&mut self, end: End, listen: &str, target: &str) -> Result<()> {
        match &mut self.0 {
            Kind::Sockets(sockets) => sockets.add(end, listen, target).await,
            Kind::Namespaces(_) => Ok(()),
        }
    }

    /// How much has met a wire that was not whole: packets, or parts of what was sent and connections that were not made at
    /// once.
    ///
    /// # Errors
    /// Those of the harness: the kernel does not tell.
    pub async fn met(&self) -> Result<u64> {
        match &self.0 {
            Kind::Sockets(sockets) => Ok(sockets.met()),
            Kind::Namespaces(namespaces) => namespaces.met().await.context(OfTheHarness),
        }
    }

    /// Makes wires so, each from one end to another; all at the same moment.
    ///
    /// # Errors
    /// Those of the harness: this network cannot do it.
    pub async fn set(&self, ways: &[(End, End)], wire: Wire) -> Result<()> {
        match &self.0 {
            Kind::Sockets(sockets) => {
                ways.iter().for_each(|(from, to)| sockets.set(*from, *to, wire));
                Ok(())
            }
            Kind::Namespaces(namespaces) => namespaces.set(ways, wire).await.context(OfTheHarness),
        }
    }

    /// Makes all wires whole again. Links stay as they are.
    ///
    /// # Errors
    /// Those of the harness.
    pub async fn heal(&self) -> Result<()> {
        match &self.0 {
            Kind::Sockets(sockets) => {
                sockets.heal();
                Ok(())
            }
            Kind::Namespaces(namespaces) => namespaces.heal().await.context(OfTheHarness),
        }
    }

    /// Pulls the one cable of a node or a proxy, or puts it in again.
    ///
    /// # Errors
    /// Those of the harness: there are no cables in a network of sockets.
    pub async fn link(&self, end: End, is_up: bool) -> Result<()> {
        match &self.0 {
            Kind::Sockets(_) => Err(anyhow!("a link is lost in namespaces alone").context(OfTheHarness)),
            Kind::Namespaces(namespaces) => namespaces.link(end, is_up).await.context(OfTheHarness),
        }
    }
}
