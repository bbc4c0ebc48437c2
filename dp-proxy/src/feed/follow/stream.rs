//! What a stream says, taken together and put to use; and the question to another node how fresh it is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::grpc::FeedDown;
use protocol::grpc::feed_down::Kind as Down;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Follower;
use super::round::{Active, Candidate, Over, Probe};
use crate::feed::choice::Choice;
use crate::feed::link::{Link, LinkError};
use crate::feed::session::{Event, Node};
use crate::settings::Endpoint;
use crate::standing::{Connected, Source};

/// Messages that are taken together, compiled, kept with one sync, and published at once.
const BURST_MAX: usize = 256;

impl Follower {
    /// Asks another node how fresh it is, beside the stream that is served.
    pub(super) fn probe(&self, node: usize, endpoint: &Endpoint) -> Probe {
        let within = self.control_plane.connect_timeout;
        let (dial, endpoint, hello) = (self.dial.clone(), endpoint.clone(), self.hello());
        Box::pin(async move {
            let ask = async {
                let mut link = Link::open(dial, &endpoint, hello, within).await.map_err(|e| e.to_string())?;
                let mut said = Vec::new();
                loop {
                    let message = link.next().await.map_err(|e| e.to_string())?;
                    let leader_age = match &message.kind {
                        Some(Down::Heartbeat(beat)) => Some(Some(Duration::from_millis(beat.leader_contact_age_ms))),
                        Some(Down::Payload(_)) => Some(None),
                        Some(Down::Behind(_)) => return Err("it is behind".to_owned()),
                        Some(Down::Refused(refused)) => return Err(format!("it refuses: {}", refused.reason)),
                        Some(Down::Welcome(_) | Down::KeepAlive(_)) | None => None,
                    };
                    said.push(message);
                    if let Some(leader_age) = leader_age {
                        link.put_back(said);
                        return Ok(Candidate { link, leader_age });
                    }
                }
            };
            let answer = timeout(within, ask).await;
            (node, answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}"))))
        })
    }

    /// Takes a message and all that came with it, and puts everything to use at once.
    pub(super) async fn take_burst(
        &mut self,
        active: &mut Active,
        first: Result<FeedDown, LinkError>,
        endpoint: &Endpoint,
        choice: &mut Choice,
    ) -> Result<(), Over> {
        let arrived = Instant::now();
        let mut burst = Vec::new();
        let mut over = None;
        let (mut answer, mut current) = (false, false);
        let mut taken = 0;
        let mut next = Some(first);
        while let Some(message) = next.take() {
            taken += 1;
            let event = match message {
                Ok(message) => active.session.take(&mut self.holding, message, arrived).map_err(Over::Left),
                Err(e) => Err(Over::Link(e)),
            };
            match event {
                Ok(None) => {}
                Ok(Some(Event::Welcomed(node))) => {
                    self.welcomed(node, endpoint);
                    answer = true;
                }
                Ok(Some(Event::Moved(moved))) => burst.push(*moved),
                Ok(Some(Event::Current)) => current = true,
                Ok(Some(Event::Mend(mend))) => {
                    warn!(position = %self.holding.state.position(), "what is held differs from the control plane's, asking for the differing parts");
                    self.board.mends.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = active.link.send(*mend) {
                        over = Some(Over::Link(e));
                    }
                }
                Err(e) => over = Some(e),
            }
            // Looked at before the next is taken: what is taken must be put to use.
            if over.is_some() || taken == BURST_MAX {
                break;
            }
            next = now_or_never(active.link.next());
        }
        if !burst.is_empty() {
            self.put_to_use(burst, arrived).await;
            (answer, current) = (true, true);
        }
        if current {
            choice.good();
            self.confirmed(active.session.leader_age());
        }
        if answer && over.is_none() {
            over = self.ack(&active.link).err().map(Over::Link);
        }
        over.map_or(Ok(()), Err)
    }

    fn welcomed(&mut self, node: Node, endpoint: &Endpoint) {
        info!(%endpoint, node_id = node.id, node = node.name, position = %self.holding.state.position(), "following");
        if let (Some(cluster), Some(store)) = (node.first_contact, &self.store) {
            info!(%cluster, "first contact: from now on only this cluster is followed");
            // Its answer is not waited for: what is kept next waits behind it on the disk's thread.
            drop(store.pin(cluster));
        }
        self.connected = Some(Connected { endpoint: endpoint.to_string(), node, leader_contact_age: None });
        self.post();
    }

    /// The node has what is held.
    fn confirmed(&mut self, leader_age: Option<Duration>) {
        self.wait_no_more();
        self.source = Source::ControlPlane;
        self.need_full = false;
        if let Some(connected) = &mut self.connected {
            connected.leader_contact_age = leader_age;
        }
        self.post();
    }
}

/// What is there already, without waiting.
fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
