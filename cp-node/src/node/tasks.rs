//! Tasks that a node is not whole without.

use std::sync::Arc;
use std::thread;

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Who starts a node's tasks, and learns of those that were lost. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    lost: Arc<watch::Sender<Option<&'static str>>>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self { lost: Arc::new(watch::Sender::new(None)) }
    }

    /// Starts a task that may end, when there is nothing to do for it (any more), and is lost when it panics.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let watched = Watched { lost: self.lost.clone(), name };
        tokio::spawn(async move {
            let _watched = watched;
            work.await;
        })
    }

    /// Starts a task that is lost also when it ends before `stopping` is true.
    pub(crate) fn serve(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
        stopping: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let lost = self.lost.clone();
        self.spawn(name, async move {
            work.await;
            if !*stopping.borrow() {
                lost.send_replace(Some(name));
            }
        })
    }

    /// Waits until a task was lost; its name. Cancel-safe.
    pub(crate) async fn lost(&self) -> &'static str {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.map(|name| *name) {
            Ok(Some(name)) => name,
            // The sender is ours.
            _ => std::future::pending().await,
        }
    }
}

/// Tells of the panic that drops it.
struct Watched {
    lost: Arc<watch::Sender<Option<&'static str>>>,
    name: &'static str,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lost.send_replace(Some(self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn nothing_is_lost(tasks: &Tasks) {
        let lost = tokio::time::timeout(Duration::from_millis(50), tasks.lost()).await;
        assert_eq!(lost.ok(), None);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_lost_and_one_that_is_done_or_dropped_is_not() {
        let tasks = Tasks::new();
        tasks.spawn("done", async {}).await.unwrap();
        tasks.spawn("dropped", std::future::pending()).abort();
        nothing_is_lost(&tasks).await;
        tasks.spawn("panics", async { panic!("as it may") }).await.unwrap_err();
        assert_eq!(tasks.lost().await, "panics");
    }

    #[tokio::test]
    async fn a_listener_that_ends_is_lost_unless_it_was_to_end() {
        let (tasks, stop) = (Tasks::new(), watch::Sender::new(true));
        tasks.serve("stopped", async {}, stop.subscribe()).await.unwrap();
        nothing_is_lost(&tasks).await;
        stop.send_replace(false);
        tasks.serve("broken", async {}, stop.subscribe()).await.unwrap();
        assert_eq!(tasks.lost().await, "broken");
    }
}
