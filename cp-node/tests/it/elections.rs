//! Elections of whole nodes whose network is broken one way: a node that is deaf sends, and hears nothing.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cp_node::net::{Listener, Net, Stream, TcpNet};
use cp_node::node::{self, Node, Seams};
use cp_node::settings::RaftSettings;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::node::{KEY, request, settings};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Twice and more what a node of these waits before it stands for election, 1.2 s at most.
const DEAF: Duration = Duration::from_secs(3);
/// How closely it is watched whether this machine stands still, and when it does: half of what a follower of these waits for
/// its leader at least.
const STEP: Duration = Duration::from_millis(20);
const STOOD_STILL: Duration = Duration::from_millis(150);

type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// TCP whose reader can be made deaf: nothing arrives, in any connection, whoever has dialled it.
#[derive(Clone)]
struct Ears(watch::Sender<bool>);

impl Ears {
    fn wrap(&self, stream: Stream) -> Stream {
        Stream::new(Ear { stream, deaf: self.0.subscribe(), hearing: None }, "a node")
    }
}

impl Net for Ears {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        let (ears, connecting) = (self.clone(), TcpNet.connect(address));
        Box::pin(async move { Ok(ears.wrap(connecting.await?)) })
    }

    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (ears, listening) = (self.clone(), TcpNet.listen(address));
        Box::pin(async move { Ok(Box::new(Door { ears, listener: listening.await? }) as Box<dyn Listener>) })
    }
}

struct Door {
    ears: Ears,
    listener: Box<dyn Listener>,
}

impl Listener for Door {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move { Ok(self.ears.wrap(self.listener.accept().await?)) })
    }

    fn address(&self) -> String {
        self.listener.address()
    }
}

struct Ear {
    stream: Stream,
    deaf: watch::Receiver<bool>,
    /// Ends when it hears again.
    hearing: Option<BoxFuture<'static, ()>>,
}

