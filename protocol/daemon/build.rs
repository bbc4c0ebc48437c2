//! Tells the code which commit and target it is built for.

use std::process::Command;

fn main() {
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |commit| commit.trim().to_owned());
    println!("cargo::rustc-env=HOLDFAST_COMMIT={commit}");
    println!("cargo::rustc-env=HOLDFAST_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    // Without this cargo would rebuild at every change of any file of the crate.
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../.git/HEAD");
}
