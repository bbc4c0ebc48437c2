//! The state machine: what a committed command does. Pure and total; the same on every replica, in every build.
//!
//! [`decide`](decide::decide) says what a command changes; [`State::apply`] adds the bookkeeping around it: proposals and
//! requests that come twice are answered from memory, parts are held until their transaction is whole, nodes get ids.
//! It knows no clock (time comes with batches), no disk and no network.

mod control;
mod decide;
mod outbox;
mod record;
mod restore;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use protocol::codec::{self, CodecError};
use protocol::command::{Action, Batch, Command, RecordAction, Transaction, Write};
use protocol::position::RestoreId;
use protocol::{Chain, ConfigState, Delta, Entry, Epoch, Outcome, Position, Rejection, Text};

pub use control::{
    ControlState, IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_MILLIS, STAGE_MILLIS, STAGED_BYTES_MAX,
};
pub use decide::decide;
pub use outbox::{
    BACKLOG_BYTES_MAX, BACKLOG_CHANGES_MAX, Base, ChangeRow, Marked, Op, Outbox, OutboxItem, REGRESSION_BYTES_MAX,
    REGRESSION_CHANGES_MAX, REGRESSION_MILLIS,
};
pub use record::{ControlRecord, RecordError, outbox_section, read_outbox, read_restoring, restoring_section};
pub use restore::{RESTORE_BYTES_MAX, Restoring};

/// The highest level that this build knows. It rises with every release that changes a rule, a command or a canonical
/// form; what a rule does may depend only on the level that the state holds.
pub const LEVEL_MAX: u32 = 1;

/// Everything that the log has made so far.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration.
    pub config: ConfigState,
    /// What only the control plane needs.
    pub control: ControlState,
    /// What the durable record may not have yet.
    pub outbox: Outbox,
    /// A configuration that is being brought back.
    pub restoring: Option<Restoring>,
}

/// What one command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// What its proposer hears.
    pub outcome: Outcome,
    /// What it changed, if anything.
    pub change: Option<Changed>,
}

/// A change of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// All of it, with its cause.
    pub full: Delta,
    /// What each of its changes replaces, in their order.
    pub before: Vec<Option<Arc<Entry>>>,
    /// The chain after it.
    pub chain: Chain,
    /// The part that each gateway group concerned sees.
    pub views: Vec<(Text, Delta)>,
}

/// Why a node must not go on: it would decide differently from others.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Halt {
    /// A log entry does not decode: it is damaged, or a newer build wrote it.
    #[error("a log entry does not decode: {0}")]
    Entry(#[from] CodecError),
    /// The cluster is raised to a level that this build does not know.
    #[error("the cluster is raised to level {to}, this version of holdfast knows up to {LEVEL_MAX}: upgrade this node")]
    Level {
        /// The new level.
        to: u32,
    },
}

