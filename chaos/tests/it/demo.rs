//! The demo is a test too: everything that it says is checked by it.

use std::process::Stdio;
use std::time::Duration;

use chaos::layout::Layout;
use chaos::{binaries, demo, patience, process};

#[tokio::test(flavor = "multi_thread")]
async fn it_holds() {
    demo::run(Layout::Test { cluster: 0 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(binaries::find("chaos").unwrap())
        .args(["demo", "--own-addresses"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(dir.path().join("out")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(dir.path().join("out")).unwrap();
    patience::until("the demo is at its end", Duration::from_secs(60), async || {
        super::admin_load::anyhow_ensure(said().contains("Ctrl-C ends everything"), &said())
    })
    .await
    .unwrap();
    let others = || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&*dir.path().to_string_lossy()) {
                found.push(entry.path());
            }
        }
        found
    };
    assert_eq!(others().len(), 5, "three nodes and two proxies run");
    process::interrupt(child.id().unwrap()).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}: {}", said());
    assert_eq!(others(), Vec::<std::path::PathBuf>::new(), "no process is left");
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["out"], "no file is left");
}
