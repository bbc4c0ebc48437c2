//! Addresses of nodes that are called by name.
//!
//! The look-up is the machine's own (files, DNS) and runs beside the worker's thread, or is made of the DNS servers that are
//! set. What was found is used for a short bounded time, which is the one that DNS says where that is known; after that it is
//! asked for again while the old answer goes on being used. A name that resolved once and no longer does keeps its addresses: a
//! DNS server that is down takes no upstream down with it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::dns::{Answers, Resolver, bounded};
use crate::table::{Node, NodeHost};

/// Addresses of one name.
pub(crate) type Addresses = SmallVec<[IpAddr; 4]>;

/// What a look-up gives some time later: addresses, and how long they hold where that is known.
pub(crate) type LookingUp = Pin<Box<dyn Future<Output = io::Result<(Addresses, Option<Duration>)>>>>;

/// A name that is not known is asked for again after so long at the earliest.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// A look-up that takes longer has failed. The machine's own goes on for far longer.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);
/// Addresses of one name that are used.
const ADDRESSES_MAX: usize = 32;
/// Names that a worker remembers. Far more than any configuration calls nodes by; past it, all are asked for anew.
const NAMES_MAX: usize = 65_536;

/// A name of which DNS servers say no longer what they said is asked for again after so long.
const LOST_FOR: Duration = Duration::from_secs(5);

/// A worker's memory of names.
pub(crate) struct Names {
    look_up: Box<dyn Fn(&str) -> LookingUp>,
    /// How long an answer is used that does not say, and how long an old one until it is asked for again in vain.
    ttl: Duration,
    known: RefCell<HashMap<Box<str>, Rc<Name>>>,
}

/// One name.
#[derive(Debug, Default)]
struct Name {
    addresses: RefCell<Addresses>,
    /// When the last answer came, whatever it was.
    asked: Cell<Option<Instant>>,
    /// How long the last addresses hold, where that is known.
    holds: Cell<Option<Duration>>,
    /// Which address is next.
    turn: Cell<usize>,
    /// Held while it is asked for the first time.
    asking: Mutex<()>,
    /// Whether it is asked for once more, beside whoever uses what is known.
    renewing: Cell<bool>,
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("{name} has no address: {reason}")]
pub(crate) struct UnknownName {
    name: String,
    reason: String,
}

impl Names {
    /// Names that the machine is asked for; it does not say how long an answer holds.
    pub(crate) fn of_machine(ttl: Duration) -> Self {
        Self::with(ttl, |name| {
            let name = name.to_owned();
            Box::pin(async move {
                // A name is looked up with a port, which says nothing here.
                let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
                Ok((found.map(|address| address.ip()).take(ADDRESSES_MAX).collect(), None))
            })
        })
    }

    /// Names that DNS servers are asked for.
    pub(crate) fn of_servers(resolver: Arc<Resolver>) -> Self {
        Self::with(LOST_FOR, move |name| {
            let (resolver, name) = (resolver.clone(), name.to_owned());
            Box::pin(async move {
                let Answers { records, ttl } = resolver.addresses(&name).await.map_err(io::Error::other)?;
                Ok((records.into_iter().take(ADDRESSES_MAX).collect(), Some(bounded(ttl))))
            })
        })
    }

    pub(crate) fn with(ttl: Duration, look_up: impl Fn(&str) -> LookingUp + 'static) -> Self {
        Self { look_up: Box::new(look_up), ttl, known: RefCell::default() }
    }

    /// The addresses of a node, the one whose turn it is first.
    ///
    /// # Errors
    /// [`UnknownName`] when there is none.
    pub(crate) async fn addresses(self: &Rc<Self>, node: &Node) -> Result<SmallVec<[SocketAddr; 4]>, UnknownName> {
        let at = |address: IpAddr| SocketAddr::new(address, node.port);
        match &node.host {
            NodeHost::Address(address) => Ok([at(*address)].into_iter().collect()),
            NodeHost::Name(name) => Ok(self.named(name).await?.into_iter().map(at).collect()),
        }
    }

    async fn named(self: &Rc<Self>, text: &str) -> Result<Addresses, UnknownName> {
        let name = {
            let mut known = self.known.borrow_mut();
            if known.len() >= NAMES_MAX {
                known.clear();
            }
            known.entry(text.into()).or_default().clone()
        };
        let age = name.asked.get().map(|asked| asked.elapsed());
        let is_known = !name.addresses.borrow().is_empty();
        match age {
            Some(age) if is_known => {
                if age > name.holds.get().unwrap_or(self.ttl) && !name.renewing.replace(true) {
                    let (names, name, text) = (self.clone(), name.clone(), text.to_owned());
                    spawn_local(async move {
                        let _ = names.ask(&name, &text).await;
                        name.renewing.set(false);
                    });
                }
            }
            Some(age) if age < UNKNOWN_FOR => {
                return Err(UnknownName { name: text.to_owned(), reason: "it had none a moment ago".to_owned() });
            }
            _ => {
                let asking = name.asking.lock().await;
                // Somebody else may have asked while we waited.
                let fresh = name.asked.get().is_some_and(|asked| asked.elapsed() < UNKNOWN_FOR);
                if !fresh {
                    self.ask(&name, text).await?;
                }
                drop(asking);
            }
        }
        let mut addresses = name.addresses.borrow().clone();
        if addresses.is_empty() {
            return Err(UnknownName { name: text.to_owned(), reason: "it had none a moment ago".to_owned() });
        }
        let turn = name.turn.get();
        name.turn.set(turn.wrapping_add(1));
        let first = turn % addresses.len();
        addresses.rotate_left(first);
        Ok(addresses)
    }

