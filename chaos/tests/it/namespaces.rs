//! A network of namespaces, where this machine allows one; where it does not, the same over sockets.

use std::path::Path;
use std::process::Stdio;

use chaos::{binaries, network};

/// Runs of a machine that starves a node before anything was done to it, before the scenario is given up.
const RUNS_MAX: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_acknowledges_nothing_that_is_lost() {
    let wires = match network::try_out() {
        Ok(()) => "namespaces",
        Err(why) => {
            println!("not in namespaces, but over sockets: {why:#}");
            "sockets"
        }
    };
    let place = tempfile::tempdir().unwrap();
    for _ in 0..RUNS_MAX {
        let (held, said) = run(place.path()).await;
        println!("{said}");
        let reports: Vec<_> = std::fs::read_dir(place.path().join("target/chaos")).unwrap().flatten().collect();
        let [report] = &*reports else { panic!("{reports:?}") };
        let page = std::fs::read_to_string(report.path().join("report.md")).unwrap();
        assert!(page.contains(&format!("Wires are made of {wires}.")), "{page}");
        if held {
            return;
        }
        assert!(said.contains("invalid"), "{said}{page}; see {}", place.keep().display());
        std::fs::remove_dir_all(report.path()).unwrap();
    }
    panic!("it says nothing, each time");
}

/// A process of its own, which may leave the machine's network for one that it makes.
async fn run(place: &Path) -> (bool, String) {
    let output = tokio::process::Command::new(binaries::find("chaos").unwrap())
        .args(["run", "isolated-leader", "--network", "auto"])
        .current_dir(place)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
