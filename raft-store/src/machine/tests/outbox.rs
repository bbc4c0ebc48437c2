//! What the outbox holds, against a model of a record.

use super::*;

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
