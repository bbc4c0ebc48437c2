//! Hot restarts: the program is started anew again and again, and nobody who talks to it notices.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::client::{Client, get};
use crate::harness::control_plane::{ControlPlane, Node};
use crate::harness::origin::Origin;
use crate::harness::program::{Processes, Site, signal};
use crate::harness::proxy::route;
use crate::harness::until;

/// Restarts in the test; `benches soak` makes more.
const RESTARTS: usize = 5;

/// Answers `/ws` with a tunnel that echoes, `/long` with bytes until the client has had enough, everything else at once.
async fn origin() -> Origin {
    Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            if request.line.contains("/ws") {
                let head = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                conversation.send(head).await;
                while let Some(byte) = conversation.take(1).await {
                    conversation.send(byte).await;
                }
                return;
            }
            if request.line.contains("/long") {
                conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while conversation.stream.write_all(b"4\r\nlong\r\n").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
        }
    })
    .await
}

/// What the programs tell their supervisor, which this test is.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Drops what was said so far: what is waited for next is said by a process that is started after this.
    fn forget(&self) {
        while self.0.recv(&mut [0; 256]).is_ok() {}
    }

    /// The next word that starts so; gives the rest of it.
    async fn told(&self, start: &str) -> String {
        let mut rest = None;
        until(&format!("the supervisor is told {start}"), async || {
            let mut buffer = [0; 256];
            while let Ok(read) = self.0.recv(&mut buffer) {
                let word = String::from_utf8_lossy(&buffer[..read]).into_owned();
                rest = rest.take().or(word.strip_prefix(start).map(str::to_owned));
            }
            rest.is_some()
        })
        .await;
        rest.unwrap()
    }
}

/// A control plane, a proxy of its own process that follows it, and its supervisor.
struct Stage {
    control_plane: ControlPlane,
    _node: Node,
    _origin: Origin,
    supervisor: Supervisor,
    site: Site,
    processes: Processes,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn set(more: &[&str]) -> (Self, u32) {
        let origin = origin().await;
        let control_plane = ControlPlane::new();
        let mut body = route("/*", origin.address);
        body["enable_websocket"] = json!(true);
        control_plane.put("routes", "all", body);
        let node = control_plane.node().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = vec![format!("control_plane.endpoints=[{}]", node.address)];
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        let site = Site::at(&dir.path().join("data"), &settings);
        let supervisor = Supervisor::at(&dir.path().join("notify"));
        let mut stage = Self {
            control_plane,
            _node: node,
            _origin: origin,
            supervisor,
            site,
            processes: Processes::default(),
            dir,
        };
        let first = stage.start(&["run"]);
        stage.supervisor.told("READY=1").await;
        (stage, first)
    }

    fn start(&mut self, words: &[&str]) -> u32 {
        let mut command = self.site.command(words);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify")).stderr(Stdio::inherit());
        self.processes.started(command.spawn().unwrap())
    }

    /// Restarts the program, and gives the new process.
    async fn restart(&mut self, old: u32) -> u32 {
        signal(old, "USR2");
        let new = self.supervisor.told("MAINPID=").await.parse().unwrap();
        self.processes.has(new);
        new
    }

    /// Puts a route of its own, which must soon be served: the process follows, and its disk takes what comes.
    async fn follows(&self, name: &str) {
        let before = get(self.site.status, "status", "/status/config").await.json()["revision"].as_u64();
        let id = name.trim_start_matches('/');
        self.control_plane.put("routes", id, json!({"uri": name, "upstream": {"nodes": {"127.0.0.1:9": 1}}}));
        until("it follows, and keeps what comes", async || {
            let config = get(self.site.status, "status", "/status/config").await.json();
            config["revision"].as_u64() > before && config["volatile"] == false
        })
        .await;
    }
}

