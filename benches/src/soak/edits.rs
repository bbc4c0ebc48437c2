//! Random edits of the configuration, compiled one by one: now and then the table is held against one built afresh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dp_proxy::table::Compiler;
use protocol::ConfigState;
use protocol::delta::Change;
use serde_json::{Value, json};

use crate::table::{change, delta, removal};

/// How many there may be of each kind.
const ROUTES: u64 = 2_000;
const SERVICES: u64 = 50;
const UPSTREAMS: u64 = 50;

const HOSTS: [&str; 6] = ["a.com", "b.a.com", "*.a.com", "*.com", "x.example", "*.example"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "PURGE"];

/// `xorshift64*`: the same edits for the same seed.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("less than their number")]
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for _ in 0..=self.below(3) {
            path += &format!("/{}", self.one(&["a", "ab", "b", "things", ":id", "v1"]));
        }
        path += self.one(&["", "/", "/*", "*", "/:x"]);
        path
    }

    fn nodes(&mut self) -> Value {
        let nodes =
            (0..=self.below(3)).map(|_| (format!("127.0.0.{}:80", 1 + self.below(9)), json!(1 + self.below(3))));
        nodes.collect::<serde_json::Map<_, _>>().into()
    }

    fn route(&mut self) -> Value {
        let mut body = json!({"uri": self.path(), "priority": self.below(4), "plugins": {}});
        if self.below(2) == 0 {
            body["hosts"] = json!([self.one(&HOSTS)]);
        }
        if self.below(3) == 0 {
            body["methods"] = json!([self.one(&METHODS)]);
        }
        if self.below(5) == 0 {
            body["vars"] = json!([["arg_a", "==", self.below(3).to_string()]]);
        }
        match self.below(3) {
            0 => body["upstream"] = json!({"nodes": self.nodes()}),
            1 => body["upstream_id"] = self.below(UPSTREAMS).to_string().into(),
            _ => body["service_id"] = self.below(SERVICES).to_string().into(),
        }
        body
    }

    /// One edit: most are of routes, a fifth takes something away.
    fn edit(&mut self, state: &ConfigState) -> Change {
        let (kind, id) = match self.below(10) {
            0 => ("upstreams", self.below(UPSTREAMS)),
            1 => ("services", self.below(SERVICES)),
            _ => ("routes", self.below(ROUTES)),
        };
        let id = id.to_string();
        if self.below(5) == 0 {
            return removal(kind, &id);
        }
        let body = match kind {
            "upstreams" => json!({"nodes": self.nodes()}),
            "services" if self.below(2) == 0 => {
                json!({"hosts": [self.one(&HOSTS)], "upstream": {"nodes": self.nodes()}})
            }
            "services" => json!({"upstream_id": self.below(UPSTREAMS).to_string()}),
            _ => self.route(),
        };
        change(state, kind, &id, &body)
    }
}

pub(super) fn run(edits: u64, afresh_every: u64, seed: u64) -> Result<String> {
    ensure!(seed > 0 && afresh_every > 0, "a seed and a distance of at least 1");
    let mut draws = Draws(seed);
    let mut state = ConfigState::following();
    let mut compiler = Compiler::fresh(&state, &BTreeMap::new());
    let mut compiling = Duration::ZERO;
    let mut compared = 0;
    for number in 1..=edits {
        let changes = vec![draws.edit(&state)];
        let before = state.clone();
        let delta = delta(&state, changes.clone());
        state.evolve(&delta).context("an edit of our own is refused")?;
        let began = Instant::now();
        compiler.apply(&before, delta.position, &changes);
        compiling += began.elapsed();
        if number % afresh_every == 0 || number == edits {
            let afresh = Compiler::fresh(&state, &BTreeMap::new());
            let same = afresh.table().dump() == compiler.table().dump();
            ensure!(same, "after {number} edits (seed {seed}) the table is another than one built afresh");
            compared += 1;
        }
    }
    let routes = compiler.table().routes();
    let each = compiling.as_secs_f64() * 1e6 / edits.max(1) as f64;
    Ok(format!(
        "{edits} edits, {routes} routes at the end, {compared} times the same as afresh; {each:.1} us to compile one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_edits_make_the_table_that_is_built_afresh() {
        let held = run(1_000, 50, 7).unwrap();
        assert!(held.starts_with("1000 edits, ") && held.contains(" 20 times the same"), "{held}");
    }
}
