//! Probes: asks every watched node at its own pace, from the moment that it is in the table.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::resource::{ActiveCheck, CheckType};
use protocol::seam::Random;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{Monitor, Outcome, Registry, Source};
use crate::dns::{Answers, Resolver, bounded};
use crate::net;
use crate::table::NodeHost;

/// Probes at once, whatever the upstreams say: each holds a socket.
const PROBES_MAX: usize = 512;
/// Nodes that came together are first asked within so long, each at a moment of its own.
const SPREAD: Duration = Duration::from_secs(1);
/// A name that cannot be looked up is asked for again after so long.
const LOST_FOR: Duration = Duration::from_secs(5);
/// Names that the machine is asked for at once.
const LOOK_UPS_MAX: usize = 16;
/// What is read of an answer to find its status.
const ANSWER_BYTES_MAX: usize = 1024;

/// Probes what is watched, for ever. Names of nodes are asked for as workers ask for them: of `resolver`, or of the machine.
pub(crate) async fn run(registry: Arc<Registry>, random: Arc<dyn Random>, resolver: Option<Arc<Resolver>>) {
    let all = Arc::new(Semaphore::new(PROBES_MAX));
    let book = resolver.map_or_else(|| Book::Machine(Arc::new(Semaphore::new(LOOK_UPS_MAX))), Book::Servers);
    let mut probing = JoinSet::new();
    loop {
        for monitor in registry.take_new() {
            let seed = u64::from_be_bytes(random.bytes16()[..8].try_into().expect("8 of 16 bytes"));
            probing.spawn(probe_on(monitor, registry.clone(), all.clone(), Addresses::of(&book), Jitter(seed)));
        }
        tokio::select! {
            () = registry.added.notified() => {}
            Some(_) = probing.join_next() => {}
        }
    }
}

/// Asks one node until nobody uses it any more.
async fn probe_on(
    monitor: Weak<Monitor>,
    registry: Arc<Registry>,
    all: Arc<Semaphore>,
    mut addresses: Addresses,
    mut jitter: Jitter,
) {
    let mut wait = SPREAD.mul_f64(jitter.next());
    loop {
        sleep(wait).await;
        let Some(monitor) = monitor.upgrade() else { return };
        // Without what it is to be shown a node is not asked, and nothing is learned of it.
        if let Ok(tls) = registry.tls_for(&monitor) {
            probe(&monitor, tls, &mut addresses, &all).await;
        }
        let check = &monitor.checks.active;
        let interval = if monitor.is_up() { check.healthy_interval } else { check.unhealthy_interval };
        // A tenth more or less: nodes that were asked together drift apart.
        wait = interval.mul_f64(0.9 + 0.2 * jitter.next());
    }
}

/// Asks the node once, when it is its turn, and reports what comes of it.
async fn probe(monitor: &Monitor, tls: Option<Arc<ClientConfig>>, addresses: &mut Addresses, all: &Semaphore) {
    let time = monitor.checks.active.timeout;
    let addresses = addresses.look_up(&monitor.host, time).await;
    let _own = monitor.slots.acquire().await;
    let _all = all.acquire().await;
    match timeout(time, ask(monitor, tls, addresses)).await {
        Ok(Ok(Some(status))) => monitor.report_status(status, Source::Active),
        Ok(Ok(None)) => monitor.report(Outcome::Success, Source::Active),
        Ok(Err(outcome)) => monitor.report(outcome, Source::Active),
        Err(_) => monitor.report(Outcome::Timeout, Source::Active),
    }
}

/// The status of the answer; `None` where a connection is all that is asked for.
async fn ask(monitor: &Monitor, tls: Option<Arc<ClientConfig>>, addresses: &[IpAddr]) -> Result<Option<u16>, Outcome> {
    let port = monitor.checks.active.port.unwrap_or(monitor.port);
    let addresses: Vec<_> = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    let stream = net::connect_any(&addresses).await.map_err(|_| Outcome::TcpFailure)?;
    match (monitor.checks.active.kind, tls) {
        (CheckType::Tcp, _) => Ok(None),
        (CheckType::Http, _) => ask_over(stream, monitor).await.map(Some),
        (CheckType::Https, tls) => {
            // One that no TLS was made for is a bug of the compiler's, and no verdict over the node.
            let tls = tls.expect("checks by https come with TLS");
            let name = ServerName::try_from(name_for(monitor)).map_err(|_| Outcome::TcpFailure)?;
            let shaken = TlsConnector::from(tls).connect(name, stream).await;
            ask_over(shaken.map_err(|_| Outcome::TcpFailure)?, monitor).await.map(Some)
        }
    }
}

/// The name that a node is asked for, and that its certificate must be for: that of the probe's `Host`, without a port.
fn name_for(monitor: &Monitor) -> String {
    match (&monitor.checks.active.host, &monitor.host) {
        (Some(host), _) => {
            let bare = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
            bare.unwrap_or_else(|| host.split(':').next().unwrap_or(host)).to_owned()
        }
        (None, NodeHost::Name(name)) => name.to_string(),
        (None, NodeHost::Address(address)) => address.to_string(),
    }
}

