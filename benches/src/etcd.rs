//! The peer: a three-node etcd as Debian ships it, with its defaults, durable as it is by default.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use crate::process::Process;

#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto file"
)]
mod rpc {
    tonic::include_proto!("etcdserverpb");
}

use rpc::kv_client::KvClient;
use rpc::maintenance_client::MaintenanceClient;
use rpc::{PutRequest, StatusRequest};

/// How long it may take to have a leader.
const READY_MAX: Duration = Duration::from_secs(30);

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Three nodes. They are killed when this is dropped.
pub(crate) struct Etcd {
    nodes: Vec<Process>,
}

fn at(number: usize, port: u16) -> String {
    format!("http://127.40.2.{number}:{port}")
}

impl Etcd {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let cluster: Vec<String> = (1..=3).map(|number| format!("etcd-{number}={}", at(number, 2380))).collect();
        let mut nodes = Vec::new();
        for number in 1..=3 {
            let name = format!("etcd-{number}");
            let args = [
                format!("--name={name}"),
                format!("--data-dir={}", dir.join(&name).display()),
                format!("--listen-client-urls={}", at(number, 2379)),
                format!("--advertise-client-urls={}", at(number, 2379)),
                format!("--listen-peer-urls={}", at(number, 2380)),
                format!("--initial-advertise-peer-urls={}", at(number, 2380)),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-state=new".to_owned(),
                "--logger=zap".to_owned(),
                "--log-level=error".to_owned(),
            ];
            nodes.push(Process::spawn(&name, Path::new("etcd"), &args, dir)?);
        }
        let mut etcd = Self { nodes };
        etcd.leader().await?;
        Ok(etcd)
    }

    /// The number of the node that leads.
    pub(crate) async fn leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            for number in 1..=3 {
                if leads(number).await.unwrap_or(false) {
                    return Ok(number);
                }
            }
            for node in &mut self.nodes {
                node.runs().context("etcd")?;
            }
            if Instant::now() > deadline {
                bail!("etcd has no leader within {READY_MAX:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What all nodes have used of the processor.
    pub(crate) fn processor(&self) -> Duration {
        self.nodes.iter().map(Process::processor).sum()
    }
}

async fn leads(number: usize) -> Result<bool> {
    let mut client = MaintenanceClient::new(connect(number).await?);
    let status = client.status(StatusRequest {}).await?.into_inner();
    let own = status.header.map_or(0, |header| header.member_id);
    Ok(status.leader != 0 && status.leader == own)
}

async fn connect(number: usize) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(at(number, 2379))?.tcp_nodelay(true).connect_timeout(Duration::from_secs(2));
    Ok(endpoint.connect().await?)
}

/// A client with a connection of its own, or sharing one.
#[derive(Clone)]
pub(crate) struct Kv(KvClient<Channel>);

impl Kv {
    pub(crate) async fn connect(number: usize) -> Result<Self> {
        Ok(Self(KvClient::new(connect(number).await?)))
    }

    pub(crate) async fn put(&mut self, key: String, value: Bytes) -> Result<()> {
        self.0.put(PutRequest { key: key.into(), value: value.to_vec() }).await?;
        Ok(())
    }
}
