//! One route of many changes: what the proxy's compiler does for it, beside a table that is built afresh.
//!
//! This is the compiler alone, in this process: evolve the state, compile the change, clone the table as it is published,
//! and let the old one go.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use dp_proxy::table::{Compiler, Table};
use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::{ConfigState, Delta, Entry, ResourceKey};
use serde_json::{Value, json};

use crate::figures::{Results, Times, as_millis, millis};
use crate::lookups;
use crate::process::resident_of;
use crate::propagation::route;

/// How often a table is built afresh.
const FRESH: usize = 5;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many routes there are.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 100_000])]
    routes: Vec<usize>,
    /// Changes at each size.
    #[arg(long, default_value_t = 5_000)]
    changes: usize,
}

pub(crate) fn run(arguments: Arguments) -> Result<Results> {
    let mut results = Results::new(
        "table",
        &["routes", "what", "count", "p50 ms", "p99 ms", "max ms", "afresh / step, p50", "bytes a route"],
    );
    for routes in arguments.routes {
        let (mut state, mut compiler, bytes) = start(routes)?;
        let mut published: Table = compiler.table();
        let [found, missed] = lookups::times(&published, routes)?;
        let (mut steps, mut compiles) = (Vec::new(), Vec::new());
        for number in 0..arguments.changes {
            let id = number.wrapping_mul(7919) % routes;
            let change = change(&state, "routes", &format!("r{id}"), &moved(id, number));
            let changes = vec![change];
            let began = Instant::now();
            let before = state.clone();
            let delta = delta(&state, changes.clone());
            let position = delta.position;
            state.evolve(&delta).context("a change of our own is refused")?;
            let compiling = Instant::now();
            compiler.apply(&before, position, &changes);
            let old = std::mem::replace(&mut published, compiler.table());
            drop(black_box(old));
            compiles.push(compiling.elapsed());
            drop(before);
            steps.push(began.elapsed());
        }
        let mut afresh = Vec::new();
        for _ in 0..FRESH {
            let began = Instant::now();
            let fresh = Compiler::fresh(&state, &BTreeMap::new());
            afresh.push(began.elapsed());
            ensure!(fresh.table().routes() == routes, "a table was built without some of its routes");
            ensure!(routes > 1_000 || fresh.table().dump() == published.dump(), "the tables differ");
        }
        let (steps, compiles, afresh) = (Times::new(steps), Times::new(compiles), Times::new(afresh));
        let ratio = as_millis(afresh.quantile(0.5)) / as_millis(compiles.quantile(0.5)).max(f64::MIN_POSITIVE);
        // Of a small table the allocator's pages are the larger part.
        let bytes = if routes < 10_000 { String::new() } else { (bytes / routes as u64).to_string() };
        for (what, times, ratio, bytes) in [
            ("step: evolve, compile, publish", steps, String::new(), String::new()),
            ("of it compile, publish, let the old one go", compiles, format!("{ratio:.0}"), String::new()),
            ("afresh", afresh, String::new(), bytes),
            ("a look-up", found, String::new(), String::new()),
            ("a look-up that finds nothing", missed, String::new(), String::new()),
        ] {
            results.row(row(routes, what, &times, ratio, bytes));
        }
    }
    Ok(results)
}

fn row(routes: usize, what: &str, times: &Times, ratio: String, bytes: String) -> Vec<String> {
    let at = |share| millis(as_millis(times.quantile(share)));
    vec![routes.to_string(), what.to_owned(), times.count().to_string(), at(0.5), at(0.99), at(1.0), ratio, bytes]
}

/// A configuration of so many routes over one upstream, its compiled form, and the memory that the latter takes.
fn start(routes: usize) -> Result<(ConfigState, Compiler, u64)> {
    let mut state = ConfigState::following();
    let mut changes = vec![change(&state, "upstreams", "a", &json!({ "nodes": { "127.0.0.1:80": 1 } }))];
    changes.extend((0..routes).map(|id| change(&state, "routes", &format!("r{id}"), &route(id))));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    state.evolve(&delta(&state, changes)).context("a configuration of our own is refused")?;
    let before = resident_of("self")?;
    let compiler = Compiler::fresh(&state, &BTreeMap::new());
    Ok((state, compiler, resident_of("self")?.saturating_sub(before)))
}

/// The route elsewhere: another path, so that it leaves its place in the trees and takes a new one.
fn moved(id: usize, number: usize) -> Value {
    let mut route = route(id);
    route["uri"] = format!("/api/v1/things-{id}-{number}/*").into();
    route
}

pub(crate) fn change(state: &ConfigState, kind: &str, id: &str, body: &Value) -> Change {
    let stamp = Stamp { revision: state.position().revision + 1, time: 0 };
    let entry = Entry::new(protocol::json::canonical(body).as_str(), "default", stamp);
    Change { key: ResourceKey::new(kind, id), entry: Some(Arc::new(entry)) }
}

/// What takes a resource away.
pub(crate) fn removal(kind: &str, id: &str) -> Change {
    Change { key: ResourceKey::new(kind, id), entry: None }
}

pub(crate) fn delta(state: &ConfigState, changes: Vec<Change>) -> Delta {
    let digest = state.digest_after(&changes);
    Delta { prev: state.changed_at(), position: state.position().next(), changes, digest, cause: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_row_for_each_size_and_part() {
        let results = run(Arguments { routes: vec![10, 50], changes: 40 }).unwrap();
        let json = results.json();
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(10));
        assert_eq!(json["rows"][5]["count"], "40");
    }
}
