//! Real PostgreSQL servers, private to a test: a primary, standbys, and what becomes of them.
//!
//! They run as an unprivileged user (PostgreSQL refuses root), listen on loopback addresses of their own, and are gone
//! with their files when dropped.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::leftovers;
use crate::patience::until;
use crate::process::Process;

/// Where Debian's package puts its programs.
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The user that servers run as when the test runs as root: Debian's package makes it.
const USER: &str = "postgres";

/// How long a server may take to start, on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);

/// A server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    name: String,
    host: String,
    port: String,
    dir: TempDir,
    /// Settings `name=value` beyond those of every test.
    settings: Vec<String>,
    process: Option<Process>,
}

impl Postgres {
    /// A new primary that listens at `address`.
    ///
    /// # Errors
    /// What did not work.
    pub async fn primary(name: &str, address: &str) -> Result<Self> {
        let mut server = Self::prepare(name, address).await?;
        server.start().await?;
        Ok(server)
    }

    /// A new primary that does not run yet.
    ///
    /// # Errors
    /// What did not work.
    pub async fn prepare(name: &str, address: &str) -> Result<Self> {
        let server = Self::place(name, address)?;
        let data = server.data();
        server
            .tool(
                "initdb",
                &[
                    "-D",
                    &data.display().to_string(),
                    "-U",
                    "holdfast",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--no-sync",
                    "--locale=C",
                ],
            )
            .await?;
        std::fs::write(
            data.join("pg_hba.conf"),
            ["127.0.0.0/8", "198.18.0.0/15"]
                .map(|own| format!("host all all {own} trust\nhost replication all {own} trust\n"))
                .concat(),
        )?;
        Ok(server)
    }

