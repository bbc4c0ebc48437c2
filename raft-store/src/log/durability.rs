//! Which entries of a leader are not yet on its own disk.
//!
//! Consensus takes the leader's own entries for written as soon as they are appended (see [`crate::log`]). This keeps the
//! account of what that leaves open, and is asked wherever a committed entry becomes visible.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::types::LogId;

/// The account. Clones share it.
#[derive(Clone, Debug)]
pub struct Durability {
    open: watch::Sender<Open>,
}

/// Appends that the writer has not synced yet, in their order.
#[derive(Debug, Default)]
struct Open {
    appends: VecDeque<Append>,
    next_ticket: u64,
    failed: bool,
}

#[derive(Debug)]
struct Append {
    ticket: u64,
    first: u64,
}

impl Open {
    fn is_safe(&self, index: u64) -> bool {
        self.appends.iter().all(|append| index < append.first)
    }
}

impl Durability {
    pub(super) fn new() -> Self {
        Self { open: watch::Sender::new(Open::default()) }
    }

    /// An account in which everything is safe, for a state machine without a log.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn always() -> Self {
        Self::new()
    }

    /// Entries from `first` on are appended; the ticket goes with them to the writer.
    pub(super) fn begin(&self, first: u64) -> u64 {
        let mut ticket = 0;
        // Nobody waits for something to become unsafe.
        self.open.send_if_modified(|open| {
            ticket = open.next_ticket;
            open.next_ticket += 1;
            open.appends.push_back(Append { ticket, first });
            false
        });
        ticket
    }

    /// The writer has synced everything up to this ticket.
    pub(super) fn synced(&self, ticket: u64) {
        self.open.send_modify(|open| {
            while open.appends.front().is_some_and(|append| append.ticket <= ticket) {
                open.appends.pop_front();
            }
        });
    }

    /// The disk has failed: what is open stays open for ever.
    pub(super) fn fail(&self) {
        self.open.send_modify(|open| open.failed = true);
    }

    /// Waits until the entry at `index` and all before it are on this node's disk. Cancel-safe.
    ///
    /// # Errors
    /// [`DiskFailed`] when that will never be.
    pub async fn wait_safe(&self, index: u64) -> Result<(), DiskFailed> {
        let mut open = self.open.subscribe();
        let settled = open.wait_for(|open| open.failed || open.is_safe(index)).await;
        match settled {
            Ok(open) if open.is_safe(index) => Ok(()),
            _ => Err(DiskFailed),
        }
    }

    /// Whether the entry at `index` and all before it are on this node's disk.
    #[must_use]
    pub fn is_safe(&self, index: u64) -> bool {
        self.open.borrow().is_safe(index)
    }
}

/// The disk has failed; the process is about to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log's disk has failed")]
pub struct DiskFailed;

/// Keeps what one follower is told of the commit index from running ahead of this node's disk.
///
/// A message with entries goes out at once with the last index that was safe; one without entries is there to tell the
/// follower of a commit, and waits for it.
#[derive(Debug)]
pub struct SafeCommit {
    durability: Durability,
    last_safe: Option<LogId>,
}

impl SafeCommit {
    /// For messages to one follower.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        Self { durability, last_safe: None }
    }

    /// What to put into a message in place of `commit`.
    ///
    /// # Errors
    /// [`DiskFailed`] when the message must not go out.
    pub async fn cap(&mut self, commit: Option<LogId>, has_entries: bool) -> Result<Option<LogId>, DiskFailed> {
        let Some(wanted) = commit else { return Ok(None) };
        if !self.durability.is_safe(wanted.index) {
            if has_entries {
                return Ok(self.last_safe);
            }
            self.durability.wait_safe(wanted.index).await?;
        }
        self.last_safe = commit;
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(1, 1), index)
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_safe_when_it_and_all_before_it_are_synced() {
        let durability = Durability::new();
        let (a, b) = (durability.begin(5), durability.begin(7));
        assert!(durability.is_safe(4) && !durability.is_safe(5) && !durability.is_safe(7));
        let wait = |index| tokio::time::timeout(Duration::from_secs(1), durability.wait_safe(index));
        assert!(wait(5).await.is_err(), "still waiting");
        durability.synced(a);
        assert_eq!(wait(6).await, Ok(Ok(())));
        assert!(wait(7).await.is_err(), "still waiting");
        durability.synced(b);
        assert_eq!(wait(7).await, Ok(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_nothing_open_becomes_safe() {
        let durability = Durability::new();
        durability.begin(5);
        durability.fail();
        assert_eq!(durability.wait_safe(5).await, Err(DiskFailed));
        assert_eq!(durability.wait_safe(4).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_never_hears_of_an_unsafe_commit() {
        let durability = Durability::new();
        let mut commit = SafeCommit::new(durability.clone());
        assert_eq!(commit.cap(Some(id(4)), true).await, Ok(Some(id(4))));
        let ticket = durability.begin(5);
        assert_eq!(commit.cap(Some(id(5)), true).await, Ok(Some(id(4))), "entries go out with what is safe");
        let wait = tokio::time::timeout(Duration::from_secs(1), commit.cap(Some(id(5)), false));
        assert!(wait.await.is_err(), "a bare commit waits");
        durability.synced(ticket);
        assert_eq!(commit.cap(Some(id(5)), false).await, Ok(Some(id(5))));
    }
}
