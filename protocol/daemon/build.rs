//! Tells the code which commit and target it is built for.

use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=HOLDFAST_COMMIT={commit}");
    println!("cargo::rustc-env=HOLDFAST_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    // Without this cargo would rebuild at every change of any file of the crate.
    println!("cargo::rerun-if-changed=build.rs");
    // Where it is differs in a worktree; and what is not there would be rebuilt for every time.
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
}

/// What git says in this folder; `None` outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
