//! A DNS client for names of nodes and services: A, AAAA and SRV of recursive servers, over UDP, and over TCP where an answer
//! does not fit (RFC 1035, RFC 2782, RFC 7766).
//!
//! Names are asked for as they are: neither `/etc/hosts` nor a search list is looked at. Nothing is remembered here.

mod exchange;
mod message;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use message::{Kind, Record};
use tokio::sync::Semaphore;

use crate::settings::DnsSettings;

/// The port of servers that name none.
const PORT: u16 = 53;
/// As the machine's own resolver, which reads no more (`MAXNS`).
const SERVERS_MAX: usize = 3;
/// Questions of one resolver that are under way at once, each with a socket of its own: thousands of names that are due at the
/// same time are not to use up the process's descriptors. The others wait.
const QUESTIONS_MAX: usize = 256;
/// Where the machine says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a server says is used for so long at least, and at most.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);

/// How long an answer may be used.
pub(crate) fn bounded(ttl: Duration) -> Duration {
    ttl.clamp(TTL_MIN, TTL_MAX)
}

/// Asks servers.
#[derive(Clone, Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    turns: Arc<Semaphore>,
}

impl Default for Resolver {
    /// One that has nobody to ask.
    fn default() -> Self {
        Self::asking(Vec::new())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("no DNS server is known")]
    NoServer,
    #[error("{0:?} is no name that DNS can know")]
    BadName(String),
    #[error("the DNS server {0} does not answer")]
    Late(SocketAddr),
    #[error("the DNS server {0}: {1}")]
    Broken(SocketAddr, io::Error),
    #[error("the DNS server {0} says {1}")]
    Refused(SocketAddr, String),
}

/// Records, and how long they hold. There may be none.
#[derive(Debug)]
pub(crate) struct Answers<R> {
    pub(crate) records: Vec<R>,
    pub(crate) ttl: Duration,
}

/// Where a service is had (RFC 2782).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    /// In lower case, without a dot at its end; empty: nowhere.
    pub(crate) target: String,
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) priority: u16,
}

impl Resolver {
    /// One that asks the servers that are set, in their order; `None` where there are none.
    ///
    /// # Panics
    /// The settings were not checked.
    #[must_use]
    pub fn set_by(settings: &DnsSettings) -> Option<Self> {
        let servers = settings.addresses().expect("addresses, by the settings' check");
        (!servers.is_empty()).then(|| Self::asking(servers))
    }

    /// One that asks the servers of `/etc/resolv.conf`.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::asking(servers_of(Path::new(RESOLV_CONF)))
    }

    /// One that asks these servers, in their order.
    fn asking(servers: Vec<SocketAddr>) -> Self {
        Self { servers, turns: Arc::new(Semaphore::new(QUESTIONS_MAX)) }
    }

    /// The addresses of a name, of both families.
    ///
    /// # Errors
    /// Neither family could be asked for, or one could not and the other has no address.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Answers<IpAddr>, DnsError> {
        let (four, six) = tokio::join!(self.ask(name, Kind::A), self.ask(name, Kind::Aaaa));
        let Answers { records, ttl } = both(four, six)?;
        let address = |record| match record {
            Record::Address(address) => Some(address),
            Record::Service(_) => None,
        };
        Ok(Answers { records: records.into_iter().filter_map(address).collect(), ttl })
    }

    /// Where the service of a name is had.
    ///
    /// # Errors
    /// It could not be asked for.
    pub(crate) async fn services(&self, name: &str) -> Result<Answers<Service>, DnsError> {
        let Answers { records, ttl } = self.ask(name, Kind::Srv).await?;
        let service = |record| match record {
            // RFC 2782: the root is a target that says "nowhere".
            Record::Service(service) if !service.target.is_empty() => Some(service),
            _ => None,
        };
        Ok(Answers { records: records.into_iter().filter_map(service).collect(), ttl })
    }

    /// Asks one server after the other, twice, until one answers.
    async fn ask(&self, name: &str, kind: Kind) -> Result<Answers<Record>, DnsError> {
        let mut last = DnsError::NoServer;
        let _turn = self.turns.acquire().await;
        for server in self.servers.iter().chain(&self.servers) {
            match exchange::ask(*server, name, kind).await {
                Ok(answers) => return Ok(answers),
                Err(e @ DnsError::BadName(_)) => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// What is known of both families. There are servers that do not answer for addresses of IPv6: a family that cannot be asked for
/// matters only where the other has no address.
fn both<R>(four: Result<Answers<R>, DnsError>, six: Result<Answers<R>, DnsError>) -> Result<Answers<R>, DnsError> {
    let (mut four, six) = match (four, six) {
        (Ok(four), Ok(six)) => (four, six),
        (Ok(only), Err(e)) | (Err(e), Ok(only)) => return if only.records.is_empty() { Err(e) } else { Ok(only) },
        (Err(e), Err(_)) => return Err(e),
    };
    // That a name has no address of one family says nothing of the other's.
    four.ttl = match (four.records.is_empty(), six.records.is_empty()) {
        (false, true) => four.ttl,
        (true, false) => six.ttl,
        _ => four.ttl.min(six.ttl),
    };
    four.records.extend(six.records);
    Ok(four)
}

/// The servers that the machine asks, as far as they can be read. Like the C library, this machine's own where none is named.
fn servers_of(file: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers: Vec<_> = nameservers(&text).take(SERVERS_MAX).collect();
    if servers.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], PORT))] } else { servers }
}