async fn ask_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, monitor: &Monitor) -> Result<u16, Outcome> {
    let request = request(&monitor.checks.active, &monitor.authority);
    stream.write_all(request.as_bytes()).await.map_err(|_| Outcome::TcpFailure)?;
    stream.flush().await.map_err(|_| Outcome::TcpFailure)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    loop {
        if let Some(status) = status(&answer) {
            return Ok(status);
        }
        let read = stream.read_buf(&mut answer).await.map_err(|_| Outcome::TcpFailure)?;
        if read == 0 {
            return Err(Outcome::TcpFailure);
        }
        if answer.len() >= ANSWER_BYTES_MAX && status(&answer).is_none() {
            return Err(Outcome::HttpFailure);
        }
    }
}

/// Where names of nodes are looked up.
#[derive(Clone)]
enum Book {
    /// DNS servers that are set.
    Servers(Arc<Resolver>),
    /// The machine's own, which may hold a thread for each name long after nobody waits for it any more: so many at once.
    Machine(Arc<Semaphore>),
}

type Found = io::Result<(Vec<IpAddr>, Duration)>;

impl Book {
    /// The addresses of a name, and how long they hold.
    async fn ask(self, name: String) -> Found {
        match self {
            Self::Servers(resolver) => {
                let Answers { records, ttl } = resolver.addresses(&name).await.map_err(io::Error::other)?;
                Ok((records, bounded(ttl)))
            }
            Self::Machine(turns) => {
                let _turn = turns.acquire().await;
                let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
                Ok((found.map(|address| address.ip()).collect(), Duration::ZERO))
            }
        }
    }
}

/// Where a node's name leads, for its probes. A name that cannot be looked up any more says nothing of the node: it keeps the
/// addresses that it had, as it does for requests.
struct Addresses {
    book: Book,
    last: Vec<IpAddr>,
    /// Until when they are used without another question.
    until: Option<Instant>,
    /// A question that is not answered yet. There is no second one meanwhile.
    asking: Option<JoinHandle<Found>>,
}

impl Addresses {
    fn of(book: &Book) -> Self {
        Self { book: book.clone(), last: Vec::new(), until: None, asking: None }
    }

    /// The addresses as they are known, asked for where that is due, though for no longer than `time`.
    async fn look_up(&mut self, host: &NodeHost, time: Duration) -> &[IpAddr] {
        match host {
            NodeHost::Address(address) if self.last.is_empty() => self.last.push(*address),
            NodeHost::Address(_) => {}
            NodeHost::Name(name) if self.until.is_none_or(|until| until <= Instant::now()) => {
                self.ask(name, time).await
            }
            NodeHost::Name(_) => {}
        }
        &self.last
    }

    async fn ask(&mut self, name: &str, time: Duration) {
        let asking = self.asking.get_or_insert_with(|| tokio::spawn(self.book.clone().ask(name.to_owned())));
        let Ok(found) = timeout(time, asking).await else { return };
        self.asking = None;
        let holds = match found {
            Ok(Ok((found, holds))) if !found.is_empty() => {
                self.last = found;
                holds
            }
            _ => LOST_FOR,
        };
        self.until = Some(Instant::now() + holds);
    }
}

fn request(check: &ActiveCheck, authority: &str) -> String {
    // A line break in a field would make another line of the head.
    let line = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let host = check.host.as_deref().unwrap_or(authority);
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", check.http_method, line(&check.http_path), line(host));
    for header in &check.req_headers {
        let _ = write!(text, "{}\r\n", line(header));
    }
    if !check.http_req_body.is_empty() {
        let _ = write!(text, "Content-Length: {}\r\n", check.http_req_body.len());
    }
    text.push_str("Connection: close\r\n\r\n");
    text.push_str(&check.http_req_body);
    text
}

/// The status of an answer, once its first line is whole.
fn status(answer: &[u8]) -> Option<u16> {
    let end = memchr::memchr(b'\n', answer)?;
    let line = str::from_utf8(&answer[..end]).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?.get(2..)?;
    rest.get(..3)?.parse().ok()
}

/// Fractions that differ from node to node and from time to time; nothing depends on which.
struct Jitter(u64);

impl Jitter {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let fraction = (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_gives_the_status() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Some(200)),
            (b"HTTP/1.0 503\r\n", Some(503)),
            (b"HTTP/1.1 200", None),
            (b"SSH-2.0-x\r\n", None),
            (b"HTTP/1.1 2x0 OK\r\n", None),
            (b"HTTP/1.\n", None),
        ] {
            assert_eq!(status(answer), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_cannot_be_looked_up_keeps_its_addresses_and_is_asked_for_once() {
        // All turns are taken: as if the machine did not answer.
        let turns = Arc::new(Semaphore::new(0));
        let mut addresses = Addresses::of(&Book::Machine(turns.clone()));
        let (host, second) = (NodeHost::Name("localhost".into()), Duration::from_secs(1));
        assert!(addresses.look_up(&host, second).await.is_empty());
        addresses.last = vec![IpAddr::from([10, 0, 0, 1])];
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(addresses.look_up(&host, second).await, [IpAddr::from([10, 0, 0, 1])]);
            assert_eq!(begun.elapsed(), second, "a probe is not held up for longer");
        }
        // A server that says nothing useful: it is not asked again at once.
        let mut addresses = Addresses::of(&Book::Servers(Arc::default()));
        let begun = Instant::now();
        assert!(addresses.look_up(&host, second).await.is_empty());
        assert_eq!(addresses.until, Some(begun + LOST_FOR));
    }

    #[test]
    fn jitter_stays_within_one() {
        let mut jitter = Jitter(7);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&jitter.next())));
    }
}