impl State {
    /// The state of a cluster before its first entry.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let mut config = ConfigState::serving();
        config.begin_epoch(epoch);
        Self { config, control: ControlState::default(), outbox: Outbox::default(), restoring: None }
    }

    /// Applies everything that a log entry carries.
    ///
    /// # Errors
    /// [`Halt`]: the node must stop. What was applied before is not undone.
    pub fn apply_entry(&mut self, payload: &[u8], mut each: impl FnMut(&Self, Effect)) -> Result<(), Halt> {
        let batch: Batch = codec::open(payload)?;
        self.control.advance(batch.elapsed_millis);
        self.outbox.advance(self.control.time_millis());
        for command in &batch.commands {
            let effect = self.apply(command)?;
            each(self, effect);
        }
        Ok(())
    }

    /// Applies one command.
    ///
    /// # Errors
    /// [`Halt`]: the node must stop.
    pub fn apply(&mut self, command: &Command) -> Result<Effect, Halt> {
        if let Some(origin) = &command.origin
            && let Some(outcome) = self.control.recall_proposal(origin, self.config.position())
        {
            return Ok(Effect { outcome, change: None });
        }
        let effect = self.execute(command)?;
        if let Some(origin) = &command.origin {
            self.control.remember_proposal(origin, &effect.outcome);
        }
        Ok(effect)
    }

    fn execute(&mut self, command: &Command) -> Result<Effect, Halt> {
        if let Some(idempotency) = &command.idempotency
            && let Some(recalled) = self.control.recall_request(&command.author, idempotency)
        {
            if let Action::StageCommit { stage, .. } = &command.action {
                self.control.drop_stage(*stage);
            }
            return Ok(match recalled {
                Ok(outcome) => Effect { outcome, change: None },
                Err(rejection) => self.refuse(rejection),
            });
        }
        let only = |outcome| Effect { outcome, change: None };
        let effect = match &command.action {
            Action::Write(write) => self.change(command, std::slice::from_ref(write), None),
            Action::Transaction(transaction) => self.change(command, &transaction.writes, transaction.if_revision),
            Action::Expire { key, modified } => {
                let delete = Write::Delete { key: key.clone(), if_match: Some(*modified), force: false };
                self.change(command, &[delete], None)
            }
            Action::StagePart { stage, part, bytes } => match self.control.stage(*stage, *part, bytes) {
                Ok(()) => only(Outcome::Staged),
                Err(rejection) => self.refuse(rejection),
            },
            Action::StageCommit { stage, parts, raw_bytes, sha256 } => {
                match self.control.take_stage(*stage, *parts, *raw_bytes, sha256) {
                    Ok(Transaction { writes, if_revision }) => self.change(command, &writes, if_revision),
                    Err(rejection) => self.refuse(rejection),
                }
            }
            Action::Enrol { uuid } => only(Outcome::Enrolled { node: self.control.enrol(*uuid) }),
            Action::RaiseLevel { to } if *to > LEVEL_MAX => return Err(Halt::Level { to: *to }),
            Action::RaiseLevel { to } => match self.control.raise_level(*to) {
                Ok(level) => only(Outcome::Level { level }),
                Err(rejection) => self.refuse(rejection),
            },
            Action::Record(action) => match self.record(action) {
                Ok(()) => only(Outcome::Record),
                Err(rejection) => self.refuse(rejection),
            },
            Action::RestoreBegin { epoch } => {
                match restore::begin(self.config.position(), &mut self.restoring, *epoch) {
                    Ok(()) => only(Outcome::Restoring),
                    Err(rejection) => self.refuse(rejection),
                }
            }
            Action::RestorePart { restore, part, bytes } => {
                match restore::part(&mut self.restoring, *restore, *part, bytes) {
                    Ok(()) => only(Outcome::Restoring),
                    Err(rejection) => self.refuse(rejection),
                }
            }
            Action::RestoreEnd { restore, parts, sha256 } => match self.restore(*restore, *parts, sha256) {
                Ok(position) => only(Outcome::Restored { position }),
                Err(rejection) => self.refuse(rejection),
            },
        };
        if let (Some(idempotency), Outcome::Done { .. }) = (&command.idempotency, &effect.outcome) {
            self.control.remember_request(&command.author, idempotency, &effect.outcome);
        }
        Ok(effect)
    }

    fn record(&mut self, action: &RecordAction) -> Result<(), Rejection> {
        match action {
            RecordAction::On => {
                self.outbox.turn_on(Base { position: self.config.position(), chain: self.config.chain() });
                Ok(())
            }
            RecordAction::Off => {
                self.outbox.turn_off();
                Ok(())
            }
            RecordAction::Recorded(mark) => self.outbox.recorded(mark, self.control.time_millis()),
            RecordAction::Release => self.outbox.release(),
        }
    }

    /// A new life begins with what was brought back. Requests and proposals of the old one are forgotten: what they came
    /// to is not part of the new one.
    fn restore(&mut self, restore: RestoreId, parts: u32, sha256: &[u8; 32]) -> Result<Position, Rejection> {
        let restored = restore::end(self.config.position(), &self.restoring, restore, parts, sha256)?;
        self.config = restored.config;
        self.restoring = None;
        self.control.begin_life(restored.level);
        self.outbox.restart(Base { position: self.config.position(), chain: self.config.chain() });
        Ok(self.config.position())
    }

    fn change(&mut self, command: &Command, writes: &[Write], if_revision: Option<u64>) -> Effect {
        if let Err(rejection) = self.outbox.check_room() {
            return self.refuse(rejection);
        }
        match decide(&self.config, command, writes, if_revision) {
            Ok((written, full)) => {
                let before: Vec<_> = full.changes.iter().map(|change| self.config.get(&change.key).cloned()).collect();
                let evolved = self.config.evolve(&full);
                let views =
                    evolved.expect("a delta that was decided on this state starts from it and names its digest");
                let chain = self.config.chain();
                self.outbox.push(|| OutboxItem::new(full.clone(), before.clone(), chain));
                let outcome = Outcome::Done { position: full.position, written };
                Effect { outcome, change: Some(Changed { full, before, chain, views }) }
            }
            Err(rejection) => self.refuse(rejection),
        }
    }

    fn refuse(&self, rejection: Rejection) -> Effect {
        Effect { outcome: Outcome::Refused { position: self.config.position(), rejection }, change: None }
    }
}