/// Asks again and again, on one connection where it is kept; gives the answers. It panics when there is none.
async fn ask(site: std::net::SocketAddr, keep: bool, post: bool, done: Arc<AtomicBool>, total: Arc<AtomicUsize>) {
    let request = match post {
        true => "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nsome data",
        false => "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    let mut client = Client::connect(site).await;
    while !done.load(Ordering::Relaxed) {
        client.send(request).await;
        let answer = client.response().await.unwrap_or_else(|| panic!("a request (kept: {keep}) got no answer"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
        total.fetch_add(1, Ordering::Relaxed);
        if !keep || answer.header("connection") == Some("close") {
            client = Client::connect(site).await;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_fail_no_request_and_cut_nothing_off() {
    let (mut stage, first) = Stage::set(&["proxy.drain.delay=200ms"]).await;
    let address = stage.site.proxy;
    let mut socket = Client::connect(address).await;
    socket.send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(socket.response().await.unwrap().status, 101);
    let mut download = Client::connect(address).await;
    download.send("GET /long HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (done, total) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut load = JoinSet::new();
    for n in 0..8 {
        load.spawn(ask(address, n % 2 == 0, n % 4 < 2, done.clone(), total.clone()));
    }
    let mut current = first;
    for n in 0..RESTARTS {
        let before = total.load(Ordering::Relaxed);
        current = stage.restart(current).await;
        stage.follows(&format!("/after-{n}")).await;
        // What was open before the first restart is still served by the first process.
        socket.send("ping").await;
        assert!(!socket.take_some(Duration::from_secs(5)).await.is_empty(), "the tunnel is alive");
        assert!(!download.take_some(Duration::from_secs(5)).await.is_empty(), "the download goes on");
        until("requests were answered meanwhile", async || total.load(Ordering::Relaxed) > before + 20).await;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(client) = load.join_next().await {
        client.unwrap();
    }
    eprintln!("{} requests over {RESTARTS} restarts, none failed", total.load(Ordering::Relaxed));
    assert!(!stage.processes.has_ended(first), "it has a tunnel and a download left");

    // The successor's own death is no more than a restart, although the first process still has something under way.
    signal(current, "KILL");
    until("it is dead", async || stage.processes.has_ended(current)).await;
    stage.supervisor.forget();
    let last = stage.start(&["run", "--take-over"]);
    stage.supervisor.told("READY=1").await;
    assert_eq!(get(address, "x", "/").await.status, 200);
    assert!(!stage.processes.has_ended(first));
    drop((socket, download));
    until("the first process ends with what it had", async || stage.processes.has_ended(first)).await;
    signal(last, "TERM");
    until("the last one ends as well", async || stage.processes.has_ended(last)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_that_does_not_come_about_costs_nothing() {
    let (mut stage, first) = Stage::set(&["proxy.drain.delay=0s"]).await;
    let address = stage.site.proxy;
    // A successor with settings that cannot be used, and one that finds an address taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--set=metrics.listen={}", taken.local_addr().unwrap());
    for bad in ["--set=proxy.workers=many", &listen] {
        let output = stage.site.command(&["run", "--take-over", bad]).output().unwrap();
        assert!(!output.status.success(), "{bad}");
        assert_eq!(get(address, "x", "/").await.status, 200, "{bad}");
    }
    stage.follows("/one").await;
    // One that asks and ends, and one that asks and says nothing more.
    let socket = stage.dir.path().join("data/handover.sock");
    let ask = json!({"format": 1, "version": "a test"}).to_string();
    let mut keep = Vec::new();
    for stays in [false, true] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_u32(u32::try_from(ask.len()).unwrap()).await.unwrap();
        stream.write_all(ask.as_bytes()).await.unwrap();
        if stays {
            keep.push(stream);
            // It would be killed, were it another process.
            sleep(Duration::from_millis(100)).await;
            assert_eq!(get(address, "x", "/").await.status, 200, "traffic goes on meanwhile");
            let mut other = UnixStream::connect(&socket).await.unwrap();
            other.shutdown().await.unwrap();
        }
    }
    drop(keep);
    stage.follows("/two").await;
    // After all that, one that is whole.
    let second = stage.start(&["run", "--take-over"]);
    assert_eq!(stage.supervisor.told("MAINPID=").await, second.to_string());
    until("the first one ends", async || stage.processes.has_ended(first)).await;
    stage.follows("/three").await;
    assert_eq!(get(address, "x", "/").await.status, 200);
    // Without the word, a second process is a mistake.
    let output = stage.site.command(&["run"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another process uses this directory"), "{text}");
    signal(second, "TERM");
    until("it ends", async || stage.processes.has_ended(second)).await;
}
