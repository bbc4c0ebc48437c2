//! Links on which both ends show certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use chaos::binaries;
use chaos::cluster::{Cluster, KEY, READY_MAX};
use chaos::http::Client;
use chaos::layout::Layout;
use chaos::patience::until;
use serde_json::json;

use super::admin_load::AdminLoad;

/// Runs `cp-node ca`; what it said, and whether it did it.
fn ca(words: &[&str]) -> (bool, String) {
    run(Command::new(binaries::find("cp-node").unwrap()).arg("ca").args(words))
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// An authority in a directory of its own.
struct Authority(PathBuf);

impl Authority {
    fn found(directory: PathBuf) -> Self {
        let (done, said) = ca(&["create", "--domain", "test", "--out", directory.to_str().unwrap()]);
        assert!(done, "{said}");
        Self(directory)
    }

    /// Issues for somebody into a directory.
    fn issue(&self, role: &str, name: &str, out: &Path) {
        let [ca_dir, out] = [&self.0, out].map(|path| path.to_str().unwrap());
        let (done, said) = ca(&["issue", "--role", role, "--name", name, "--ca", ca_dir, "--out", out]);
        assert!(done, "{said}");
    }

    fn certificate(&self) -> String {
        fs::read_to_string(self.0.join("ca.crt")).unwrap()
    }
}

/// Settings `mtls` of a name, whose files lie in a directory.
fn settings(directory: &Path, name: &str) -> [String; 3] {
    let file = |name: String| directory.join(name).display().to_string();
    [
        format!("mtls.cert_file={}", file(format!("{name}.crt"))),
        format!("mtls.key_file={}", file(format!("{name}.key"))),
        format!("mtls.ca_file={}", file("trusted.crt".to_owned())),
    ]
}

const PARTIES: [(&str, &str); 4] = [("cp", "cp-1"), ("cp", "cp-2"), ("cp", "cp-3"), ("dp", "dp-1")];

#[tokio::test(flavor = "multi_thread")]
async fn every_link_shows_certificates_which_are_renewed_under_load() {
    let mut cluster = Cluster::new(Layout::Test { cluster: 0 }).unwrap();
    let dir = cluster.dir().join("certificates");
    let old = Authority::found(cluster.dir().join("old"));
    let trust = |authorities: &[&Authority]| {
        let all: String = authorities.iter().map(|authority| authority.certificate()).collect();
        // As an operator does: a new file in the place of the old one, never half of one.
        fs::write(dir.join("trusted.new"), all).unwrap();
        fs::rename(dir.join("trusted.new"), dir.join("trusted.crt")).unwrap();
    };
    PARTIES.iter().for_each(|(role, name)| old.issue(role, name, &dir));
    trust(&[&old]);
    for number in 1..=3 {
        let settings = settings(&dir, &format!("cp-{number}"));
        cluster.add_cp(number, &settings.each_ref().map(String::as_str)).await.unwrap();
    }
    let own = settings(&dir, "dp-1");
    cluster.add_dp_with(1, &own.each_ref().map(String::as_str)).await.unwrap();
    let route = json!({"uri": "/hello", "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    cluster.cp(1).api().put("routes", "hello", &route).await.unwrap().expect(&[201]).unwrap();
    cluster.dp(1).ready().await.unwrap();
    cluster.agree(READY_MAX).await.unwrap();

    // Without a certificate nobody gets anything.
    let plain = cluster.add_dp_with(2, &[]).await.unwrap().addresses.status.clone();
    until("a proxy without certificates is refused", READY_MAX, async || {
        let printed = cluster.cp(1).printed();
        ensure!(printed.contains("a connection was refused"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
    let ready = Client::new(&plain).get("/status/ready").await.unwrap();
    assert_eq!(ready.status, 503, "it got a configuration");

    // A new authority: believed beside the old one, then issuing, then alone.
    let load = AdminLoad::start(&cluster, 2);
    load.progress(20, READY_MAX).await;
    let new = Authority::found(cluster.dir().join("new"));
    let mut renewals = 0;
    let mut renewed = async |cluster: &mut Cluster| {
        renewals += 1;
        until("all have the new files", READY_MAX, async || {
            let logs = (1..=3).map(|n| cluster.cps[n - 1].printed()).chain([cluster.dps[0].printed()]);
            for log in logs {
                let seen = log.matches("the certificate was renewed").count();
                ensure!(seen >= renewals, "{seen} of {renewals}: {log}");
            }
            Ok(())
        })
        .await
        .unwrap();
    };
    trust(&[&old, &new]);
    renewed(&mut cluster).await;
    let fresh = cluster.dir().join("fresh");
    PARTIES.iter().for_each(|(role, name)| new.issue(role, name, &fresh));
    for (_, name) in PARTIES {
        for extension in ["key", "crt"] {
            let file = format!("{name}.{extension}");
            fs::rename(fresh.join(&file), dir.join(&file)).unwrap();
        }
    }
    renewed(&mut cluster).await;
    trust(&[&new]);
    renewed(&mut cluster).await;
    // What connects now shows the new certificates to somebody who believes no other.
    let leader = cluster.leader().await.unwrap();
    cluster.cp(leader).kill().await.unwrap();
    load.progress(20, READY_MAX).await;
    cluster.cp(leader).run().unwrap();
    cluster.cp(leader).ready().await.unwrap();
    load.progress(20, READY_MAX).await;
    let promises = load.stop().await;
    cluster.dp(2).kill().await.unwrap();
    cluster.agree(READY_MAX).await.unwrap();
    promises.check(&mut cluster.cp(1).api()).await;
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_said() {
    let mut cluster = Cluster::new(Layout::Test { cluster: 0 }).unwrap();
    let dir = cluster.dir().join("certificates");
    let authority = Authority::found(dir.clone());
    fs::copy(dir.join("ca.crt"), dir.join("trusted.crt")).unwrap();
    let path = dir.to_str().unwrap();
    let (done, said) = ca(&["create", "--domain", "test", "--out", path]);
    assert!(!done && said.contains("ca.key: File exists"), "{said}");
    let (done, said) = ca(&["create", "--domain", "Test", "--out", path]);
    assert!(!done && said.contains("spiffe://Test/dp"), "{said}");
    let (done, said) = ca(&["issue", "--role", "cp", "--ca", path, "--out", path]);
    assert!(!done && said.contains("a node needs a --name"), "{said}");
    let (done, said) = ca(&["issue", "--role", "dp", "--ca", "/nowhere", "--out", path]);
    assert!(!done && said.contains("/nowhere/ca.crt"), "{said}");
    let mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("ca.key"), mode("ca.crt")), (0o600, 0o644));
    // A proxy's certificate makes no node, and neither does that of another node.
    for (role, name) in [("dp", "cp-1"), ("cp", "cp-2")] {
        authority.issue(role, name, &dir);
        let given = settings(&dir, name);
        let refused = cluster.add_cp(1, &given.each_ref().map(String::as_str)).await.unwrap_err();
        let refused = format!("{refused:#}");
        assert!(
            refused.contains(&format!("it is for spiffe://test/{role}/{name}, and this program is cp/cp-1")),
            "{refused}"
        );
        assert!(refused.contains("78"), "{refused}");
    }
    let mut check = Command::new(binaries::find("cp-node").unwrap());
    let [cert, ..] = settings(&dir, "cp-2");
    let (done, said) = run(check.args(["config", "validate", "--set", &cert]));
    assert!(!done && said.contains("mtls.key_file is missing"), "{said}");
    let mut check = Command::new(binaries::find("dp-proxy").unwrap());
    check.args(["config", "validate", "--set", "node.name=dp-1"]);
    let (done, said) = run(check.args(settings(&dir, "cp-2").iter().flat_map(|setting| ["--set", setting])));
    assert!(!done && said.contains("it is for spiffe://test/cp/cp-2, and this program is dp/dp-1"), "{said}");
}

#[tokio::test]
async fn the_admin_api_speaks_tls_to_whom_believes_it() {
    let mut cluster = Cluster::new(Layout::Test { cluster: 0 }).unwrap();
    let dir = cluster.dir().to_owned();
    let host = cluster.layout.cp(1).admin;
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = params.self_signed(&authority).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, authority);
    let file = |name: &str, text: &str| {
        fs::write(dir.join(name), text).unwrap();
        dir.join(name).display().to_string()
    };
    let ca = file("admin-ca.crt", &own);
    let issue = |name: &str, host: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        [file(&format!("{name}.crt"), &certificate), file(&format!("{name}.key"), &key.serialize_pem())]
    };
    let [cert, key] = issue("admin", host.rsplit_once(':').unwrap().0);
    let [client_cert, client_key] = issue("client", "tools.example");
    let settings = [
        format!("admin.tls.cert_file={cert}"),
        format!("admin.tls.key_file={key}"),
        format!("admin.tls.client_ca_file={ca}"),
    ];
    cluster.add_cp(1, &settings.each_ref().map(String::as_str)).await.unwrap();
    let (https, http) = (format!("https://{host}"), format!("http://{host}"));
    let hfctl = |server: &str, more: &[&str]| {
        let mut command = Command::new(binaries::find("hfctl").unwrap());
        command.env("HOLDFAST_ADMIN_KEY", KEY).args(["list", "routes", "--timeout", "3s", "--server", server]);
        run(command.args(more))
    };
    let shown = ["--cacert", &ca, "--cert", &client_cert, "--cert-key", &client_key];
    let (done, said) = hfctl(&https, &shown);
    assert!(done, "{said}");
    // Whoever does not believe it, shows nothing, or does not encrypt gets nothing.
    let (done, said) = hfctl(&https, &shown[2..]);
    assert!(!done && said.contains("UnknownIssuer"), "{said}");
    let (done, said) = hfctl(&https, &shown[..2]);
    assert!(!done && said.contains("no required client certificate was shown"), "{said}");
    assert!(!hfctl(&http, &[]).0);
    until("the node says why", READY_MAX, async || {
        let printed = cluster.cp(1).printed();
        let told = ["the client shows no certificate", "corrupt message"].iter().all(|why| printed.contains(why));
        ensure!(told, "{printed}");
        Ok(())
    })
    .await
    .unwrap();
}
