//! A small honest control plane over [`ConfigState`], whose nodes can be told to misbehave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::codec;
use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::grpc::feed_down::Kind as Down;
use protocol::grpc::feed_server::{Feed, FeedServer};
use protocol::grpc::feed_up::Kind as Up;
use protocol::grpc::payload::Kind as PayloadKind;
use protocol::grpc::{self, Ack, Behind, FeedDown, FeedUp, Heartbeat, Hello, Payload, Refused, Welcome};
use protocol::position::RestoreId;
use protocol::snapshot::{self, ClusterId, Header, Unsealed};
use protocol::state::CatchUp;
use protocol::{Chain, ConfigState, Delta, Digest, Entry, Epoch, Position, ResourceKey};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::own_address;

/// The cluster of every control plane here, unless a test says otherwise.
pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

/// How often a node says that nothing happened.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// The state that all nodes of a control plane agree on.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    head: watch::Sender<ConfigState>,
}

impl ControlPlane {
    pub(crate) fn new() -> Self {
        Self::in_epoch(1)
    }

    pub(crate) fn in_epoch(number: u64) -> Self {
        let mut state = ConfigState::serving();
        state.begin_epoch(Epoch { number, restore: RestoreId([u8::try_from(number).unwrap(); 16]) });
        Self { head: watch::Sender::new(state) }
    }

    /// One commit. Returns its position.
    pub(crate) fn commit(&self, changes: &[(&str, &str, Option<Value>)]) -> Position {
        self.commit_in("default", changes)
    }

    pub(crate) fn commit_in(&self, group: &str, changes: &[(&str, &str, Option<Value>)]) -> Position {
        let mut position = Position::default();
        self.head.send_modify(|state| {
            position = state.position().next();
            let stamp = Stamp { revision: position.revision, time: 0 };
            let entry = |body: &Value| Arc::new(Entry::new(protocol::json::canonical(body), group, stamp));
            let mut changes: Vec<Change> = changes
                .iter()
                .map(|(kind, id, body)| Change { key: ResourceKey::new(kind, id), entry: body.as_ref().map(entry) })
                .collect();
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            let (prev, digest) = (state.changed_at(), state.digest_after(&changes));
            state.evolve(&Delta { prev, position, changes, digest, cause: None }).unwrap();
        });
        position
    }

    pub(crate) fn put(&self, kind: &str, id: &str, body: Value) -> Position {
        self.commit(&[(kind, id, Some(body))])
    }

    pub(crate) fn state(&self) -> ConfigState {
        self.head.borrow().clone()
    }

    /// What a proxy must hold.
    pub(crate) fn expected(&self) -> (Position, Digest) {
        let state = self.state();
        (state.position(), state.view("default").digest().total())
    }

    /// A node that serves this state, at an address that nobody else takes when it is gone.
    pub(crate) async fn node(&self) -> Node {
        Node::start(self.head.subscribe(), own_address()).await
    }

    /// The same, on a given port.
    pub(crate) async fn node_at(&self, address: SocketAddr) -> Node {
        Node::start(self.head.subscribe(), address).await
    }

    /// A node that stands still where the state is now.
    pub(crate) async fn stale_node(&self) -> Node {
        let stands_still = watch::Sender::new(self.state());
        let node = Node::start(stands_still.subscribe(), own_address()).await;
        // As long as the node lives, its state is there.
        node.keep(stands_still);
        node
    }
}

/// What a node does wrong. Each is done once, with the next step that is sent, unless it says "from now on".
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Twist {
    /// Skips it.
    Drop,
    /// Sends it with another digest.
    WrongDigest,
    /// Sends it twice.
    Twice,
    /// Ends the stream in the middle of it.
    CutInside,
    /// Sends a byte of it wrong.
    Garble,
}

/// How a node behaves from now on.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) cluster: ClusterId,
    /// Says nothing at all.
    pub(crate) silent: bool,
    pub(crate) refuse: Option<String>,
    pub(crate) leader_age: Duration,
    /// After how much silence a proxy may leave.
    pub(crate) silence_max: Duration,
    /// Answers a request for a repair with the wrong digest.
    pub(crate) bad_repair: bool,
    /// Bytes of one part of a payload.
    pub(crate) part_bytes: usize,
    pub(crate) compress: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            cluster: CLUSTER,
            silent: false,
            refuse: None,
            leader_age: Duration::ZERO,
            // Much longer than a busy machine keeps anybody waiting: nobody leaves who is not to.
            silence_max: Duration::from_secs(10),
            bad_repair: false,
            part_bytes: 1 << 20,
            compress: false,
        }
    }
}

