//! Short words for hand-made histories.

use super::Truth;
use crate::history::{At, Call, Event, Found, Frame, FrameKind, Micros, Op, Outcome, Stand, Value};

pub(super) fn breaches(check: fn(&[Event], &Truth) -> Vec<String>, history: &[Event]) -> usize {
    check(history, &Truth::of(history)).len()
}

fn op(call: Call, outcome: Outcome, invoked: Micros, returned: Micros) -> Event {
    Event::Op(Op { client: "c".to_owned(), node: 1, invoked, returned, call, outcome })
}

pub(super) fn done(revision: u64) -> Outcome {
    Outcome::Ok { position: At(1, revision), found: Vec::new() }
}

pub(super) fn transaction(writes: &[(&str, Value)], from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = writes.iter().map(|(key, value)| ((*key).to_owned(), Some(*value))).collect();
    let outcome = revision.map_or(Outcome::Fail { status: 503 }, done);
    op(Call::Write { writes, if_match: None, request: None }, outcome, from, to)
}

pub(crate) fn write(key: &str, value: Value, from: Micros, to: Micros, revision: Option<u64>) -> Event {
    transaction(&[(key, value)], from, to, revision)
}

pub(super) fn unknown(key: &str, value: Value, from: Micros, to: Micros) -> Event {
    let call = Call::Write { writes: vec![(key.to_owned(), Some(value))], if_match: None, request: None };
    op(call, Outcome::Unknown { why: "504".to_owned() }, from, to)
}

pub(super) fn delete(keys: &[&str], from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = keys.iter().map(|key| ((*key).to_owned(), None)).collect();
    let outcome = revision.map_or(Outcome::Unknown { why: "504".to_owned() }, done);
    op(Call::Write { writes, if_match: None, request: None }, outcome, from, to)
}

/// A delete under a condition that nobody has an answer to.
pub(super) fn cas_delete(key: &str, if_match: u64, from: Micros, to: Micros) -> Event {
    let call = Call::Write { writes: vec![(key.to_owned(), None)], if_match: Some(if_match), request: None };
    op(call, Outcome::Unknown { why: "504".to_owned() }, from, to)
}

/// A step of the first node's feed that deletes a key.
pub(super) fn gone(prev: u64, to: u64, key: &str, at: Micros) -> Event {
    let digest = "x".to_owned();
    let changes = vec![(key.to_owned(), None)];
    let kind = FrameKind::Delta { prev: At(1, prev), position: At(1, to), changes, reached: digest.clone(), digest };
    Event::Frame(Frame { node: 1, at, kind })
}

/// A delete that found nothing there.
pub(super) fn nothing_to_delete(key: &str, from: Micros, to: Micros) -> Event {
    let call = Call::Write { writes: vec![(key.to_owned(), None)], if_match: None, request: None };
    op(call, Outcome::Fail { status: 404 }, from, to)
}

pub(super) fn request(key: &str, value: Value, id: &str, from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let call =
        Call::Write { writes: vec![(key.to_owned(), Some(value))], if_match: None, request: Some(id.to_owned()) };
    op(call, revision.map_or(Outcome::Unknown { why: "504".to_owned() }, done), from, to)
}

pub(super) fn cas(key: &str, value: Value, if_match: u64, from: Micros, to: Micros, revision: u64) -> Event {
    let call = Call::Write { writes: vec![(key.to_owned(), Some(value))], if_match: Some(if_match), request: None };
    op(call, done(revision), from, to)
}

pub(super) fn reads(found: &[(&str, Option<(Value, u64)>)], at: u64, stale: bool, from: Micros, to: Micros) -> Event {
    let keys = found.iter().map(|(key, _)| (*key).to_owned()).collect();
    let found =
        found.iter().map(|(key, found)| ((*key).to_owned(), found.map(|(value, modified)| Found { value, modified })));
    let found = found.collect();
    op(Call::Read { keys, stale }, Outcome::Ok { position: At(1, at), found }, from, to)
}

pub(super) fn read(key: &str, found: Option<(Value, u64)>, at: u64, from: Micros, to: Micros) -> Event {
    reads(&[(key, found)], at, false, from, to)
}

pub(super) fn stale(key: &str, found: Option<(Value, u64)>, at: u64, from: Micros, to: Micros) -> Event {
    reads(&[(key, found)], at, true, from, to)
}

/// Somebody is seen at a revision.
pub(super) fn stand_of(who: &str, revision: u64) -> Event {
    let (who, digest) = (who.to_owned(), "x".to_owned());
    Event::Stand(Stand { who, asked: 1, at: 1, position: At(1, revision), digest, term: 0, follows: 1 })
}
