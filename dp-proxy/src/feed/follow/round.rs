//! From node to node: dials one, stays with its stream while it is of use, and goes on to the next.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use archive::Found;
use daemon::planted;
use protocol::ConfigState;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, info_span, warn};

use super::aside::Wish;
use super::{FileSource, Follower, first};
use crate::archive as archived;
use crate::feed::choice::Choice;
use crate::feed::link::{Link, LinkError};
use crate::feed::session::{Bounds, Leave, Session};
use crate::settings::{ControlPlane, Endpoint};
use crate::standalone::Configuration;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(200);

/// A stream that is being served.
pub(super) struct Active {
    pub(super) link: Link,
    pub(super) session: Session,
}

/// Another node that was asked how fresh it is.
pub(super) struct Candidate {
    /// What it said so far is put back.
    pub(super) link: Link,
    /// How long ago it heard from its leader; `None`: it has something newer.
    pub(super) leader_age: Option<Duration>,
}

pub(super) type Probe = Pin<Box<dyn Future<Output = (usize, Result<Candidate, String>)> + Send>>;

/// Why a stream is over.
pub(super) enum Over {
    Left(Leave),
    Link(LinkError),
    /// Somebody wants the feed to stand aside.
    Wished(Wish),
}

impl Follower {
    /// Follows one node after the other, for ever.
    pub(super) async fn follow(&mut self) {
        let endpoints = self.control_plane.endpoints.clone();
        if endpoints.is_empty() && self.file.is_none() {
            warn!("control_plane.endpoints is empty: no change will arrive but from the archive, where there is one");
        }
        let ControlPlane { reconnect_min, reconnect_max, .. } = self.control_plane;
        let mut choice = Choice::new(endpoints.len(), reconnect_min, reconnect_max, &*self.random);
        loop {
            let pause = if endpoints.is_empty() { Duration::MAX } else { choice.pause(&*self.random) };
            if let Some(wish) = self.wait(pause).await {
                self.stand_aside(wish).await;
                continue;
            }
            let endpoint = &endpoints[choice.current()];
            let span = info_span!("stream", %endpoint);
            let opening = Link::open(self.dial.clone(), endpoint, self.hello(), self.control_plane.connect_timeout);
            let opened = tokio::select! {
                opened = opening => opened,
                Some(wish) = self.wishes.recv() => {
                    self.stand_aside(wish).await;
                    continue;
                }
                // A node that does not answer keeps nobody from what the archive has; it is told where that led.
                found = next_found(&mut self.archive) => {
                    self.take_archived(*found).await;
                    continue;
                }
                () = first::over(self.first.as_ref()) => {
                    self.serve_late();
                    continue;
                }
            };
            let over = match opened {
                Ok(link) => self.serve(link, &endpoints, &mut choice).await,
                Err(e) => Over::Link(e),
            };
            self.board.disconnects.fetch_add(1, Ordering::Relaxed);
            self.connected = None;
            if planted!("proxy-without-a-node-serves-nothing") {
                self.holding.state = ConfigState::following();
                self.publish();
            }
            self.post();
            if let Over::Wished(wish) = over {
                self.stand_aside(wish).await;
                continue;
            }
            span.in_scope(|| self.after(over, &mut choice));
        }
    }

    /// Learns from the end of a stream.
    fn after(&mut self, over: Over, choice: &mut Choice) {
        match over {
            Over::Left(leave) => {
                match &leave {
                    _ if !choice.is_news(&leave.to_string()) => {}
                    Leave::OtherCluster { .. } | Leave::Refused(_) | Leave::Conflict(_) => {
                        error!(reason = %leave, "left the control plane's node");
                    }
                    _ => warn!(reason = %leave, "left the control plane's node"),
                }
                match leave {
                    Leave::Gap { .. } => choice.again(),
                    Leave::NeedFull(_) => {
                        self.need_full = true;
                        choice.again();
                    }
                    _ => {
                        choice.bad();
                        self.asked_in_vain();
                    }
                }
            }
            Over::Wished(_) => {}
            Over::Link(e) => {
                if choice.is_news(&e.to_string()) {
                    warn!(reason = %e, "no stream from the control plane's node");
                }
                choice.bad();
                self.asked_in_vain();
            }
        }
    }

