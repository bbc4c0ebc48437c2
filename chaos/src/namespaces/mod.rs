//! A network of namespaces: every node and proxy has a kernel's network of its own, and one cable that leads to a bridge.
//!
//! ```text
//!   cp-1 [198.18.1.1] --veth--+
//!   cp-2 [198.18.1.2] --veth--+-- bridge [198.18.0.1 the harness, .3.n PostgreSQL, .4.1 S3, .5.n origins]
//!   dp-1 [198.18.2.1] --veth--+
//! ```
//!
//! The bridge is in the namespace of the harness itself ([`crate::network`]), so that nothing of the machine's own network is
//! touched. What is cut or lossy is a rule of the bridge that drops packets: senders resend, time out, and find out late.
//! Nothing has a name outside of these namespaces: they are gone with the last process in them.

mod space;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

pub use self::space::Namespace;

use crate::layout::{self, Layout};
use crate::network;
use crate::wires::{End, Wire};

/// The bridge's name.
const BRIDGE: &str = "wires";
/// Its own: it would take the lowest of its ports otherwise, and whoever knows it would have to learn it anew with each port.
const BRIDGE_MAC: &str = "02:00:00:00:00:01";
/// The network that all addresses are of (RFC 2544, §C.2.2: for tests of networks, never routed).
const PREFIX_BITS: u8 = 15;
/// Where PATH may not lead, and `ip` and `nft` are.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Each packet is at one of the three hooks: it is for whoever is at the bridge, from there, or passes through.
const TABLE: &str = "\
add table bridge wires
delete table bridge wires
table bridge wires {
    counter met { }
    chain ways { }
    chain to_us { type filter hook input priority 0; jump ways; }
    chain through { type filter hook forward priority 0; jump ways; }
    chain from_us { type filter hook output priority 0; jump ways; }
}
";

/// All namespaces of a cluster. There is one such network in a process at a time: another one takes its place.
#[derive(Debug)]
pub struct Namespaces {
    /// The wires that are not whole.
    states: Mutex<BTreeMap<(Ipv4Addr, Ipv4Addr), Wire>>,
}

impl Namespaces {
    /// A bridge without ports. What is left of another one is taken away.
    ///
    /// # Errors
    /// When the harness is not in a namespace of its own, or its kernel cannot do it.
    pub async fn start() -> Result<Self> {
        ensure!(network::is_within(), "the harness is in the machine's own network");
        for link in tell("ip", &["-brief", "link", "show"], "").await?.lines() {
            // A cable is shown as `cp-1@if2`; what it hangs from goes last, and only what is ours.
            let name = link.split([' ', '@']).next().unwrap_or_default();
            if name == BRIDGE || name.starts_with("cp-") || name.starts_with("dp-") {
                tell("ip", &["link", "delete", name], "").await?;
            }
        }
        let mut setup = format!("link add name {BRIDGE} address {BRIDGE_MAC} type bridge\n");
        let harness = layout::in_namespaces(End::Other);
        let _ = writeln!(setup, "address add {harness}/{PREFIX_BITS} dev {BRIDGE}");
        for address in Layout::at_the_bridge() {
            let _ = writeln!(setup, "address add {address}/32 dev {BRIDGE}");
        }
        let _ = writeln!(setup, "link set {BRIDGE} up");
        tell("ip", &["-batch", "-"], &setup).await?;
        tell("nft", &["-f", "-"], TABLE).await?;
        Ok(Self { states: Mutex::default() })
    }

