//! `?wait=<ms>[&scope=…][&quorum=…]`: an answer that comes when the fleet serves the change.
//!
//! Every node knows the proxies that follow it, and nobody knows all of them. So a node that has to wait asks each member
//! of the cluster, and asks again as long as somebody is missing: nothing is exchanged while nobody waits. Of a proxy that
//! two nodes know, its latest connection counts. What cannot be known (a member that does not answer, or that has started
//! so recently that it may have forgotten somebody) is never taken for good.

mod ask;
mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use ask::{ANSWER_MAX, Asked, HOLD, Heard, newest};
pub(super) use ask::{Whole, whole};
use axum::http::{Method, StatusCode};
use change::{Change, Standing};
use protocol::grpc::Hello;
use protocol::outcome::Written;
use protocol::{Position, ResourceKey};
use raft_store::types::NodeId;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Desk;
use super::answer::Answer;
use super::limits::{NAMED_MAX, WAIT_MILLIS_MAX, WAITS_MAX};
use super::request::{Call, Query, WriteTerms};

/// What a client waits for.
pub(super) struct Wait {
    within: Duration,
    scope: Scope,
    quorum: Quorum,
    /// Its place among those who wait.
    _place: OwnedSemaphorePermit,
}

/// Which proxies count.
#[derive(Clone, PartialEq, Debug, Default)]
struct Scope {
    regions: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// All of them must hold.
    labels: Vec<(String, Option<String>)>,
}

/// How many of them must serve the change.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Quorum {
    Number(usize),
    /// Of a hundred.
    Percent(f64),
}

impl Wait {
    /// Reads what the query asks for, and takes a place among those who wait.
    pub(super) fn read(desk: &Desk, query: &Query) -> Result<Option<Self>, Answer> {
        let Some(text) = query.get("wait") else {
            return match ["scope", "quorum"].into_iter().find(|name| query.get(name).is_some()) {
                Some(name) => Err(Answer::bad(&format!("invalid argument {name}: is for wait=<ms>"))),
                None => Ok(None),
            };
        };
        let millis = text.parse::<u64>().ok().filter(|millis| *millis <= WAIT_MILLIS_MAX);
        let millis = millis.ok_or_else(|| {
            Answer::bad(&format!("invalid argument wait: should be a number of milliseconds up to {WAIT_MILLIS_MAX}"))
        })?;
        let (scope, quorum) = (Scope::read(query)?, Quorum::read(query)?);
        let place = desk.waiting.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            Answer::not_applied(&format!("{WAITS_MAX} requests are waiting for the fleet at this node already"))
        })?;
        Ok(Some(Self { within: Duration::from_millis(millis), scope, quorum, _place: place }))
    }
}

impl Scope {
    fn read(query: &Query) -> Result<Self, Answer> {
        let mut scope = Self::default();
        for part in query.get("scope").unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
            match part.split_once(':') {
                Some(("region", name)) => drop(scope.regions.insert(name.to_owned())),
                Some(("group", name)) => drop(scope.groups.insert(name.to_owned())),
                Some(("label", label)) => scope.labels.push(match label.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (label.to_owned(), None),
                }),
                _ => {
                    return Err(Answer::bad(&format!(
                        "invalid argument scope: {part:?} is none of region:<name>, group:<name> and label:<name>[=<value>]"
                    )));
                }
            }
        }
        Ok(scope)
    }

    fn is_everybody(&self) -> bool {
        *self == Self::default()
    }

    fn takes(&self, proxy: &Hello) -> bool {
        let label = |(name, value): &(String, Option<String>)| {
            proxy.labels.get(name).is_some_and(|is| value.as_ref().is_none_or(|wanted| wanted == is))
        };
        (self.regions.is_empty() || self.regions.contains(&proxy.region))
            && (self.groups.is_empty() || self.groups.contains(&proxy.group))
            && self.labels.iter().all(label)
    }
}

impl Quorum {
    fn read(query: &Query) -> Result<Self, Answer> {
        let Some(text) = query.get("quorum") else { return Ok(Self::Percent(100.0)) };
        let read = match text.strip_suffix('%') {
            Some(share) => share.parse().ok().filter(|share| (0.0..=100.0).contains(share)).map(Self::Percent),
            None => text.parse().ok().map(Self::Number),
        };
        read.ok_or_else(|| {
            Answer::bad("invalid argument quorum: should be a number of proxies, or a share such as 95%")
        })
    }

    /// How many of so many.
    fn of(self, concerned: usize) -> usize {
        match self {
            Self::Number(number) => number,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a fleet is small beside 2^52, and a share of it is not negative"
            )]
            Self::Percent(share) => (concerned as f64 * share / 100.0).ceil() as usize,
        }
    }
}

/// How far the fleet is.
struct Verdict {
    is_served: bool,
    summary: String,
    breakdown: Value,
}

