//! Short words for hand-made histories.

use super::Truth;
use crate::history::{At, Call, Event, Found, Frame, FrameKind, Micros, Op, Outcome, Stand, Value};

pub(super) fn breaches(check: fn(&[Event], &Truth) -> Vec<String>, history: &[Event]) -> usize {
    check(history, &Truth::of(history)).len()
}

fn op(call: Call, outcome: Outcome, invoked: Micros, returned: Micros) -> Event {
    Event::Op(Op { client: "c".to_owned(), node: 1, invoked, returned, call, outcome })
}

fn to_write(writes: Vec<(String, Option<Value>)>) -> Call {
    Call::Write { writes, if_match: None, request: None, patch: false }
}

fn under(revision: u64, call: Call) -> Call {
    let Call::Write { writes, request, patch, .. } = call else { unreachable!("only a write has a condition") };
    Call::Write { writes, if_match: Some(revision), request, patch }
}

pub(super) fn done(revision: u64) -> Outcome {
    Outcome::Ok { position: At(1, revision), found: Vec::new() }
}

pub(super) fn transaction(writes: &[(&str, Value)], from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = writes.iter().map(|(key, value)| ((*key).to_owned(), Some(*value))).collect();
    let outcome = revision.map_or(Outcome::Fail { status: 503 }, done);
    op(to_write(writes), outcome, from, to)
}

pub(crate) fn write(key: &str, value: Value, from: Micros, to: Micros, revision: Option<u64>) -> Event {
    transaction(&[(key, value)], from, to, revision)
}

pub(super) fn unknown(key: &str, value: Value, from: Micros, to: Micros) -> Event {
    op(to_write(vec![(key.to_owned(), Some(value))]), Outcome::Unknown { why: "504".to_owned() }, from, to)
}

pub(super) fn delete(keys: &[&str], from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = keys.iter().map(|key| ((*key).to_owned(), None)).collect();
    let outcome = revision.map_or(Outcome::Unknown { why: "504".to_owned() }, done);
    op(to_write(writes), outcome, from, to)
}

/// A delete under a condition that nobody has an answer to.
pub(super) fn cas_delete(key: &str, if_match: u64, from: Micros, to: Micros) -> Event {
    op(under(if_match, to_write(vec![(key.to_owned(), None)])), Outcome::Unknown { why: "504".to_owned() }, from, to)
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
    op(to_write(vec![(key.to_owned(), None)]), Outcome::Fail { status: 404 }, from, to)
}

pub(super) fn request(key: &str, value: Value, id: &str, from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = vec![(key.to_owned(), Some(value))];
    let call = Call::Write { writes, if_match: None, request: Some(id.to_owned()), patch: false };
    op(call, revision.map_or(Outcome::Unknown { why: "504".to_owned() }, done), from, to)
}

pub(super) fn cas(key: &str, value: Value, if_match: u64, from: Micros, to: Micros, revision: u64) -> Event {
    op(under(if_match, to_write(vec![(key.to_owned(), Some(value))])), done(revision), from, to)
}

/// Values that are merged into what is there.
pub(super) fn patch(writes: &[(&str, Value)], from: Micros, to: Micros, revision: Option<u64>) -> Event {
    let writes = writes.iter().map(|(key, value)| ((*key).to_owned(), Some(*value))).collect();
    let outcome = revision.map_or(Outcome::Unknown { why: "504".to_owned() }, done);
    op(Call::Write { writes, if_match: None, request: None, patch: true }, outcome, from, to)
}

/// A read of a key that was patched.
pub(super) fn patched(key: &str, found: Found, at: u64, from: Micros, to: Micros) -> Event {
    let outcome = Outcome::Ok { position: At(1, at), found: vec![(key.to_owned(), Some(found))] };
    op(Call::Read { keys: vec![key.to_owned()], stale: false }, outcome, from, to)
}

pub(super) fn reads(found: &[(&str, Option<(Value, u64)>)], at: u64, stale: bool, from: Micros, to: Micros) -> Event {
    let keys = found.iter().map(|(key, _)| (*key).to_owned()).collect();
    let found = found.iter().map(|(key, found)| {
        let found = found.map(|(value, modified)| Found { value, modified, put: None });
        ((*key).to_owned(), found)
    });
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