/// What a node was told by proxies.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) hellos: Vec<Hello>,
    pub(crate) acks: Vec<Ack>,
    pub(crate) mends: usize,
    pub(crate) fulls: usize,
    pub(crate) deltas: usize,
    /// Streams that are open.
    pub(crate) streams: usize,
}

/// A node of the control plane. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    head: watch::Receiver<ConfigState>,
    kept: Mutex<Vec<watch::Sender<ConfigState>>>,
    twists: Mutex<VecDeque<Twist>>,
    manner: Mutex<Manner>,
    heard: Mutex<Heard>,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    async fn start(head: watch::Receiver<ConfigState>, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            head,
            kept: Mutex::default(),
            twists: Mutex::default(),
            manner: Mutex::default(),
            heard: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = FeedServer::new(Service { shared: shared.clone() });
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, shared, server }
    }

    fn keep(&self, head: watch::Sender<ConfigState>) {
        self.shared.kept.lock().unwrap().push(head);
    }

    /// Does this wrong with the next step.
    pub(crate) fn twist(&self, twist: Twist) {
        self.shared.twists.lock().unwrap().push_back(twist);
    }

    pub(crate) fn twists_left(&self) -> usize {
        self.shared.twists.lock().unwrap().len()
    }

    /// Changes how it behaves from now on.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.shared.manner.lock().unwrap());
    }

    /// Looks at what it was told.
    pub(crate) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.shared.heard.lock().unwrap())
    }

    pub(crate) fn streams(&self) -> usize {
        self.heard(|heard| heard.streams)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Service {
    shared: Arc<Shared>,
}

type Down1 = Result<FeedDown, Status>;

#[tonic::async_trait]
impl Feed for Service {
    type SubscribeStream = Pin<Box<dyn tokio_stream::Stream<Item = Down1> + Send>>;

    async fn subscribe(&self, request: Request<Streaming<FeedUp>>) -> Result<Response<Self::SubscribeStream>, Status> {
        let (down, messages) = mpsc::channel(16);
        let stream = Stream { shared: self.shared.clone(), up: request.into_inner(), down };
        tokio::spawn(stream.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// One proxy's stream.
struct Stream {
    shared: Arc<Shared>,
    up: Streaming<FeedUp>,
    down: mpsc::Sender<Down1>,
}

/// Where the proxy stands, as far as the node knows.
struct Reader {
    group: String,
    position: Position,
    changed_at: Position,
}

impl Stream {
    async fn run(mut self) {
        self.shared.heard.lock().unwrap().streams += 1;
        // However it ends: the proxy sees it.
        let _ = self.serve().await;
        self.shared.heard.lock().unwrap().streams -= 1;
    }

    fn manner(&self) -> Manner {
        self.shared.manner.lock().unwrap().clone()
    }

    async fn send(&self, kind: Down) -> Option<()> {
        while self.manner().silent {
            if self.down.is_closed() {
                return None;
            }
            sleep(HEARTBEAT).await;
        }
        self.down.send(Ok(FeedDown { kind: Some(kind) })).await.ok()
    }

    async fn serve(&mut self) -> Option<()> {
        let Some(Up::Hello(hello)) = self.up.message().await.ok()??.kind else { return None };
        let mut reader = Reader {
            group: hello.group.clone(),
            position: grpc::position(hello.position.clone(), "position").ok()?,
            changed_at: grpc::position(hello.changed_at.clone(), "changed_at").ok()?,
        };
        self.shared.heard.lock().unwrap().hellos.push(hello);
        let manner = self.manner();
        if let Some(reason) = manner.refuse {
            return self.send(Down::Refused(Refused { reason })).await;
        }
        let welcome = Welcome {
            cluster: manner.cluster.to_string(),
            node_id: 7,
            node_name: "cp-test".into(),
            region: "here".into(),
            version: "test".into(),
            silence_ms_max: u64::try_from(manner.silence_max.as_millis()).unwrap(),
        };
        self.send(Down::Welcome(welcome)).await?;
        let mut head = self.shared.head.clone();
        loop {
            let state = head.borrow_and_update().clone();
            self.bring(&mut reader, &state).await?;
            tokio::select! {
                changed = head.changed() => changed.ok()?,
                up = self.up.message() => match up.ok()??.kind {
                    Some(Up::Ack(ack)) => self.shared.heard.lock().unwrap().acks.push(ack),
                    Some(Up::Mend(mend)) => self.mend(&mut reader, &mend.buckets).await?,
                    _ => return None,
                },
                () = sleep(HEARTBEAT) => {}
            }
        }
    }

    /// Brings a reader to a state, and says where it then is.
    async fn bring(&self, reader: &mut Reader, state: &ConfigState) -> Option<()> {
        match state.catch_up(&reader.group, reader.position, reader.changed_at) {
            CatchUp::Behind => {
                self.send(Down::Behind(Behind { position: Some(state.position().into()) })).await?;
                return None;
            }
            CatchUp::Full => {
                self.shared.heard.lock().unwrap().fulls += 1;
                self.payload(PayloadKind::Full, &full(state, &reader.group, self.manner().cluster), None).await?;
            }
            CatchUp::Delta(delta) => {
                self.shared.heard.lock().unwrap().deltas += 1;
                self.step(&delta).await?;
            }
            CatchUp::Current => {}
        }
        let view = state.view(&reader.group);
        (reader.position, reader.changed_at) = (state.position(), view.changed_at());
        let heartbeat = Heartbeat {
            position: Some(state.position().into()),
            changed_at: Some(view.changed_at().into()),
            digest: view.digest().total().0.to_vec().into(),
            leader_contact_age_ms: u64::try_from(self.manner().leader_age.as_millis()).unwrap(),
        };
        self.send(Down::Heartbeat(heartbeat)).await
    }

    /// Sends a step, or does with it what the test asks for.
    async fn step(&self, delta: &Delta) -> Option<()> {
        let twist = self.shared.twists.lock().unwrap().pop_front();
        let mut delta = delta.clone();
        if twist == Some(Twist::WrongDigest) {
            delta.digest.0[0] ^= 1;
        }
        let mut bytes = codec::seal(&delta).unwrap();
        match twist {
            Some(Twist::Drop) => return Some(()),
            Some(Twist::Garble) => *bytes.last_mut().unwrap() ^= 1,
            Some(Twist::CutInside) => return self.payload(PayloadKind::Delta, &bytes, Some(bytes.len() / 2)).await,
            Some(Twist::Twice) => self.payload(PayloadKind::Delta, &bytes, None).await?,
            Some(Twist::WrongDigest) | None => {}
        }
        self.payload(PayloadKind::Delta, &bytes, None).await
    }

    async fn mend(&self, reader: &mut Reader, buckets: &[u8]) -> Option<()> {
        self.shared.heard.lock().unwrap().mends += 1;
        let state = self.shared.head.borrow().clone();
        let theirs = grpc::buckets_from_bytes(buckets).ok()?;
        let mut contents = state.bucket_contents(&reader.group, &theirs);
        if self.manner().bad_repair {
            contents.digest.0[0] ^= 1;
        }
        (reader.position, reader.changed_at) = (contents.position, contents.changed_at);
        self.payload(PayloadKind::Buckets, &codec::seal(&contents).unwrap(), None).await
    }

    /// Sends a payload in parts; ends the stream after `cut` bytes.
    async fn payload(&self, kind: PayloadKind, raw: &[u8], cut: Option<usize>) -> Option<()> {
        let Manner { part_bytes, compress, .. } = self.manner();
        let bytes = if compress { codec::compress(raw) } else { raw.to_vec() };
        let part_bytes = cut.unwrap_or(part_bytes);
        let count = bytes.len().div_ceil(part_bytes);
        for (index, part) in bytes.chunks(part_bytes).enumerate() {
            let payload = Payload {
                kind: kind.into(),
                total_bytes: bytes.len() as u64,
                zstd: compress,
                raw_bytes: if compress { raw.len() as u64 } else { 0 },
                part: part.to_vec().into(),
                last: index + 1 == count,
            };
            self.send(Down::Payload(payload)).await?;
            if cut.is_some() {
                return None;
            }
        }
        Some(())
    }
}

/// A snapshot of a group's view.
fn full(state: &ConfigState, group: &str, cluster: ClusterId) -> Vec<u8> {
    let view = state.view(group);
    let entries = state.iter().filter(|(_, entry)| entry.is_in(group)).map(|(key, entry)| (key.clone(), entry.clone()));
    let following = ConfigState::following();
    let state = ConfigState::from_entries(following, state.position(), view.changed_at(), Chain::default(), entries);
    let header = Header {
        cluster,
        view: Some(group.into()),
        position: state.position(),
        changed_at: state.changed_at(),
        chain: None,
        digest: state.digest(),
        entries: state.len() as u64,
        level: 1,
        created: 0,
    };
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, &state, &[], &Unsealed).unwrap();
    bytes
}
