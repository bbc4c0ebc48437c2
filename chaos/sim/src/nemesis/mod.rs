//! Faults, from the seed: links that are cut, one way or both, held or slow; nodes that crash with or without what they
//! had not synced, one or all; nodes that stop in order; proxies that are killed.

mod outside;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use turmoil::Sim;

use crate::check::Checker;
use crate::hosts::{Machine, Platters, Shared};
use crate::outside::Outside;
use crate::plan::{Mutant, Plan};
use crate::random::{below, millis, stream};

/// Plays the faults of one run.
pub(crate) struct Nemesis {
    plan: Plan,
    shared: Shared,
    machines: Vec<Machine>,
    rng: StdRng,
    next: Duration,
    /// Nodes that are down, and until when.
    down: BTreeMap<String, Duration>,
    /// Links that are not as they should be, and until when.
    links: Vec<(Duration, String, String)>,
    now: Duration,
    outside: outside::Faults,
    home: PathBuf,
}

impl Nemesis {
    pub(crate) fn new(plan: &Plan, shared: Shared, machines: Vec<Machine>, outside: Outside, home: PathBuf) -> Self {
        Self {
            plan: plan.clone(),
            shared,
            machines,
            rng: stream(plan.seed, 2),
            next: Duration::ZERO,
            down: BTreeMap::new(),
            links: Vec::new(),
            now: Duration::ZERO,
            outside: outside::Faults::new(plan, outside),
            home,
        }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        below(&mut self.rng, bound)
    }

    fn hosts(&self) -> Vec<String> {
        let nodes = (1..=self.plan.nodes).map(|n| format!("cp{n}"));
        let proxies = (1..=self.plan.proxies).map(|n| format!("dp{n}"));
        nodes.chain(proxies).chain(["clients".to_owned()]).collect()
    }

    fn other_host(&mut self, than: &str) -> String {
        let hosts: Vec<String> = self.hosts().into_iter().filter(|host| host != than).collect();
        let at = usize::try_from(below(&mut self.rng, hosts.len() as u64)).expect("it is below a length");
        hosts[at].clone()
    }

    fn node(&mut self) -> u64 {
        1 + self.draw(self.plan.nodes)
    }

    fn leader(&self) -> Option<u64> {
        let world = self.shared.borrow();
        let leads =
            |inside: &cp_node::node::Inside| inside.raft.metrics().borrow().state == openraft::ServerState::Leader;
        world.nodes.iter().find(|(_, inside)| leads(inside)).map(|(number, _)| *number)
    }

