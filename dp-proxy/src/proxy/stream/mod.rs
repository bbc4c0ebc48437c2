//! A TCP connection of a stream listener, from its beginning to its end.
//!
//! ```text
//!   client -> [PROXY header] -> [TLS, ended here] -> stream route -> node: [PROXY header] -> [TLS] -> bytes both ways
//! ```
//!
//! Nothing of what is carried is looked at. So a node is tried after another only while there is no connection yet:
//! nothing of the client's was sent by then.

mod figures;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use protocol::resource::{Known, PassHost, Timeouts, Values, Variable};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::balance::{Pick, Tried, UnderWay};
use super::downstream::proxy_protocol::Ends;
use super::downstream::tls::Session;
use super::host;
use super::tunnel::carry;
use super::upstream::dial::{DialError, dial};
use super::upstream::proxy_header;
use super::worker::Worker;
use crate::health::{Outcome, Source};
use crate::proxy::link::{Link, Secured};
use crate::table::{Arrival, Balancing, Node, NodeHost, Table, Unavailable, Upstream};

pub use figures::StreamFigures;

/// Why a connection leads nowhere, or no further.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no stream route takes it")]
    NoRoute,
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    #[error("a client certificate is needed")]
    NoClientCertificate,
    #[error("the upstream has no node")]
    NoNode,
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("nothing has moved for {0:?}")]
    Idle(Duration),
    #[error("{0}")]
    Broken(std::io::Error),
}

impl Failure {
    /// Under which of [`StreamFigures::FAILURES`] it is counted.
    fn number(&self) -> usize {
        match self {
            Self::NoRoute => 0,
            Self::Unavailable(_) => 1,
            Self::NoClientCertificate => 2,
            Self::NoNode => 3,
            Self::Dial(_) => 4,
            Self::Idle(_) => 5,
            Self::Broken(_) => 6,
        }
    }

    /// Whether an operator should hear of it: it is neither the client's doing nor the end of a connection that worked.
    fn is_ours_to_tell(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NoNode | Self::Dial(_))
    }
}

/// What a TLS handshake of a client settled.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The name that the client asks for, in lower case.
    pub(crate) name: String,
    pub(crate) session: Session,
}

/// Carries a connection until its end.
pub(crate) async fn serve<S>(worker: Rc<Worker>, client: S, ends: Ends, shown: Option<Shown>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let figures = &worker.figures.stream;
    figures.connections.add(1);
    figures.active.add(1);
    let result = Connection { worker: &worker, ends, shown: shown.as_ref() }.carry(client).await;
    figures.active.sub(1);
    if let Err(failure) = result {
        figures.failures[failure.number()].add(1);
        let Ends { client: peer, local } = ends;
        if failure.is_ours_to_tell() && worker.may_speak() {
            warn!(%peer, %local, reason = %failure, "a stream could not be served");
        } else {
            debug!(%peer, %local, reason = %failure, "a stream ended");
        }
    }
}

struct Connection<'c> {
    worker: &'c Rc<Worker>,
    ends: Ends,
    shown: Option<&'c Shown>,
}

