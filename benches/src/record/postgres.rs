//! A private PostgreSQL with its defaults: what it confirms is on its disk.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// Where Debian's package puts its programs.
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The user that it runs as where we are root, which it refuses.
const USER: &str = "postgres";

const ADDRESS: (&str, u16) = ("127.40.4.1", 5432);

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// A server. It is killed when this is dropped.
pub(super) struct Postgres {
    _process: Process,
}

impl Postgres {
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        ensure!(Path::new(BIN).join("postgres").is_file(), "PostgreSQL 15 is missing: run `make postgres`");
        let data = dir.join("postgres");
        std::fs::create_dir(&data)?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            // It must be able to pass through.
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))?;
            chown(&data, Some(uid), Some(gid))?;
        }
        let path = data.display().to_string();
        let init = ["-D", &path, "-U", "holdfast", "-A", "trust", "-E", "UTF8", "--locale=C"];
        spawn("initdb", "initdb", &init, user, dir)?.succeed()?;
        let (host, port) = ADDRESS;
        let (listen, port_text) = (format!("listen_addresses={host}"), port.to_string());
        let run = ["-D", &path, "-p", &port_text, "-c", &listen, "-c", "unix_socket_directories="];
        let mut process = spawn("postgres", "postgres", &run, user, dir)?;
        let began = Instant::now();
        while tokio::net::TcpStream::connect(ADDRESS).await.is_err() {
            process.runs().context("PostgreSQL")?;
            ensure!(began.elapsed() < START_MAX, "PostgreSQL does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { _process: process })
    }

    pub(super) fn address(&self) -> (&'static str, u16) {
        ADDRESS
    }
}

fn spawn(name: &str, program: &str, args: &[&str], user: Option<(u32, u32)>, dir: &Path) -> Result<Process> {
    let program = Path::new(BIN).join(program);
    let Some((uid, gid)) = user else { return Process::spawn(name, &program, args, dir) };
    let mut words: Vec<OsString> =
        vec![format!("--reuid={uid}").into(), format!("--regid={gid}").into(), "--clear-groups".into(), program.into()];
    words.extend(args.iter().map(OsString::from));
    Process::spawn(name, Path::new("/usr/bin/setpriv"), &words, dir)
}

/// Whom it runs as: `None` for ourselves, when we are not root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with(&format!("{USER}:")));
    let line = line.with_context(|| format!("there is no user {USER}: run `make postgres`"))?;
    let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
    let mut next = || ids.next().context("a user has ids")?.context("an id is a number");
    Ok(Some((next()?, next()?)))
}
