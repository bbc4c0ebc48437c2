//! Laws over random logs, and against a naive model of the writes.

use super::*;

// === Random commands ===

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