    /// Waits, and keeps house meanwhile. Ends early when somebody wants the feed to stand aside.
    async fn wait(&mut self, pause: Duration) -> Option<Wish> {
        let until = Instant::now().checked_add(pause);
        let mut ticks = ticks();
        loop {
            let end = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end => return None,
                Some(wish) = self.wishes.recv() => return Some(wish),
                found = next_found(&mut self.archive) => self.take_archived(*found).await,
                configuration = next_configuration(&mut self.file) => self.take_configuration(*configuration).await,
                _ = ticks.tick() => {
                    self.keep_house().await;
                }
            }
        }
    }

    /// Serves one stream until it is of no use any more.
    async fn serve(&mut self, link: Link, endpoints: &[Endpoint], choice: &mut Choice) -> Over {
        self.board.connects.fetch_add(1, Ordering::Relaxed);
        let mut active = Active { link, session: self.session() };
        let mut ticks = ticks();
        let mut probe: Option<Probe> = None;
        let mut probes = 0;
        let mut next_probe = Instant::now();
        loop {
            let endpoint = &endpoints[choice.current()];
            tokio::select! {
                message = active.link.next() => {
                    if let Err(over) = self.take_burst(&mut active, message, endpoint, choice).await {
                        return over;
                    }
                }
                Some(wish) = self.wishes.recv() => return Over::Wished(wish),
                // As long as the node has not said what is current, it may be that it never does.
                found = next_found(&mut self.archive), if self.first.is_some() => self.take_archived(*found).await,
                (node, candidate) = poll_probe(&mut probe) => {
                    probe = None;
                    match candidate {
                        Ok(candidate) if candidate.leader_age.is_none_or(|age| age < self.control_plane.stale_after) => {
                            info!(
                                from = %endpoint, to = %endpoints[node],
                                leader_contact_age = ?active.session.leader_age(), "moving to a fresher node"
                            );
                            choice.switch_to(node);
                            self.board.connects.fetch_add(1, Ordering::Relaxed);
                            self.board.disconnects.fetch_add(1, Ordering::Relaxed);
                            active = Active { link: candidate.link, session: self.session() };
                        }
                        Ok(candidate) => {
                            info!(node = %endpoints[node], leader_contact_age = ?candidate.leader_age, "no fresher node");
                        }
                        Err(reason) => info!(node = %endpoints[node], reason, "no fresher node"),
                    }
                }
                _ = ticks.tick() => {
                    let now = Instant::now();
                    if let Err(leave) = active.session.tick(now) {
                        return Over::Left(leave);
                    }
                    if self.keep_house().await
                        && let Err(e) = self.ack(&active.link)
                    {
                        return Over::Link(e);
                    }
                    let is_stale = active.session.leader_age().is_some_and(|age| age > self.control_plane.stale_after);
                    if is_stale && probe.is_none() && now >= next_probe
                        && let Some(other) = choice.other(probes)
                    {
                        probes += 1;
                        next_probe = now + self.control_plane.reconnect_max.min(self.control_plane.stale_after);
                        probe = Some(self.probe(other, &endpoints[other]));
                    }
                }
            }
        }
    }

    fn session(&self) -> Session {
        let bounds = Bounds {
            payload_bytes_max: self.control_plane.payload_bytes_max,
            silence_max: self.control_plane.silence_max,
        };
        Session::new(self.identity.node.group.as_str().into(), bounds, Instant::now())
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn poll_probe(probe: &mut Option<Probe>) -> (usize, Result<Candidate, String>) {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

async fn next_found(archive: &mut Option<archived::Source>) -> Box<Found> {
    if let Some(source) = archive
        && let Some(found) = source.found.recv().await
    {
        return found;
    }
    std::future::pending().await
}

async fn next_configuration(file: &mut Option<FileSource>) -> Box<Configuration> {
    if let Some(source) = file
        && let Some(configuration) = source.found.recv().await
    {
        return configuration;
    }
    std::future::pending().await
}