    /// Heals what is due, and does something new when it is time.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        self.now = sim.elapsed();
        self.heal_due(sim, checker, false);
        self.step_outside(sim, checker);
        if self.now < self.next {
            return;
        }
        let calm = u64::try_from(self.plan.calm_max.as_millis()).expect("it is short");
        self.next = self.now + millis(&mut self.rng, 20, calm);
        match self.draw(13) {
            0..=1 => {
                let node = self.node();
                self.crash(sim, checker, node, true);
            }
            2 => {
                let node = self.node();
                self.crash(sim, checker, node, false);
            }
            3..=4 => {
                if let Some(leader) = self.leader() {
                    let power = self.draw(2) == 0;
                    self.crash(sim, checker, leader, power);
                }
            }
            5 => {
                for node in 1..=self.plan.nodes {
                    self.crash(sim, checker, node, true);
                }
                self.happened(checker, "power_cuts_of_all", "");
            }
            6 => {
                let node = format!("cp{}", self.node());
                let other = self.other_host(&node);
                sim.partition(node.as_str(), other.as_str());
                self.broken(checker, "partitions", node, other);
            }
            7 => {
                let node = format!("cp{}", self.node());
                let other = self.other_host(&node);
                let (from, to) = if self.draw(2) == 0 { (node, other) } else { (other, node) };
                sim.partition_oneway(from.as_str(), to.as_str());
                self.broken(checker, "one_way_partitions", from, to);
            }
            8 => {
                let victim = self.leader().unwrap_or(1);
                let victim = format!("cp{victim}");
                let hold = self.draw(2) == 0;
                let until = self.now + millis(&mut self.rng, 100, 2_500);
                for other in self.hosts().into_iter().filter(|host| *host != victim) {
                    if hold {
                        sim.hold(victim.as_str(), other.as_str());
                    } else {
                        sim.partition(victim.as_str(), other.as_str());
                    }
                    self.links.push((until, victim.clone(), other));
                }
                self.happened(checker, "isolations", &victim);
            }
            9 => {
                let node = format!("cp{}", self.node());
                let other = self.other_host(&node);
                sim.hold(node.as_str(), other.as_str());
                self.broken(checker, "held_links", node, other);
            }
            10 => {
                let node = format!("cp{}", self.node());
                let other = self.other_host(&node);
                sim.set_link_max_message_latency(node.as_str(), other.as_str(), Duration::from_millis(250));
                self.broken(checker, "slow_links", node, other);
            }
            11 => {
                let proxy = 1 + self.draw(self.plan.proxies);
                self.kill_proxy(sim, checker, proxy);
            }
            _ => {
                let node = self.node();
                let runs = self.shared.borrow().nodes.contains_key(&node);
                if runs && !self.down.contains_key(&format!("cp{node}")) {
                    self.shared.borrow_mut().stopping.insert(node);
                    let until = self.now + millis(&mut self.rng, 3_000, 6_000);
                    self.down.insert(format!("cp{node}"), until);
                    self.happened(checker, "orderly_stops", &format!("cp{node}"));
                }
            }
        }
    }

    fn happened(&mut self, checker: &mut Checker, what: &str, whom: &str) {
        self.shared.borrow_mut().tally.count(what);
        checker.trace.note(format!("{} {what} {whom}", self.now.as_millis()));
    }

    fn broken(&mut self, checker: &mut Checker, what: &str, from: String, to: String) {
        self.happened(checker, what, &format!("{from} {to}"));
        let until = self.now + millis(&mut self.rng, 50, 3_000);
        self.links.push((until, from, to));
    }

    /// Kills a node; with the power cut, of what it has not synced a random part has made it to the platter.
    fn crash(&mut self, sim: &mut Sim<'_>, checker: &mut Checker, number: u64, power: bool) {
        let host = format!("cp{number}");
        if !self.shared.borrow().nodes.contains_key(&number) {
            return;
        }
        sim.crash(host.as_str());
        if power {
            let keep = usize::try_from(self.draw(4)).expect("it is below 4");
            let machine = self.machines.iter().find(|machine| machine.number == number);
            let machine = machine.expect("every node has a machine");
            machine.platters.borrow().disk.power_cut(keep);
            if self.plan.mutant == Some(Mutant::OldIdNewDisk) {
                machine.platters.replace(Platters::default());
            }
        }
        self.shared.borrow_mut().nodes.remove(&number);
        self.shared.borrow_mut().stopping.remove(&number);
        checker.node_died(number);
        let until = self.now + millis(&mut self.rng, 1, 2_500);
        self.down.insert(host.clone(), until);
        self.happened(checker, if power { "power_cuts" } else { "crashes" }, &host);
    }

    fn kill_proxy(&mut self, sim: &mut Sim<'_>, checker: &mut Checker, number: u64) {
        let host = format!("dp{number}");
        if self.down.contains_key(&host) {
            return;
        }
        sim.crash(host.as_str());
        self.shared.borrow_mut().proxies.remove(&number);
        checker.proxy_died(number);
        let until = self.now + millis(&mut self.rng, 1, 1_500);
        self.down.insert(host.clone(), until);
        self.happened(checker, "proxy_kills", &host);
    }

    fn heal_due(&mut self, sim: &mut Sim<'_>, checker: &mut Checker, all: bool) {
        let due = |until: &Duration| all || *until <= self.now;
        let (healed, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.links).into_iter().partition(|(until, ..)| due(until));
        let up: Vec<String> = self.down.iter().filter(|(_, until)| due(until)).map(|(host, _)| host.clone()).collect();
        self.links = still;
        for (_, from, to) in healed {
            // Another fault may still want this link broken; it heals with the first.
            sim.release(from.as_str(), to.as_str());
            sim.repair(from.as_str(), to.as_str());
            sim.set_link_max_message_latency(from.as_str(), to.as_str(), self.plan.latency_max);
            checker.trace.note(format!("{} healed {from} {to}", self.now.as_millis()));
        }
        for host in up {
            self.down.remove(&host);
            if let Some(number) = host.strip_prefix("cp").and_then(|number| number.parse().ok()) {
                self.shared.borrow_mut().nodes.remove(&number);
                self.shared.borrow_mut().stopping.remove(&number);
                checker.node_died(number);
            }
            sim.bounce(host.as_str());
            checker.trace.note(format!("{} up {host}", self.now.as_millis()));
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        self.now = sim.elapsed();
        self.heal_due(sim, checker, true);
        self.outside.heal();
    }
}
