//! Where a run leaves what it was: its directory, its schedule, and the command that does it again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Order, Step};
use crate::binaries;
use crate::fault::Fault;
use crate::luck::Luck;
use crate::network::Network;

/// What tells the chances of a plan, and those of its faults, from all others of the same seed.
const PLAN: u64 = 1_001;
const FAULTS: u64 = 1_002;

/// The chances by which a scenario plans what goes wrong under this seed.
#[must_use]
pub fn plan_luck(seed: u64) -> Luck {
    Luck::of(&[seed, PLAN])
}

/// What goes wrong in a run, and the chances of its faults (which follower, which byte): the same whether the schedule comes
/// from the seed or from a file.
pub(super) fn chances(order: &Order) -> (Vec<Step>, Luck) {
    let planned = (order.scenario.plan)(&mut plan_luck(order.seed));
    (order.schedule.clone().unwrap_or(planned), Luck::of(&[order.seed, FAULTS]))
}

/// What goes wrong in a run.
#[must_use]
pub fn faults(order: &Order) -> Vec<Fault> {
    chances(order).0.into_iter().map(|step| step.fault).collect()
}

/// Makes the run's directory, which is empty but for `schedule.json` and `repro`.
pub(super) fn prepare(order: &Order, schedule: &[Step]) -> Result<PathBuf> {
    let again = if order.again { "-again" } else { "" };
    let directory = order.reports.join(format!("{}{again}", called(order)));
    // The command has to work wherever it is called.
    let directory = std::path::absolute(&directory).with_context(|| directory.display().to_string())?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    fs::write(directory.join("schedule.json"), serde_json::to_string_pretty(schedule)?)?;
    let repro = directory.join("repro");
    fs::write(&repro, command(order, &directory)?)?;
    fs::set_permissions(&repro, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// A run's name: that of its scenario, its seed, and its network where that is not the usual one.
fn called(order: &Order) -> String {
    let network = match Network::of(order.layout) {
        Network::Sockets => "",
        Network::Namespaces => "-namespaces",
    };
    format!("{}-{}{network}", order.scenario.name, order.seed)
}

/// A script that runs the same faults again, and leaves its report beside this one.
fn command(order: &Order, directory: &Path) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is one up")?;
    let program = binaries::find("chaos").unwrap_or_else(|_| PathBuf::from("target/debug/chaos"));
    let schedule = directory.join("schedule.json");
    let planted = order.planted.as_ref().map(|planted| format!(" --mutant {}", planted.name)).unwrap_or_default();
    Ok(format!(
        "#!/bin/sh\n# The same faults again; the report is left in target/chaos/{called}-again.\ncd {root} && \
         exec {program} run {name} --seed {seed} --network {network} --schedule {schedule}{planted}\n",
        called = called(order),
        network = Network::of(order.layout).word(),
        name = order.scenario.name,
        seed = order.seed,
        root = quoted(root),
        program = quoted(&program),
        schedule = quoted(&schedule),
    ))
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::scenario;

    fn order(seed: u64, reports: &Path) -> Order {
        let scenario = scenario::find("flipped-bits").unwrap();
        Order::new(scenario, seed, reports.to_owned(), Layout::Test { cluster: 0 })
    }

    #[test]
    fn the_chances_of_faults_are_the_same_with_and_without_a_schedule_from_a_file() {
        for seed in 1..50 {
            let planned = order(seed, Path::new("reports"));
            let (schedule, mut luck) = chances(&planned);
            let given = Order { schedule: Some(schedule.clone()), ..planned };
            let (again, mut same) = chances(&given);
            assert_eq!(schedule, again);
            for number in 0..20 {
                assert_eq!(luck.draw(), same.draw(), "number {number} of seed {seed}");
            }
        }
    }

    #[test]
    fn the_command_that_runs_it_again_works_from_anywhere_and_leaves_the_first_run_where_it_is() {
        let reports = tempfile::tempdir().unwrap();
        let planned = order(7, reports.path());
        let (schedule, _) = chances(&planned);
        let first = prepare(&planned, &schedule).unwrap();
        fs::write(first.join("history.jsonl"), "what was seen").unwrap();
        let repro = fs::read_to_string(first.join("repro")).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(repro.contains(&format!("cd '{}' && exec '", root.display())), "{repro}");
        let schedule_file = first.join("schedule.json");
        let wanted = format!("run flipped-bits --seed 7 --network sockets --schedule '{}'\n", schedule_file.display());
        assert!(schedule_file.is_absolute() && repro.ends_with(&wanted), "{repro}");
        assert_ne!(fs::metadata(first.join("repro")).unwrap().permissions().mode() & 0o111, 0);

        let again = Order { schedule: Some(schedule.clone()), again: true, ..planned };
        assert_ne!(prepare(&again, &schedule).unwrap(), first);
        assert_eq!(fs::read_to_string(first.join("history.jsonl")).unwrap(), "what was seen");
    }
}
