//! The program itself: its command line, its exit codes, and how it ends.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::client::Client;
use crate::harness::control_plane::ControlPlane;
use crate::harness::origin::Origin;
use crate::harness::program::{Site, program};
use crate::harness::proxy::route;
use crate::harness::until;

fn error(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("dp.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn settings_that_cannot_be_used_name_their_key_and_exit_78() {
    let dir = tempfile::tempdir().unwrap();
    let typo = file(dir.path(), "proxy:\n  lissten: [127.0.0.1:9080]\n");
    for (args, environment, expected) in [
        (vec!["run", "-c", &typo], None, vec!["dp.yaml", "lissten", "2"]),
        (vec!["run", "-c", "/nosuch.yaml"], None, vec!["/nosuch.yaml"]),
        (vec!["run", "--set", "proxy.workers=many"], None, vec!["--set proxy.workers=many"]),
        (vec!["run"], Some(("HOLDFAST_PROXY__DNS_TTL", "soon")), vec!["HOLDFAST_PROXY__DNS_TTL"]),
        (vec!["run", "--set", "proxy.listen=[]"], None, vec!["proxy.listen: must name at least one address"]),
        (vec!["run", "--set", "control_plane.endpoints=[cp1]"], None, vec!["control_plane.endpoints: \"cp1\""]),
    ] {
        let output = program(&args).envs(environment).output().unwrap();
        let (code, text) = error(&output);
        assert_eq!(code, 78, "{args:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{args:?}: {part:?} is not in {text}");
        }
    }
    let (code, text) = error(&program(&["serve"]).output().unwrap());
    assert_eq!(code, 2);
    assert!(text.contains("'serve'"), "{text}");
}

#[test]
fn settings_are_validated_and_printed_as_a_file_that_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "node:\n  name: dp-x\nproxy:\n  workers: 3\n");
    assert!(program(&["config", "validate", "-c", &config]).output().unwrap().status.success());
    let printed =
        |config: &str| String::from_utf8(program(&["config", "print", "-c", config]).output().unwrap().stdout).unwrap();
    let first = printed(&config);
    assert!(first.contains("name: dp-x") && first.contains("workers: 3") && first.contains("dns_ttl: 5s"), "{first}");
    assert_eq!(printed(&file(dir.path(), &first)), first);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data = format!("data_dir={}", dir.path().display());
    let status = format!("status.listen={}", taken.local_addr().unwrap());
    let (code, text) = error(&program(&["run", "--set", &data, "--set", &status]).output().unwrap());
    assert_eq!(code, 1);
    assert!(text.contains("status.listen") && text.contains("in use"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_is_healthy_and_drains_at_sigterm() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/*", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    let more = ["proxy.drain.delay=100ms".to_owned(), format!("control_plane.endpoints=[{}]", node.address)];
    let site = Site::at(dir.path(), &more);
    let (code, text) = error(&site.command(&["healthcheck"]).output().unwrap());
    assert_eq!(code, 1);
    assert!(text.contains("not ready"), "{text}");
    let mut running = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    until("it is healthy", async || {
        if let Some(status) = running.try_wait().unwrap() {
            panic!("it has ended: {status}");
        }
        site.is_healthy()
    })
    .await;
    let mut client = Client::connect(site.proxy).await;
    assert_eq!(client.get("x", "/").await.status, 200);
    assert!(Command::new("kill").arg(running.id().to_string()).status().unwrap().success());
    until("it has ended", async || running.try_wait().unwrap().is_some()).await;
    assert!(client.is_closed().await);
    let output = running.wait_with_output().unwrap();
    let (code, log) = error(&output);
    assert_eq!(code, 0, "{log}");
    for line in ["starting", "serving", "following", "draining: not ready any more", "drained"] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
}
