//! Which addresses the processes of a cluster have.
//!
//! The whole of 127.0.0.0/8 is this machine. So every test process has an address of its own, and clusters of tests that
//! run at the same time never meet; and the demo's nodes have an address each, with every listener on its usual port.

use std::net::Ipv4Addr;

use crate::wires::End;

/// Where the members of the golden cluster are: outside of the addresses of test processes.
const GOLDEN: Ipv4Addr = Ipv4Addr::new(127, 63, 0, 1);

/// Who gets which addresses.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// One address for a whole cluster, made from the process id; ports tell its members apart.
    Test {
        /// Tells clusters of one process apart: 0 to 9.
        cluster: u8,
    },
    /// As `Test`, at an address that is always the same: members know each other by their addresses, and those of golden
    /// data directories are in them. There is room for one such cluster at a time.
    Golden,
    /// An address for each node, ports as in production.
    Demo,
    /// The same, in namespaces: wires lead from address to address, and links are who is at their ends.
    Namespaces,
}

/// Where a control-plane node listens.
#[derive(Clone, Debug)]
pub struct CpAddresses {
    /// For other nodes.
    pub peer: String,
    /// For proxies.
    pub feed: String,
    /// The Admin API.
    pub admin: String,
    /// Probes and metrics.
    pub status: String,
}

/// Where a proxy listens.
#[derive(Clone, Debug)]
pub struct DpAddresses {
    /// Traffic.
    pub proxy: String,
    /// Probes and its state.
    pub status: String,
    /// Metrics.
    pub metrics: String,
    /// Where the health of nodes is told.
    pub control: String,
}

impl Layout {
    /// The addresses of control-plane node `number`, which counts from 1.
    #[must_use]
    pub fn cp(self, number: u16) -> CpAddresses {
        match self {
            Self::Test { .. } | Self::Golden => {
                let at = |listener| self.port(number * 10 + listener);
                CpAddresses { peer: at(0), feed: at(1), admin: at(2), status: at(3) }
            }
            Self::Demo => {
                let at = |port: u16| format!("127.0.0.{number}:{port}");
                CpAddresses { peer: at(9190), feed: at(9191), admin: at(9180), status: at(7085) }
            }
            Self::Namespaces => {
                let at = |port: u16| format!("{}:{port}", in_namespaces(End::Node(number)));
                CpAddresses { peer: at(9190), feed: at(9191), admin: at(9180), status: at(7085) }
            }
        }
    }

    /// The addresses of proxy `number`, which counts from 1.
    #[must_use]
    pub fn dp(self, number: u16) -> DpAddresses {
        match self {
            Self::Test { .. } | Self::Golden => {
                let at = |listener| self.port(400 + number * 10 + listener);
                DpAddresses { proxy: at(0), status: at(1), metrics: at(2), control: at(3) }
            }
            Self::Demo => {
                let at = |port: u16| format!("127.0.0.{}:{port}", 10 + number);
                DpAddresses { proxy: at(9080), status: at(7085), metrics: at(9091), control: at(9090) }
            }
            Self::Namespaces => {
                let at = |port: u16| format!("{}:{port}", in_namespaces(End::Proxy(number)));
                DpAddresses { proxy: at(9080), status: at(7085), metrics: at(9091), control: at(9090) }
            }
        }
    }

    /// The address of upstream `number`, which counts from 1.
    #[must_use]
    pub fn upstream(self, number: u16) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(700 + number),
            Self::Demo => format!("127.0.0.{}:1980", 20 + number),
            Self::Namespaces => format!("{}:1980", address(ORIGINS, number)),
        }
    }

    /// The address of link `number`, which counts from 1.
    #[must_use]
    pub fn link(self, number: u16) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(800 + number),
            Self::Demo => format!("127.0.0.{}:9190", 30 + number),
            Self::Namespaces => self.cp(number).peer,
        }
    }

    /// The address of the link to the feed of control-plane node `number`.
    #[must_use]
    pub fn feed_link(self, number: u16) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(830 + number),
            Self::Demo => format!("127.0.0.{}:9191", 30 + number),
            Self::Namespaces => self.cp(number).feed,
        }
    }

    /// The address of PostgreSQL `number`, which counts from 1.
    #[must_use]
    pub fn postgres(self, number: u16) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(850 + number),
            Self::Demo => format!("127.0.0.{}:5432", 40 + number),
            Self::Namespaces => format!("{}:5432", in_namespaces(End::Record(number))),
        }
    }

    /// The address of the link to PostgreSQL `number`, which counts from 1.
    #[must_use]
    pub fn record_link(self, number: u16) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(860 + number),
            Self::Demo => format!("127.0.0.{}:5432", 50 + number),
            Self::Namespaces => self.postgres(number),
        }
    }

    /// The address of the object store; on loopback any port will do.
    #[must_use]
    pub fn archive(self) -> String {
        match self {
            Self::Test { .. } | Self::Golden | Self::Demo => "127.0.0.1:0".to_owned(),
            Self::Namespaces => format!("{}:9000", in_namespaces(End::Archive)),
        }
    }

    /// The address of the link to the object store.
    #[must_use]
    pub fn archive_link(self) -> String {
        match self {
            Self::Test { .. } | Self::Golden => self.port(870),
            Self::Demo => "127.0.0.60:9000".to_owned(),
            Self::Namespaces => self.archive(),
        }
    }

    /// The addresses in namespaces that the harness itself has, beside that of [`End::Other`]: servers of the record, the object
    /// store, upstreams.
    pub fn at_the_bridge() -> impl Iterator<Item = Ipv4Addr> {
        let servers = (1..=2).map(|number| in_namespaces(End::Record(number)));
        let upstreams = (1..=2).map(|number| address(ORIGINS, number));
        servers.chain([in_namespaces(End::Archive)]).chain(upstreams)
    }

    /// A port of the one address, below the ephemeral range.
    fn port(self, offset: u16) -> String {
        let (address, cluster) = match self {
            Self::Test { cluster } => (own_address(), u16::from(cluster)),
            Self::Golden => (GOLDEN, 0),
            Self::Demo | Self::Namespaces => (own_address(), 0),
        };
        format!("{address}:{}", 20_000 + 1000 * cluster + offset)
    }
}

/// An address of this process alone: its id makes three of the four parts.
fn own_address() -> Ipv4Addr {
    let [high, a, b, c] = std::process::id().to_be_bytes();
    debug_assert_eq!(high, 0, "Linux gives no process id above 2^22");
    Ipv4Addr::new(127, 64 | a, b, c)
}

/// The third part of the addresses that upstreams have in namespaces.
const ORIGINS: u8 = 5;

/// Where an end of a wire is in namespaces.
#[must_use]
pub fn in_namespaces(end: End) -> Ipv4Addr {
    match end {
        End::Other => address(0, 1),
        End::Node(number) | End::Feed(number) => address(1, number),
        End::Proxy(number) => address(2, number),
        End::Record(number) => address(3, number),
        End::Archive => address(4, 1),
    }
}

fn address(kind: u8, number: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, kind, u8::try_from(number).expect("an arena has fewer than 256 of each"))
}