fn nameservers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // An IPv6 address of one link names it behind a `%`.
        Some(SocketAddr::new(address.split('%').next()?.parse().ok()?, PORT))
    })
}

/// A server by its address, or its address and port.
///
/// # Errors
/// The text, where it is neither.
pub(crate) fn server(text: &str) -> Result<SocketAddr, &str> {
    let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT)));
    address.map_err(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_those_of_the_machine() {
        let text =
            "# a comment\nsearch a.example\nnameserver 10.0.0.1\n nameserver\tfe80::1%eth0 \nnameserver x\noptions y";
        let servers: Vec<_> = nameservers(text).map(|server| server.to_string()).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1]:53"]);
        assert_eq!(servers_of(Path::new("/nonexistent"))[0].to_string(), "127.0.0.1:53");
    }

    #[tokio::test]
    async fn questions_wait_for_their_turn() {
        let resolver = Resolver::asking(vec![SocketAddr::from(([127, 0, 0, 1], 1))]);
        let others = resolver.turns.acquire_many(u32::try_from(QUESTIONS_MAX).unwrap()).await.unwrap();
        let mut asking = std::pin::pin!(resolver.services("a.example"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asking.as_mut().poll(&mut context).is_pending());
        drop(others);
        assert!(asking.as_mut().poll(&mut context).is_pending());
        assert_eq!(resolver.turns.available_permits(), QUESTIONS_MAX - 1);
    }

    #[test]
    fn servers_may_name_their_port() {
        for (text, expected) in [
            ("10.0.0.1", Ok("10.0.0.1:53")),
            ("10.0.0.1:5353", Ok("10.0.0.1:5353")),
            ("::1", Ok("[::1]:53")),
            ("[::1]:5353", Ok("[::1]:5353")),
            ("dns.example", Err("dns.example")),
        ] {
            assert_eq!(server(text).map(|server| server.to_string()), expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_family_that_cannot_be_asked_for_does_not_take_the_other_with_it() {
        let found =
            |records: &[u8], seconds| Ok(Answers { records: records.to_vec(), ttl: Duration::from_secs(seconds) });
        let fails = || Err(DnsError::NoServer);
        for (four, six, expected) in [
            (found(&[4], 60), found(&[6], 30), Some((vec![4, 6], 30))),
            (found(&[4], 60), found(&[], 5), Some((vec![4], 60))),
            (found(&[], 5), found(&[6], 30), Some((vec![6], 30))),
            (found(&[4], 60), fails(), Some((vec![4], 60))),
            (fails(), found(&[6], 30), Some((vec![6], 30))),
            (found(&[], 5), fails(), None),
            (fails(), fails(), None),
            (found(&[], 5), found(&[], 5), Some((vec![], 5))),
        ] {
            let got = both(four, six).ok().map(|answers| (answers.records, answers.ttl.as_secs()));
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn answers_are_used_for_a_second_at_least_and_five_minutes_at_most() {
        for (seconds, expected) in [(0, 1), (1, 1), (30, 30), (86_400, 300)] {
            assert_eq!(bounded(Duration::from_secs(seconds)), Duration::from_secs(expected));
        }
    }
}
