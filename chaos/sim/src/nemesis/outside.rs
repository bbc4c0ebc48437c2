//! Faults of what stands outside of the cluster, from sources of chance of their own; and the disaster in which nothing
//! but the archive is left: every node is gone for a while, and a proxy loses its disk.

use std::time::Duration;

use rand::rngs::StdRng;
use turmoil::Sim;

use super::Nemesis;
use crate::check::Checker;
use crate::outside::postgres::Postgres;
use crate::outside::{Outside, Weather};
use crate::plan::Plan;
use crate::random::{below, millis, stream};

/// How long the cluster is gone in a disaster, in milliseconds.
const GONE: (u64, u64) = (2_200, 3_200);

/// How long a proxy may take, from the beginning of a disaster, to serve what the archive holds.
const FROM_ARCHIVE: Duration = Duration::from_secs(2);

/// What is under way.
pub(super) struct Faults {
    outside: Outside,
    archive: Turn,
    record: Turn,
}

/// When the next fault of one of them begins, and the last one ends.
struct Turn {
    rng: StdRng,
    next: Duration,
    calm_max: u64,
    lasts_max: u64,
    ends: Option<Duration>,
}

impl Turn {
    fn new(plan: &Plan, part: u64, lasts_max: u64) -> Self {
        let calm_max = u64::try_from(plan.outside_calm_max.as_millis()).expect("it is short");
        Self { rng: stream(plan.seed, part), next: Duration::ZERO, calm_max, lasts_max, ends: None }
    }

    /// Whether a fault ends now.
    fn ends(&mut self, now: Duration) -> bool {
        self.ends.take_if(|ends| *ends <= now).is_some()
    }

    /// Whether a fault begins now; it lasts for some time, and then there is calm.
    fn begins(&mut self, now: Duration) -> bool {
        let begins = self.next <= now;
        if begins {
            let ends = now + millis(&mut self.rng, 300, self.lasts_max);
            (self.ends, self.next) = (Some(ends), ends + millis(&mut self.rng, 100, self.calm_max));
        }
        begins
    }

    /// Nothing but refusals, one fault often, or all of them seldom.
    fn weather(&mut self) -> Weather {
        let calm = Weather::default();
        match below(&mut self.rng, 7) {
            0 => Weather { refused: 1_000, ..calm },
            1 => Weather { refused: 300, stale: 800, ..calm },
            2 => Weather { lost: 300, stale: 500, ..calm },
            3 => Weather { unanswered: 400, ..calm },
            // So seldom that others pass it on the way.
            4..=5 => Weather { late: 120, ..calm },
            _ => Weather { refused: 80, lost: 80, unanswered: 80, late: 80, stale: 200 },
        }
    }
}

impl Faults {
    pub(super) fn new(plan: &Plan, outside: Outside) -> Self {
        Self { outside, archive: Turn::new(plan, 3, 3_000), record: Turn::new(plan, 4, 5_000) }
    }

    /// Ends every fault.
    pub(super) fn heal(&self) {
        self.heal_archive();
        self.heal_record();
    }

    fn heal_archive(&self) {
        if let Some(bucket) = &self.outside.bucket {
            bucket.set_weather(Weather::default());
        }
    }

    fn heal_record(&self) {
        if let Some(postgres) = &self.outside.postgres {
            postgres.set_weather(Weather::default());
            postgres.change(Postgres::heal);
        }
    }
}

impl Nemesis {
    pub(super) fn step_outside(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        if self.outside.archive.ends(self.now) {
            self.outside.heal_archive();
        }
        if self.outside.record.ends(self.now) {
            self.outside.heal_record();
        }
        if self.outside.outside.bucket.is_some() && self.outside.archive.begins(self.now) {
            self.trouble_archive(sim, checker);
        }
        if self.outside.outside.postgres.is_some() && self.outside.record.begins(self.now) {
            self.trouble_record(checker);
        }
    }

    fn trouble_archive(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        let Some(bucket) = self.outside.outside.bucket.clone() else { return };
        if below(&mut self.outside.archive.rng, 8) == 0 {
            return self.disaster(sim, checker);
        }
        let weather = self.outside.archive.weather();
        bucket.set_weather(weather);
        self.happened(checker, "archive_troubles", &format!("{weather:?}"));
    }

    fn trouble_record(&mut self, checker: &mut Checker) {
        let Some(postgres) = self.outside.outside.postgres.clone() else { return };
        let rng = &mut self.outside.record.rng;
        match below(rng, 10) {
            0 => {
                postgres.change(|postgres| postgres.set_up(false));
                self.happened(checker, "record_deaths", "");
            }
            1 => {
                postgres.change(|postgres| postgres.set_read_only(true));
                self.happened(checker, "record_read_only", "");
            }
            2..=4 => {
                let stays = below(rng, 2) == 0;
                if postgres.change(|postgres| postgres.fail_over(stays)) {
                    self.happened(checker, "record_failovers", if stays { "the old primary stays" } else { "" });
                }
            }
            _ => {
                let weather = self.outside.record.weather();
                postgres.set_weather(weather);
                self.happened(checker, "record_troubles", &format!("{weather:?}"));
            }
        }
    }

    /// Every node loses its power, and a proxy its disk: the archive is all that it has.
    fn disaster(&mut self, sim: &mut Sim<'_>, checker: &mut Checker) {
        let rng = &mut self.outside.archive.rng;
        let (proxy, gone) = (1 + below(rng, self.plan.proxies), millis(rng, GONE.0, GONE.1));
        for node in 1..=self.plan.nodes {
            self.crash(sim, checker, node, true);
            // Also one that is only about to run.
            let host = format!("cp{node}");
            sim.crash(host.as_str());
            self.down.insert(host, self.now + gone);
        }
        self.outside.archive.next = self.now + gone;
        self.kill_proxy(sim, checker, proxy);
        let host = format!("dp{proxy}");
        // Nothing may be there yet.
        let _ = std::fs::remove_dir_all(self.home.join(&host));
        self.down.insert(host, self.now + Duration::from_millis(10));
        let until = self.now + FROM_ARCHIVE;
        checker.expect_boot_from_archive(proxy, u64::try_from(until.as_millis()).expect("it is soon"));
        self.happened(checker, "disasters", "");
    }
}
