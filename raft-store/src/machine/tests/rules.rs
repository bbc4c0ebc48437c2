//! Single rules.

use super::*;

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

#[test]
fn only_so_many_bytes_of_outcomes_are_remembered_and_a_snapshot_tells_the_same() {
    let mut state = State::new(epoch());
    let one = |i: u32| Written { key: key(u8::try_from(i % 12).unwrap()), how: WrittenHow::Deleted };
    let outcome = Outcome::Done { position: state.config.position(), written: (0..100_000).map(one).collect() };
    let each = codec::encoded_bytes(&outcome) as u64;
    let fits = IDEMPOTENCY_BYTES_MAX / (each + 100);
    for i in 0..fits + 3 {
        let idempotency = Idempotency { key: format!("k{i:02}").into(), fingerprint: [0; 32] };
        state.control.remember_request(&"a".into(), &idempotency, &outcome);
        assert!(state.control.remembered_bytes() <= IDEMPOTENCY_BYTES_MAX);
    }
    let held = state.control.remembered_requests() as u64;
    assert!((fits..fits + 3).contains(&held), "{held} of {fits} that fit");
    let read = ControlState::try_from(ControlRecord::from(&state.control)).unwrap();
    assert_eq!(read, state.control);
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
