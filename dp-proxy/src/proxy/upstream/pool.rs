//! Connections that wait for the next request, per node address and worker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protocol::resource::KeepalivePool;
use tokio::time::{Instant, sleep};

use super::connection::Connection;
use crate::proxy::figures::Figures;
use crate::table::Ticket;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

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
    connection: Connection,
    until: Instant,
}

impl Pools {
    /// A connection to an address, if one is waiting that is still open.
    pub(crate) fn take(&self, endpoint: Ticket) -> Option<Connection> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(endpoint.index as usize).filter(|pool| pool.generation == endpoint.generation)?;
        while let Some(idle) = pool.idle.pop_back() {
            if idle.connection.is_open() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Lets a connection wait, as long as the upstream that used it last allows.
    pub(crate) fn put(&self, endpoint: Ticket, mut connection: Connection, keepalive: &KeepalivePool) {
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

    /// Drops what waited too long or was closed by the other end, for ever; tells how many wait.
    pub(crate) async fn sweep(self: Rc<Self>, figures: Arc<Figures>) {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            let mut waiting = 0;
            for pool in self.pools.borrow_mut().iter_mut() {
                pool.idle.retain(|idle| idle.until > now && idle.connection.is_open());
                waiting += pool.idle.len() as u64;
            }
            figures.upstream_idle.set(waiting);
        }
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&self) {
        self.pools.borrow_mut().clear();
    }
}