    async fn ask(&self, name: &Name, text: &str) -> Result<(), UnknownName> {
        let found = timeout(LOOK_UP_MAX, (self.look_up)(text)).await;
        name.asked.set(Some(Instant::now()));
        let reason = match found {
            Ok(Ok((found, holds))) if !found.is_empty() => {
                *name.addresses.borrow_mut() = found;
                name.holds.set(holds);
                return Ok(());
            }
            Ok(Ok(_)) => "the answer is empty".to_owned(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {LOOK_UP_MAX:?}"),
        };
        name.holds.set(None);
        if !name.addresses.borrow().is_empty() {
            warn!(name = text, reason, "a node's name resolves no longer, its last addresses are used");
        }
        Err(UnknownName { name: text.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses, and how long they hold.
    type Answer = (Vec<&'static str>, Option<Duration>);

    /// One that does not say how long it holds.
    fn only(addresses: &[&'static str]) -> io::Result<Answer> {
        Ok((addresses.to_vec(), None))
    }

    /// A worker with a clock that stands still, and a name server that answers what it was told.
    fn with_answers(answers: Vec<io::Result<Answer>>, test: impl AsyncFn(Rc<Names>, Rc<Cell<usize>>)) {
        let options = tokio::runtime::LocalOptions::default();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build_local(options).unwrap();
        let answers = RefCell::new(answers.into_iter());
        let asked = Rc::new(Cell::new(0));
        let count = asked.clone();
        let names = Names::with(Duration::from_secs(5), move |_| {
            count.set(count.get() + 1);
            let answer = answers.borrow_mut().next().unwrap_or(Err(io::ErrorKind::TimedOut.into()));
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                answer.map(|(found, holds)| (found.iter().map(|address| address.parse().unwrap()).collect(), holds))
            })
        });
        runtime.block_on(test(Rc::new(names), asked));
    }

    async fn first(names: &Rc<Names>) -> Result<String, String> {
        names.named("a.example").await.map(|found| found[0].to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_name_is_asked_for_once_and_its_addresses_take_turns() {
        with_answers(vec![only(&["10.0.0.1", "::2"])], async |names, asked| {
            let (one, two) = tokio::join!(first(&names), first(&names));
            assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("10.0.0.1", "::2"));
            assert_eq!(first(&names).await.unwrap(), "10.0.0.1");
            assert_eq!(asked.get(), 1);
        });
    }

    #[test]
    fn an_old_answer_is_used_while_a_new_one_is_asked_for() {
        with_answers(vec![only(&["10.0.0.1"]), only(&["10.0.0.2"])], async |names, asked| {
            first(&names).await.unwrap();
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(first(&names).await.unwrap(), "10.0.0.1");
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(first(&names).await.unwrap(), "10.0.0.2");
            // From now on nobody answers: the last addresses stay.
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(6)).await;
                assert_eq!(first(&names).await.unwrap(), "10.0.0.2");
            }
            assert!(asked.get() >= 5);
        });
    }

    #[test]
    fn an_old_answer_is_asked_for_once_however_many_use_it() {
        with_answers(vec![only(&["10.0.0.1"]), only(&["10.0.0.2"])], async |names, asked| {
            first(&names).await.unwrap();
            tokio::time::sleep(Duration::from_secs(6)).await;
            for _ in 0..100 {
                assert_eq!(first(&names).await.unwrap(), "10.0.0.1");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!((first(&names).await.unwrap().as_str(), asked.get()), ("10.0.0.2", 2));
        });
    }

    #[test]
    fn an_answer_holds_for_as_long_as_it_says() {
        let holding = |address, seconds| Ok((vec![address], Some(Duration::from_secs(seconds))));
        with_answers(
            vec![holding("10.0.0.1", 60), holding("10.0.0.2", 1), only(&["10.0.0.3"])],
            async |names, asked| {
                first(&names).await.unwrap();
                // Far longer than what holds where nothing is said.
                tokio::time::sleep(Duration::from_secs(59)).await;
                assert_eq!((first(&names).await.unwrap().as_str(), asked.get()), ("10.0.0.1", 1));
                tokio::time::sleep(Duration::from_secs(2)).await;
                for expected in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
                    assert_eq!(first(&names).await.unwrap(), expected);
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            },
        );
    }

    #[test]
    fn a_name_that_is_lost_is_asked_for_soon_however_long_its_addresses_held() {
        let lost = Err(io::Error::other("no such name"));
        let hour = Ok((vec!["10.0.0.1"], Some(Duration::from_secs(3600))));
        with_answers(vec![hour, lost, only(&["10.0.0.2"])], async |names, asked| {
            first(&names).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3601)).await;
            for (expected, asked_so_often) in [("10.0.0.1", 2), ("10.0.0.1", 3), ("10.0.0.2", 4)] {
                assert_eq!(first(&names).await.unwrap(), expected);
                tokio::time::sleep(Duration::from_secs(6)).await;
                assert_eq!(asked.get(), asked_so_often);
            }
        });
    }

    #[test]
    fn an_unknown_name_is_not_asked_for_with_every_request() {
        let none = || Err(io::Error::other("no such name"));
        with_answers(vec![none(), only(&[]), only(&["10.0.0.1"])], async |names, asked| {
            assert_eq!(first(&names).await.unwrap_err(), "a.example has no address: no such name");
            assert!(first(&names).await.is_err());
            assert_eq!(asked.get(), 1);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(first(&names).await.unwrap_err(), "a.example has no address: the answer is empty");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(first(&names).await.unwrap(), "10.0.0.1");
        });
    }
}
