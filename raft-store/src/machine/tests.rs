//! The laws of the state machine, over random logs and against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::command::{BasedOn, Draft, Idempotency, Origin, RecordMark, STAGE_PART_BYTES_MAX, StageId};
use protocol::entry::{Claim, Stamp};
use protocol::outcome::{Written, WrittenHow};
use protocol::position::RestoreId;
use protocol::{Kind, ResourceKey, Revision};
use sha2::{Digest, Sha256};

use super::*;

fn epoch() -> Epoch {
    Epoch { number: 1, restore: RestoreId([1; 16]) }
}

fn key(n: u8) -> ResourceKey {
    ResourceKey::new(if n < 6 { "routes" } else { "upstreams" }, &format!("k{n}"))
}

fn draft(body: u8, references: &[u8], claim: Option<u8>, edge: bool) -> Draft {
    let mut references: Vec<_> = references.iter().map(|n| key(6 + n % 6)).collect();
    references.sort();
    references.dedup();
    let mut groups = vec![Text::from("default")];
    if edge {
        groups.push("edge".into());
    }
    Draft {
        body: format!("{{\"n\":{body}}}").into(),
        references,
        claims: claim.map(|c| Claim { space: "s".into(), hash: [c; 32] }).into_iter().collect(),
        groups,
        ttl_seconds: None,
    }
}

fn command(action: Action) -> Command {
    Command {
        origin: None,
        idempotency: None,
        request: "r".into(),
        author: "a".into(),
        time: 1_000,
        based_on: vec![],
        action,
    }
}

fn put(n: u8, draft: Draft) -> Write {
    Write::Put { key: key(n), draft, if_match: None, only_new: false }
}

fn delete(n: u8) -> Write {
    Write::Delete { key: key(n), if_match: None, force: false }
}

fn applied(state: &mut State, command: &Command) -> Effect {
    state.apply(command).unwrap()
}

fn refusal(effect: Effect) -> Rejection {
    match effect.outcome {
        Outcome::Refused { rejection, .. } => rejection,
        other => panic!("not refused: {other:?}"),
    }
}

fn revision(effect: &Effect) -> Revision {
    match &effect.outcome {
        Outcome::Done { position, .. } => position.revision,
        other => panic!("not done: {other:?}"),
    }
}

// === Random commands ===

fn any_draft() -> impl Strategy<Value = Draft> {
    (any::<u8>(), prop::collection::vec(0u8..6, 0..2), prop::option::weighted(0.3, 0u8..3), any::<bool>())
        .prop_map(|(body, references, claim, edge)| draft(body, &references, claim, edge))
}

