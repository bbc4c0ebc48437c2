//! The laws of a state, over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::delta::Cause;
use crate::entry::Stamp;
use crate::position::{Epoch, RestoreId};

const GROUPS: [&str; 3] = ["default", "edge", "lab"];

/// One commit of a random history: for each key what becomes of it.
type Commit = BTreeMap<u8, Option<Draft>>;

#[derive(Clone, Debug)]
struct Draft {
    body: u8,
    references: Vec<u8>,
    claim: Option<u8>,
    groups: u8,
    ttl: bool,
}

fn key(n: u8) -> ResourceKey {
    ResourceKey::new(if n.is_multiple_of(2) { "routes" } else { "upstreams" }, &format!("k{n}"))
}

fn draft() -> impl Strategy<Value = Draft> {
    (any::<u8>(), prop::collection::btree_set(0u8..12, 0..3), prop::option::of(0u8..4), 1u8..8, any::<bool>()).prop_map(
        |(body, references, claim, groups, ttl)| Draft {
            body,
            references: references.into_iter().collect(),
            claim,
            groups,
            ttl,
        },
    )
}

fn history() -> impl Strategy<Value = Vec<Commit>> {
    let commit = prop::collection::btree_map(0u8..12, prop::option::weighted(0.7, draft()), 1..4);
    prop::collection::vec(commit, 1..24)
}

fn entry(n: u8, draft: &Draft, revision: Revision) -> Arc<Entry> {
    let stamp = Stamp { revision, time: 1000 + revision };
    let mut references: Vec<_> = draft.references.iter().map(|n| key(*n)).collect();
    references.sort();
    Arc::new(Entry {
        body: format!("{{\"n\":{}}}", draft.body).into(),
        references,
        // Spaces are the keys' own, so that random histories never claim one value twice.
        claims: draft.claim.map(|c| Claim { space: format!("s{n}").into(), hash: [c; 32] }).into_iter().collect(),
        groups: GROUPS
            .iter()
            .enumerate()
            .filter(|(i, _)| draft.groups & (1 << i) != 0)
            .map(|(_, g)| (*g).into())
            .collect(),
        created: stamp,
        modified: stamp,
        ttl_seconds: draft.ttl.then_some(9),
    })
}

fn epoch() -> Epoch {
    Epoch { number: 1, restore: RestoreId([1; 16]) }
}

fn start() -> ConfigState {
    let mut state = ConfigState::serving();
    state.begin_epoch(epoch());
    state
}

/// Runs a history: every state, and every full delta that led to the next.
fn run(history: &[Commit]) -> (Vec<ConfigState>, Vec<Delta>) {
    let (states, deltas, _) = run_with_views(history);
    (states, deltas)
}

/// The same, with the steps of the views.
fn run_with_views(history: &[Commit]) -> (Vec<ConfigState>, Vec<Delta>, Vec<BTreeMap<Text, Delta>>) {
    let mut states = vec![start()];
    let mut deltas = Vec::new();
    let mut views = Vec::new();
    for commit in history {
        let before = states.last().unwrap();
        let position = before.position().next();
        let changes: Vec<Change> = commit
            .iter()
            // A removal of what is not there is no change.
            .filter(|(n, draft)| draft.is_some() || before.get(&key(**n)).is_some())
            .map(|(n, draft)| Change { key: key(*n), entry: draft.as_ref().map(|d| entry(*n, d, position.revision)) })
            .collect();
        let mut changes = changes;
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let delta = Delta {
            prev: before.changed_at(),
            position,
            digest: before.digest_after(&changes),
            changes,
            cause: Some(Cause { author: "a".into(), request: "r".into(), time: 7 }),
        };
        let mut after = before.clone();
        views.push(after.evolve(&delta).unwrap().into_iter().collect());
        states.push(after);
        deltas.push(delta);
    }
    (states, deltas, views)
}

/// What a group's members must hold in that state.
fn expected(state: &ConfigState, group: &str) -> Vec<(ResourceKey, Arc<Entry>)> {
    state.iter().filter(|(_, entry)| entry.is_in(group)).map(|(k, e)| (k.clone(), e.clone())).collect()
}

fn held(follower: &ConfigState) -> Vec<(ResourceKey, Arc<Entry>)> {
    follower.iter().map(|(k, e)| (k.clone(), e.clone())).collect()
}

