//! Transactions that come in parts.

use super::*;

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
