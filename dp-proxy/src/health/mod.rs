//! Which nodes are up.
//!
//! ```text
//!   compiler --watch(node, checks)--> Registry --new monitors--> probes (telemetry thread)
//!   workers <--is_up-- Monitor <--report-- probes, and what workers see of the traffic
//! ```
//!
//! A [`Monitor`] belongs to an address under one set of checks, not to a generation of the table: an edit that leaves
//! both as they are finds it again, however many upstreams name it, and one that changes the checks takes the last
//! verdict over, where the upstream is the same one. Workers read one flag; they write only when a node fails or comes back.

mod monitor;
mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use protocol::Text;
use protocol::resource::Checks;
use rustls::ClientConfig;
use tokio::sync::{Notify, Semaphore};

pub(crate) use monitor::{Monitor, Outcome, Source};
pub(crate) use probe::run;

use crate::table::{Alpn, ClientTls, NodeHost};

/// Everything that is watched. A monitor lives as long as a table that holds its node.
#[derive(Debug, Default)]
pub struct Registry {
    watched: Mutex<Watched>,
    /// What nodes are shown that ask for a certificate, by the id of its ssl. An edit holds from the next probe on.
    identities: Mutex<HashMap<Text, Arc<ClientTls>>>,
    /// Told when there is a new monitor.
    added: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    monitors: HashMap<Address, Vec<Watching>>,
    /// Monitors that nobody probes yet.
    new: Vec<Weak<Monitor>>,
    /// Probes at once, by upstream and the text of the checks: nodes of one that hang do not hold up another's.
    slots: HashMap<(Text, String), Weak<Semaphore>>,
}

/// Where a node listens.
type Address = (NodeHost, u16);

/// One of an address's monitors: few addresses have two.
#[derive(Debug)]
struct Watching {
    /// The upstream that was the first to ask for it.
    owner: Text,
    /// The checks, told as their text.
    checks: String,
    /// The ssl that probes show.
    shown: Option<Text>,
    monitor: Weak<Monitor>,
}

/// How probes by https make TLS.
#[derive(Clone, Debug)]
pub(crate) enum ProbeTls {
    /// The node is shown nothing.
    Anonymous(Arc<ClientConfig>),
    /// The node is shown the certificate of the ssl with this id, as it stands when it is probed.
    Showing(Text),
}

/// The ssl that a node is to be shown is not there, or is of no use: requests to it are not sent either.
struct NoIdentity;

impl Registry {
    /// The monitor of an address under these checks, asked for by the upstream `owner`; `tls` is how its probes make TLS,
    /// where the checks ask for that. Who shows another certificate probes for itself.
    pub(crate) fn watch(
        &self,
        owner: &str,
        host: &NodeHost,
        port: u16,
        authority: &str,
        checks: &Checks,
        tls: Option<ProbeTls>,
    ) -> Arc<Monitor> {
        let text = format!("{checks:?}");
        let shown = match &tls {
            Some(ProbeTls::Showing(ssl)) => Some(ssl.clone()),
            _ => None,
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let address = (host.clone(), port);
        let mut was_up = None;
        for watching in watched.monitors.get(&address).into_iter().flatten() {
            let Some(monitor) = watching.monitor.upgrade() else { continue };
            if watching.checks == text && watching.shown == shown {
                return monitor;
            }
            // What another's checks found says nothing: they may look at something else.
            if watching.owner == *owner {
                was_up.get_or_insert(monitor.is_up());
            }
        }
        let group = (Text::from(owner), text.clone());
        let slots = watched.slots.get(&group).and_then(Weak::upgrade).unwrap_or_else(|| {
            let slots = usize::try_from(checks.active.concurrency).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)))
        });
        watched.slots.insert(group, Arc::downgrade(&slots));
        let was_up = was_up.unwrap_or(true);
        let monitor = Arc::new(Monitor::new(host.clone(), port, authority, checks.clone(), tls, slots, was_up));
        let watching = Watching { owner: owner.into(), checks: text, shown, monitor: Arc::downgrade(&monitor) };
        watched.monitors.entry(address).or_default().push(watching);
        watched.new.push(Arc::downgrade(&monitor));
        drop(watched);
        self.added.notify_one();
        monitor
    }

    /// Lets probes show this from now on, where the ssl of this id is to be shown; `None`: there is no such ssl.
    pub(crate) fn set_identity(&self, ssl: &Text, tls: Option<Arc<ClientTls>>) {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        match tls {
            Some(tls) => identities.insert(ssl.clone(), tls),
            None => identities.remove(ssl),
        };
    }

    /// Forgets what nodes are shown: it is all told anew.
    pub(crate) fn forget_identities(&self) {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How a probe of this node makes TLS now, where it does.
    fn tls_for(&self, monitor: &Monitor) -> Result<Option<Arc<ClientConfig>>, NoIdentity> {
        match &monitor.tls {
            None => Ok(None),
            Some(ProbeTls::Anonymous(config)) => Ok(Some(config.clone())),
            Some(ProbeTls::Showing(ssl)) => {
                let identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
                let tls = identities.get(ssl).ok_or(NoIdentity)?;
                Ok(Some(tls.config(monitor.checks.active.https_verify_certificate, Alpn::Http1).clone()))
            }
        }
    }

    /// Takes the monitors that nobody probes yet, and forgets those that are gone.
    fn take_new(&self) -> Vec<Weak<Monitor>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.monitors.retain(|_, of_address| {
            of_address.retain(|watching| watching.monitor.strong_count() > 0);
            !of_address.is_empty()
        });
        watched.slots.retain(|_, slots| slots.strong_count() > 0);
        std::mem::take(&mut watched.new)
    }
}

