//! Connections that wait for the next request, per node address and worker.

use std::cell::RefCell;
use std::collections::VecDeque;

use protocol::resource::KeepalivePool;
use tokio::time::Instant;

use super::connection::Connection;
use crate::proxy::link::Secured;
use crate::table::Ticket;

/// A worker's idle connections. The one that was used last is used next: the others may then become old and go.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// By the address's ticket.
    pools: RefCell<Vec<Pool>>,
}

#[derive(Debug, Default)]
struct Pool {
    generation: u32,
    idle: VecDeque<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

impl Pools {
    /// A connection to an address that was made in this way, if one is waiting that is still open.
    pub(crate) fn take(&self, endpoint: Ticket, secured: Option<&Secured>) -> Option<Box<Connection>> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(endpoint.index as usize).filter(|pool| pool.generation == endpoint.generation)?;
        // All of an address are mostly of one kind, so that this looks at the last only.
        while let Some(at) = pool.idle.iter().rposition(|idle| idle.connection.secured.as_ref() == secured) {
            let mut connection = pool.idle.remove(at)?.connection;
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Lets a connection wait, as long as the upstream that used it last allows.
    pub(crate) fn put(&self, endpoint: Ticket, mut connection: Box<Connection>, keepalive: &KeepalivePool) {
        if connection.requests >= keepalive.requests || keepalive.idle_timeout.is_zero() {
            return;
        }
        connection.rest();
        let mut pools = self.pools.borrow_mut();
        let index = endpoint.index as usize;
        if pools.len() <= index {
            pools.resize_with(index + 1, Pool::default);
        }
        let pool = &mut pools[index];
        if pool.generation != endpoint.generation {
            // Another address stood under this number.
            *pool = Pool { generation: endpoint.generation, idle: VecDeque::new() };
        }
        if pool.idle.len() >= keepalive.size as usize {
            pool.idle.pop_front();
        }
        pool.idle.push_back(Idle { connection, until: Instant::now() + keepalive.idle_timeout });
    }

    /// Drops what waited too long or was closed by the other end; gives how many wait.
    pub(crate) fn sweep(&self, now: Instant) -> u64 {
        let mut waiting = 0;
        for pool in self.pools.borrow_mut().iter_mut() {
            pool.idle.retain_mut(|idle| idle.until > now && idle.connection.is_open());
            waiting += pool.idle.len() as u64;
        }
        waiting
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&self) {
        self.pools.borrow_mut().clear();
    }
}