    /// More settings, `name=value`, from its next start on.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
    }

    /// Writes a file that only the server may read; gives its path.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Makes a directory for the server; gives its path.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Makes a path the server's own.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = unprivileged()? {
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Holds connections until one more is refused, and lets go of them when the last is dropped.
    ///
    /// # Errors
    /// When they are never used up.
    pub async fn use_up_connections(&self) -> Result<Vec<tokio::process::Child>> {
        let mut held = Vec::new();
        for _ in 0..100 {
            // It waits for its input: when it goes, the server notices.
            let mut psql = Command::new("psql");
            psql.args(["-X", "-h", &self.host, "-p", &self.port, "-U", "holdfast", "-d", "postgres"]);
            psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            held.push(psql.spawn()?);
            tokio::time::sleep(Duration::from_millis(30)).await;
            if let Err(refused) = self.sql("SELECT 1").await {
                ensure!(refused.to_string().contains("too many clients"), "{refused:#}");
                return Ok(held);
            }
        }
        anyhow::bail!("it takes any number of connections")
    }

    /// A streaming standby of another server, caught up.
    ///
    /// # Errors
    /// What did not work.
    pub async fn standby_of(primary: &Self, name: &str, address: &str) -> Result<Self> {
        let mut server = Self::place(name, address)?;
        let data = server.data().display().to_string();
        let from = [
            "-h",
            &primary.host,
            "-p",
            &primary.port,
            "-U",
            "holdfast",
            "-D",
            &data,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
        ];
        server.tool("pg_basebackup", &from).await?;
        server.start().await?;
        Ok(server)
    }

    fn place(name: &str, address: &str) -> Result<Self> {
        ensure!(Path::new(BIN).join("postgres").is_file(), "PostgreSQL 15 is missing: run `make postgres`");
        let dir = leftovers::directory("pg-")?;
        if let Some((uid, gid)) = unprivileged()? {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        Ok(Self {
            name: name.to_owned(),
            host: host.to_owned(),
            port: port.to_owned(),
            dir,
            settings: Vec::new(),
            process: None,
        })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its host and port.
    #[must_use]
    pub fn address(&self) -> (&str, &str) {
        (&self.host, &self.port)
    }

    /// The setting that leads a control-plane node to these servers, in this order.
    #[must_use]
    pub fn dsn(servers: &[(&str, &str)]) -> String {
        let list = |part: fn(&(&str, &str)) -> String| servers.iter().map(part).collect::<Vec<_>>().join(",");
        let (hosts, ports) = (list(|(host, _)| (*host).to_owned()), list(|(_, port)| (*port).to_owned()));
        format!("record.dsn=host={hosts} port={ports} user=holdfast dbname=postgres")
    }

    async fn tool(&self, program: &str, args: &[&str]) -> Result<()> {
        let words = as_user(program, args)?;
        let output = Command::new(&words[0]).args(&words[1..]).current_dir(self.dir.path()).output().await?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts it (again), and waits until it answers.
    ///
    /// # Errors
    /// What it said.
    pub async fn start(&mut self) -> Result<()> {
        let data = self.data().display().to_string();
        let listen = format!("listen_addresses={}", self.host);
        let mut args = vec![
            "-D",
            &data,
            "-p",
            &self.port,
            "-c",
            &listen,
            "-c",
            "unix_socket_directories=",
            "-c",
            "max_connections=20",
            "-c",
            "shared_buffers=32MB",
            "-c",
            "wal_level=replica",
            "-c",
            "hot_standby=on",
        ];
        args.extend(self.settings.iter().flat_map(|setting| ["-c", setting]));
        let words = as_user("postgres", &args)?;
        // A server that was killed leaves processes and shared memory behind for a moment: then it does not start yet.
        let deadline = tokio::time::Instant::now() + START_MAX;
        loop {
            let mut process = Process::spawn(&self.name, Path::new(&words[0]), &words[1..], self.dir.path())?;
            let answers = until("PostgreSQL answers", START_MAX, async || {
                if !process.runs() {
                    return Ok(false);
                }
                self.sql("SELECT 1").await.map(|_| true)
            });
            if answers.await? {
                self.process = Some(process);
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "PostgreSQL does not start: {}", process.printed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill().await
    }

    /// Whether it was started and not ended since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Stops it and every process of it where they stand: connections are taken and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let own = self.process.as_ref().and_then(Process::pid).context("it does not run")?;
        let mut all = vec![own];
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // `pid (name) state ppid …`; the name may hold anything but ends with the last bracket.
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            let pid = entry.file_name().to_string_lossy().parse::<u32>();
            if let (Ok(pid), Some(parent)) = (pid, parent)
                && parent == own
            {
                all.push(pid);
            }
        }
        for pid in all {
            // One that has ended meanwhile needs no signal.
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).context("0 is no process")?, signal);
        }
        Ok(())
    }

    /// Makes a standby a primary.
    ///
    /// # Errors
    /// What it said.
    pub async fn promote(&self) -> Result<()> {
        self.sql("SELECT pg_promote()").await.map(drop)
    }

    /// What a statement gives, by psql: columns parted by `|`, a line for each row.
    ///
    /// # Errors
    /// What it said.
    pub async fn sql(&self, sql: &str) -> Result<String> {
        let output = tokio::time::timeout(Duration::from_secs(20), self.psql(sql).output()).await;
        let output = output.context("psql hangs")??;
        ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// All that is in the database, as statements for [`Self::load`].
    ///
    /// # Errors
    /// What `pg_dump` said.
    pub async fn dump(&self) -> Result<String> {
        let server = ["-h", &self.host, "-p", &self.port];
        let mut words = as_user("pg_dump", &[&server[..], &["-U", "holdfast", "-d", "postgres"]].concat())?.into_iter();
        let mut dump = Command::new(words.next().context("a program")?);
        let output = dump.args(words).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Carries out what a dump says.
    ///
    /// # Errors
    /// What it said.
    pub async fn load(&self, dump: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), dump)?;
        // A dump has commands of psql in it, which only a file may have.
        self.sql(&format!("\\i {}", file.path().display())).await.map(drop)
    }

    fn psql(&self, sql: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-h", &self.host, "-p", &self.port, "-U", "holdfast", "-d", "postgres", "-Atqc", sql]);
        psql.args(["-v", "ON_ERROR_STOP=1"]);
        // A test may make a database read-only, and writable again.
        psql.env("PGOPTIONS", "-c default_transaction_read_only=off");
        psql.env("PGCONNECT_TIMEOUT", "3").kill_on_drop(true);
        psql
    }
}

/// A program of PostgreSQL as a command line, run by the unprivileged user where we are root.
fn as_user(program: &str, args: &[&str]) -> Result<Vec<OsString>> {
    let program = Path::new(BIN).join(program).into_os_string();
    let mut words: Vec<OsString> = match unprivileged()? {
        Some((uid, gid)) => {
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
            std::iter::once("/usr/bin/setpriv".to_owned()).chain(ids).map(OsString::from).collect()
        }
        None => Vec::new(),
    };
    words.push(program);
    words.extend(args.iter().map(OsString::from));
    Ok(words)
}

/// Whom servers run as: `None` for ourselves, when we are not root.
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
