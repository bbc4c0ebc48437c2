//! Proxies: at committed positions, never back, not even by a restart, serving what they say, and nothing laxer (laws 4, 5, 7,
//! 11).

use std::net::Ipv4Addr;

use dp_proxy::table::{Ask, NoValues, Table};
use protocol::digest::Digest;
use protocol::resource::Method;
use protocol::{Position, ResourceKey};

use super::Checker;
use crate::client::{BROKEN, LAX};
use crate::hosts::World;
use crate::truth::Truth;

#[derive(Default)]
pub(super) struct Seen {
    /// Where it stood last, in this life.
    position: Position,
    /// Where it stood last with its disk holding it.
    kept: Position,
    alive: bool,
}

impl Checker {
    /// A proxy was killed: it may come back no earlier than where its disk was.
    pub(crate) fn proxy_died(&mut self, number: u64) {
        self.archive.proxy_died(number);
        if let Some(seen) = self.proxies.get_mut(&number) {
            seen.alive = false;
        }
    }

    pub(super) fn check_proxies(&mut self, world: &mut World, now_millis: u64) -> Result<(), String> {
        let Self { truth, proxies, trace, .. } = self;
        let truth = truth.as_ref().expect("it is there once a node is");
        for (number, proxy) in &world.proxies {
            let standing = proxy.board.read();
            let position = standing.position;
            let seen = proxies.entry(*number).or_default();
            let floor = if seen.alive { seen.position } else { seen.kept };
            if behind(position, floor) {
                return Err(format!("dp{number} went back from {floor} to {position}"));
            }
            if seen.alive && position == seen.position && standing.volatile {
                continue;
            }
            if position != seen.position || !seen.alive {
                let none = position == Position::default();
                let revision = truth.revisions.get(usize::try_from(position.revision).expect("it fits"));
                let expected = if none { Some(Digest::default()) } else { revision.map(|revision| revision.view) };
                if !none && (position.epoch != truth.epoch() || expected.is_none()) {
                    return Err(format!("dp{number} is at {position}, which was never committed"));
                }
                if !none && expected != Some(standing.digest) {
                    return Err(format!("dp{number} differs from the committed history at {position}"));
                }
                let table = proxy.cell.load();
                if behind(table.position, position) && !none && standing.resources > 0 {
                    // Bookmarks move the position without a new table; what changed in between must be nothing.
                    let changed = (table.position.revision + 1..=position.revision).any(|r| {
                        truth.revisions.get(usize::try_from(r).expect("it fits")).is_some_and(|r| !r.keys.is_empty())
                    });
                    if changed && table.position.epoch == position.epoch {
                        return Err(format!("dp{number} says {position} and serves {}", table.position));
                    }
                }
                let broken = routes_as_it_says(&table, truth);
                let broken = broken.map_err(|e| format!("dp{number} at {}: {e}", table.position))?;
                world.tally.add("broken_routes", broken);
                trace.note(format!("{now_millis} dp{number} at {position}"));
                world.tally.count("proxy_moves");
            }
            seen.alive = true;
            seen.position = position;
            if !standing.volatile {
                seen.kept = position;
            }
        }
        Ok(())
    }
}

/// Every route takes its own path as long as it is there, whether it could be compiled or not; what nobody takes goes to the
/// one that takes everything, where there is one. Gives how many could not.
fn routes_as_it_says(table: &Table, truth: &Truth) -> Result<u64, String> {
    let mut broken = 0;
    if table.position.epoch != truth.epoch() {
        return Ok(broken);
    }
    let at = |id: &str| truth.at(&ResourceKey::new("routes", id), table.position.revision);
    for key in truth.keys().filter(|key| key.kind.as_str() == "routes") {
        let path = format!("/{}", key.id);
        let remote = Ipv4Addr::LOCALHOST.into();
        let ask = Ask { host: "a", path: &path, method: Method::parse("GET"), remote, values: &NoValues };
        let found = table.find(&ask).map(|found| &*found.route.id);
        let expected = [&*key.id, LAX].into_iter().find(|id| at(id).is_some());
        if found != expected {
            return Err(format!("{path} goes to {found:?}, and {expected:?} takes it"));
        }
        broken += u64::from(at(&key.id).is_some_and(|(_, body)| body.contains(BROKEN)));
    }
    Ok(broken)
}

fn behind(position: Position, floor: Position) -> bool {
    (position.epoch.number, position.revision) < (floor.epoch.number, floor.revision)
}
