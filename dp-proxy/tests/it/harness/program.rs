//! The program itself, as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::own_address;

/// The program with these words, and none of this process's settings.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dp-proxy"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// An address that nobody else has, also once it is given up here.
fn free() -> SocketAddr {
    TcpListener::bind(own_address()).unwrap().local_addr().unwrap()
}

/// A proxy that is to run in processes of its own.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) proxy: SocketAddr,
    pub(crate) status: SocketAddr,
    pub(crate) metrics: SocketAddr,
    flags: Vec<String>,
}

impl Site {
    /// One with this data directory and these settings more.
    pub(crate) fn at(dir: &Path, more: &[String]) -> Self {
        let (proxy, status, metrics) = (free(), free(), free());
        let settings = [
            format!("data_dir={}", dir.display()),
            format!("proxy.listen=[{proxy}]"),
            "proxy.workers=2".to_owned(),
            "proxy.tls.listen=[]".to_owned(),
            format!("status.listen={status}"),
            format!("metrics.listen={metrics}"),
            format!("control.listen={}", free()),
        ];
        let flags = settings.iter().chain(more).map(|setting| format!("--set={setting}")).collect();
        Self { proxy, status, metrics, flags }
    }

    /// The program with this proxy's settings and these words, settings among them, which win.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = program(&[]);
        command.args(&self.flags).args(args);
        command
    }

    /// Whether a process of it is ready.
    pub(crate) fn is_healthy(&self) -> bool {
        self.command(&["healthcheck"]).output().unwrap().status.success()
    }
}

/// Processes that end with the test, however it ends.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    children: Vec<Child>,
    others: Vec<u32>,
}

impl Processes {
    pub(crate) fn started(&mut self, child: Child) -> u32 {
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// A process that one of these has started.
    pub(crate) fn has(&mut self, pid: u32) {
        self.others.push(pid);
    }

    /// Whether one has ended.
    pub(crate) fn has_ended(&mut self, pid: u32) -> bool {
        match self.children.iter_mut().find(|child| child.id() == pid) {
            Some(child) => child.try_wait().unwrap().is_some(),
            None => is_gone(pid),
        }
    }
}

/// Whether no process has this id, or one that has ended and that nobody has asked about yet.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends a signal, by its name.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.others.iter().filter(|pid| !is_gone(**pid)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}