impl AsyncRead for Ear {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if *self.deaf.borrow() {
            let mut deaf = self.deaf.clone();
            self.hearing.get_or_insert_with(|| Box::pin(async move { drop(deaf.wait_for(|deaf| !*deaf).await) }));
        }
        if let Some(hearing) = &mut self.hearing {
            std::task::ready!(hearing.as_mut().poll(cx));
            self.hearing = None;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Ear {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Three voters, each with its ears.
struct Three {
    nodes: Vec<(Node, watch::Sender<bool>)>,
    _dir: tempfile::TempDir,
}

impl Three {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: Vec<(Node, watch::Sender<bool>)> = Vec::new();
        for number in 1..=3 {
            let mut settings = settings(&dir.path().join(number.to_string()));
            // Others must know the port before it is listened on.
            settings.peer.listen = free_address();
            settings.raft = RaftSettings::default();
            let deaf = watch::Sender::new(false);
            let seams = Seams { net: Arc::new(Ears(deaf.clone())), ..Seams::real() };
            match nodes.first() {
                Some((first, _)) => settings.cluster.join = vec![first.addresses.peer.clone()],
                None => drop(node::found(&settings, &seams).await.unwrap()),
            }
            nodes.push((Node::start(settings, seams, &Handle::current()).await.unwrap(), deaf));
        }
        let three = Self { nodes, _dir: dir };
        until("all of them vote and follow one leader", async || {
            let voters = |node: &Node| node.inside().raft.metrics().borrow().membership_config.voter_ids().count();
            three.nodes.iter().all(|(node, _)| voters(node) == 3) && three.leader().is_some()
        })
        .await;
        three
    }

    /// Term and leader as a node knows them.
    fn knows(&self, index: usize) -> (u64, Option<u64>) {
        let raft = self.nodes[index].0.inside().raft;
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        (metrics.current_term, metrics.current_leader)
    }

    /// The index of the leader that all agree on.
    fn leader(&self) -> Option<usize> {
        let known: Vec<_> = (0..3).map(|index| self.knows(index)).collect();
        let leader = known[0].1?;
        let agreed = known.iter().all(|one| *one == known[0]);
        agreed.then(|| self.nodes.iter().position(|(node, _)| node.inside().node == leader)).flatten()
    }
}

/// An address of this process alone, so that nobody else takes it before the node does.
fn free_address() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let listener = std::net::TcpListener::bind((Ipv4Addr::new(127, 64 | a, b, c), 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Lets time pass. False when this machine stood still in it for so long that a node may have missed its leader.
async fn passes(time: Duration) -> bool {
    let end = Instant::now() + time;
    let mut evenly = true;
    while Instant::now() < end {
        let before = Instant::now();
        sleep(STEP).await;
        evenly &= before.elapsed() < STOOD_STILL;
    }
    evenly
}

async fn until(what: &str, look: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nobody_deposes_nobody_and_a_leader_that_hears_nobody_is_replaced() {
    let three = Three::start().await;
    let mut attempts = 0;
    let (leader, before) = loop {
        attempts += 1;
        assert!(attempts < 5, "this machine stands still again and again");
        let leader = three.leader().unwrap();
        let follower = (leader + 1) % 3;
        let before = three.knows(leader);
        three.nodes[follower].1.send_replace(true);
        let mut evenly = passes(DEAF).await;
        let (then, of_follower) = (three.knows(leader), three.knows(follower).0);
        three.nodes[follower].1.send_replace(false);
        evenly &= passes(Duration::from_secs(1)).await;
        if evenly {
            assert_eq!(then, before, "a deaf follower has deposed the leader");
            assert_eq!(of_follower, before.0, "a deaf follower has raised its term");
            assert_eq!(three.knows(leader), before, "a follower that hears again has deposed the leader");
            break (leader, before);
        }
        until("they follow one leader", async || three.leader().is_some()).await;
    };
    let other = (leader + 2) % 3;

    three.nodes[leader].1.send_replace(true);
    until("the others elect another leader", async || {
        let (term, elected) = three.knows(other);
        term > before.0 && elected.is_some_and(|elected| Some(elected) != before.1)
    })
    .await;
    let after = three.knows(other);
    sleep(DEAF).await;
    assert_eq!(three.knows(other), after, "the deaf old leader has deposed the new one");
    three.nodes[leader].1.send_replace(false);
    until("the old leader follows the new one", async || three.knows(leader) == after).await;
    for (node, _) in three.nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_with_a_time_goes_once_and_everywhere_though_its_leader_is_replaced() {
    let three = Three::start().await;
    let leader = three.leader().unwrap();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let call = async |index: usize, method: &str, path: &str, body: &str| {
        let address = &three.nodes[index].0.addresses.admin;
        let (status, _, answer) = request(address, method, path, &[("x-api-key", KEY)], body.as_bytes()).await;
        (status, serde_json::from_str::<serde_json::Value>(&answer).unwrap())
    };
    let route = r#"{"uri":"/a","upstream":{"nodes":{}}}"#;
    let path = "/apisix/admin/routes/short";
    assert_eq!(call(leader, "PUT", &format!("{path}?ttl=2"), route).await.0, 201);
    let before = three.knows(leader);
    three.nodes[leader].1.send_replace(true);
    until("the others elect another leader", async || {
        let (term, elected) = three.knows(other);
        term > before.0 && elected.is_some_and(|elected| Some(elected) != before.1)
    })
    .await;
    let gone = async |index: usize| call(index, "GET", &format!("{path}?consistency=stale"), "").await.0 == 404;
    until("it goes away under the new leader", async || gone(one).await && gone(other).await).await;
    three.nodes[leader].1.send_replace(false);
    until("the old leader follows", async || gone(leader).await).await;
    for index in 0..3 {
        let (_, told) = call(index, "GET", "/v1/history?kind=routes&id=short", "").await;
        let ops: Vec<_> = told["list"].as_array().unwrap().iter().map(|row| row["op"].as_str().unwrap()).collect();
        assert_eq!(ops, ["delete", "create"], "node {index}: {told}");
    }
    for (node, _) in three.nodes {
        node.stop().await;
    }
}
