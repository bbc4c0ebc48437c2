//! Standing aside: the feed leaves the disk and the control plane alone, so that another process of this proxy may have
//! them, and takes them back should that process not come to serve. Traffic goes on with the table in force.

use daemon::blocking;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::{Feed, Follower};

/// Somebody wants the feed to stand aside.
#[derive(Debug)]
pub(super) struct Wish {
    /// Told when it does.
    aside: oneshot::Sender<()>,
    /// Told when it may come back.
    back: oneshot::Receiver<()>,
}

/// A feed that stands aside: until this says otherwise, or for ever when this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Aside {
    back: oneshot::Sender<()>,
}

impl Aside {
    /// Lets the feed take everything back.
    pub(crate) fn come_back(self) {
        // Should its thread be gone, the process ends.
        let _ = self.back.send(());
    }
}

/// Asks a feed to stand aside. Does not keep it running.
#[derive(Clone, Debug)]
pub(crate) struct Stander(mpsc::WeakSender<Wish>);

impl Feed {
    /// What asks it to stand aside.
    pub(crate) fn stander(&self) -> Stander {
        Stander(self.wishes.downgrade())
    }
}

impl Stander {
    /// Lets the feed stand aside; `None` when it has ended. What was put before the disk is on it by then.
    pub(crate) async fn stand_aside(&self) -> Option<Aside> {
        let (aside, standing) = oneshot::channel();
        let (back, wait) = oneshot::channel();
        self.0.upgrade()?.send(Wish { aside, back: wait }).await.ok()?;
        standing.await.ok()?;
        Some(Aside { back })
    }
}

impl Follower {
    /// Gives up the disk, and waits until it may come back.
    pub(super) async fn stand_aside(&mut self, wish: Wish) {
        info!(position = %self.holding.state.position(), "standing aside: another process has the disk and the control plane");
        self.late = None;
        // Its end waits for what was put before it.
        let store = self.store.take();
        // Should it panic, its thread has said so.
        let _ = blocking::spawn(move || drop(store)).await;
        if wish.aside.send(()).is_ok() && wish.back.await.is_err() {
            // This process ends.
            return std::future::pending().await;
        }
        self.come_back().await;
    }

    async fn come_back(&mut self) {
        match self.place.open(true, self.disk.clone(), &*self.random) {
            Ok(opened) => {
                let is_sound = opened.recovered.findings.is_empty() && opened.store.is_some();
                self.store = opened.store;
                // The other process may have gone further before it ended, and the control plane may know.
                if let Some(state) = opened.recovered.state() {
                    self.adopt(state.clone()).await;
                }
                let kept = opened.recovered.state().map(|state| (state.position(), state.digest()));
                let held = (self.holding.state.position(), self.holding.state.digest());
                self.volatile = !(is_sound && kept == Some(held));
            }
            Err(e) => {
                error!(error = %e, "the disk cannot be opened again, nothing will be kept");
                self.volatile = true;
            }
        }
        info!(position = %self.holding.state.position(), "following again");
        self.post();
    }
}