    /// A namespace for a node or a proxy, with a cable to the bridge. It is gone with what is given here and every process in it.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn add(&self, end: End) -> Result<Namespace> {
        let (name, address) = (cable(end)?, layout::in_namespaces(end));
        let space = Namespace::new().await.with_context(|| format!("a namespace for {name}"))?;
        let pid = space.pid()?;
        let outside = format!(
            "link add name {name} type veth peer name eth0 netns {pid}\nlink set {name} master {BRIDGE}\nlink set {name} up\n"
        );
        tell("ip", &["-batch", "-"], &outside).await?;
        let inside = format!("link set lo up\naddress add {address}/{PREFIX_BITS} dev eth0\nlink set eth0 up\n");
        let entrance = format!("--net={}", space.entrance().display());
        let ip = tool("ip")?.display().to_string();
        tell("nsenter", &[&entrance, "--", &ip, "-batch", "-"], &inside).await?;
        Ok(space)
    }

    /// How many packets rules have dropped.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn met(&self) -> Result<u64> {
        let told = tell("nft", &["-j", "list", "counter", "bridge", "wires", "met"], "").await?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let counters = told["nftables"].as_array().context("nft tells nothing")?;
        let packets = counters.iter().find_map(|told| told["counter"]["packets"].as_u64());
        packets.with_context(|| format!("nft tells of no counter: {counters:?}"))
    }

    /// Makes wires so, all in one transaction of the kernel.
    ///
    /// # Errors
    /// For a delay, which is not made here; when the kernel refuses.
    pub async fn set(&self, ways: &[(End, End)], wire: Wire) -> Result<()> {
        ensure!(wire.delay.is_zero(), "nothing is delayed in namespaces: sockets do that");
        let mut states = self.states.lock().await;
        for (from, to) in ways {
            let way = (layout::in_namespaces(*from), layout::in_namespaces(*to));
            if wire == Wire::default() {
                states.remove(&way);
            } else {
                states.insert(way, wire);
            }
        }
        tell("nft", &["-f", "-"], &rules(&states)).await.map(drop)
    }

    /// Makes all wires whole again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn heal(&self) -> Result<()> {
        let mut states = self.states.lock().await;
        states.clear();
        tell("nft", &["-f", "-"], &rules(&states)).await.map(drop)
    }

    /// Pulls a cable at the bridge, or puts it in again.
    ///
    /// # Errors
    /// When there is no such cable.
    pub async fn link(&self, end: End, is_up: bool) -> Result<()> {
        tell("ip", &["link", "set", "dev", &cable(end)?, if is_up { "up" } else { "down" }], "").await.map(drop)
    }
}

/// What a cable is called at the bridge.
fn cable(end: End) -> Result<String> {
    match end {
        End::Node(number) | End::Feed(number) => Ok(format!("cp-{number}")),
        End::Proxy(number) => Ok(format!("dp-{number}")),
        End::Record(_) | End::Archive | End::Other => anyhow::bail!("{end:?} is at the bridge itself"),
    }
}

/// The rules of all wires that are not whole, in place of those that there are.
fn rules(states: &BTreeMap<(Ipv4Addr, Ipv4Addr), Wire>) -> String {
    let mut rules = "flush chain bridge wires ways\n".to_owned();
    for ((from, to), wire) in states {
        let chance = match wire.cut {
            true => String::new(),
            false => format!("numgen random mod 100 < {} ", wire.lost_of_100),
        };
        let _ =
            writeln!(rules, "add rule bridge wires ways ip saddr {from} ip daddr {to} {chance}counter name met drop");
    }
    rules
}

/// Where a program is.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    found.with_context(|| format!("{name} is missing: see `make namespaces`"))
}

/// What a program says to its input, when it succeeds.
async fn tell(program: &str, words: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(tool(program)?);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("its input is piped")?;
    // One that ends without reading has said why.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}{input}", words.join(" "), said.trim_end());
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_is_a_rule_in_one_direction() {
        let way = |from, to| (layout::in_namespaces(from), layout::in_namespaces(to));
        let cut = Wire { cut: true, ..Wire::default() };
        let lossy = Wire { lost_of_100: 10, ..Wire::default() };
        let states = BTreeMap::from([(way(End::Node(1), End::Feed(2)), cut), (way(End::Archive, End::Node(3)), lossy)]);
        let wanted = "\
flush chain bridge wires ways
add rule bridge wires ways ip saddr 198.18.1.1 ip daddr 198.18.1.2 counter name met drop
add rule bridge wires ways ip saddr 198.18.4.1 ip daddr 198.18.1.3 numgen random mod 100 < 10 counter name met drop
";
        assert_eq!(rules(&states), wanted);
    }
}