impl Connection<'_> {
    async fn carry<S>(&self, client: S) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // The table is let go before bytes are carried: a connection may last for days.
        let (link, idle, _under_way) = self.connect().await?;
        let figures = &self.worker.figures.stream;
        let (mut up, mut down) = (0, 0);
        let moved = |now_up: usize, now_down: usize| {
            figures.bytes_up.add((now_up - up) as u64);
            figures.bytes_down.add((now_down - down) as u64);
            (up, down) = (now_up, now_down);
        };
        let alarm = (self.worker.wheel.alarm(), idle);
        let result = carry((client, BytesMut::new()), (link, BytesMut::new()), alarm, moved).await;
        result.map_err(
            |e| if e.kind() == std::io::ErrorKind::TimedOut { Failure::Idle(idle) } else { Failure::Broken(e) },
        )
    }

    /// A connection to one of the route's nodes, how long it may be silent, and where it counts meanwhile.
    async fn connect(&self) -> Result<(Link, Duration, Option<UnderWay>), Failure> {
        let table = self.worker.table();
        let sni = self.shown.map(|shown| shown.name.as_str()).filter(|name| !name.is_empty());
        if self.shown.is_some_and(|shown| shown.session.ssl.client.is_some() && !shown.session.verified) {
            return Err(Failure::NoClientCertificate);
        }
        let arrival = Arrival { client: self.ends.client, local: self.ends.local, sni };
        let route = table.find_stream(&arrival).ok_or(Failure::NoRoute)?;
        let upstream = table.stream_upstream(route)?;
        let idle = upstream.timeouts.map_or(self.worker.stream.idle, |timeouts| timeouts.read.max(timeouts.send));
        let (mut tried, mut last) = (Tried::new(), None);
        let begun = Instant::now();
        loop {
            let pick = self.worker.balancer.borrow_mut().pick(upstream, &tried, self);
            let Some(Pick { place, down }) = pick else { return Err(last.unwrap_or(Failure::NoNode)) };
            if down && tried.is_empty() {
                self.worker.figures.all_down.add(1);
            }
            tried.push(place);
            let node = &upstream.nodes[place];
            let counts = matches!(upstream.balancing, Balancing::LeastConnections | Balancing::Ewma);
            let under_way = counts.then(|| self.worker.loads.begin(node.endpoint));
            let failure = match self.dial(&table, upstream, node, sni).await {
                Ok(link) => {
                    report(node, Outcome::Success);
                    under_way.iter().for_each(UnderWay::answered);
                    return Ok((link, idle, under_way));
                }
                Err(failure) => failure,
            };
            match &failure {
                Failure::Dial(DialError::Late(_)) => report(node, Outcome::Timeout),
                Failure::Dial(_) => report(node, Outcome::TcpFailure),
                _ => {}
            }
            let retries = u32::try_from(tried.len() - 1).unwrap_or(u32::MAX);
            let in_time = upstream.retry_timeout.is_none_or(|limit| begun.elapsed() < limit);
            if retries >= upstream.retries || !in_time {
                return Err(failure);
            }
            debug!(node = node.address(), reason = %failure, attempt = retries + 1, "trying another node");
            self.worker.figures.retries.add(1);
            last = Some(failure);
        }
    }

    async fn dial(&self, table: &Table, upstream: &Upstream, node: &Node, sni: Option<&str>) -> Result<Link, Failure> {
        let secured = match table.client_config(upstream)? {
            None => None,
            Some(config) => Some(Secured { config: config.clone(), name: name_for(upstream, node, sni)? }),
        };
        let preface = proxy_header::header(self.worker.stream.to_upstream, self.ends);
        let limit = upstream.timeouts.unwrap_or(Timeouts::DEFAULT).connect;
        self.worker.figures.upstream_connects.add(1);
        Ok(dial(&self.worker.names, node, &preface, secured.as_ref(), limit).await?)
    }
}

fn report(node: &Node, outcome: Outcome) {
    if let Some(monitor) = &node.watch.0 {
        monitor.report(outcome, Source::Passive);
    }
}

/// Whom a node is asked for: `upstream_host` where `pass_host` says so, else the client's own name, else the node's.
fn name_for(upstream: &Upstream, node: &Node, sni: Option<&str>) -> Result<ServerName<'static>, Failure> {
    let rewritten = upstream.upstream_host.as_deref().filter(|_| upstream.pass_host == PassHost::Rewrite);
    let text = match (rewritten, sni.filter(|_| upstream.pass_host == PassHost::Pass), &node.host) {
        // An IPv6 address has brackets in a host, and none in a certificate.
        (Some(host), ..) => host::name_of(host).unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        (None, Some(name), _) => name.to_owned(),
        (None, None, NodeHost::Name(name)) => name.to_string(),
        (None, None, NodeHost::Address(address)) => return Ok(ServerName::from(*address)),
    };
    ServerName::try_from(text.clone())
        .map_err(|_| Failure::Dial(DialError::Tls(format!("{text:?} is no name that TLS can ask for"))))
}

/// What a connection can be told by, for consistent hashing.
impl Values for Connection<'_> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let Variable::Known(known) = variable else { return None };
        let address = |address: IpAddr| Some(Cow::Owned(address.to_string().into_bytes()));
        let port = |port: u16| Some(Cow::Owned(port.to_string().into_bytes()));
        match known {
            Known::RemoteAddr => address(self.ends.client.ip()),
            Known::RemotePort => port(self.ends.client.port()),
            Known::ServerAddr => address(self.ends.local.ip().to_canonical()),
            Known::ServerPort => port(self.ends.local.port()),
            Known::Host => self.shown.map(|shown| Cow::Borrowed(shown.name.as_bytes())),
            _ => None,
        }
    }
}