proptest! {
    #[test]
    fn law_the_full_state_is_the_fold_of_its_deltas(history in history()) {
        let (states, deltas) = run(&history);
        let mut replica = start();
        for (state, delta) in states[1..].iter().zip(&deltas) {
            replica.evolve(delta).unwrap();
            prop_assert_eq!(&replica, state);
            prop_assert_eq!(replica.chain(), state.chain());
        }
        let last = states.last().unwrap();
        let rebuilt = ConfigState::from_entries(
            ConfigState::serving(), last.position(), last.changed_at(), last.chain(),
            last.iter().map(|(k, e)| (k.clone(), e.clone())),
        );
        prop_assert_eq!(&rebuilt, last);
        prop_assert_eq!(rebuilt.root().digest(), last.root().digest(), "bucket by bucket");
    }

    #[test]
    fn law_every_view_follows_by_its_own_deltas(history in history()) {
        let (states, _, views) = run_with_views(&history);
        for group in GROUPS {
            let mut follower = ConfigState::following();
            for (after, views) in states[1..].iter().zip(&views) {
                match views.get(group) {
                    Some(delta) => drop(follower.evolve(delta).unwrap()),
                    None => follower.bookmark(after.position()).unwrap(),
                }
                prop_assert_eq!(held(&follower), expected(after, group));
                prop_assert_eq!(follower.digest(), after.view(group).digest().total());
                prop_assert_eq!(follower.position(), after.position());
                prop_assert_eq!(follower.changed_at(), after.view(group).changed_at());
            }
        }
    }

    #[test]
    fn law_catching_up_from_any_position_is_replaying(history in history(), stops in prop::collection::vec(any::<prop::sample::Index>(), 1..5)) {
        let (states, _) = run(&history);
        for group in GROUPS {
            let mut follower = ConfigState::following();
            let mut at: Vec<usize> = stops.iter().map(|stop| stop.index(states.len())).collect();
            at.push(states.len() - 1);
            at.sort_unstable();
            for state in at.into_iter().map(|at| &states[at]) {
                match state.catch_up(group, follower.position(), follower.changed_at()) {
                    CatchUp::Current => follower.bookmark(state.position()).unwrap(),
                    CatchUp::Delta(delta) => {
                        follower.evolve(&delta).unwrap();
                        prop_assert_eq!(state.catch_up(group, follower.position(), follower.changed_at()), CatchUp::Current);
                        follower.bookmark(state.position()).unwrap();
                    }
                    CatchUp::Full => {
                        // Only a reader that has nothing yet comes from another epoch here.
                        prop_assert_eq!(follower.position(), Position::default());
                        let view = state.view(group);
                        follower = ConfigState::from_entries(
                            ConfigState::following(), state.position(), view.changed_at(), Chain::default(), expected(state, group),
                        );
                    }
                    CatchUp::Behind => prop_assert!(false, "nobody is ahead here"),
                }
                prop_assert_eq!(held(&follower), expected(state, group));
                prop_assert_eq!(follower.digest(), state.view(group).digest().total());
            }
        }
    }

    #[test]
    fn the_indexes_are_what_a_scan_finds(history in history()) {
        let (states, _) = run(&history);
        let state = states.last().unwrap();
        for n in 0u8..12 {
            let scanned: Vec<_> = state.iter().filter(|(_, e)| e.references.contains(&key(n))).map(|(k, _)| k).collect();
            prop_assert_eq!(state.referrers(&key(n)).collect::<Vec<_>>(), scanned);
        }
        for (holder, entry) in state.iter() {
            for claim in &entry.claims {
                prop_assert_eq!(state.claimed_by(claim), Some(holder));
            }
        }
        let expiring: Vec<_> = state.iter().filter(|(_, e)| e.ttl_seconds.is_some()).map(|(k, _)| k).collect();
        prop_assert_eq!(state.expiring().collect::<Vec<_>>(), expiring);
        for kind in ["routes", "upstreams", "services"].map(Kind::new) {
            let scanned: Vec<_> = state.iter().filter(|(k, _)| k.kind == kind).collect();
            prop_assert_eq!(state.of_kind(&kind).collect::<Vec<_>>(), scanned);
        }
    }

    #[test]
    fn a_delta_that_does_not_fit_changes_nothing(history in history(), at in any::<prop::sample::Index>()) {
        let (states, deltas) = run(&history);
        let i = at.index(deltas.len());
        let (before, delta) = (&states[i], &deltas[i]);
        let refused = |state: &ConfigState, delta: &Delta| {
            let mut attempt = state.clone();
            let result = attempt.evolve(delta);
            (attempt == *state).then_some(()).expect("a refused delta changes nothing");
            result.unwrap_err()
        };
        let twice = refused(&states[i + 1], delta);
        prop_assert!(matches!(twice, EvolveError::Gap { .. } | EvolveError::NotNewer { .. }), "{twice}");
        let mut other = delta.clone();
        other.digest.0[3] ^= 1;
        let digest = refused(before, &other);
        prop_assert!(matches!(digest, EvolveError::Digest { .. }), "{digest}");
        let mut other = delta.clone();
        other.prev.revision += 1;
        let gap = refused(before, &other);
        prop_assert!(matches!(gap, EvolveError::Gap { .. }), "{gap}");
        let mut other = delta.clone();
        other.position.epoch.restore = RestoreId([9; 16]);
        let epoch = refused(before, &other);
        prop_assert!(matches!(epoch, EvolveError::Epoch(_)), "{epoch}");
    }

    #[test]
    fn a_damaged_follower_is_mended_by_buckets(history in history(), victim in 0u8..12) {
        let (states, _) = run(&history);
        let state = states.last().unwrap();
        let mut entries = expected(state, "default");
        let revision = state.position().revision;
        match entries.iter_mut().find(|(k, _)| *k == key(victim)) {
            Some((_, e)) => *e = entry(victim, &Draft { body: 255, references: vec![], claim: None, groups: 1, ttl: false }, revision),
            None => entries.push((key(victim), entry(victim, &Draft { body: 1, references: vec![], claim: None, groups: 1, ttl: false }, revision))),
        }
        let mut follower = ConfigState::from_entries(
            ConfigState::following(), state.position(), state.view("default").changed_at(), Chain::default(), entries,
        );
        let repair = state.bucket_contents("default", follower.root().digest().buckets());
        prop_assert_eq!(repair.buckets.len(), 1, "one damaged key, one bucket");
        let before = follower.clone();
        let changes = follower.repair(&repair).unwrap();
        prop_assert_eq!(changes.len(), 1);
        prop_assert_eq!(&changes[0].key, &key(victim));
        prop_assert_eq!(held(&follower), expected(state, "default"));
        prop_assert_eq!(follower.changes_since(&before), changes);
        let mut bad = repair.clone();
        bad.digest.0[0] ^= 1;
        let mut follower = before.clone();
        prop_assert!(follower.repair(&bad).is_err() && follower == before);
    }
}

