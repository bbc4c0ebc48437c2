//! Floods, and clients that hold things up, against the program itself: whoever is honest beside them is answered, and what
//! they cost it in memory has a bound. One worker serves all of them, so that nobody has another to turn to.

mod http2;
mod slow;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::client::{Client, get};
use crate::harness::origin::{Conversation, Origin};
use crate::harness::program::{Processes, Site, resident_kib};
use crate::harness::until;

/// How long each flood goes on.
const FLOOD: Duration = Duration::from_millis(800);
/// What a flood may cost in memory, beside what the program had before, in KiB.
const GROWTH_KIB_MAX: u64 = 32 << 10;
/// What a flood may write to the log.
const LOG_BYTES_MAX: u64 = 16 << 10;
/// The answer at `/large`: more than any buffer on its way.
const LARGE_BYTES: usize = 4 << 20;

/// A program that serves, and an origin behind it: `/` is answered at once, `/large` at length, and `/held` waits.
struct Town {
    site: Site,
    pid: u32,
    /// What it writes to its log.
    log: File,
    _processes: Processes,
    _origin: Origin,
    _dir: tempfile::TempDir,
}

impl Town {
    async fn with(settings: &[&str]) -> Self {
        let origin = Origin::with(answer).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("apisix.yaml");
        let upstream = format!("upstream: {{nodes: {{'{}': 1}}}}", origin.address);
        let delay = "plugins: {fault-injection: {delay: {duration: 60}}}";
        let routes = format!("routes:\n- {{uri: /*, {upstream}}}\n- {{uri: /held, {delay}, {upstream}}}\n#END");
        std::fs::write(&file, routes).unwrap();
        let standalone = format!("standalone.file={}", file.display());
        let always = ["proxy.workers=1", "proxy.h2c=true", &standalone];
        let settings: Vec<String> = always.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
        let site = Site::at(&dir.path().join("data"), &settings);
        let mut processes = Processes::default();
        let log = File::create(dir.path().join("log")).unwrap();
        let pid = processes.started(site.command(&["run"]).stderr(log.try_clone().unwrap()).spawn().unwrap());
        until("it is healthy", async || site.is_healthy()).await;
        let town = Self { site, pid, log, _processes: processes, _origin: origin, _dir: dir };
        // What a first few requests bring with them is there already.
        for _ in 0..20 {
            assert_eq!(get(town.address(), "a.com", "/").await.status, 200);
        }
        town
    }

    fn address(&self) -> SocketAddr {
        self.site.proxy
    }

    /// Lets `attack` go on, with honest requests beside it: over a connection that is kept, over new ones, and by HTTP/2.
    /// All must be answered, and the program's memory and its log must stay within their bounds.
    async fn bears<T>(&self, what: &str, attack: impl Future<Output = T>) -> T {
        let (before, written) = (resident_kib(self.pid), self.log_bytes());
        let over = AtomicBool::new(false);
        let goes_on = || !over.load(Ordering::Relaxed);
        let kept = async {
            let mut client = Client::connect(self.address()).await;
            let mut answered = 0;
            while goes_on() {
                assert_eq!(client.get("a.com", "/").await.status, 200, "{what}: after {answered} requests");
                answered += 1;
            }
            answered
        };
        let new = async {
            let mut answered = 0;
            while goes_on() {
                assert_eq!(get(self.address(), "a.com", "/").await.status, 200, "{what}: a new connection");
                answered += 1;
                sleep(Duration::from_millis(10)).await;
            }
            answered
        };
        let by_http2 = async {
            let stream = Client::connect(self.address()).await.stream;
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            let running = tokio::spawn(connection);
            let mut answered = 0;
            while goes_on() {
                sender = sender.ready().await.unwrap_or_else(|e| panic!("{what}: HTTP/2: {e}"));
                let request = http::Request::get("http://a.com/").body(()).unwrap();
                let (answer, _) = sender.send_request(request, true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 200, "{what}: HTTP/2");
                answered += 1;
                sleep(Duration::from_millis(5)).await;
            }
            running.abort();
            answered
        };
        let memory = async {
            let mut most = before;
            while goes_on() {
                most = most.max(resident_kib(self.pid));
                sleep(Duration::from_millis(10)).await;
            }
            most.max(resident_kib(self.pid))
        };
        let attack = async {
            let result = attack.await;
            over.store(true, Ordering::Relaxed);
            result
        };
        let (result, kept, new, by_http2, most): (T, usize, usize, usize, u64) =
            tokio::join!(attack, kept, new, by_http2, memory);
        let (grown, written) = (most - before, self.log_bytes() - written);
        let answered = format!("{kept} + {new} + {by_http2} honest requests were answered beside it");
        eprintln!("{what}: {answered}; {grown} KiB more in memory, {written} bytes in the log");
        assert!(
            kept > 0 && new > 0 && by_http2 > 0,
            "{what}: {kept}, {new} and {by_http2} honest requests were answered"
        );
        assert!(grown <= GROWTH_KIB_MAX, "{what}: {grown} KiB more than the {before} before");
        assert!(written <= LOG_BYTES_MAX, "{what}: {written} bytes in the log");
        result
    }

    fn log_bytes(&self) -> u64 {
        self.log.metadata().unwrap().len()
    }

    /// Waits until no request is under way.
    async fn rests(&self) {
        until("nothing is left of it", async || {
            let page = get(self.site.metrics, "metrics", "/metrics").await.text();
            page.lines().any(|line| line == "holdfast_dp_requests_active 0")
        })
        .await;
    }
}

/// What the origin does with a connection.
async fn answer(mut conversation: Conversation) {
    while let Some(request) = conversation.request().await {
        let large = request.line.starts_with("GET /large ");
        let body = vec![b'a'; if large { LARGE_BYTES } else { 2 }];
        conversation.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        conversation.send(body).await;
    }
}