fn any_write() -> impl Strategy<Value = Write> {
    let matched = || prop::option::weighted(0.2, 1u64..20);
    prop_oneof![
        6 => (0u8..12, any_draft(), matched(), prop::bool::weighted(0.1)).prop_map(|(n, draft, if_match, only_new)| {
            Write::Put { key: key(n), draft, if_match, only_new }
        }),
        3 => (0u8..12, matched(), prop::bool::weighted(0.2)).prop_map(|(n, if_match, force)| {
            Write::Delete { key: key(n), if_match, force }
        }),
        1 => any_draft().prop_map(|draft| Write::Post { kind: Kind::new("upstreams"), draft }),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let stage = |n| StageId { node: 1, boot: 1, number: n };
    prop_oneof![
        8 => any_write().prop_map(Action::Write),
        3 => (prop::collection::vec(any_write(), 0..5), prop::option::weighted(0.2, 0u64..20))
            .prop_map(|(writes, if_revision)| Action::Transaction(Transaction { writes, if_revision })),
        1 => (0u8..12, 1u64..20).prop_map(|(n, modified)| Action::Expire { key: key(n), modified }),
        1 => (0u64..2, 0u32..3, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(move |(n, part, bytes)| Action::StagePart { stage: stage(n), part, bytes }),
        1 => (0u64..2, 0u32..3)
            .prop_map(move |(n, parts)| Action::StageCommit { stage: stage(n), parts, raw_bytes: 9, sha256: [0; 32] }),
        1 => any::<[u8; 16]>().prop_map(|uuid| Action::Enrol { uuid }),
        1 => (0u32..=LEVEL_MAX).prop_map(|to| Action::RaiseLevel { to }),
        1 => any_record_action().prop_map(Action::Record),
        1 => (0u64..3, 0u8..2).prop_map(|(number, n)| Action::RestoreBegin { epoch: Epoch { number, restore: RestoreId([n; 16]) } }),
        1 => (0u8..2, 0u32..3).prop_map(|(n, part)| Action::RestorePart { restore: RestoreId([n; 16]), part, bytes: vec![n] }),
        1 => (0u8..2, 0u32..3)
            .prop_map(|(n, parts)| Action::RestoreEnd { restore: RestoreId([n; 16]), parts, sha256: [0; 32] }),
    ]
}

/// A mark that fits cannot be made up without the state: [`law_the_outbox_holds_what_the_record_lacks`] makes those.
fn any_record_action() -> impl Strategy<Value = RecordAction> {
    prop_oneof![
        4 => Just(RecordAction::On),
        1 => Just(RecordAction::Off),
        1 => Just(RecordAction::Release),
        1 => (0u64..20).prop_map(|revision| RecordAction::Recorded(mark(revision, Chain::default(), 1, 1))),
    ]
}

fn mark(revision: Revision, chain: Chain, timeline: u32, term: u64) -> RecordMark {
    RecordMark { revision, chain, system: 7, timeline, term }
}

fn any_command() -> impl Strategy<Value = Command> {
    let origin = (1u64..3, 1u64..3, 0u64..30, 0u64..10).prop_map(|(node, boot, sequence, below)| Origin {
        node,
        boot,
        sequence,
        answered_below: below.min(sequence),
    });
    let idempotency =
        (0u8..5, 0u8..2).prop_map(|(k, f)| Idempotency { key: format!("k{k}").into(), fingerprint: [f; 32] });
    let based_on = (0u8..12, prop::option::of(1u64..20)).prop_map(|(n, modified)| BasedOn { key: key(n), modified });
    (
        any_action(),
        prop::option::weighted(0.3, origin),
        prop::option::weighted(0.2, idempotency),
        prop::collection::vec(based_on, 0..1),
        any::<u32>(),
    )
        .prop_map(|(action, origin, idempotency, based_on, time)| Command {
            origin,
            idempotency,
            based_on,
            time: u64::from(time),
            ..command(action)
        })
}

fn any_log() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (prop::collection::vec(any_command(), 0..4), 0u64..STAGE_MILLIS)
        .prop_map(|(commands, elapsed_millis)| Batch { elapsed_millis, commands });
    prop::collection::vec(batch, 1..20)
}

// === A naive model of the writes ===

#[derive(Clone, Default)]
struct Model {
    revision: Revision,
    entries: BTreeMap<ResourceKey, (Draft, Stamp, Stamp)>,
}

impl Model {
    /// Whether the writes are accepted; then the model after them.
    fn after(
        &self,
        command: &Command,
        writes: &[Write],
        if_revision: Option<Revision>,
    ) -> Option<(Self, Vec<Written>)> {
        let modified = |key: &ResourceKey| self.entries.get(key).map(|(_, _, modified)| modified.revision);
        if if_revision.is_some_and(|wanted| wanted != self.revision)
            || command.based_on.iter().any(|read| modified(&read.key) != read.modified)
            || writes.is_empty()
        {
            return None;
        }
        let mut next = self.clone();
        next.revision += 1;
        let stamp = Stamp { revision: next.revision, time: command.time };
        let mut seen = BTreeSet::new();
        let mut written = Vec::new();
        let mut forced = BTreeSet::new();
        for write in writes {
            let post = ResourceKey::new("upstreams", &format!("{:020}", next.revision));
            let key = write.key().cloned().unwrap_or(post);
            if !seen.insert(key.clone()) || (write.key().is_none() && writes.len() > 1) {
                return None;
            }
            let (draft, if_match, only_new) = match write {
                Write::Put { draft, if_match, only_new, .. } => (Some(draft), *if_match, *only_new),
                Write::Post { draft, .. } => (Some(draft), None, true),
                Write::Delete { if_match, force, .. } => {
                    modified(&key)?;
                    if *force {
                        forced.insert(key.clone());
                    }
                    (None, *if_match, false)
                }
            };
            if if_match.is_some() && if_match != modified(&key) || only_new && modified(&key).is_some() {
                return None;
            }
            let created = self.entries.get(&key).map(|(_, created, _)| *created);
            let how = match (draft, created) {
                (None, _) => WrittenHow::Deleted,
                (_, None) => WrittenHow::Created { stamp },
                (_, Some(created)) => WrittenHow::Replaced { created, modified: stamp },
            };
            match draft {
                Some(draft) => next.entries.insert(key.clone(), (draft.clone(), created.unwrap_or(stamp), stamp)),
                None => next.entries.remove(&key),
            };
            written.push(Written { key, how });
        }
        next.is_sound(&seen, &forced, self).then_some((next, written))
    }

    /// References and unique values hold, as far as the written keys are concerned.
    fn is_sound(&self, written: &BTreeSet<ResourceKey>, forced: &BTreeSet<ResourceKey>, before: &Self) -> bool {
        for (key, (draft, ..)) in &self.entries {
            for to in &draft.references {
                let concerned = written.contains(key) || written.contains(to) && !forced.contains(to);
                // What dangled before (a forced delete) and is not touched now is nobody's concern.
                let dangled =
                    !written.contains(key) && !before.entries.contains_key(to) && !self.entries.contains_key(to);
                let target = self.entries.get(to);
                let shared = target.is_some_and(|(t, ..)| draft.groups.iter().all(|g| t.groups.contains(g)));
                if concerned && !shared && !dangled {
                    return false;
                }
            }
            if written.contains(key) {
                let others = self.entries.iter().filter(|(other, _)| *other != key);
                if others.flat_map(|(_, (d, ..))| &d.claims).any(|claim| draft.claims.contains(claim)) {
                    return false;
                }
            }
        }
        true
    }
}

fn writes_of(action: &Action) -> Option<(Vec<Write>, Option<Revision>)> {
    match action {
        Action::Write(write) => Some((vec![write.clone()], None)),
        Action::Transaction(transaction) => Some((transaction.writes.clone(), transaction.if_revision)),
        Action::Expire { key, modified } => {
            Some((vec![Write::Delete { key: key.clone(), if_match: Some(*modified), force: false }], None))
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn law_decide_agrees_with_a_naive_model(commands in prop::collection::vec(any_command(), 1..40)) {
        let mut state = State::new(epoch());
        let mut model = Model::default();
        for command in commands {
            let Some((writes, if_revision)) = writes_of(&command.action) else { continue };
            let command = Command { origin: None, idempotency: None, ..command };
            let effect = applied(&mut state, &command);
            match model.after(&command, &writes, if_revision) {
                Some((next, expected)) => {
                    prop_assert!(matches!(&effect.outcome, Outcome::Done { position, written }
                        if position.revision == next.revision && *written == expected), "{:?}", effect.outcome);
                    model = next;
                }
                None => prop_assert!(matches!(effect.outcome, Outcome::Refused { .. }), "{:?}", effect.outcome),
            }
            let held: Vec<_> = state.config.iter().map(|(k, e)| (k.clone(), e.body.clone(), e.created, e.modified)).collect();
            let expected: Vec<_> = model.entries.iter().map(|(k, (d, c, m))| (k.clone(), d.body.clone(), *c, *m)).collect();
            prop_assert_eq!(held, expected);
        }
    }

    #[test]
    fn law_evolving_by_the_deltas_is_applying(log in any_log()) {
        let mut state = State::new(epoch());
        let mut follower = ConfigState::following();
        follower.begin_epoch(epoch());
        for batch in &log {
            let frame = codec::seal(batch).unwrap();
            let mut changes = Vec::new();
            state.apply_entry(&frame, |_, effect| changes.extend(effect.change)).unwrap();
            for change in changes {
                follower.evolve(&change.full).unwrap();
            }
            prop_assert_eq!(&follower, &state.config);
        }
    }

    #[test]
    fn law_the_same_log_gives_the_same_digests(log in any_log(), at in any::<prop::sample::Index>()) {
        let restart_at = at.index(log.len());
        let (mut one, mut other) = (State::new(epoch()), State::new(epoch()));
        for (i, batch) in log.iter().enumerate() {
            if i == restart_at {
                // The other comes back from a snapshot of its control state.
                let stored = codec::seal(&ControlRecord::from(&other.control)).unwrap();
                other.control = ControlState::try_from(codec::open::<ControlRecord>(&stored).unwrap()).unwrap();
                prop_assert_eq!(&other.control, &one.control);
                other.outbox = read_outbox(outbox_section(&other.outbox).unwrap().as_deref()).unwrap();
                prop_assert_eq!(&other.outbox, &one.outbox);
                other.restoring = read_restoring(restoring_section(other.restoring.as_ref()).unwrap().as_deref()).unwrap();
                prop_assert_eq!(&other.restoring, &one.restoring);
            }
            let frame = codec::seal(batch).unwrap();
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            one.apply_entry(&frame, |_, effect| ours.push(effect.outcome)).unwrap();
            other.apply_entry(&frame, |_, effect| theirs.push(effect.outcome)).unwrap();
            prop_assert_eq!(ours, theirs);
            prop_assert_eq!(&one.config, &other.config);
            prop_assert_eq!(one.config.chain(), other.config.chain());
            prop_assert_eq!(one.control_digest(), other.control_digest());
        }
    }

    #[test]
    fn law_a_refused_command_changes_nothing(commands in prop::collection::vec(any_command(), 1..40)) {
        let mut state = State::new(epoch());
        for command in commands {
            let before = state.clone();
            let effect = applied(&mut state, &command);
            if !matches!(effect.outcome, Outcome::Done { .. }) {
                prop_assert_eq!(&state.config, &before.config);
                prop_assert!(effect.change.is_none());
            }
        }
    }

    #[test]
    fn law_a_proposal_that_comes_again_is_answered_and_not_applied(commands in prop::collection::vec(any_command(), 1..40)) {
        let mut state = State::new(epoch());
        for (sequence, command) in (0u64..).zip(commands) {
            let origin = Origin { node: 1, boot: 1, sequence, answered_below: sequence.saturating_sub(3) };
            let command = Command { origin: Some(origin), ..command };
            let first = applied(&mut state, &command);
            let after = state.config.clone();
            let again = applied(&mut state, &command);
            prop_assert_eq!(first.outcome, again.outcome);
            prop_assert!(again.change.is_none());
            prop_assert_eq!(&state.config, &after);
        }
    }
}

// === The outbox ===

/// What a record may do next.
#[derive(Clone, Debug)]
enum Step {
    Change(Box<Command>),
    /// It confirms a part, in percent, of what it lacks.
    Confirm(u64),
    /// It fails over and loses a part, in percent, of what is kept.
    Regress(u64),
    Time(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_write().prop_map(|write| Step::Change(Box::new(command(Action::Write(write))))),
        2 => (0u64..=100).prop_map(Step::Confirm),
        1 => (0u64..=100).prop_map(Step::Regress),
        1 => (0..REGRESSION_MILLIS * 2).prop_map(Step::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn law_the_outbox_holds_what_the_record_lacks(
        early in prop::collection::vec(any_write(), 0..8),
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let mut state = State::new(epoch());
        for write in early {
            applied(&mut state, &command(Action::Write(write)));
        }
        applied(&mut state, &command(Action::Record(RecordAction::On)));
        let start = state.config.position().revision;
        // The record as a model: what it holds of the history, its timeline, and all that ever happened.
        let (mut holds, mut timeline) = (start, 1);
        let mut chains = BTreeMap::from([(start, state.config.chain())]);
        let mut configs = BTreeMap::from([(start, state.config.clone())]);
        for step in steps {
            match step {
                Step::Change(command) => {
                    applied(&mut state, &command);
                    chains.insert(state.config.position().revision, state.config.chain());
                    configs.insert(state.config.position().revision, state.config.clone());
                    continue;
                }
                Step::Confirm(percent) => {
                    // The writer only ever reads on from where the record is.
                    let lacking: Vec<_> = state.outbox.after(holds).cloned().collect();
                    prop_assert_eq!(lacking.first().map(|item| item.delta.position.revision), (holds < state.config.position().revision).then_some(holds + 1));
                    holds += lacking.len() as u64 * percent / 100;
                }
                Step::Regress(percent) => {
                    let base = state.outbox.base().unwrap().position.revision;
                    holds -= (holds - base.min(holds)) * percent / 100;
                    timeline += 1;
                }
                Step::Time(millis) => {
                    state.apply_entry(&codec::seal(&Batch { elapsed_millis: millis, commands: vec![] }).unwrap(), |_, _| {}).unwrap();
                    continue;
                }
            }
            let mark = mark(holds, chains[&holds], timeline, 1);
            let effect = applied(&mut state, &command(Action::Record(RecordAction::Recorded(mark))));
            prop_assert_eq!(effect.outcome, Outcome::Record);
            let head = state.config.position().revision;
            // Everything that is not recorded is there, without a gap, and counted.
            let kept: Vec<u64> = state.outbox.after(holds).map(|item| item.delta.position.revision).collect();
            prop_assert_eq!(kept, (holds + 1..=head).collect::<Vec<_>>());
            prop_assert_eq!(state.outbox.backlog_changes(), head - holds);
            let bytes: u64 = state.outbox.after(holds).map(|item| item.bytes).sum();
            prop_assert_eq!(state.outbox.backlog_bytes(), bytes);
            prop_assert_eq!(state.outbox.bytes(), state.outbox.newest_first().map(|item| item.bytes).sum::<u64>());
            for item in state.outbox.newest_first() {
                prop_assert_eq!(item.chain, chains[&item.delta.position.revision]);
            }
            // The configuration where it begins can be worked out, entry by entry.
            let base = state.outbox.base().unwrap();
            let backlog = crate::backlog::Backlog::of(&state);
            let worked_out = backlog.config_at_base().unwrap();
            prop_assert_eq!(&worked_out, &configs[&base.position.revision]);
        }
    }
}

fn on_with_changes(changes: u8) -> State {
    let mut state = State::new(epoch());
    applied(&mut state, &command(Action::Record(RecordAction::On)));
    for n in 0..changes {
        applied(&mut state, &command(Action::Write(put(0, draft(n, &[], None, false)))));
    }
    state
}

fn say(state: &mut State, mark: RecordMark) -> Outcome {
    applied(state, &command(Action::Record(RecordAction::Recorded(mark)))).outcome
}

#[test]
fn nothing_is_kept_without_a_record() {
    let mut state = State::new(epoch());
    applied(&mut state, &command(Action::Write(put(0, draft(1, &[], None, false)))));
    assert!(!state.outbox.is_on() && state.outbox.bytes() == 0);
    assert_eq!(outbox_section(&state.outbox), Ok(None));
    let mut state = on_with_changes(3);
    assert_eq!(state.outbox.backlog_changes(), 3);
    applied(&mut state, &command(Action::Record(RecordAction::Off)));
    assert!(!state.outbox.is_on() && state.outbox.bytes() == 0);
}

#[test]
fn what_cannot_be_true_of_the_record_is_not_believed() {
    let mut state = on_with_changes(5);
    let chain = |state: &State, revision| state.outbox.chain_at(revision).unwrap();
    let right = mark(3, chain(&state, 3), 2, 4);
    let why = |outcome| match outcome {
        Outcome::Refused { rejection: Rejection::Record { why }, .. } => why.to_string(),
        other => panic!("{other:?}"),
    };
    let foreign = RecordMark { chain: Chain([9; 32]), ..right };
    assert_eq!(why(say(&mut state, foreign)), "revision 3 is not known with this chain");
    assert_eq!(say(&mut state, right), Outcome::Record);
    assert_eq!(why(say(&mut state, RecordMark { term: 3, ..right })), "the leader of term 4 knows better");
    assert_eq!(why(say(&mut state, RecordMark { timeline: 1, ..right })), "its timeline 1 is older than 2");
    assert_eq!(why(say(&mut state, RecordMark { system: 8, ..right })), "it is on another PostgreSQL system");
    assert_eq!(state.outbox.backlog_changes(), 2);
    applied(&mut state, &command(Action::Record(RecordAction::Release)));
    assert_eq!(say(&mut state, RecordMark { system: 8, timeline: 1, ..right }), Outcome::Record, "any will do");
    let regressed = mark(1, chain(&state, 1), 1, 4);
    assert_eq!(say(&mut state, RecordMark { system: 8, ..regressed }), Outcome::Record);
    assert_eq!(state.outbox.backlog_changes(), 4, "what was taken back is owed again");
}

#[test]
fn recorded_changes_go_after_a_while_and_others_never() {
    let mut state = on_with_changes(5);
    let said = mark(3, state.outbox.chain_at(3).unwrap(), 1, 1);
    say(&mut state, said);
    let time = |state: &mut State, millis| {
        let batch = Batch { elapsed_millis: millis, commands: vec![] };
        state.apply_entry(&codec::seal(&batch).unwrap(), |_, _| {}).unwrap();
    };
    time(&mut state, REGRESSION_MILLIS);
    assert_eq!(state.outbox.newest_first().count(), 5, "exactly the window");
    time(&mut state, 1);
    let kept: Vec<u64> = state.outbox.after(0).map(|item| item.delta.position.revision).collect();
    assert_eq!(kept, [4, 5]);
    time(&mut state, REGRESSION_MILLIS * 100);
    assert_eq!(state.outbox.backlog_changes(), 2);
}

#[test]
fn recorded_changes_are_bounded_in_number_and_what_waits_too() {
    let mut outbox = Outbox::default();
    let base = Base { position: State::new(epoch()).config.position(), chain: Chain::default() };
    outbox.turn_on(base);
    let item = |revision| OutboxItem {
        delta: Delta {
            prev: base.position,
            position: Position { revision, ..base.position },
            changes: vec![],
            digest: protocol::Digest::default(),
            cause: None,
        },
        before: vec![],
        chain: Chain::default(),
        bytes: 100,
    };
    let many = REGRESSION_CHANGES_MAX + 10;
    for revision in 1..=many {
        outbox.push(|| item(revision));
    }
    outbox.recorded(&mark(many, Chain::default(), 1, 1), 0).unwrap();
    assert_eq!(outbox.newest_first().count() as u64, REGRESSION_CHANGES_MAX);
    assert_eq!(outbox.base().unwrap().position.revision, 10);
    outbox.push(|| OutboxItem { bytes: BACKLOG_BYTES_MAX - 1, ..item(many + 1) });
    assert_eq!(outbox.check_room(), Ok(()), "one more is taken");
    outbox.push(|| item(many + 2));
    let refused = Rejection::RecordBehind { changes: 2, bytes: BACKLOG_BYTES_MAX + 99 };
    assert_eq!(outbox.check_room(), Err(refused));
    outbox.recorded(&mark(many + 2, Chain::default(), 1, 1), 0).unwrap();
    assert_eq!(outbox.newest_first().count(), 1, "a change over the bound goes as soon as it is recorded");
}

#[test]
fn a_full_backlog_refuses_changes_and_nothing_else() {
    let mut state = on_with_changes(2);
    let huge = OutboxItem { bytes: BACKLOG_BYTES_MAX, ..(**state.outbox.newest_first().next().unwrap()).clone() };
    state.outbox.push(|| huge);
    let write = command(Action::Write(put(0, draft(9, &[], None, false))));
    assert!(matches!(refusal(applied(&mut state, &write)), Rejection::RecordBehind { .. }));
    assert_eq!(applied(&mut state, &command(Action::Enrol { uuid: [1; 16] })).outcome, Outcome::Enrolled { node: 2 });
}

// === Restore ===

/// A snapshot of everything, in parts, and the actions that bring it back.
fn restore_of(state: &State, epoch: Epoch, part_bytes: usize) -> (Command, Vec<Command>, Command) {
    let config = &state.config;
    let header = protocol::snapshot::Header {
        cluster: protocol::snapshot::ClusterId([5; 16]),
        view: None,
        position: config.position(),
        changed_at: config.changed_at(),
        chain: Some(config.chain()),
        digest: config.digest(),
        entries: config.len() as u64,
        level: 1,
        created: 0,
    };
    let mut bytes = Vec::new();
    protocol::snapshot::write(&mut bytes, &header, config, &[], &protocol::snapshot::Unsealed).unwrap();
    let restore = epoch.restore;
    let parts: Vec<Command> = (0u32..)
        .zip(bytes.chunks(part_bytes))
        .map(|(part, bytes)| command(Action::RestorePart { restore, part, bytes: bytes.to_vec() }))
        .collect();
    let (count, sha256) = (u32::try_from(parts.len()).unwrap(), Sha256::digest(&bytes).into());
    let end = command(Action::RestoreEnd { restore, parts: count, sha256 });
    (command(Action::RestoreBegin { epoch }), parts, end)
}

fn lost_cluster() -> State {
    let mut state = State::new(epoch());
    for n in 0..12 {
        applied(&mut state, &command(Action::Write(put(n, draft(n, &[], Some(n), n % 2 == 0)))));
    }
    applied(&mut state, &command(Action::Write(delete(3))));
    state
}

#[test]
fn a_restore_brings_everything_back_under_a_new_epoch_and_only_at_its_end() {
    let lost = lost_cluster();
    let next = Epoch { number: 2, restore: RestoreId([9; 16]) };
    let (begin, parts, end) = restore_of(&lost, next, 100);
    assert!(parts.len() > 3);
    let mut fresh = State::new(Epoch { number: 1, restore: RestoreId([8; 16]) });
    applied(&mut fresh, &command(Action::Record(RecordAction::On)));
    let with_key = Command {
        origin: Some(Origin { node: 1, boot: 1, sequence: 0, answered_below: 0 }),
        idempotency: Some(Idempotency { key: "k".into(), fingerprint: [1; 32] }),
        ..command(Action::Write(put(0, draft(77, &[], None, false))))
    };
    applied(&mut fresh, &with_key);
    assert_eq!(applied(&mut fresh, &begin).outcome, Outcome::Restoring);
    for part in parts.iter().rev() {
        assert_eq!(applied(&mut fresh, part).outcome, Outcome::Restoring);
        assert_eq!(fresh.config.len(), 1, "nothing is visible before the end");
    }
    // It goes on where it was after a snapshot of the control plane.
    fresh.restoring = read_restoring(restoring_section(fresh.restoring.as_ref()).unwrap().as_deref()).unwrap();
    let Outcome::Restored { position } = applied(&mut fresh, &end).outcome else { panic!("not restored") };
    assert_eq!((position.epoch, position.revision), (next, lost.config.position().revision));
    assert_eq!((fresh.config.digest(), fresh.config.chain()), (lost.config.digest(), lost.config.chain()));
    assert!(fresh.config.iter().eq(lost.config.iter()), "with their own metadata");
    assert_eq!(fresh.restoring, None);
    assert_eq!(fresh.control.remembered_requests(), 0);
    assert_eq!(fresh.outbox.base().map(|base| base.position), Some(position));
    assert_eq!(fresh.outbox.backlog_changes(), 0);
    // References, claims, groups and the next revision are as if nothing had happened.
    let claimed = refusal(applied(&mut fresh, &command(Action::Write(put(5, draft(1, &[], Some(4), false))))));
    assert!(matches!(claimed, Rejection::Claimed { .. }), "{claimed}");
    assert_eq!(revision(&applied(&mut fresh, &with_key)), position.revision + 1, "its request is of another life");
    assert_eq!(
        applied(&mut fresh, &begin).outcome,
        Outcome::Refused {
            position: fresh.config.position(),
            rejection: Rejection::Restore { why: "epoch 2 with this restore id has begun already".into() },
        }
    );
    // Readers of the old life take the new one in full.
    let old = lost.config.view("default").changed_at();
    assert_eq!(fresh.config.catch_up("default", old, old), protocol::state::CatchUp::Full);
}

#[test]
fn a_restore_that_is_incomplete_damaged_or_older_is_refused_and_can_go_on() {
    let lost = lost_cluster();
    let next = Epoch { number: 2, restore: RestoreId([9; 16]) };
    let (begin, parts, end) = restore_of(&lost, next, 100);
    let mut fresh = State::new(Epoch { number: 1, restore: RestoreId([8; 16]) });
    let why = |state: &mut State, command: &Command| match refusal(applied(state, command)) {
        Rejection::Restore { why } => why.to_string(),
        other => panic!("{other:?}"),
    };
    let not_begun = "it has not begun, or another one has begun since";
    assert_eq!(why(&mut fresh, &parts[0]), not_begun);
    assert_eq!(why(&mut fresh, &end), not_begun);
    let same = command(Action::RestoreBegin { epoch: Epoch { number: 1, ..next } });
    assert_eq!(why(&mut fresh, &same), "epoch 1 is not above the current one, 1");
    applied(&mut fresh, &begin);
    for part in &parts[1..] {
        applied(&mut fresh, part);
    }
    assert_eq!(why(&mut fresh, &end), format!("{} of {} parts are there", parts.len() - 1, parts.len()));
    let mut damaged = parts[0].clone();
    if let Action::RestorePart { bytes, .. } = &mut damaged.action {
        bytes[9] ^= 1;
    }
    applied(&mut fresh, &damaged);
    assert_eq!(why(&mut fresh, &end), "its parts are not those that were sent");
    assert_eq!(why(&mut fresh, &parts[0]), "a part came twice with other bytes");
    assert!(fresh.config.is_empty());
    // Another attempt begins anew, and takes the place of the first.
    let again = Epoch { number: 2, restore: RestoreId([10; 16]) };
    let (begin, parts, end) = restore_of(&lost, again, 100);
    applied(&mut fresh, &begin);
    for part in parts.iter().chain(&parts) {
        applied(&mut fresh, part);
    }
    applied(&mut fresh, &begin);
    assert!(matches!(applied(&mut fresh, &end).outcome, Outcome::Restored { .. }));
}

// === Single rules ===

#[test]
fn a_forgotten_proposal_is_refused_and_an_earlier_boot_too() {
    let mut state = State::new(epoch());
    let origin = |boot, sequence, below| Some(Origin { node: 1, boot, sequence, answered_below: below });
    let write = |origin| Command { origin, ..command(Action::Write(put(0, draft(1, &[], None, false)))) };
    applied(&mut state, &write(origin(1, 5, 3)));
    assert_eq!(refusal(applied(&mut state, &write(origin(1, 2, 0)))), Rejection::Forgotten);
    assert_eq!(revision(&applied(&mut state, &write(origin(1, 3, 3)))), 2, "not answered yet, so not forgotten");
    assert_eq!(revision(&applied(&mut state, &write(origin(2, 0, 0)))), 3);
    assert_eq!(refusal(applied(&mut state, &write(origin(1, 6, 6)))), Rejection::Forgotten);
}

#[test]
fn a_clients_key_is_remembered_for_a_day_of_log_time() {
    let mut state = State::new(epoch());
    let with = |fingerprint, author: &str| Command {
        idempotency: Some(Idempotency { key: "k".into(), fingerprint: [fingerprint; 32] }),
        author: author.into(),
        ..command(Action::Write(put(0, draft(1, &[], None, false))))
    };
    let first = applied(&mut state, &with(1, "a"));
    assert_eq!(applied(&mut state, &with(1, "a")).outcome, first.outcome);
    assert_eq!(refusal(applied(&mut state, &with(2, "a"))), Rejection::KeyReused { key: "k".into() });
    assert_eq!(revision(&applied(&mut state, &with(2, "b"))), 2, "another author's key is another key");
    state.control.advance(IDEMPOTENCY_MILLIS);
    assert_eq!(applied(&mut state, &with(1, "a")).outcome, first.outcome, "exactly a day");
    state.control.advance(1);
    assert_eq!(revision(&applied(&mut state, &with(2, "a"))), 3, "forgotten");
}

#[test]
fn a_refused_request_is_not_remembered() {
    let mut state = State::new(epoch());
    let with = |write| Command {
        idempotency: Some(Idempotency { key: "k".into(), fingerprint: [1; 32] }),
        ..command(Action::Write(write))
    };
    assert_eq!(refusal(applied(&mut state, &with(delete(0)))), Rejection::NotFound { key: key(0) });
    applied(&mut state, &command(Action::Write(put(0, draft(1, &[], None, false)))));
    assert_eq!(revision(&applied(&mut state, &with(delete(0)))), 2, "the client may try again");
}

#[test]
fn only_so_many_keys_are_remembered() {
    let mut state = State::new(epoch());
    let outcome = Outcome::Staged;
    for i in 0..=IDEMPOTENCY_KEYS_MAX {
        let idempotency = Idempotency { key: format!("k{i}").into(), fingerprint: [0; 32] };
        state.control.remember_request(&"a".into(), &idempotency, &outcome);
    }
    assert_eq!(state.control.remembered_requests(), IDEMPOTENCY_KEYS_MAX);
    let recall = |i: usize| {
        let idempotency = Idempotency { key: format!("k{i}").into(), fingerprint: [0; 32] };
        state.control.recall_request(&"a".into(), &idempotency)
    };
    assert_eq!(recall(0), None, "the oldest went first");
    assert!(recall(1).is_some() && recall(IDEMPOTENCY_KEYS_MAX).is_some());
}

/// The parts of a staged transaction, and its commit.
fn staged(writes: Vec<Write>, number: u64) -> (Vec<Command>, Command) {
    let raw = codec::seal(&Transaction { writes, if_revision: None }).unwrap();
    let whole = codec::compress(&raw);
    let stage = StageId { node: 1, boot: 1, number };
    let parts: Vec<Command> = (0u32..)
        .zip(whole.chunks(STAGE_PART_BYTES_MAX.min(whole.len().div_ceil(3))))
        .map(|(part, bytes)| command(Action::StagePart { stage, part, bytes: bytes.to_vec() }))
        .collect();
    let (count, sha256) = (u32::try_from(parts.len()).unwrap(), Sha256::digest(&whole).into());
    let commit = command(Action::StageCommit { stage, parts: count, raw_bytes: raw.len() as u64, sha256 });
    (parts, commit)
}

#[test]
fn a_staged_transaction_is_one_revision_whatever_the_order_of_its_parts() {
    let mut state = State::new(epoch());
    let writes = vec![put(0, draft(1, &[0], None, false)), put(6, draft(2, &[], None, false))];
    let (parts, commit) = staged(writes, 1);
    assert!(parts.len() > 1);
    for part in parts.iter().rev().chain(&parts[..1]) {
        assert_eq!(applied(&mut state, part).outcome, Outcome::Staged);
    }
    assert!(state.control.staged_bytes() > 0);
    assert_eq!(revision(&applied(&mut state, &commit)), 1);
    assert_eq!((state.config.len(), state.control.staged_bytes()), (2, 0));
    assert!(matches!(refusal(applied(&mut state, &commit)), Rejection::Stage { .. }), "its parts are gone");
}

#[test]
fn an_incomplete_damaged_or_abandoned_stage_is_refused() {
    let writes = || vec![put(6, draft(2, &[], None, false))];
    let why = |state: &mut State, commit: &Command| match refusal(applied(state, commit)) {
        Rejection::Stage { why } => why.to_string(),
        other => panic!("{other:?}"),
    };
    let mut state = State::new(epoch());
    let (parts, commit) = staged(writes(), 1);
    applied(&mut state, &parts[0]);
    assert_eq!(why(&mut state, &commit), format!("1 of {} parts are there", parts.len()));
    for part in &parts {
        applied(&mut state, part);
    }
    state.control.advance(STAGE_MILLIS + 1);
    assert_eq!(why(&mut state, &commit), "its parts are gone");
    for part in &parts {
        applied(&mut state, part);
    }
    let mut damaged = commit.clone();
    if let Action::StageCommit { sha256, .. } = &mut damaged.action {
        sha256[0] ^= 1;
    }
    assert_eq!(why(&mut state, &damaged), "its parts are not those that were sent");
    let mut other = parts[0].clone();
    applied(&mut state, &other);
    if let Action::StagePart { bytes, .. } = &mut other.action {
        bytes[0] ^= 1;
    }
    assert_eq!(why(&mut state, &other), "a part came twice with other bytes");
}

#[test]
fn staged_bytes_are_bounded() {
    let mut state = State::new(epoch());
    let part = |part| {
        let stage = StageId { node: 1, boot: 1, number: 1 };
        command(Action::StagePart { stage, part, bytes: vec![0; STAGE_PART_BYTES_MAX] })
    };
    let fits = u32::try_from(STAGED_BYTES_MAX / STAGE_PART_BYTES_MAX as u64).unwrap();
    for n in 0..fits {
        assert_eq!(applied(&mut state, &part(n)).outcome, Outcome::Staged);
    }
    let Rejection::Stage { why } = refusal(applied(&mut state, &part(fits))) else { panic!("it does not fit") };
    assert_eq!(why, "there is no room for more parts");
}

#[test]
fn a_node_gets_one_id_and_no_id_is_given_twice() {
    let mut state = State::new(epoch());
    let mut enrol = |uuid| applied(&mut state, &command(Action::Enrol { uuid: [uuid; 16] })).outcome;
    assert_eq!(enrol(1), Outcome::Enrolled { node: 2 });
    assert_eq!(enrol(2), Outcome::Enrolled { node: 3 });
    assert_eq!(enrol(1), Outcome::Enrolled { node: 2 });
}

#[test]
fn a_level_that_this_build_does_not_know_halts_it() {
    let mut state = State::new(epoch());
    let halt = state.apply(&command(Action::RaiseLevel { to: LEVEL_MAX + 1 })).unwrap_err();
    assert!(halt.to_string().contains("upgrade this node"), "{halt}");
    assert!(matches!(refusal(applied(&mut state, &command(Action::RaiseLevel { to: 0 }))), Rejection::Level { .. }));
    let mut record = ControlRecord::from(&state.control);
    assert!(ControlState::try_from(record.clone()).is_ok());
    record = {
        let mut control = state.control.clone();
        control.level = LEVEL_MAX + 1;
        ControlRecord::from(&control)
    };
    assert!(ControlState::try_from(record).is_err());
}

#[test]
fn a_reference_must_share_every_group() {
    let mut state = State::new(epoch());
    applied(&mut state, &command(Action::Write(put(6, draft(1, &[], None, false)))));
    let foreign = refusal(applied(&mut state, &command(Action::Write(put(0, draft(1, &[0], None, true))))));
    assert!(matches!(foreign, Rejection::ForeignGroup { ref group, .. } if *group == "edge"), "{foreign}");
    let both = vec![put(6, draft(1, &[], None, true)), put(0, draft(1, &[0], None, true))];
    applied(&mut state, &command(Action::Transaction(Transaction { writes: both, if_revision: None })));
    let leaves = refusal(applied(&mut state, &command(Action::Write(put(6, draft(1, &[], None, false))))));
    assert!(matches!(leaves, Rejection::ForeignGroup { .. }), "{leaves}");
}

#[test]
fn a_forced_delete_leaves_a_reference_that_blocks_nothing_else() {
    let mut state = State::new(epoch());
    let both = vec![put(6, draft(1, &[], None, false)), put(0, draft(1, &[0], None, false))];
    applied(&mut state, &command(Action::Transaction(Transaction { writes: both, if_revision: None })));
    let kept = refusal(applied(&mut state, &command(Action::Write(delete(6)))));
    assert_eq!(kept, Rejection::StillReferenced { key: key(6), by: key(0) });
    let force = Write::Delete { key: key(6), if_match: None, force: true };
    assert_eq!(revision(&applied(&mut state, &command(Action::Write(force)))), 2);
    let again = refusal(applied(&mut state, &command(Action::Write(put(0, draft(2, &[0], None, false))))));
    assert_eq!(again, Rejection::MissingReference { from: key(0), to: key(6) });
    assert_eq!(revision(&applied(&mut state, &command(Action::Write(put(1, draft(1, &[], None, false)))))), 3);
}
