//! What the members of the cluster know of their proxies, asked all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::Position;
use protocol::grpc::peer_client::PeerClient;
use protocol::grpc::{FleetProxy, FleetReply, FleetRequest, Route};
use raft_store::types::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::admin::Desk;
use crate::feed::Fleet;
use crate::raft::LinkClass;

/// How long a member may hold a question back.
pub(super) const HOLD: Duration = Duration::from_millis(250);

/// How long it may take beyond that to answer.
pub(super) const ANSWER_MAX: Duration = Duration::from_millis(800);

/// Before a member that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// What the members have said, by node.
pub(super) type Heard = BTreeMap<NodeId, Result<FleetReply, String>>;

/// Each proxy that a member knows, by name, with the member: of one that several know, its latest connection.
pub(super) fn newest(heard: &Heard) -> BTreeMap<&str, (NodeId, &FleetProxy)> {
    let mut proxies: BTreeMap<&str, (NodeId, &FleetProxy)> = BTreeMap::new();
    for (node, reply) in heard {
        for proxy in reply.iter().flat_map(|reply| &reply.proxies) {
            let Some(hello) = &proxy.hello else { continue };
            let age = |proxy: &FleetProxy| (proxy.lost_ms.is_some(), proxy.connected_ms);
            let known = proxies.entry(&hello.name).or_insert((*node, proxy));
            if age(proxy) < age(known.1) {
                *known = (*node, proxy);
            }
        }
    }
    proxies
}

/// The whole fleet, as far as it is known.
pub(in crate::admin) struct Whole {
    /// By name, with the node that it follows or followed.
    pub(in crate::admin) proxies: Vec<(NodeId, FleetProxy)>,
    /// Members that did not say, and why.
    pub(in crate::admin) unheard: Vec<(NodeId, String)>,
}

/// Asks every member once.
pub(in crate::admin) async fn whole(desk: &Desk) -> Whole {
    let mut asked = Asked::all(desk, Position::default());
    let until = Instant::now() + HOLD + ANSWER_MAX;
    let mut heard = Heard::new();
    while heard.len() < asked.members.len()
        && let Some((id, reply)) = asked.next(until).await
    {
        heard.insert(id, reply);
    }
    let unheard = asked.members.iter().filter_map(|member| match heard.get(member) {
        Some(Ok(_)) => None,
        Some(Err(why)) => Some((*member, why.clone())),
        None => Some((*member, format!("no answer within {:?}", HOLD + ANSWER_MAX))),
    });
    let proxies = newest(&heard).into_values().map(|(node, proxy)| (node, proxy.clone()));
    Whole { proxies: proxies.collect(), unheard: unheard.collect() }
}

/// The members, being asked.
pub(super) struct Asked {
    pub(super) members: BTreeSet<NodeId>,
    answers: mpsc::Receiver<(NodeId, Result<FleetReply, String>)>,
    /// They end with the set.
    _asking: JoinSet<()>,
}

impl Asked {
    /// Asks each of them who serves a position, again and again.
    pub(super) fn all(desk: &Desk, serving: Position) -> Self {
        let all = desk.members.members();
        let members: BTreeSet<NodeId> = all.iter().map(|(id, _)| *id).collect();
        let (said, answers) = mpsc::channel(members.len().max(1));
        let mut asking = JoinSet::new();
        for (id, member) in all {
            let whom = if id == desk.describe.peering.node {
                Whom::Here(desk.fleet.clone())
            } else {
                let route = desk.describe.peering.route(id);
                Whom::There(Box::new(desk.channels.peer(&member.peer_address, LinkClass::Bulk)), route)
            };
            asking.spawn(ask(id, whom, serving, said.clone()));
        }
        Self { members, answers, _asking: asking }
    }

    /// The next answer; `None` when the time is over.
    pub(super) async fn next(&mut self, until: Instant) -> Option<(NodeId, Result<FleetReply, String>)> {
        tokio::time::timeout_at(until, self.answers.recv()).await.ok().flatten()
    }
}

/// Who is asked.
enum Whom {
    Here(Fleet),
    There(Box<PeerClient<Channel>>, Route),
}

impl Whom {
    async fn look(&mut self, id: NodeId, serving: Position, seen: u64) -> Result<FleetReply, String> {
        match self {
            Self::Here(fleet) => Ok(fleet.look(id, serving, seen, HOLD).await),
            Self::There(client, route) => {
                let request = FleetRequest {
                    route: Some(route.clone()),
                    serving: Some(serving.into()),
                    wait_ms: u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX),
                    seen,
                };
                match tokio::time::timeout(HOLD + ANSWER_MAX, client.fleet(request)).await {
                    Ok(Ok(reply)) => Ok(reply.into_inner()),
                    Ok(Err(status)) => Err(status.message().to_owned()),
                    Err(_) => Err(format!("no answer within {:?}", HOLD + ANSWER_MAX)),
                }
            }
        }
    }
}

/// Asks one member again and again, as long as somebody listens.
async fn ask(id: NodeId, mut whom: Whom, serving: Position, said: mpsc::Sender<(NodeId, Result<FleetReply, String>)>) {
    let mut seen = 0;
    loop {
        let reply = whom.look(id, serving, seen).await;
        seen = reply.as_ref().map_or(0, |reply| reply.version);
        let failed = reply.is_err();
        if said.send((id, reply)).await.is_err() {
            return;
        }
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
