//! Transactions that are too large for one log entry: their parts are staged, then committed under one revision.
//!
//! A part is small enough to cross a slow link within a heartbeat, so that a configuration of a hundred megabytes costs
//! time and no election.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::codec;
use protocol::command::{Action, Command, STAGE_PART_BYTES_MAX, StageId, Transaction, Write};
use protocol::{Outcome, Rejection};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ProposeError, Proposer};

/// What a busy machine decodes, hashes and applies at least, with all nodes of a cluster on its two cores: 5 MiB/s. An idle
/// one does many times that; the bound only decides when a client is told that nothing is known yet.
const APPLY_BYTES_PER_MILLI_MIN: u64 = 5 << 10;

/// Parts under way at once.
const PARTS_UNDER_WAY_MAX: usize = 4;

/// Numbers this process' stages.
static STAGES: AtomicU64 = AtomicU64::new(0);

impl Proposer {
    /// The outcome of a command of any size. `step` is how long each message of it may take: one for a small command, one
    /// per part for a large one.
    ///
    /// # Errors
    /// [`ProposeError`]; while parts are staged nothing is changed, so a failure there is `NotProposed`.
    pub(crate) async fn propose_any_size(&self, command: Command, step: Duration) -> Result<Outcome, ProposeError> {
        if Self::fits(&command) {
            return self.propose(command, Instant::now() + step).await;
        }
        let transaction = match &command.action {
            Action::Write(write) => transaction_of(write.clone()),
            Action::Transaction(transaction) => transaction.clone(),
            other => {
                let reason = format!("a command of this kind never is so large: {other:?}");
                return Err(ProposeError::NotProposed(reason.chars().take(200).collect()));
            }
        };
        let sealing = daemon::blocking::spawn(move || {
            let raw = codec::seal(&transaction)?;
            let whole = codec::compress(&raw);
            let sha256: [u8; 32] = Sha256::digest(&whole).into();
            Ok::<_, codec::CodecError>((raw.len() as u64, whole, sha256))
        });
        let sealed = sealing.await.map_err(|e| ProposeError::NotProposed(e.to_string()))?;
        let (raw_bytes, whole, sha256) = sealed.map_err(|e| ProposeError::NotProposed(e.to_string()))?;
        let (node, boot) = self.boot();
        let stage = StageId { node, boot, number: STAGES.fetch_add(1, Ordering::Relaxed) };
        let mut parts = 0;
        let mut under_way = JoinSet::new();
        for bytes in whole.chunks(STAGE_PART_BYTES_MAX) {
            if under_way.len() == PARTS_UNDER_WAY_MAX {
                staged(under_way.join_next().await)?;
            }
            let part = Command {
                idempotency: None,
                based_on: Vec::new(),
                action: Action::StagePart { stage, part: parts, bytes: bytes.to_vec() },
                ..command_without_action(&command)
            };
            let proposer = self.clone();
            under_way.spawn(async move { proposer.propose(part, Instant::now() + step).await });
            parts += 1;
        }
        while let Some(done) = under_way.join_next().await {
            staged(Some(done))?;
        }
        let commit = Command {
            action: Action::StageCommit { stage, parts, raw_bytes, sha256 },
            ..command_without_action(&command)
        };
        // Applying it takes as long as its size needs, on top of what a small command takes.
        let apply = Duration::from_millis(raw_bytes / APPLY_BYTES_PER_MILLI_MIN);
        self.propose(commit, Instant::now() + step + apply).await
    }
}

/// A part that was not staged ends it all: nothing has changed yet.
fn staged(done: Option<Result<Result<Outcome, ProposeError>, tokio::task::JoinError>>) -> Result<(), ProposeError> {
    match done {
        Some(Ok(Ok(Outcome::Staged))) | None => Ok(()),
        Some(Ok(Ok(Outcome::Refused { rejection: Rejection::Stage { why }, .. }))) => {
            Err(ProposeError::NotProposed(format!("the transaction could not be staged: {why}")))
        }
        Some(Ok(Ok(other))) => Err(ProposeError::NotProposed(format!("a part was answered with {other:?}"))),
        Some(Ok(Err(ProposeError::NotProposed(reason) | ProposeError::Unknown(reason)))) => {
            Err(ProposeError::NotProposed(format!("the transaction could not be staged: {reason}")))
        }
        Some(Err(e)) => Err(ProposeError::NotProposed(e.to_string())),
    }
}

fn transaction_of(write: Write) -> Transaction {
    Transaction { writes: vec![write], if_revision: None }
}

/// Everything of a command but what it does, which may be large.
fn command_without_action(command: &Command) -> Command {
    Command {
        origin: None,
        idempotency: command.idempotency.clone(),
        request: command.request.clone(),
        author: command.author.clone(),
        time: command.time,
        based_on: command.based_on.clone(),
        action: Action::RaiseLevel { to: 0 },
    }
}
