//! The laws of the state machine, over random logs and against a naive model; and its single rules.

mod laws;
mod outbox;
mod restore;
mod rules;
mod stages;

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

fn mark(revision: Revision, chain: Chain, timeline: u32, term: u64) -> RecordMark {
    RecordMark { revision, chain, system: 7, timeline, term }
}

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
