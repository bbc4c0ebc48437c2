//! Asks for the nodes of services when they are needed and when they are due, and puts in force what DNS says.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::Follower;
use crate::discovery::Found;

/// How long a step waits for services that it is the first to name. Nodes that are found later are put in force then; until
/// that, there are none.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);

impl Follower {
    /// Asks for what the newest entries are the first to name, and waits for it, though not for long.
    pub(super) async fn settle_services(&mut self) {
        let until = Instant::now() + FIRST_WAIT_MAX;
        self.send_for_services();
        while self.compiler.services_mut().awaits_first() {
            match timeout_at(until, self.searches.found.recv()).await {
                Ok(Some(found)) => drop(self.take_found(vec![found])),
                Ok(None) | Err(_) => self.compiler.services_mut().give_up(),
            }
        }
    }

    /// Asks for what is due, and puts in force what was found.
    pub(super) fn tend_services(&mut self) {
        self.send_for_services();
        let mut all = Vec::new();
        while let Ok(found) = self.searches.found.try_recv() {
            all.push(found);
        }
        // Before the first table there is nothing to put them into.
        if self.take_found(all) && *self.live.borrow() {
            info!("services have other nodes");
            self.publish();
            self.post();
        }
    }

    fn send_for_services(&mut self) {
        for service in self.compiler.services_mut().take_orders(Instant::now()) {
            self.searches.send(service);
        }
    }

    fn take_found(&mut self, found: Vec<Found>) -> bool {
        for Found { service, nodes } in &found {
            // Said once: it is asked for again every few seconds.
            if let Err(reason) = nodes
                && !self.compiler.services_mut().is_missing(service)
            {
                warn!(%service, reason, "a service cannot be found: it keeps the nodes that it had");
            }
        }
        self.compiler.learn_services(&self.holding.state, found)
    }
}