#[test]
fn tombstones_have_a_horizon_and_readers_before_it_get_the_full_state() {
    let mut state = start();
    let step = |state: &mut ConfigState, changes: Vec<Change>| {
        let delta = Delta {
            prev: state.changed_at(),
            position: state.position().next(),
            digest: state.digest_after(&changes),
            changes,
            cause: None,
        };
        state.evolve(&delta).unwrap();
    };
    let draft = Draft { body: 1, references: vec![], claim: None, groups: 1, ttl: false };
    let many = |range: std::ops::Range<usize>| range.map(|i| ResourceKey::new("routes", &format!("r{i:06}")));
    step(
        &mut state,
        many(0..TOMBSTONES_MAX + 10).map(|key| Change { key, entry: Some(entry(0, &draft, 1)) }).collect(),
    );
    step(&mut state, many(0..10).map(|key| Change { key, entry: None }).collect());
    let early = state.clone();
    step(&mut state, many(10..TOMBSTONES_MAX + 9).map(|key| Change { key, entry: None }).collect());
    let view = state.view("default");
    assert_eq!(view.tombstones().count(), TOMBSTONES_MAX);
    assert_eq!(view.horizon(), 2, "a tombstone of revision 2 was forgotten");
    let at = |revision| Position { revision, ..state.position() };
    assert_eq!(state.catch_up("default", at(1), at(1)), CatchUp::Full);
    let CatchUp::Delta(delta) = state.catch_up("default", at(2), at(2)) else { panic!("revision 2 can be served") };
    assert_eq!(delta.changes.len(), TOMBSTONES_MAX - 1);
    assert_eq!(early.catch_up("default", at(3), at(3)), CatchUp::Behind);
}

#[test]
fn a_claim_passes_from_one_resource_to_another_in_one_commit() {
    for (giver, taker) in [(0, 1), (1, 0)] {
        let holding = Draft { body: 1, references: vec![], claim: None, groups: 1, ttl: false };
        let claim = Claim { space: "s".into(), hash: [1; 32] };
        let with_claim = |n: u8, revision| {
            let mut entry = Arc::unwrap_or_clone(entry(n, &holding, revision));
            entry.claims = vec![claim.clone()];
            Some(Arc::new(entry))
        };
        let mut state = start();
        let mut step = |mut changes: Vec<Change>| {
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            let (prev, position, digest) = (state.changed_at(), state.position().next(), state.digest_after(&changes));
            state.evolve(&Delta { prev, position, digest, changes, cause: None }).unwrap();
            state.claimed_by(&claim).cloned()
        };
        step(vec![Change { key: key(giver), entry: with_claim(giver, 1) }]);
        let holder = step(vec![
            Change { key: key(giver), entry: Some(entry(giver, &holding, 2)) },
            Change { key: key(taker), entry: with_claim(taker, 2) },
        ]);
        assert_eq!(holder, Some(key(taker)));
    }
}

#[test]
fn a_view_of_another_group_learns_nothing_of_a_key_it_never_saw() {
    let secret = Draft { body: 1, references: vec![], claim: None, groups: 0b010, ttl: false };
    let public = Draft { body: 1, references: vec![], claim: None, groups: 0b001, ttl: false };
    let history = [BTreeMap::from([(1, Some(secret)), (2, Some(public))]), BTreeMap::from([(1, None)])];
    let (states, _, views) = run_with_views(&history);
    assert_eq!(views[1].keys().collect::<Vec<_>>(), ["edge"]);
    let at = states[1].position();
    assert_eq!(states[2].catch_up("default", at, at), CatchUp::Current);
    let CatchUp::Delta(delta) = states[2].catch_up("edge", at, at) else { panic!("edge saw it go") };
    assert_eq!(delta.changes, [Change { key: key(1), entry: None }]);
}
