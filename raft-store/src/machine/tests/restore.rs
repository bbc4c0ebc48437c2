//! A cluster that comes back from a snapshot.

use super::*;

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
