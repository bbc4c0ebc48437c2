//! Faults of what stands outside of the cluster, from a source of chance of their own; and the disaster in which nothing
//! but it is left: every node is gone for a while, and a proxy loses its disk.

use std::time::Duration;

use rand::rngs::StdRng;
use turmoil::Sim;

use super::Nemesis;
use crate::check::Checker;
use crate::outside::{Outside, Weather};
use crate::plan::Plan;
use crate::random::{below, millis, stream};

/// How long the cluster is gone in a disaster, in milliseconds.
const GONE: (u64, u64) = (2_500, 4_500);

/// How long a proxy may take, from the beginning of a disaster, to serve what the archive holds.
const FROM_ARCHIVE: Duration = Duration::from_millis(2_000);

/// What is under way.
pub(super) struct Faults {
    outside: Outside,
    rng: StdRng,
    next: Duration,
    calm_max: Duration,
    /// Until when the archive's store is in bad weather.
    bucket: Option<Duration>,
}

impl Faults {
    pub(super) fn new(plan: &Plan, outside: Outside) -> Self {
        let (rng, calm_max) = (stream(plan.seed, 3), plan.outside_calm_max);
        Self { outside, rng, next: Duration::ZERO, calm_max, bucket: None }
    }

    /// Ends every fault.
    pub(super) fn heal(&mut self) {
        self.heal_bucket();
    }

    fn heal_bucket(&mut self) {
        self.bucket = None;
        if let Some(bucket) = &self.outside.bucket {
            bucket.set_weather(Weather::default());
        }
    }

    /// Some faults seldom, some often, or nothing but refusals.
    fn weather(&mut self) -> Weather {
        let rng = &mut self.rng;
        if below(rng, 4) == 0 {
            return Weather { refused: 1_000, ..Weather::default() };
        }
        let mut chance = || [0, 50, 300][usize::try_from(below(rng, 3)).expect("it is below 3")];
        Weather { refused: chance(), lost: chance(), unanswered: chance(), late: chance(), stale: 3 * chance() }
    }
}

impl Nemesis {
    pub(super) fn step_outside(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        if self.outside.bucket.is_some_and(|until| until <= self.now) {
            self.outside.heal_bucket();
        }
        if self.now < self.outside.next {
            return;
        }
        let calm = u64::try_from(self.outside.calm_max.as_millis()).expect("it is short");
        self.outside.next = self.now + millis(&mut self.outside.rng, 100, calm);
        let Some(bucket) = self.outside.outside.bucket.clone() else { return };
        match below(&mut self.outside.rng, 4) {
            0 => self.disaster(sim, checker),
            _ => {
                let weather = self.outside.weather();
                bucket.set_weather(weather);
                self.outside.bucket = Some(self.now + millis(&mut self.outside.rng, 300, 3_000));
                self.happened(checker, "bad_weather_at_the_archive", &format!("{weather:?}"));
            }
        }
    }

    /// Every node loses its power, and a proxy its disk: the archive is all that it has.
    fn disaster(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        let proxy = 1 + below(&mut self.outside.rng, self.plan.proxies);
        let gone = millis(&mut self.outside.rng, GONE.0, GONE.1);
        self.outside.heal_bucket();
        for node in 1..=self.plan.nodes {
            self.crash(sim, checker, node, true);
            // Also one that is only about to run.
            let host = format!("cp{node}");
            sim.crash(host.as_str());
            self.down.insert(host, self.now + gone);
        }
        self.outside.next = self.now + gone;
        self.kill_proxy(sim, checker, proxy);
        let host = format!("dp{proxy}");
        let _ = std::fs::remove_dir_all(self.home.join(&host));
        self.down.insert(host, self.now + Duration::from_millis(10));
        let until = self.now + FROM_ARCHIVE;
        checker.expect_boot_from_archive(proxy, u64::try_from(until.as_millis()).expect("it is soon"));
        self.happened(checker, "disasters", "");
    }
}
