//! Tells the code which commit and target it is built for.

use std::process::Command;

/// What a debug build says instead: it is not built again after each commit, so what it would say is soon not so.
const DEBUG: &str = "debug";

fn main() {
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match is_release {
        true => git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()),
        false => DEBUG.to_owned(),
    };
    println!("cargo::rustc-env=HOLDFAST_COMMIT={commit}");
    println!("cargo::rustc-env=HOLDFAST_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    // Without this cargo would rebuild at every change of any file of the crate.
    println!("cargo::rerun-if-changed=build.rs");
    // HEAD changes with another branch, its log with each commit. Where they are differs in a worktree; and what is not there
    // would be rebuilt for every time.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]);
        if let Some(path) = path.filter(|path| is_release && std::path::Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git says in this folder; `None` outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