fn judge(change: &Change, scope: &Scope, quorum: Quorum, members: &BTreeSet<NodeId>, heard: &Heard) -> Verdict {
    let proxies = newest(heard);
    let mut unheard = Vec::new();
    for member in members {
        match heard.get(member) {
            Some(Ok(reply)) if reply.forgetful => unheard.push(json!({
                "node_id": member,
                "error": "it has started a short while ago, and may not know of proxies that it lost",
            })),
            Some(Ok(_)) => {}
            Some(Err(error)) => unheard.push(json!({ "node_id": member, "error": error })),
            None => unheard.push(json!({ "node_id": member, "error": "it has not answered yet" })),
        }
    }
    let mut regions: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut behind = Vec::new();
    let (mut concerned, mut serving) = (0, 0);
    for (name, (_, proxy)) in proxies {
        let Some(hello) = &proxy.hello else { continue };
        if !change.groups.contains(&hello.group) || !scope.takes(hello) {
            continue;
        }
        concerned += 1;
        let (standing, reason) = change.standing(proxy);
        *regions.entry(hello.region.clone()).or_default().entry(standing.word()).or_default() += 1;
        if standing == Standing::Serving {
            serving += 1;
        } else {
            behind.push(json!({ "name": name, "region": hello.region, "state": standing.word(), "reason": reason }));
        }
    }
    let wanted = quorum.of(concerned);
    let nobody = concerned == 0 && !scope.is_everybody();
    let is_served = unheard.is_empty() && serving >= wanted && !nobody;
    let unnamed = behind.len().saturating_sub(NAMED_MAX);
    behind.truncate(NAMED_MAX);
    Verdict {
        is_served,
        summary: format!("{serving}/{concerned}"),
        breakdown: json!({
            "position": change.position.to_string(),
            "served": is_served,
            "concerned": concerned,
            "serving": serving,
            "wanted": wanted,
            "regions": regions,
            "proxies": behind,
            "unnamed": unnamed,
            "nodes": unheard,
            "scope_is_empty": nobody,
        }),
    }
}

/// Gives the answer to a write, later or otherwise where its client waits for the fleet.
pub(super) async fn settle(
    desk: &Desk,
    terms: &WriteTerms,
    position: Position,
    written: &[Written],
    answer: Answer,
) -> Answer {
    let Some(wait) = &terms.wait else { return answer };
    let change = Change::new(desk.feed.config(), position, written.iter().map(|written| written.key.clone()).collect());
    let verdict = follow(desk, &change, &wait.scope, wait.quorum, Patience::Until(Instant::now() + wait.within)).await;
    answer.with_fleet(&verdict.summary, (!verdict.is_served).then_some(&verdict.breakdown))
}

/// `GET /v1/revisions/<r>/convergence[?wait=<ms>][&keys=<kind>/<id>,…]`: how far the fleet is with a revision. With `keys`
/// only proxies that reject something about these count as rejecting it.
pub(super) async fn convergence(desk: &Desk, call: &Call, revision: &str) -> Result<Answer, Answer> {
    if call.method != Method::GET {
        return Err(Answer::method_not_offered(call.method.as_str(), "this path"));
    }
    let now = desk.config(call.wants_stale()?).await?.position();
    let revision = revision.parse::<u64>().ok().filter(|revision| *revision <= now.revision);
    let revision = revision.ok_or_else(|| Answer::error(StatusCode::NOT_FOUND, "there is no such revision"))?;
    let position = Position { revision, ..now };
    let (within, scope, quorum) = match Wait::read(desk, &call.query)? {
        Some(wait) => (wait.within, wait.scope.clone(), wait.quorum),
        None => (Duration::ZERO, Scope::default(), Quorum::Percent(100.0)),
    };
    let mut keys = BTreeSet::new();
    for key in call.query.get("keys").unwrap_or_default().split(',').filter(|key| !key.is_empty()) {
        let (kind, id) =
            key.split_once('/').ok_or_else(|| Answer::bad("invalid argument keys: should be <kind>/<id>,…"))?;
        keys.insert(ResourceKey::new(kind, id));
    }
    let change = Change::new(desk.feed.config(), position, keys);
    // Every member is heard once, also by those who do not wait.
    let patience = if within.is_zero() { Patience::Once } else { Patience::Until(Instant::now() + within) };
    let verdict = follow(desk, &change, &scope, quorum, patience).await;
    Ok(Answer::json(StatusCode::OK, verdict.breakdown.to_string()).at(now))
}

/// How long members are asked.
#[derive(Clone, Copy)]
enum Patience {
    /// Until each has answered or failed to.
    Once,
    /// Until then.
    Until(Instant),
}

/// Asks every member until the fleet serves the change, the time is over or this node stops.
async fn follow(desk: &Desk, change: &Change, scope: &Scope, quorum: Quorum, patience: Patience) -> Verdict {
    let until = match patience {
        Patience::Once => Instant::now() + HOLD + ANSWER_MAX,
        Patience::Until(until) => until,
    };
    let mut asked = Asked::all(desk, change.position);
    let mut heard = Heard::new();
    loop {
        let verdict = judge(change, scope, quorum, &asked.members, &heard);
        let enough = matches!(patience, Patience::Once) && heard.len() == asked.members.len();
        if verdict.is_served || enough || Instant::now() >= until || desk.describe.draining.load(Ordering::Relaxed) {
            return verdict;
        }
        if let Some((id, reply)) = asked.next(until).await {
            heard.insert(id, reply);
        }
    }
}

#[cfg(test)]
mod tests;
