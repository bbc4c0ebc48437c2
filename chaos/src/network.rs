//! Which network a cluster gets, and the way of the harness into a namespace of its own, in which it may make one.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result, ensure};
use clap::ValueEnum;

use crate::fault::Fault;
use crate::layout::Layout;
use crate::namespaces::tool;

/// In the environment of a harness that is in a namespace of its own: the one that it has left.
const LEFT: &str = "HOLDFAST_CHAOS_LEFT";
/// What a network of namespaces takes of a kernel.
const TRIAL: &str =
    "ip link add name trial0 type bridge && ip link add name trial1 type veth peer name trial2 && nft -f - <<'.'
add table bridge t
add counter bridge t c
add chain bridge t c { type filter hook forward priority 0; }
add rule bridge t c ip saddr 198.18.0.1 numgen random mod 100 < 1 counter name c drop
.";

/// Of what wires are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// Sockets of the harness on loopback addresses.
    Sockets,
    /// Cables between namespaces.
    Namespaces,
}

/// Which network is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Wish {
    /// Namespaces where this machine allows them, else sockets.
    Auto,
    /// Sockets of the harness on loopback addresses, which every machine allows.
    Sockets,
    /// Cables between namespaces, which root alone can make.
    Namespaces,
}

impl Network {
    /// Of what the wires of a layout are.
    #[must_use]
    pub fn of(layout: Layout) -> Self {
        match layout {
            Layout::Namespaces => Self::Namespaces,
            Layout::Test { .. } | Layout::Golden | Layout::Demo => Self::Sockets,
        }
    }

    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Namespaces => "namespaces",
        }
    }

    /// Where a scenario of one cluster takes place.
    #[must_use]
    pub fn layout(self) -> Layout {
        match self {
            Self::Sockets => Layout::Test { cluster: 0 },
            Self::Namespaces => Layout::Namespaces,
        }
    }

    /// This network where it can make all of these faults, else the one that can.
    ///
    /// # Errors
    /// When that takes namespaces and there are none; with the reason.
    pub fn for_faults(self, faults: impl IntoIterator<Item = Fault> + Clone) -> Result<Self> {
        let wants = |network| faults.clone().into_iter().any(|fault| fault.network() == Some(network));
        match (wants(Self::Sockets), wants(Self::Namespaces)) {
            (true, true) => Err(Error::msg("no network can both delay and lose a link")),
            (true, false) => Ok(Self::Sockets),
            (false, true) => {
                ensure!(self == Self::Namespaces, "a link is lost in namespaces alone: `--network namespaces`");
                Ok(self)
            }
            (false, false) => Ok(self),
        }
    }
}

/// The network that is wanted. Where it is one of namespaces, this process starts over in one of its own, and comes here again:
/// nothing is to be done before.
///
/// # Errors
/// Why there are none, where they are wanted.
pub fn enter(wish: Wish) -> Result<Network> {
    if wish == Wish::Sockets {
        return Ok(Network::Sockets);
    }
    if is_within() {
        // Some of its runs may go over sockets after all.
        let ip = Command::new(tool("ip")?).args(["link", "set", "lo", "up"]).output().context("ip")?;
        ensure!(ip.status.success(), "the loopback: {}", String::from_utf8_lossy(&ip.stderr));
        return Ok(Network::Namespaces);
    }
    match try_out() {
        Ok(()) => Err(begin_again()),
        Err(why) if wish == Wish::Auto => {
            eprintln!("wires are sockets: {why:#}");
            Ok(Network::Sockets)
        }
        Err(why) => Err(why.context("there are no namespaces here")),
    }
}

/// Whether this process is in a network namespace that was made for it.
#[must_use]
pub fn is_within() -> bool {
    // What the environment says is not believed where we are still where it says that we were.
    std::env::var_os(LEFT).is_some_and(|left| own().is_ok_and(|own| own != Path::new(&left)))
}

/// What names the network namespace of this process.
fn own() -> io::Result<PathBuf> {
    std::fs::read_link("/proc/self/ns/net")
}

/// Whether namespaces can be made here, and all that is needed in them.
///
/// # Errors
/// Why not.
pub fn try_out() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root makes namespaces");
    let mut folders = Vec::new();
    for name in ["nsenter", "ip", "nft"] {
        folders.extend(tool(name)?.parent().map(Path::to_owned));
    }
    let path = std::env::join_paths(folders)?;
    let tried = Command::new(tool("unshare")?)
        .args(["--net", "--", "/bin/sh", "-c", TRIAL])
        .env("PATH", path)
        .output()
        .context("unshare")?;
    let said = String::from_utf8_lossy(&tried.stderr);
    ensure!(tried.status.success(), "this kernel does not allow them: {}", said.lines().next().unwrap_or_default());
    Ok(())
}

/// This command once more, in a namespace of its own; comes back only with an error.
fn begin_again() -> Error {
    let begun = || -> Result<io::Error> {
        let own_program = std::env::current_exe()?;
        let mut command = Command::new(tool("unshare")?);
        command.args(["--net", "--"]).arg(own_program).args(std::env::args_os().skip(1)).env(LEFT, own()?);
        Ok(command.exec())
    };
    begun().map_or_else(|why| why, Error::from).context("the harness does not come into a namespace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Whom;

    #[test]
    fn a_run_is_over_the_network_that_can_make_its_faults() {
        let whom = Whom::Leader;
        let (any, delay) = (Fault::Isolate { whom }, Fault::Delay { ms: 30 });
        let lost = Fault::LostLink { whom, dies: false };
        for network in [Network::Sockets, Network::Namespaces] {
            assert_eq!(network.for_faults([any]).unwrap(), network);
            assert_eq!(network.for_faults([any, delay]).unwrap(), Network::Sockets);
        }
        assert_eq!(Network::Namespaces.for_faults([any, lost]).unwrap(), Network::Namespaces);
        let refused = Network::Sockets.for_faults([any, lost]).unwrap_err();
        assert!(refused.to_string().contains("--network namespaces"), "{refused}");
        assert!(Network::Namespaces.for_faults([lost, delay]).is_err());
    }
}