/// A node's monitor, where it has one. Two are equal when they are one.
#[derive(Clone, Debug, Default)]
pub struct Watch(pub(crate) Option<Arc<Monitor>>);

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Watch {}

impl Watch {
    /// Whether nothing speaks against the node.
    pub(crate) fn is_up(&self) -> bool {
        self.0.as_ref().is_none_or(|monitor| monitor.is_up())
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(successes: u8) -> Checks {
        let body =
            serde_json::json!({"nodes": {"a:1": 1}, "checks": {"active": {"healthy": {"successes": successes}}}});
        let upstreams = protocol::resource::KindInfo::find("upstreams").unwrap();
        match upstreams.read(&body).unwrap() {
            protocol::resource::Model::Upstream(upstream) => upstream.checks.unwrap(),
            _ => unreachable!("it was read as an upstream"),
        }
    }

    #[test]
    fn a_monitor_outlives_edits_and_its_verdict_outlives_changed_checks() {
        let registry = Registry::default();
        let host = NodeHost::parse("10.0.0.1");
        let first = registry.watch("u1", &host, 80, "10.0.0.1", &checks(1), None);
        assert!(
            Arc::ptr_eq(&first, &registry.watch("u2", &host, 80, "10.0.0.1", &checks(1), None)),
            "one for all who name it"
        );
        for _ in 0..2 {
            first.report(Outcome::TcpFailure, Source::Active);
        }
        assert!(!first.is_up());
        let other = registry.watch("u1", &host, 80, "10.0.0.1", &checks(3), None);
        assert!(!Arc::ptr_eq(&first, &other) && !other.is_up(), "the verdict is taken over");
        assert!(registry.watch("u3", &host, 80, "10.0.0.1", &checks(4), None).is_up(), "not a stranger's");
        assert!(registry.watch("u1", &host, 81, "10.0.0.1:81", &checks(1), None).is_up());
        drop((first, other));
        assert_eq!(registry.take_new().iter().filter(|new| new.strong_count() > 0).count(), 0);
        assert!(
            registry.watch("u1", &host, 80, "10.0.0.1", &checks(1), None).is_up(),
            "nobody remembers what nobody uses"
        );
    }

    #[test]
    fn probes_that_show_another_certificate_are_others() {
        let registry = Registry::default();
        let host = NodeHost::parse("10.0.0.1");
        let showing = |ssl: &str| Some(ProbeTls::Showing(ssl.into()));
        let watch = |owner, tls| registry.watch(owner, &host, 443, "10.0.0.1", &checks(1), tls);
        let (a, b, nobody) = (watch("u1", showing("a")), watch("u2", showing("b")), watch("u3", None));
        assert!(!Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &nobody));
        assert!(Arc::ptr_eq(&a, &watch("u4", showing("a"))));
        assert!(registry.tls_for(&a).is_err(), "there is no such ssl yet");
        registry.set_identity(&"a".into(), Some(Arc::default()));
        let first = registry.tls_for(&a).ok().flatten().unwrap();
        registry.set_identity(&"a".into(), Some(Arc::default()));
        assert!(!Arc::ptr_eq(&first, &registry.tls_for(&a).ok().flatten().unwrap()), "an edit holds at once");
    }

    #[test]
    fn one_upstreams_probes_do_not_wait_for_anothers() {
        let registry = Registry::default();
        let host = NodeHost::parse("10.0.0.1");
        let watch = |owner, port| registry.watch(owner, &host, port, "10.0.0.1", &checks(1), None);
        let (a, b, c) = (watch("u1", 80), watch("u1", 81), watch("u2", 82));
        assert!(Arc::ptr_eq(&a.slots, &b.slots) && !Arc::ptr_eq(&a.slots, &c.slots));
    }
}
