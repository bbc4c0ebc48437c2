//! What a run was of, and on which machine, asked for when it runs: what a debug build says of itself may be older than it is.

use std::path::Path;
use std::process::Command;

use crate::arena::Planted;
use crate::binaries;
use crate::network::Network;

/// A line each: what the checkout is at, what the programs call themselves and when they were built, and how busy it is.
pub(super) fn told(network: Network, planted: Option<&Planted>) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"], root);
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"], root);
    let dirty = if changed.is_some_and(|changed| !changed.is_empty()) { ", with changes" } else { "" };
    let now = said("date", &["-u", "+%FT%TZ"], root).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let mut lines = vec![
        format!("At {now}, with a load of {load} (1, 5 and 15 minutes)."),
        format!("Wires are made of {}.", network.word()),
        format!("The checkout is at {}{dirty}.", commit.unwrap_or_else(|| "no commit".to_owned())),
    ];
    let programs = match planted {
        Some(planted) => [Some(planted.cp.clone()), Some(planted.dp.clone())],
        None => ["cp-node", "dp-proxy"].map(|program| binaries::find(program).ok()),
    };
    for program in programs.into_iter().flatten() {
        let path = program.display().to_string();
        let version = said(&path, &["--version"], root).unwrap_or_default();
        let built = said("date", &["-u", "-r", &path, "+%FT%TZ"], root).unwrap_or_default();
        lines.push(format!("{version}, built at {built}."));
    }
    lines
}

/// What a program says, when it succeeds.
fn said(program: &str, words: &[&str], folder: &Path) -> Option<String> {
    let output = Command::new(program).args(words).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::network::Network;

    #[test]
    fn a_report_says_of_which_programs_it_is() {
        let told = told(Network::Sockets, None);
        for wanted in ["load of", "made of sockets", "The checkout is at", "cp-node", "dp-proxy", "built at 2"] {
            assert!(told.iter().any(|line| line.contains(wanted)), "{wanted} is not in {told:?}");
        }
    }
}
